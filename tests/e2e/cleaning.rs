//! `gc` and `forget`: what goes, what stays, and that nothing is taken away that was paid for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::space::Space;

/// A teacher that answers every request but the fourth, and counts them.
fn teacher() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
            reader.read_exact(&mut vec![0; length.unwrap()]).unwrap();
            let (status, reply) = if count.fetch_add(1, Ordering::SeqCst) == 3 {
                ("401 Unauthorized", "{}")
            } else {
                ("200 OK", r#"{"choices": [{"message": {"content": "I count.\n\n### Answer: 2"}, "finish_reason": "stop"}]}"#)
            };
            let length = reply.len();
            write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{reply}").unwrap();
        }
    });
    (url, asked)
}

#[test]
fn replies_that_were_paid_for_outlive_gc_until_they_are_given_up_by_a_flag() {
    let space = Space::new();
    let (url, asked) = teacher();
    space.write(
        "study.toml",
        format!(
            r#"
[stage.questions]
kind = "items"
synthetic = {{ datasets = ["count"], split = "test", count = 6 }}

[stage.rationales]
kind = "distill"
items = "questions"
keep = "all"
teacher = {{ api = "openai", url = "{url}", model = "m", retries = 0, concurrency = 1 }}
"#
        ),
    );
    let fails = || assert_ne!(space.ablate(&["run", "study.toml"]).code, Some(0));
    fails();
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    let dry = space.ok(&["gc", "--keep-runs", "0", "--dry-run"]).stdout;
    assert!(dry.contains("kept interrupted work, until nothing was written to it for 14 days"), "{dry}");
    assert!(dry.contains("  rationales (distill): 3 of 6 requests, "), "{dry}");
    assert!(dry.contains(" s of work, last written 0.0 days ago"), "{dry}");
    let freed = space.json(&["gc", "--keep-runs", "0"]);
    assert_eq!(freed["interrupted"], serde_json::json!([]));
    let kept = &freed["resumable"][0];
    assert_eq!((&kept["kind"], &kept["done"], &kept["unit"]), (&"distill".into(), &3.into(), &"requests".into()));
    assert!(kept["bytes"].as_u64().unwrap() > 0);
    space.ok(&["run", "study.toml"]);
    assert_eq!(asked.load(Ordering::SeqCst), 7, "three replies were kept, three were asked for");
    assert_eq!(space.json(&["gc"])["resumable"], serde_json::json!([]));

    // Given up by name: the next run asks for everything.
    asked.store(0, Ordering::SeqCst);
    space.ok(&["gc", "--dry-run"]);
    space.write("study.toml", space.read("study.toml").replace("model = \"m\"", "model = \"n\""));
    fails();
    let dry = space.ok(&["gc", "--dry-run", "--keep-interrupted", "0"]).stdout;
    assert!(dry.contains("would remove interrupted work, which starts anew:\n  rationales (distill): 3 of 6"), "{dry}");
    let told = space.ok(&["gc", "--keep-interrupted", "0"]).stdout;
    assert!(told.contains("removed interrupted work, which starts anew:\n  rationales (distill): 3 of 6"), "{told}");
    space.ok(&["run", "study.toml"]);
    assert_eq!(asked.load(Ordering::SeqCst), 4 + 6);
}
