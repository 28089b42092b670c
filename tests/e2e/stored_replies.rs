//! The store of replies: a run requests exactly what is missing, whatever changed and however often it was killed.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::endpoint_faults::{distillation, stored, study, sums};
use crate::fault_server::{Fault, FaultServer, summands};
use crate::support::{Project, descendants, is_alive, kill, print_figures, wait_until};

/// The number of choices that the server gives while `ablate` runs. Panics if the run fails.
#[track_caller]
fn choices(server: &FaultServer, project: &Project, arguments: &[&str]) -> usize {
    let before = server.choice_count();
    project.ok(arguments);
    server.choice_count() - before
}

const RUN: [&str; 2] = ["run", "study.toml"];

#[test]
fn changes_request_what_is_missing() {
    let (server, other) = (FaultServer::without_faults(), FaultServer::without_faults());
    let project = Project::new();
    let text = |url: &str, keys: &str| study(url, keys).replace("\"rows.jsonl\"", "\"rows.jsonl\"\ntake = 20");
    project.write("rows.jsonl", sums(0..100)).write("study.toml", text(&server.url(), ""));
    let run = || choices(&server, &project, &RUN);
    assert_eq!((run(), run()), (20, 0));
    // More items, and fewer again.
    project.edit("study.toml", "take = 20", "take = 30");
    assert_eq!(run(), 10);
    project.edit("study.toml", "take = 30", "take = 20");
    assert_eq!(run(), 0);
    // What is kept of the replies.
    project.edit("study.toml", "items = \"items\"", "items = \"items\"\nkeep = \"all\"");
    assert_eq!(run(), 0);
    project.edit("study.toml", "keep = \"all\"\n", "");
    // More samples. Greedy ones are equal, so this needs a temperature.
    project.write("study.toml", text(&server.url(), "temperature = 1, samples = 1"));
    assert_eq!(run(), 20);
    project.edit("study.toml", "samples = 1", "samples = 2");
    assert_eq!(run(), 20);
    assert_eq!(project.read("out/study/kept/items.jsonl").lines().count(), 40);
    project.edit("study.toml", "samples = 2", "samples = 5");
    assert_eq!(run(), 60);
    project.edit("study.toml", "samples = 5", "samples = 2");
    assert_eq!(run(), 0);
    // Another address of the same model.
    project.write("study.toml", text(&other.url(), ""));
    assert_eq!((run(), other.request_count()), (0, 0));
    // Other names.
    project.edit("study.toml", "stage.kept", "stage.distilled");
    assert_eq!((run(), other.request_count()), (0, 0));
    project
        .write("other.toml", text(&other.url(), "").replace("\"study\"", "\"other\"").replace("stage.kept", "stage.x"));
    assert_eq!((choices(&server, &project, &["run", "other.toml"]), other.request_count()), (0, 0));
    // What removes results does not remove replies.
    project.write("study.toml", text(&server.url(), ""));
    assert_eq!(choices(&server, &project, &["run", "study.toml", "--force", "kept"]), 0);
    project.ok(&["forget", "study.toml"]);
    project.ok(&["gc", "--keep-runs", "0"]);
    assert_eq!(run(), 0);
    project.remove("out");
    assert_eq!(run(), 0);
    // Another request.
    for keys in ["max_tokens = 100", "system = 'Look.'", "temperature = 0.5"] {
        project.write("study.toml", text(&server.url(), keys));
        assert_eq!(run(), 20, "{keys}");
    }
    project.edit("study.toml", "model = \"m\"", "model = \"n\"");
    assert_eq!(run(), 20);
    // Only this removes replies.
    project.ok(&["forget", "study.toml"]);
    project.ok(&["gc", "--keep-runs", "0"]);
    project.ok(&["gc", "--replies"]);
    assert_eq!(run(), 20);
}

#[test]
fn evaluation_requests_what_is_missing() {
    let server = FaultServer::without_faults();
    let project = Project::new();
    project.write("rows.jsonl", sums(0..20)).write(
        "study.toml",
        format!(
            r#"
[stage.questions]
kind = "items"
path = "rows.jsonl"

[stage.score]
kind = "eval"
benchmark = "questions"
prompt = "direct"
model = {{ name = "one", api = "openai", url = "{}", model = "m" }}
"#,
            server.url()
        ),
    );
    let run = || choices(&server, &project, &RUN);
    assert_eq!((run(), run()), (20, 0));
    project.edit("study.toml", "\"direct\"", "\"cot\"");
    assert_eq!(run(), 20);
    project.edit("study.toml", "name = \"one\"", "name = \"two\"");
    assert_eq!(run(), 0);
    project.edit("study.toml", "\"cot\"", "[\"direct\", \"cot\"]");
    assert_eq!(run(), 0);
}

#[test]
fn replies_with_more_choices_than_requested_are_used_once() {
    let server = FaultServer::start(|_, _| Fault::MoreChoices);
    let project = distillation(&server, 0..20, "temperature = 1, samples = 2");
    project.ok(&RUN);
    assert_eq!(project.read("out/study/kept/items.jsonl").lines().count(), 40);
    let requests = server.request_count();
    project.ok(&["run", "study.toml", "--force", "kept"]);
    assert_eq!(server.request_count(), requests);
}

const CONCURRENCY: usize = 8;

/// A pseudo-random number below `end`.
fn pseudo_random(seed: impl Hash, end: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    hasher.finish() % end
}

#[test]
fn stored_replies_survive_kills() {
    let slow = |body: &serde_json::Value, _| Fault::Slow(10 + pseudo_random(body.to_string(), 40));
    let server = FaultServer::start(slow);
    let project = distillation(&server, 0..1200, &format!("concurrency = {CONCURRENCY}"));
    let requested_since = |count: usize| -> BTreeSet<u64> {
        server.exchanges()[count..].iter().map(|exchange| summands(&exchange.body).unwrap().0).collect()
    };
    let mut known = BTreeSet::new();
    let mut in_flight = 0;
    for attempt in 0..50 {
        let before = server.request_count();
        let mut run = project.start(&RUN);
        // Every fifth run is killed soon after its start, the others between their requests.
        if pseudo_random((attempt, "start"), 5) == 0 {
            std::thread::sleep(Duration::from_millis(pseudo_random((attempt, "time"), 300)));
        } else {
            let more = 1 + pseudo_random((attempt, "more"), 32) as usize;
            wait_until("the run progresses", &|| server.request_count() >= before + more);
            std::thread::sleep(Duration::from_millis(pseudo_random((attempt, "time"), 40)));
        }
        assert!(run.try_wait().unwrap().is_none(), "the run ended before kill {attempt}");
        let processes = descendants(run.id());
        kill(&mut run);
        wait_until("all processes end", &|| processes.iter().all(|id| !is_alive(&id.to_string())));
        wait_until("all connections end", &|| server.requests_in_flight() == 0);
        project.ok(&["gc", "--keep-runs", "0"]);

        let requested = requested_since(before);
        let again = known.intersection(&requested).count();
        assert_eq!(again, 0, "stored replies were requested again after kill {attempt}");
        let stored = stored(&project);
        assert!(stored.is_superset(&known), "kill {attempt} and `gc` removed replies");
        let lost = requested.difference(&stored).count();
        assert!(lost <= CONCURRENCY, "{lost} of {} replies are lost by kill {attempt}", requested.len());
        in_flight += lost;
        known = stored;
    }
    let before = server.request_count();
    project.ok(&RUN);
    assert!(known.is_disjoint(&requested_since(before)));
    assert_eq!(server.distinct().len(), 1200);
    let twice: usize = server.paid_by_request().values().map(|count| count - 1).sum();
    print_figures(&format!("{twice} replies were paid again; {in_flight} requests were in flight at 50 kills"));
    assert!(twice <= in_flight);

    let other = FaultServer::without_faults();
    let undisturbed = distillation(&other, 0..1200, "");
    undisturbed.ok(&RUN);
    assert_eq!(project.outputs("study")["kept/items.jsonl"], undisturbed.outputs("study")["kept/items.jsonl"]);
}
