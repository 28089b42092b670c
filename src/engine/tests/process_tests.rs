//! The process launcher with real child processes and supervisors.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use expect_test::expect;
use serde_json::json;

use super::support::TestProject;
use super::test_kinds::REGISTRY;
use crate::history;
use crate::stop::request_stop;
use crate::{NullObserver, Outcome, ProcessLauncher, RunOptions, RunReport, run, run_job, supervisor};
use ablate_core::base::files;
use ablate_experiment::Expansion;
use ablate_store::Lock;

/// Not a test: the child process that runs a job.
#[test]
fn job_child() {
    let Some(job) = std::env::args().next_back().filter(|last| last.ends_with("job.json")) else { return };
    run_job(Path::new(&job), REGISTRY);
    // The test harness must not print or set the exit code.
    std::process::exit(0);
}

/// Not a test: the supervisor process.
#[test]
fn supervisor_child() {
    let exact = std::env::args().any(|argument| argument == "tests::process_tests::supervisor_child");
    if exact && std::env::args().any(|argument| argument == "--nocapture") {
        supervisor::serve();
        std::process::exit(0);
    }
}

fn options(project: &TestProject) -> RunOptions {
    let program = std::env::current_exe().unwrap();
    let arguments = |name: &str| {
        let name = format!("tests::process_tests::{name}_child");
        ["--exact", &name, "--nocapture"].map(str::to_string).to_vec()
    };
    let launcher = ProcessLauncher::new(program, arguments("job"), arguments("supervisor"));
    RunOptions { launcher: Arc::new(launcher), ..project.options() }
}

#[test]
fn a_child_runs_a_stage_and_its_output_is_logged() {
    let project = TestProject::with_data();
    let stages = project.stages(&[
        ("base", json!({ "kind": "model", "path": "data.txt" })),
        ("eval", json!({ "from": ["base"], "word": "x" })),
    ]);
    expect![[r#"
        base: ran, it has not run yet
        eval: ran, it has not run yet
    "#]]
    .assert_eq(&project.run_with(&stages, &options(&project)));
    assert_eq!(project.output("eval"), r#""one" "two" "" "x""#);
    let record = project.record("eval");
    assert_eq!(record.summary.0["rows"], 4);
    let log = files::read_text(&project.path("cache").join(&record.provenance.log)).unwrap();
    assert!(log.contains("running 1 test"), "{log}");
}

#[test]
fn long_results_and_notes_arrive_complete() {
    let project = TestProject::with_data();
    project.set_fault("read", "long-events");
    let stages = project.stages(&[("read", json!({ "path": "data.txt" }))]);
    assert_eq!(project.run_with(&stages, &options(&project)), "read: ran, it has not run yet\n");
    let record = project.record("read");
    let long = "x".repeat(3 << 20);
    assert!(record.summary.0["long"] == long);
    let log = files::read_text(&project.path("cache").join(&record.provenance.log)).unwrap();
    assert!(log.lines().any(|line| line == long));
}

#[test]
fn a_child_reports_that_it_detaches() {
    let project = TestProject::with_data();
    project.set_fault("read", "detach");
    let stages = waiting_stages(&project);
    let options = RunOptions { detach: true, ..options(&project) };
    expect![[r#"
        read: detached, batch 7 with 2 requests
        eval: skipped, `read` waits for its endpoint
    "#]]
    .assert_eq(&project.run_with(&stages, &options));
}

#[test]
fn a_panic_or_abort_fails_one_stage() {
    let project = TestProject::with_data();
    project.set_fault("panic", "panic");
    project.set_fault("abort", "abort");
    let stage = |word: &str| json!({ "path": "data.txt", "word": word });
    let stages = project.stages(&[("panic", stage("1")), ("abort", stage("2")), ("good", stage("3"))]);
    let outcomes = project.run_with(&stages, &options(&project));
    let lines = outcomes.lines().filter(|line| ["failed", "signal", "ran"].iter().any(|word| line.contains(word)));
    expect![[r#"
        `panic` failed: the stage panicked: a bug in the stage
        `abort` failed: the child process was killed by signal 6
        good: ran, it has not run yet"#]]
    .assert_eq(&lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn an_interrupted_child_keeps_its_work() {
    let project = TestProject::with_data();
    project.set_fault("read", "wait");
    let (stages, options) = (waiting_stages(&project), options(&project));
    let report: RunReport = std::thread::scope(|scope| {
        let run = scope.spawn(|| run("test", &stages, &project.store(), &options, &NullObserver).unwrap());
        project.wait_until_running();
        options.interrupt.store(true, Ordering::Relaxed);
        run.join().unwrap()
    });
    assert_eq!(report.exit_code(), 130);
    assert_eq!(report.count(|outcome| *outcome == Outcome::Interrupted), 2);
    assert_eq!(project.store().unfinished().unwrap().len(), 1);
    project.clear_fault("read", "wait");
    options.interrupt.store(false, Ordering::Relaxed);
    assert_eq!(run("test", &stages, &project.store(), &options, &NullObserver).unwrap().exit_code(), 0);
    assert_eq!(project.store().unfinished().unwrap(), []);
}

#[test]
fn a_stopped_instance_keeps_its_work_and_the_others_run() {
    let project = TestProject::with_data();
    project.set_fault("read", "wait");
    let stages = project.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("eval", json!({ "from": ["read"] })),
        ("unstarted", json!({ "path": "data.txt", "word": "u" })),
        ("other", json!({ "path": "data.txt", "word": "x" })),
    ]);
    let options = RunOptions { jobs: 1, ..options(&project) };
    let store = project.store();
    let report: RunReport = std::thread::scope(|scope| {
        let run = scope.spawn(|| run("test", &stages, &project.store(), &options, &NullObserver).unwrap());
        project.wait_until_running();
        let name = history::find(&store, "latest").unwrap();
        let stop = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            request_stop(&store, &name, &patterns).map_err(|error| error.to_string())
        };
        expect![[r#"
            `raed` matches no instance that run 1 executes
            help: a similar name exists: `read`"#]]
        .assert_eq(&stop(&["raed"]).unwrap_err());
        assert_eq!(stop(&["read", "un*"]).unwrap(), ["read", "unstarted"]);
        run.join().unwrap()
    });
    expect![[r#"
        read: interrupted
        eval: skipped, `read` was stopped
        unstarted: interrupted
        other: ran, it has not run yet
    "#]]
    .assert_eq(&project.outcomes(&report));
    assert_eq!((report.exit_code(), report.interrupted), (130, true));
    assert_eq!(store.unfinished().unwrap().len(), 1);
    let ended = request_stop(&store, &report.run, &[]).unwrap_err().to_string();
    assert_eq!(ended, "run 1 has ended (interrupted), so nothing of it can be stopped");
    project.clear_fault("read", "wait");
    project.take_ran();
    assert_eq!(run("test", &stages, &store, &options, &NullObserver).unwrap().exit_code(), 0);
    assert_eq!(project.take_ran(), "read unstarted eval");
}

#[test]
fn a_run_can_be_stopped_as_a_whole_from_another_process() {
    let project = TestProject::with_data();
    project.set_fault("read", "wait");
    let (stages, options, store) = (waiting_stages(&project), options(&project), project.store());
    let report: RunReport = std::thread::scope(|scope| {
        let run = scope.spawn(|| run("test", &stages, &project.store(), &options, &NullObserver).unwrap());
        project.wait_until_running();
        assert_eq!(request_stop(&store, &history::find(&store, "latest").unwrap(), &[]).unwrap(), [""; 0]);
        run.join().unwrap()
    });
    assert_eq!(report.count(|outcome| *outcome == Outcome::Interrupted), 2);
}

/// Not a test: a run in a process that is killed.
#[test]
fn killed_parent() {
    let Some(marker) = std::env::args().next_back().filter(|last| last.ends_with("killed-run")) else { return };
    let project = TestProject::at(Path::new(&marker).parent().unwrap());
    run("test", &waiting_stages(&project), &project.store(), &options(&project), &NullObserver).unwrap();
}

fn waiting_stages(project: &TestProject) -> Expansion {
    project.stages(&[("read", json!({ "path": "data.txt" })), ("eval", json!({ "from": ["read"] }))])
}

#[test]
fn a_killed_run_leaves_no_child() {
    let project = TestProject::with_data();
    project.set_fault("read", "wait");
    let mut parent = Command::new(std::env::current_exe().unwrap());
    parent.args(["--exact", "tests::process_tests::killed_parent"]).arg(project.path("killed-run"));
    let mut parent = parent.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    project.wait_until_running();
    let store = project.store();
    let fingerprint = store.unfinished().unwrap()[0];
    assert!(store.lock_run(fingerprint).unwrap().is_none(), "the run holds its lock");
    parent.kill().unwrap();
    parent.wait().unwrap();
    // A living orphan would still wait for the marker file, and then overwrite the output of the next run.
    let dead = Lock::take_within(&store.child_lock_path(fingerprint), 1000, Duration::from_millis(10)).unwrap();
    assert!(dead.is_some(), "the child died with its parent");
    drop(dead);
    project.clear_fault("read", "wait");
    expect![[r#"
        read: ran, it has not run yet
        eval: ran, it has not run yet
    "#]]
    .assert_eq(&project.run_with(&waiting_stages(&project), &options(&project)));
    assert_eq!(project.take_ran(), "read read eval");
}

#[test]
fn a_program_that_cannot_start_fails_the_stage() {
    let project = TestProject::with_data();
    let stages = project.stages(&[("read", json!({ "path": "data.txt" }))]);
    let launcher = ProcessLauncher::new("/nowhere/ablate".into(), Vec::new(), Vec::new());
    let outcomes = project.run_with(&stages, &RunOptions { launcher: Arc::new(launcher), ..project.options() });
    assert!(outcomes.starts_with("`read` failed: cannot start `/nowhere/ablate`\n"), "{outcomes}");
}
