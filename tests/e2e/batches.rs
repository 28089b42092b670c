//! Batches of an endpoint: killed runs pay for each request once, and runs with and without batches share replies.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::batch_server::{BatchServer, LineOutcome, question};
use crate::support::{Project, assert_contains, kill};

const RUN: [&str; 4] = ["run", "study.toml", "--jobs", "1"];
const ITEMS: usize = 30;

/// A project with a teacher behind a server.
fn project(server: &BatchServer) -> Project {
    let project = Project::new();
    let row = |number: usize| {
        let turns = json!([{ "from": "human", "value": format!("{number} + 1?") }, { "from": "gpt", "value": "2" }]);
        format!(
            "{}\n",
            json!({ "id": number.to_string(), "answer": "2", "answer_type": "number", "conversations": turns })
        )
    };
    project.write("rows.jsonl", (0..ITEMS).map(row).collect::<String>());
    project.write(
        "study.toml",
        format!(
            "[stage.items]\nkind = \"items\"\npath = \"rows.jsonl\"\n\n[stage.kept]\nkind = \"distill\"\nitems = \"items\"\n\
             teacher = {{ api = \"openai\", url = \"{}\", model = \"m\", batch = true, batch_poll_seconds = 1 }}\n",
            server.url
        ),
    );
    project
}

fn server() -> BatchServer {
    let server = BatchServer::new();
    let respond = |_: &Value, _| LineOutcome::Reply("One and one.\n### Answer: 2".into());
    server.state().respond = Box::new(respond);
    server.state().polls = 2;
    server
}

/// Panics unless each request was paid once.
fn assert_paid_once(server: &BatchServer) {
    let state = server.state();
    assert_eq!((state.paid.len(), state.paid.values().max()), (ITEMS, Some(&1)));
}

#[test]
fn killed_runs_pay_for_each_request_once() {
    let first = server();
    let begun = Instant::now();
    let expected = {
        let project = project(&first);
        project.ok(&RUN);
        project.read("out/study/kept/items.jsonl")
    };
    let whole = begun.elapsed();
    assert_paid_once(&first);
    let (mut kills, mut attempts) = (0, 0);
    while kills < 10 {
        let server = server();
        let project = project(&server);
        let mut has_ended = false;
        while !has_ended && kills < 10 {
            attempts += 1;
            assert!(attempts < 100, "runs end before they can be killed");
            let mut run = project.start(&RUN);
            // The golden ratio spreads the moments.
            let share = (f64::from(attempts) * 0.618_034).fract();
            let moment = Duration::from_secs_f64(whole.as_secs_f64() * share);
            let begun = Instant::now();
            while begun.elapsed() < moment && run.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            has_ended = run.try_wait().unwrap().is_some();
            if !has_ended {
                kill(&mut run);
                kills += 1;
            }
        }
        project.ok(&RUN);
        assert_paid_once(&server);
        assert_eq!(project.read("out/study/kept/items.jsonl"), expected);
    }
}

#[test]
fn runs_with_and_without_batches_share_replies() {
    let server = server();
    let project = project(&server);
    project.ok(&RUN);
    let calls = server.state().calls.len();
    // `batch` is not identity, so nothing runs; another `keep` asks the same.
    project.edit("study.toml", "batch = true, batch_poll_seconds = 1", "batch = false");
    assert_contains(&project.ok(&["plan", "study.toml"]).stdout, &["fresh"]);
    project.append("study.toml", "keep = \"all\"\n");
    project.ok(&RUN);
    assert_eq!(server.state().calls.len(), calls);
    assert_paid_once(&server);
}

#[test]
fn detached_run_continues_later() {
    let server = server();
    server.state().polls = 1;
    let project = project(&server);
    let detached = project.fails(75, &["run", "study.toml", "--detach"]);
    assert_contains(&detached.stderr, &["batch_1: 0 of 30 requests are done"]);
    assert_eq!(server.state().paid.len(), ITEMS);
    project.ok(&["gc", "--keep-runs", "0"]);
    project.ok(&["run", "study.toml", "--detach"]);
    assert_paid_once(&server);
    assert_eq!(project.read("out/study/kept/items.jsonl").lines().count(), ITEMS);
}

#[test]
fn bad_reply_is_requested_again_by_a_batch() {
    let server = server();
    let respond = |line: &Value, batch| {
        let is_bad = batch == 1 && question(line).contains("7 + 1?");
        LineOutcome::Reply(if is_bad { String::new() } else { "One and one.\n### Answer: 2".into() })
    };
    server.state().respond = Box::new(respond);
    let project = project(&server);
    project.ok(&RUN);
    project.ok(&["retry", "study.toml", "kept", "--bad", "empty"]);
    let state = server.state();
    // The items 7, 17 and 27.
    assert_eq!(state.batches.len(), 2);
    assert_eq!(state.paid.values().filter(|count| **count == 2).count(), 3);
    assert_eq!(project.read("out/study/kept/items.jsonl").lines().count(), ITEMS);
}
