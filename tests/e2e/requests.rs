//! Stages that send requests to endpoints: `retry`, estimates of `plan`, and stored replies in `ls` and `gc`.

use std::collections::BTreeMap;

use ablate_core::base::Hash;
use ablate_store::{Fault, Replies, Reply, Usage};

use crate::support::{Project, assert_contains, chat_response, command_stage, endpoint};

/// A project with one question, a teacher that always gives the same answer, and a stage that reads it.
fn project_with_teacher() -> Project {
    let project = Project::new();
    let (url, _thread) = endpoint(usize::MAX, |_| chat_response("One and one.\n### Answer: 2"));
    project.write("rows.jsonl", r#"{"id": "1", "answer": "2", "answer_type": "number", "conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]}"#);
    let teacher = format!("teacher = {{ api = \"openai\", url = \"{url}\", model = \"m\", patience_seconds = 0 }}");
    let stages = format!(
        "[stage.items]\nkind = \"items\"\npath = \"rows.jsonl\"\n\n[stage.teach]\nkind = \"distill\"\nitems = \"items\"\n{teacher}\n\n"
    );
    let reader = command_stage("count", "'in.jsonl' = 'teach'", "wc -l < in.jsonl > out.txt", "'out.txt'");
    let other = command_stage("other", "", "echo other > out.txt", "'out.txt'");
    project.write_study(&(stages + &reader + &other));
    project
}

#[test]
fn retry_runs_its_target_and_what_depends_on_it() {
    let project = project_with_teacher();
    let outcome = project.ok(&["retry", "study.toml", "teach", "--bad", "empty,cut"]);
    outcome.stderr_has(&["3 ran in"]);
    assert_eq!(project.take_ran(), "count", "`other` does not depend on the target");
    let events = project.ok(&["retry", "study.toml", "teach", "--bad", "--json"]).stdout;
    let kinds = r#"["its bad replies are requested again: cut, empty, filtered, form, malformed, refused, rejected, too-long"]"#;
    assert_contains(&events, &[kinds]);
    assert_eq!(project.take_ran(), "", "equal replies");
    let refused = project.fails(2, &["retry", "study.toml", "count", "--bad"]);
    refused
        .stderr_has(&["`count` sends no requests to an endpoint", "help: `ablate run --force` runs any stage again"]);
    let unknown = project.fails(2, &["retry", "study.toml", "teach", "--bad", "empty,wrong"]);
    unknown.stderr_has(&["invalid value 'wrong'", "[possible values: empty, refused, filtered, cut, malformed,"]);
}

#[test]
fn plan_names_stages_whose_requests_are_not_known_yet() {
    let project = project_with_teacher();
    let plan = project.ok(&["plan", "study.toml"]).stdout;
    let expected = "requests to endpoints:\n  teach: the number depends on stages that have to run first: items\n";
    assert_contains(&plan, &[expected]);
    let plan = project.json(&["plan", "study.toml"]);
    assert_eq!(plan["requests"]["waiting"], serde_json::json!(["teach"]));
    assert_eq!(plan["requests"]["total"]["requests"], 0);
}

/// Stores a reply of a model as if it had arrived some days ago.
fn store_reply(project: &Project, model: &str, fault: Option<Fault>, days: i64) {
    let at = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days)).to_string();
    let reply = serde_json::json!({ "model": model, "url": "http://one/v1", "at": at, "text": "2" });
    let usage = Usage { prompt_tokens: 1500, reply_tokens: 20, cost: BTreeMap::from([("USD".to_string(), 0.25)]) };
    let reply = Reply { fault, usage, ..serde_json::from_value(reply).unwrap() };
    let request = Hash::of_bytes(format!("{model} {days}").as_bytes());
    Replies::open(&project.path("cache/replies")).append(&[(request, reply)]).unwrap();
}

#[test]
fn replies_are_listed_and_deleted_only_by_name() {
    let project = Project::with_study(&("name = 'study'\n".to_string() + &command_stage("a", "", "echo a > o", "'o'")));
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.ok(&["ls", "--replies"]).stdout, "the store has no replies of endpoints\n");
    assert_eq!(project.json(&["ls", "--replies"]), serde_json::json!([]));
    assert!(!project.ok(&["gc", "--dry-run"]).stdout.contains("of endpoints"));
    store_reply(&project, "large", None, 40);
    store_reply(&project, "large", Some(Fault::Empty), 1);
    store_reply(&project, "small", None, 0);
    let listed = project.ok(&["ls", "--replies"]).stdout;
    let large = "large at http://one/v1\n  2 replies (1 empty), 3,000 tokens of prompts, 40 of replies, $0.50, ";
    assert_contains(&listed, &[large, "small at http://one/v1\n  1 reply, ", "total\n  3 replies (1 empty), 4,500 "]);
    let listed = project.json(&["ls", "--replies"]);
    assert_eq!((&listed[0]["replies"], &listed[0]["cost"]["USD"]), (&2.into(), &0.5.into()));
    // No rule of `gc` deletes a reply.
    let all = ["gc", "--keep-runs", "0", "--keep-interrupted", "0", "--max-age", "0", "--max-size", "0"];
    assert_contains(&project.ok(&all).stdout, &["kept 3 replies of endpoints, "]);
    assert_eq!(project.json(&["gc"])["replies"], 3);
    let old = ["gc", "--replies", "--max-age", "30"];
    let lost = "1 reply older than 30 days, ";
    let dry = project.ok(&[&old[..], &["--dry-run"]].concat()).stdout;
    assert_contains(&dry, &[&format!("would delete {lost}"), "which cost $0.25: a stage that needs one of them"]);
    assert_contains(&project.ok(&old).stdout, &[&format!("deleted {lost}")]);
    assert_contains(&project.ok(&old).stdout, &["the store has no replies of endpoints older than 30 days"]);
    assert_eq!(project.json(&["gc", "--replies"])[0]["replies"], 1);
    assert_eq!(project.json(&["ls", "--replies"]), serde_json::json!([]));
}

#[test]
fn listing_replies_takes_no_experiment() {
    let project = Project::new();
    project.fails(2, &["ls"]).stderr_has(&["<FILE>"]);
    project.fails(2, &["ls", "study.toml", "--replies"]).stderr_has(&["cannot be used with"]);
    project.fails(2, &["gc", "--replies", "--keep-runs", "3"]).stderr_has(&["cannot be used with"]);
    project.fails(2, &["ls", "--replies"]).stderr_has(&["there is no store at `cache`"]);
}
