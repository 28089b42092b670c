//! Endpoints that fail: what is the world's fault and what the user's, what is asked again, and what stays secret.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread::JoinHandle;

use expect_test::expect;
use serde_json::{Value, json};

use crate::space::{Outcome, Space};

const KEY: &str = "sk-e2e-0123456789";

/// An endpoint that gives these responses, one to a request.
fn endpoint(responses: Vec<(&'static str, String)>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = move |(status, body): (&str, String)| {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
        let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
        stream.read_exact(&mut vec![0; length.unwrap()]).unwrap();
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
    };
    (url, std::thread::spawn(move || responses.into_iter().for_each(answer)))
}

fn reply(content: &Value) -> (&'static str, String) {
    let choice = json!({ "message": { "content": content }, "finish_reason": "stop" });
    ("200 OK", json!({ "choices": [choice] }).to_string())
}

/// A space with one question, and a teacher that is asked it.
fn space(url: &str, more: &str) -> Space {
    let space = Space::new();
    write(&space, url, more);
    space
}

fn write(space: &Space, url: &str, more: &str) {
    space.write("rows.jsonl", r#"{"id": "1", "answer": "2", "answer_type": "number", "conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]}"#);
    space.write(
        "study.toml",
        format!(
            "[stage.items]\nkind = \"items\"\npath = \"rows.jsonl\"\n\n[stage.kept]\nkind = \"distill\"\nitems = \"items\"\n\
             teacher = {{ api = \"openai\", url = \"{url}\", model = \"m\", retries = 0, key_env = \"TEACHER_KEY\" }}\n\
             {more}\n"
        ),
    );
}

fn run(space: &Space, arguments: &[&str]) -> Outcome {
    let output = space.command(&[&["run", "study.toml"], arguments].concat()).env("TEACHER_KEY", KEY).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// What a run says of its failures, and its exit code.
fn told(outcome: &Outcome, url: &str) -> String {
    let lines = outcome.stderr.lines().skip_while(|line| !line.starts_with("error"));
    let lines = lines.take_while(|line| !line.starts_with("  log:"));
    format!("{}\nexit code {}", lines.collect::<Vec<_>>().join("\n"), outcome.code.unwrap()).replace(url, "[URL]")
}

#[test]
fn a_bad_reply_is_asked_for_again_by_the_next_run() {
    let (url, thread) = endpoint(vec![
        reply(&Value::Null),
        reply(&Value::Null),
        reply(&json!("I think it is")),
        reply(&json!("One and one.\n### Answer: 2")),
    ]);
    let space = space(&url, "");
    let first = run(&space, &[]);
    expect![[r#"
        error: `kept` failed: no response of the teacher was kept: 1 without a text
        exit code 1"#]]
    .assert_eq(&told(&first, &url));
    expect![[r#"
        error: `kept` failed: no response of the teacher was kept: 1 without a final answer
        exit code 1"#]]
    .assert_eq(&told(&run(&space, &["--force", "kept"]), &url));
    assert_eq!(run(&space, &[]).code, Some(0));
    thread.join().unwrap();
    assert_eq!(space.read("out/study/kept/items.jsonl").lines().count(), 1);
}

#[test]
fn a_failure_of_the_world_is_tried_again_and_one_of_the_users_is_not() {
    let good = || reply(&json!("One and one.\n### Answer: 2"));
    let (url, thread) =
        endpoint(vec![("503 Service Unavailable", "later".into()), ("401 Unauthorized", "who?".into()), good()]);
    assert_eq!(run(&space(&url, "limits = { retries = 2 }"), &[]).code, Some(0));
    thread.join().unwrap();
    let (url, thread) = endpoint(vec![("503 Service Unavailable", "later".into())]);
    expect![[r#"
        error: `kept` failed: item `1`
          because the request failed after 1 attempt
          because the endpoint at `[URL]/chat/completions` returned 503 Service Unavailable: later
        exit code 1"#]]
    .assert_eq(&told(&run(&space(&url, ""), &[]), &url));
    thread.join().unwrap();
    let (url, thread) = endpoint(vec![("404 Not Found", "no model `m`".into())]);
    expect![[r#"
        error: `kept` failed: item `1`
          because the endpoint at `[URL]/chat/completions` returned 404 Not Found: no model `m`
        exit code 2"#]]
    .assert_eq(&told(&run(&space(&url, "limits = { retries = 9 }"), &[]), &url));
    thread.join().unwrap();
}

#[test]
fn the_key_is_in_no_file_and_no_message() {
    let echo = format!("Incorrect API key provided: {KEY}.");
    let (url, thread) = endpoint(vec![("401 Unauthorized", echo), reply(&json!(format!("{KEY}\n### Answer: 2")))]);
    let space = space(&url, "");
    let failed = run(&space, &["--json"]);
    assert!(failed.stdout.contains("Incorrect API key provided: [API key]."), "{}", failed.stdout);
    let passed = run(&space, &["-vv"]);
    assert_eq!(passed.code, Some(0));
    thread.join().unwrap();
    for text in [failed.stdout, failed.stderr, passed.stdout, passed.stderr] {
        assert!(!text.contains(KEY), "{text}");
    }
    assert!(space.read("out/study/kept/items.jsonl").contains("[API key]"));
    let mut folders = vec![space.path("cache"), space.path("out")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.is_file() {
                assert!(!holds_key(&path), "{}", path.display());
            }
        }
    }
}

fn holds_key(path: &Path) -> bool {
    fs::read(path).unwrap().windows(KEY.len()).any(|bytes| bytes == KEY.as_bytes())
}

#[test]
fn a_key_that_is_not_set_is_told_before_anything_is_asked() {
    let space = space("http://127.0.0.1:9/v1", "limits = { retries = 3 }");
    let outcome = space.ablate(&["run", "study.toml"]);
    expect![[r#"
        error: `kept` failed: the environment variable `TEACHER_KEY` is not set; `key_env` names it as the one with the API key
        exit code 2"#]]
    .assert_eq(&told(&outcome, "[none]"));
}
