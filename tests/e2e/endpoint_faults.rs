//! Endpoints that fail: retries, bad replies, outages, and the memory of a stage with many requests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::fault_server::{BAD, Exchange, Fault, FaultServer, RETRIABLE, random_faults, summands};
use crate::support::{Outcome, Project, assert_contains, print_figures, wait_until};

/// The kind of a bad reply in summaries.
fn kind(fault: Fault) -> Option<&'static str> {
    Some(match fault {
        Fault::NotJson | Fault::EmptyObject | Fault::NoChoices => "malformed",
        Fault::NullContent => "empty",
        Fault::Refusal => "refused",
        Fault::Filtered => "filtered",
        Fault::CutText => "cut",
        Fault::HugeText => "too-long",
        Fault::Rejected => "rejected",
        Fault::NoAnswer => "form",
        _ => return None,
    })
}

/// A project that distills these sums from a server.
pub(crate) fn distillation(server: &FaultServer, numbers: std::ops::Range<u64>, keys: &str) -> Project {
    let project = Project::new();
    project.write("rows.jsonl", sums(numbers)).write("study.toml", study(&server.url(), keys));
    project
}

/// Rows with the question "What is 7 + 1?" for the number 7.
pub(crate) fn sums(numbers: std::ops::Range<u64>) -> String {
    let row = |number: u64| {
        let answer = (number + 1).to_string();
        let turns = serde_json::json!([
            { "from": "human", "value": format!("What is {number} + 1?") }, { "from": "gpt", "value": answer },
        ]);
        let row = serde_json::json!({
            "id": number.to_string(), "answer": answer, "answer_type": "number", "conversations": turns,
        });
        row.to_string() + "\n"
    };
    numbers.map(row).collect()
}

/// An experiment that distills `rows.jsonl`. `keys` are further keys of the table of the teacher.
pub(crate) fn study(url: &str, keys: &str) -> String {
    format!(
        r#"name = "study"

[stage.items]
kind = "items"
path = "rows.jsonl"

[stage.kept]
kind = "distill"
items = "items"
teacher = {{ api = "openai", url = "{url}", model = "m", {keys} }}
"#
    )
}

/// The rows of an output of the stage `kept`.
fn rows(project: &Project, name: &str) -> Vec<Value> {
    let text = project.read(&format!("out/study/kept/{name}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The summary of the stage `kept`.
fn summary(project: &Project) -> Value {
    project.json(&["show", "study.toml", "kept"])["record"]["summary"].clone()
}

/// The number in a question of an exchange.
fn number(exchange: &Exchange) -> u64 {
    summands(&exchange.body).unwrap().0
}

/// The number of the bad replies of each kind, from the last reply to each request.
fn bad_by_kind(server: &FaultServer) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    for exchange in server.exchanges() {
        last.insert(exchange.key, exchange.fault);
    }
    let mut counts = BTreeMap::new();
    for kind in last.into_values().filter_map(kind) {
        *counts.entry(kind.to_string()).or_default() += 1;
    }
    counts
}

/// Panics unless the summary of the stage `kept` has these numbers of bad replies, and rejects nothing else.
#[track_caller]
fn assert_bad(project: &Project, expected: &BTreeMap<String, u64>) {
    let summary = summary(project);
    let bad = summary["requests"].get("bad").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    assert_eq!(&serde_json::from_value::<BTreeMap<String, u64>>(bad).unwrap(), expected);
    let reasons: BTreeMap<String, u64> = serde_json::from_value(summary["rejected"].clone()).unwrap();
    assert_eq!(reasons.values().sum::<u64>(), expected.values().sum::<u64>());
}

/// Panics if a complete 200 reply was paid twice.
#[track_caller]
fn assert_paid_once(server: &FaultServer) {
    let twice: Vec<_> = server.paid_by_request().into_iter().filter(|(_, count)| *count > 1).collect();
    assert!(twice.is_empty(), "{} requests were paid more than once, for example {:?}", twice.len(), twice[0]);
}

/// The peak memory in MiB that the system counted for a process.
fn peak_memory(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? >> 10)
}

fn is_stage_job(id: u32) -> bool {
    fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains("stage-job"))
}

/// Distills many questions from a server with every fault.
#[test]
fn every_fault_is_survived() {
    let questions: u64 = std::env::var("ABLATE_TEST_QUESTIONS").map_or(10_000, |count| count.parse().unwrap());
    let faults = [&[Fault::Slow(100), Fault::Slow(400), Fault::Slow(800), Fault::MoreChoices], RETRIABLE, BAD].concat();
    let draw = random_faults(1, 0.2, faults);
    let server = FaultServer::start(move |body, attempt| match draw(body, attempt) {
        Fault::None => Fault::Slow(20),
        // These pause all requests, so they are rare.
        Fault::RetryAfterSeconds(1) | Fault::RetryAfterDate if !summands(body).unwrap().0.is_multiple_of(10) => {
            Fault::TooManyRequests
        }
        fault => fault,
    });
    let project = distillation(&server, 0..questions, "concurrency = 64, timeout_seconds = 2, max_tokens = 64");
    let begin = Instant::now();
    let mut peak = 0;
    let run = project.watch(&mut project.command(&["run", "study.toml"]), |processes| {
        let jobs = processes.iter().filter(|id| is_stage_job(**id));
        peak = jobs.filter_map(|id| peak_memory(*id)).max().unwrap_or(0).max(peak);
    });
    let seconds = begin.elapsed().as_secs_f64();
    let figures = format!(
        "{questions} questions, {} requests, at most {} at a time, {seconds:.1} s, {peak} MiB",
        server.request_count(),
        server.most_requests_in_flight()
    );
    print_figures(&figures);
    run.exited(0);
    let ids = |name: &str, id: &dyn Fn(&Value) -> String| rows(&project, name).iter().map(id).collect::<Vec<_>>();
    let kept = ids("items.jsonl", &|row| row["id"].as_str().unwrap().to_string());
    let rejected = ids("rejects.jsonl", &|row| row["item"]["id"].as_str().unwrap().to_string());
    let all: BTreeSet<String> = kept.iter().chain(&rejected).cloned().collect();
    assert_eq!((all.len() as u64, kept.len() + rejected.len()), (questions, questions as usize));
    let expected = bad_by_kind(&server);
    assert_eq!(rejected.len() as u64, expected.values().sum::<u64>());
    assert_bad(&project, &expected);
    assert_paid_once(&server);
    assert_eq!(server.early_retries(), 0, "a request came before the time that `Retry-After` names");
    // A bad reply is the last reply to its request.
    let bad = server.exchanges().into_iter().filter(|exchange| kind(exchange.fault).is_some()).count();
    assert_eq!(bad as u64, expected.values().sum::<u64>());
    assert!((32..=64).contains(&server.most_requests_in_flight()), "{figures}");
    assert!(peak > 0 && peak < 200, "{figures}");
}

/// A server that gives a bad reply of each kind to the first requests for the questions 0 to 9, and good replies to others.
fn server_with_bad_replies() -> FaultServer {
    FaultServer::start(|body, attempt| {
        let number = summands(body).unwrap().0 as usize;
        if attempt == 0 { BAD.get(number).copied().unwrap_or(Fault::None) } else { Fault::None }
    })
}

/// Runs `ablate` and returns the numbers of the questions that the server got meanwhile.
#[track_caller]
fn asked(server: &FaultServer, run: impl FnOnce() -> Outcome) -> Vec<u64> {
    let before = server.request_count();
    run().exited(0);
    let mut numbers: Vec<u64> = server.exchanges()[before..].iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn bad_replies_are_kept_until_they_are_requested_again() {
    let server = server_with_bad_replies();
    let project = distillation(&server, 0..20, "max_tokens = 64");
    let run = |arguments: &[&str]| asked(&server, || project.ablate(&[&["run", "study.toml"], arguments].concat()));
    assert_eq!(run(&[]), (0..20).collect::<Vec<_>>());
    let all = bad_by_kind(&server);
    assert_eq!(all.values().sum::<u64>(), 10);
    assert_bad(&project, &all);
    assert_eq!((rows(&project, "items.jsonl").len(), rows(&project, "rejects.jsonl").len()), (10, 10));
    assert_eq!(run(&[]), [0_u64; 0]);
    assert_eq!(run(&["--force", "kept"]), [0_u64; 0]);
    let with = |keys: &str| project.write("study.toml", study(&server.url(), &format!("max_tokens = 64, {keys}")));
    let of_kind = |name: &str| -> Vec<u64> {
        BAD.iter()
            .enumerate()
            .filter(|(_, fault)| kind(**fault) == Some(name))
            .map(|(number, _)| number as u64)
            .collect()
    };
    with(r#"retry = ["empty"]"#);
    assert_eq!(run(&[]), of_kind("empty"));
    assert_eq!(run(&[]), [0_u64; 0]);
    let rest: BTreeMap<String, u64> = all.into_iter().filter(|(kind, _)| kind != "empty").collect();
    assert_bad(&project, &rest);
    with(r#"retry = ["refused", "filtered"]"#);
    assert_eq!(run(&[]), [of_kind("refused"), of_kind("filtered")].concat());
    with("");
    assert_eq!(run(&[]), [0_u64; 0]);
}

#[test]
fn retry_requests_bad_replies_again() {
    let server = server_with_bad_replies();
    let project = distillation(&server, 0..20, "max_tokens = 64");
    project.ok(&["run", "study.toml"]);
    let retry = |arguments: &[&str]| {
        asked(&server, || {
            let retry = project.ablate(&[&["retry", "study.toml", "kept"], arguments].concat());
            if retry.code == Some(0) { project.ablate(&["run", "study.toml"]) } else { retry }
        })
    };
    let of_kind = |name: &str| BAD.iter().position(|fault| kind(*fault) == Some(name)).unwrap() as u64;
    assert_eq!(retry(&["--bad", "cut,form"]), [of_kind("cut"), of_kind("form")]);
    let left = (0..10).filter(|number| ![of_kind("cut"), of_kind("form")].contains(number));
    assert_eq!(retry(&["--bad"]), left.collect::<Vec<_>>());
    assert_bad(&project, &BTreeMap::new());
    assert_eq!(rows(&project, "items.jsonl").len(), 20);
    assert_eq!(retry(&["--bad"]), [0_u64; 0]);
    assert_paid_once_after_bad_replies(&server);
}

/// Panics if a request was sent again after a good reply.
#[track_caller]
fn assert_paid_once_after_bad_replies(server: &FaultServer) {
    let mut good = BTreeSet::new();
    for exchange in server.exchanges() {
        assert!(!good.contains(&exchange.key), "{}", exchange.key);
        if exchange.is_paid() && kind(exchange.fault).is_none() {
            good.insert(exchange.key);
        }
    }
}

/// Starts a run whose output is collected.
fn start(command: &mut Command) -> std::thread::JoinHandle<(Option<i32>, String)> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::spawn(|| {
        let output = child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    })
}

#[test]
fn outage_is_survived() {
    let mut server = FaultServer::start(|_, _| Fault::Slow(20));
    let project = distillation(&server, 0..400, "");
    let run = start(&mut project.command(&["run", "study.toml"]));
    wait_until("100 replies", &|| server.paid_count() >= 100);
    server.stop();
    wait_until("all connections end", &|| server.requests_in_flight() == 0);
    std::thread::sleep(Duration::from_millis(100));
    let before = server.request_count();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(server.request_count(), before);
    server.resume();
    let (code, printed) = run.join().unwrap();
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(server.distinct().len(), 400);
    assert_eq!(rows(&project, "items.jsonl").len(), 400);
    // A reply whose connection ended is not complete for the client.
    let again = server.paid_by_request().values().filter(|count| **count > 1).count();
    assert!(again <= 8, "{again} replies were paid twice");
    assert_contains(&printed, &["kept", "cannot reach the endpoint"]);
}

#[test]
fn long_outage_ends_the_run_and_loses_nothing() {
    let mut server = FaultServer::start(|_, _| Fault::Slow(20));
    let project = distillation(&server, 0..400, "patience_seconds = 1");
    let run = start(&mut project.command(&["run", "study.toml"]));
    wait_until("100 replies", &|| server.paid_count() >= 100);
    server.stop();
    let begin = Instant::now();
    let (code, printed) = run.join().unwrap();
    assert_eq!(code, Some(1), "{printed}");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert_contains(&printed, &["error: `kept` failed", " 1 s", "cannot reach the endpoint", "Connection refused"]);
    server.resume();
    let known = stored(&project).len();
    assert!(known >= 90, "{known}");
    let before = server.request_count();
    project.ok(&["run", "study.toml"]);
    assert_eq!(server.request_count() - before, 400 - known);
    assert_eq!(rows(&project, "items.jsonl").len(), 400);
}

#[test]
fn requests_in_flight_do_not_delay_the_end_of_a_failed_run() {
    // The first request fails for good while the second is in flight, which then is to wait for a minute.
    let server = FaultServer::start(|body, _| {
        if summands(body).unwrap().0 == 0 {
            std::thread::sleep(Duration::from_millis(200));
            return Fault::Unauthorized;
        }
        std::thread::sleep(Duration::from_millis(600));
        Fault::RetryAfterSeconds(60)
    });
    let project = distillation(&server, 0..2, "");
    let begin = Instant::now();
    project.fails(1, &["run", "study.toml"]).stderr_has(&["401 Unauthorized"]);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

/// The numbers of the questions whose right answer is in the store.
pub(crate) fn stored(project: &Project) -> BTreeSet<u64> {
    let text = fs::read_to_string(project.path("cache/replies/log")).unwrap_or_default();
    let number = |part: &str| part.split('.').next().unwrap().parse().ok();
    // A line that was cut by a crash is not stored.
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.filter_map(|line| line.split("Seen ").nth(1)).filter_map(number).collect()
}
