//! A model behind an endpoint, evaluated under several prompts beside each other.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::pipeline::ran;
use crate::space::Space;

/// An endpoint that answers so many requests, and then says which system messages it was sent.
fn endpoint(count: usize) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
        let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
        let mut body = vec![0; length.unwrap()];
        reader.read_exact(&mut body).unwrap();
        let asked: Value = serde_json::from_slice(&body).unwrap();
        let reply = r#"{"choices": [{"message": {"content": "2"}, "finish_reason": "stop"}]}"#;
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{reply}", reply.len())
            .unwrap();
        asked["messages"][0]["content"].as_str().unwrap().to_string()
    };
    (url, std::thread::spawn(move || (0..count).map(|_| answer()).collect()))
}

#[test]
fn a_list_of_models_may_hold_endpoints() {
    let space = Space::new();
    let (url, thread) = endpoint(6);
    let remote = |name: &str, system: &str| {
        format!(r#"{{ name = "{name}", api = "openai", url = "{url}", model = "m", system = "{system}" }}"#)
    };
    space.write(
        "study.toml",
        format!(
            r#"
[stage.questions]
kind = "items"
synthetic = {{ datasets = ["count"], split = "test", count = 3 }}

[stage.score]
kind = "eval"
benchmark = "questions"
prompt = "direct"
model = [{}, {}]
"#,
            remote("lax", "Answer."),
            remote("strict", "One number.")
        ),
    );
    let run = space.ok(&["run", "study.toml", "--json"]);
    let mut names = ran(&run.stdout);
    names.sort();
    assert_eq!(names, ["questions", "score@model=lax", "score@model=strict"]);
    let mut asked = thread.join().unwrap();
    asked.sort();
    assert_eq!(asked, ["Answer.", "Answer.", "Answer.", "One number.", "One number.", "One number."]);
    assert_eq!(space.read("out/study/score@model=strict/scores.jsonl").lines().count(), 3);
    assert_eq!(ran(&space.ok(&["run", "study.toml", "--json"]).stdout), Vec::<String>::new());
}
