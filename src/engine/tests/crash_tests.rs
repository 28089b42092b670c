//! Crashes: aborts a run at each of its file system changes, one after another, and checks the next run.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::support::TestProject;
use crate::{NullObserver, Outcome, run};
use ablate_core::base::files;
use ablate_experiment::Expansion;

/// Stages that commit in every way: files, a folder, equal outputs of two stages.
fn stages(project: &TestProject) -> Expansion {
    project.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("model", json!({ "kind": "model", "from": ["read"], "word": "m" })),
        ("twin", json!({ "kind": "model", "from": ["read"], "word": "m", "seed": 1 })),
        ("eval", json!({ "from": ["model"], "word": "e" })),
    ])
}

/// The bytes of every output by its name.
fn outputs(project: &TestProject) -> BTreeMap<String, Vec<u8>> {
    let out = project.path("out/test");
    let names = ["read/rows.jsonl", "model/model/weights", "twin/model/weights", "eval/rows.jsonl", "eval/facts.json"];
    names.iter().map(|name| ((*name).to_string(), files::read_bytes(&out.join(name)).unwrap())).collect()
}

static STEPS: AtomicUsize = AtomicUsize::new(0);

/// Aborts the process at the step `ABLATE_DIE_AT`.
fn abort_at_step(what: &str) {
    let number = STEPS.fetch_add(1, Ordering::SeqCst) + 1;
    let chosen = std::env::var("ABLATE_DIE_AT").ok().and_then(|chosen| chosen.parse().ok());
    if chosen == Some(number) {
        // A write error is ignored: the exit status shows the abort.
        let _ = writeln!(std::io::stderr(), "aborts at step {number}: {what}");
        std::process::abort();
    }
}

/// Not a test: the child process, which aborts at a step or else writes its number of steps.
#[test]
fn crashing_child() {
    let Some(marker) = std::env::args().next_back().filter(|last| last.ends_with("crash-steps")) else { return };
    files::on_crash_point(abort_at_step);
    let project = TestProject::at(Path::new(&marker).parent().unwrap());
    run("test", &stages(&project), &project.store(), &project.options(), &NullObserver).unwrap();
    project.write("crash-steps", &STEPS.load(Ordering::SeqCst).to_string());
}

/// A project in which a run was aborted at a step. A step beyond the last one aborts nothing.
fn crashed_at(step: usize) -> TestProject {
    let project = TestProject::new();
    project.write("data.txt", "one\n two");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "tests::crash_tests::crashing_child"]).arg(project.path("crash-steps"));
    child.env("ABLATE_DIE_AT", step.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
    let survived = child.status().unwrap().success();
    assert_eq!(survived, project.path("crash-steps").exists(), "at step {step}");
    project
}

#[test]
fn a_crash_at_any_step_loses_no_result() {
    let whole = crashed_at(usize::MAX);
    let steps: usize = files::read_text(&whole.path("crash-steps")).unwrap().parse().unwrap();
    assert!(steps > 50, "{steps} steps are too few to be all of them");
    let expected = outputs(&whole);
    // Two threads, because most of the time is spent waiting for the disk.
    std::thread::scope(|scope| {
        for first in [1, 2] {
            let expected = &expected;
            scope.spawn(move || (first..=steps).step_by(2).for_each(|step| check_crash_at(step, expected)));
        }
    });
}

fn check_crash_at(step: usize, expected: &BTreeMap<String, Vec<u8>>) {
    let project = crashed_at(step);
    assert!(!project.path("crash-steps").exists(), "the run survived step {step}");
    let stages = stages(&project);
    let committed = project.store().fingerprints().unwrap();
    project.take_ran();
    let report = run("test", &stages, &project.store(), &project.options(), &NullObserver).unwrap();
    assert_eq!(report.exit_code(), 0, "after step {step}: {}", project.outcomes(&report));
    for instance in report.instances.iter().filter(|instance| instance.outcome == Outcome::Ran) {
        let again = committed.contains(&instance.fingerprint.unwrap());
        assert!(!again, "`{}` was committed before step {step}, and ran again", instance.name);
    }
    assert_eq!(project.take_ran().split_whitespace().count(), 4 - committed.len(), "after step {step}");
    assert_eq!(outputs(&project), *expected, "after step {step}");
    let verified = project.store().verify(false, &|_, _| ()).unwrap();
    assert_eq!((verified.records, verified.problems), (4, Vec::new()), "after step {step}");
}
