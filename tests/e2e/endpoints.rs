//! Failing endpoints: exit codes, retries, and that the API key stays secret.

use std::fs;
use std::path::Path;
use std::thread::JoinHandle;

use expect_test::expect;
use serde_json::Value;

use crate::support::{Outcome, Project, chat_response, endpoint};

const KEY: &str = "sk-e2e-0123456789";

/// An endpoint that gives these responses, one per request.
fn endpoint_with(responses: Vec<(&'static str, String)>) -> (String, JoinHandle<Vec<Value>>) {
    let mut remaining = responses.clone().into_iter();
    endpoint(responses.len(), move |_| remaining.next().unwrap())
}

/// A project with one question and a teacher.
fn project_with_teacher(url: &str, more: &str) -> Project {
    let project = Project::new();
    write(&project, url, more);
    project
}

fn write(project: &Project, url: &str, more: &str) {
    project.write("rows.jsonl", r#"{"id": "1", "answer": "2", "answer_type": "number", "conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]}"#);
    project.write(
        "study.toml",
        format!(
            "[stage.items]\nkind = \"items\"\npath = \"rows.jsonl\"\n\n[stage.kept]\nkind = \"distill\"\nitems = \"items\"\n\
             teacher = {{ api = \"openai\", url = \"{url}\", model = \"m\", retries = 0, key_env = \"TEACHER_KEY\" }}\n\
             {more}\n"
        ),
    );
}

fn run(project: &Project, arguments: &[&str]) -> Outcome {
    let output =
        project.command(&[&["run", "study.toml"], arguments].concat()).env("TEACHER_KEY", KEY).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The error messages of a run and its exit code.
fn errors(outcome: &Outcome, url: &str) -> String {
    let lines = outcome.stderr.lines().skip_while(|line| !line.starts_with("error"));
    let lines = lines.take_while(|line| !line.starts_with("  log:"));
    format!("{}\nexit code {}", lines.collect::<Vec<_>>().join("\n"), outcome.code.unwrap()).replace(url, "[URL]")
}

#[test]
fn unusable_response_is_requested_again() {
    let (url, thread) = endpoint_with(vec![
        chat_response(Value::Null),
        chat_response(Value::Null),
        chat_response("I think it is"),
        chat_response("One and one.\n### Answer: 2"),
    ]);
    let project = project_with_teacher(&url, "");
    let first = run(&project, &[]);
    expect![[r#"
        error: `kept` failed: no response of the teacher was kept: 1 without a text
        exit code 1"#]]
    .assert_eq(&errors(&first, &url));
    expect![[r#"
        error: `kept` failed: no response of the teacher was kept: 1 without a final answer
        exit code 1"#]]
    .assert_eq(&errors(&run(&project, &["--force", "kept"]), &url));
    assert_eq!(run(&project, &[]).code, Some(0));
    thread.join().unwrap();
    assert_eq!(project.read("out/study/kept/items.jsonl").lines().count(), 1);
}

#[test]
fn only_system_failures_are_retried() {
    let good = || chat_response("One and one.\n### Answer: 2");
    let (url, thread) =
        endpoint_with(vec![("503 Service Unavailable", "later".into()), ("401 Unauthorized", "who?".into()), good()]);
    assert_eq!(run(&project_with_teacher(&url, "limits = { retries = 2 }"), &[]).code, Some(0));
    thread.join().unwrap();
    let (url, thread) = endpoint_with(vec![("503 Service Unavailable", "later".into())]);
    expect![[r#"
        error: `kept` failed: item `1`
          because the request failed after 1 attempt
          because the endpoint at `[URL]/chat/completions` returned 503 Service Unavailable: later
        exit code 1"#]]
    .assert_eq(&errors(&run(&project_with_teacher(&url, ""), &[]), &url));
    thread.join().unwrap();
    let (url, thread) = endpoint_with(vec![("404 Not Found", "no model `m`".into())]);
    expect![[r#"
        error: `kept` failed: item `1`
          because the endpoint at `[URL]/chat/completions` returned 404 Not Found: no model `m`
        exit code 2"#]]
    .assert_eq(&errors(&run(&project_with_teacher(&url, "limits = { retries = 9 }"), &[]), &url));
    thread.join().unwrap();
}

#[test]
fn api_key_is_in_no_file_and_no_message() {
    let echo = format!("Incorrect API key provided: {KEY}.");
    let (url, thread) = endpoint_with(vec![("401 Unauthorized", echo), chat_response(format!("{KEY}\n### Answer: 2"))]);
    let project = project_with_teacher(&url, "");
    let failed = run(&project, &["--json"]);
    assert!(failed.stdout.contains("Incorrect API key provided: [API key]."), "{}", failed.stdout);
    let passed = run(&project, &["-vv"]);
    assert_eq!(passed.code, Some(0));
    thread.join().unwrap();
    for text in [failed.stdout, failed.stderr, passed.stdout, passed.stderr] {
        assert!(!text.contains(KEY), "{text}");
    }
    assert!(project.read("out/study/kept/items.jsonl").contains("[API key]"));
    let mut folders = vec![project.path("cache"), project.path("out")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.is_file() {
                assert!(!contains_key(&path), "{}", path.display());
            }
        }
    }
}

fn contains_key(path: &Path) -> bool {
    fs::read(path).unwrap().windows(KEY.len()).any(|bytes| bytes == KEY.as_bytes())
}

#[test]
fn missing_api_key_fails_before_any_request() {
    let project = project_with_teacher("http://127.0.0.1:9/v1", "limits = { retries = 3 }");
    let outcome = project.ablate(&["run", "study.toml"]);
    expect![[r#"
        error: `kept` failed: the environment variable `TEACHER_KEY` is not set; `key_env` names it as the one with the API key
        exit code 2"#]]
    .assert_eq(&errors(&outcome, "[none]"));
}
