//! Failing endpoints: exit codes, retries, and that the API key stays secret.

use std::collections::BTreeSet;
use std::fs;
use std::thread::JoinHandle;
use std::time::Duration;

use expect_test::expect;
use serde_json::Value;

use crate::endpoint_faults::distillation;
use crate::fault_server::{BAD, Fault, FaultServer, RETRIABLE};
use crate::support::{Outcome, Project, chat_response, endpoint, files_below};

const KEY: &str = "sk-e2e-0123456789";

/// An endpoint that gives these responses, one per request.
fn endpoint_with(responses: Vec<(&'static str, String)>) -> (String, JoinHandle<Vec<Value>>) {
    let count = responses.len();
    let mut remaining = responses.into_iter();
    endpoint(count, move |_| remaining.next().unwrap())
}

/// A project with one question and a teacher.
fn project_with_teacher(url: &str, more: &str) -> Project {
    let project = Project::new();
    project.write("rows.jsonl", r#"{"id": "1", "answer": "2", "answer_type": "number", "conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]}"#);
    project.write(
        "study.toml",
        format!(
            "[stage.items]\nkind = \"items\"\npath = \"rows.jsonl\"\n\n[stage.kept]\nkind = \"distill\"\nitems = \"items\"\n\
             teacher = {{ api = \"openai\", url = \"{url}\", model = \"m\", patience_seconds = 0, key_env = \"TEACHER_KEY\" }}\n\
             {more}\n"
        ),
    );
    project
}

fn run(project: &Project, arguments: &[&str]) -> Outcome {
    project.finish(project.command(&[&["run", "study.toml"], arguments].concat()).env("TEACHER_KEY", KEY))
}

/// The error messages of a run and its exit code.
fn errors(outcome: &Outcome, url: &str) -> String {
    format!("{}\nexit code {}", outcome.error_text(), outcome.code.unwrap()).replace(url, "[URL]")
}

#[test]
fn bad_reply_is_not_requested_again_unless_the_table_says_so() {
    let (url, thread) = endpoint_with(vec![chat_response(Value::Null), chat_response("One and one.\n### Answer: 2")]);
    let project = project_with_teacher(&url, "");
    let expected = expect![[r#"
        error: `kept` failed: no response of the teacher was kept: 1 without a text
            help: bad replies are kept: the key `retry` or `ablate retry --bad` requests them again
        exit code 2"#]];
    expected.assert_eq(&errors(&run(&project, &[]), &url));
    expected.assert_eq(&errors(&run(&project, &["--force", "kept"]), &url));
    project.edit("study.toml", "model = \"m\"", "model = \"m\", retry = [\"empty\"]");
    assert_eq!(run(&project, &[]).code, Some(0));
    assert_eq!(thread.join().unwrap().len(), 2);
    assert_eq!(project.read("out/study/kept/items.jsonl").lines().count(), 1);
}

#[test]
fn only_system_failures_are_retried() {
    let good = || chat_response("One and one.\n### Answer: 2");
    let (url, thread) =
        endpoint_with(vec![("503 Service Unavailable", "later".into()), ("401 Unauthorized", "who?".into()), good()]);
    assert_eq!(run(&project_with_teacher(&url, "limits = { retries = 2 }"), &[]).code, Some(0));
    thread.join().unwrap();
    let failure = |response: (&'static str, &str), more: &str| {
        let (url, thread) = endpoint_with(vec![(response.0, response.1.into())]);
        let printed = errors(&run(&project_with_teacher(&url, more), &[]), &url);
        thread.join().unwrap();
        printed
    };
    expect![[r#"
        error: `kept` failed: item `1`
          because no reply after 1 attempt in 0 s
          because the endpoint at `[URL]/chat/completions` returned 503 Service Unavailable: later
        exit code 1"#]]
    .assert_eq(&failure(("503 Service Unavailable", "later"), ""));
    expect![[r#"
        error: `kept` failed: item `1`
          because the endpoint at `[URL]/chat/completions` returned 404 Not Found: no model `m`
        exit code 2"#]]
    .assert_eq(&failure(("404 Not Found", "no model `m`"), "limits = { retries = 9 }"));
}

/// Whether bytes contain the API key.
fn has_key(bytes: &[u8]) -> bool {
    bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes())
}

/// Runs `ablate` with the key in its environment. Panics if the key is in the output, in the command line of a process, or in the
/// environment of a process below `ablate`.
/// Returns also the number of processes of stages that were seen.
fn run_without_key(project: &Project, arguments: &[&str]) -> (Outcome, usize) {
    let mut command = project.command(arguments);
    command.env("TEACHER_KEY", KEY).env("ABLATE_LOG", "trace");
    let mut jobs = BTreeSet::new();
    let outcome = project.watch(&mut command, |processes| {
        let read = |id, name: &str| fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
        let first = processes.first().map(|&id| read(id, "cmdline"));
        for &id in processes {
            let line = read(id, "cmdline");
            let text = String::from_utf8_lossy(&line);
            assert!(!has_key(&line), "{text}");
            // The first process has the environment that this test gives it, and so has a new process until it runs its own program.
            assert!(first.as_ref() == Some(&line) || !has_key(&read(id, "environ")), "{text}");
            jobs.extend(text.contains("stage-job").then_some(id));
        }
    });
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!has_key(text.as_bytes()), "{text}");
    }
    (outcome, jobs.len())
}

#[test]
fn api_key_is_in_no_file_no_message_and_no_process() {
    // The server repeats the key in all its replies.
    let faults = [&[Fault::Slow(100), Fault::MoreChoices], RETRIABLE, BAD].concat();
    let faults = faults.into_iter().filter(|fault| *fault != Fault::Silence).collect();
    let server = FaultServer::with_faults(1, 0.5, faults);
    let project = distillation(&server, 0..100, "key_env = \"TEACHER_KEY\", max_tokens = 64");
    let (run, jobs) = run_without_key(&project, &["run", "study.toml", "-vv"]);
    run.exited(0);
    assert!(jobs > 0, "no process of a stage was seen");
    assert!(project.read("out/study/kept/items.jsonl").contains("[API key]"));
    run_without_key(&project, &["run", "study.toml", "--json", "-vv", "--force", "kept"]).0.exited(0);
    for arguments in [&["show", "study.toml", "kept"][..], &["logs", "study.toml", "kept"], &["status", "study.toml"]] {
        let outcome = project.ablate(arguments);
        assert!(!has_key((outcome.stdout + &outcome.stderr).as_bytes()), "{arguments:?}");
    }
    let files: Vec<_> = ["cache", "out"].iter().flat_map(|name| files_below(&project.path(name))).collect();
    assert!(files.iter().any(|path| path.ends_with("replies/log")));
    for path in files {
        assert!(!has_key(&fs::read(&path).unwrap()), "{}", path.display());
    }
}

#[test]
fn api_key_is_not_in_the_errors_of_a_run() {
    for fault in [Fault::Unauthorized, Fault::InternalError, Fault::BadGateway, Fault::Redirect] {
        let server = FaultServer::start(move |_, _| {
            // Long enough for a look at the processes.
            std::thread::sleep(Duration::from_millis(300));
            fault
        });
        let project = distillation(&server, 0..3, "key_env = \"TEACHER_KEY\", patience_seconds = 0");
        for more in [&["-vv"][..], &["--json"]] {
            let (outcome, _) = run_without_key(&project, &[&["run", "study.toml"], more].concat());
            assert_ne!(outcome.code, Some(0));
            assert!((outcome.stdout + &outcome.stderr).contains("[API key]"), "{fault:?}");
        }
        for path in files_below(&project.path("cache")) {
            assert!(!has_key(&fs::read(&path).unwrap()), "{}", path.display());
        }
    }
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
