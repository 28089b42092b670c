//! A killed run resumes from its checkpoint and produces the same bytes.

use std::fs;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::caching::study;
use crate::support::{Project, assert_contains, children, ignores_signal, kill, wait_until};

/// The study with a training long enough to be killed, which saves its state every 50 steps.
fn long_study() -> Project {
    let project = study();
    project.edit("study.toml", "epochs = 2", "epochs = 3000\nkeep_steps = 50");
    project
}

/// Waits until the training has saved its state.
fn wait_for_checkpoint(project: &Project) {
    // Names that start with a dot are temporary files.
    let kept = |entry: fs::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
    wait_until("a checkpoint appears", &|| {
        let mut work = fs::read_dir(project.path("cache/work")).into_iter().flatten().flatten();
        work.any(|sandbox| fs::read_dir(sandbox.path().join("scratch")).is_ok_and(|files| files.flatten().any(kept)))
    });
}

/// Runs with one and with two threads that `interrupt` kills resume to the bytes of an uninterrupted run.
fn assert_resumes_to_the_same_bytes(interrupt: fn(Child)) {
    let project = long_study();
    project.ok(&["run", "study.toml", "--jobs", "1"]);
    let expected = project.outputs("study");
    assert!(expected.keys().any(|name| name.ends_with("model.safetensors")));
    for threads in ["1", "2"] {
        let project = long_study();
        let run = ["run", "study.toml", "--jobs", "1", "--threads", threads, "-v"];
        let child = project.start(&run);
        wait_for_checkpoint(&project);
        interrupt(child);
        project.ok(&run).stderr_has(&["resumes after step "]);
        assert!(project.outputs("study") == expected, "the bytes differ with {threads} threads");
    }
}

#[test]
fn killed_run_resumes_to_the_same_bytes() {
    assert_resumes_to_the_same_bytes(|mut child| kill(&mut child));
}

#[test]
fn killed_stage_resumes_to_the_same_bytes() {
    assert_resumes_to_the_same_bytes(|mut child| {
        let stages = children(child.id());
        assert_eq!(stages.len(), 1);
        kill_process(Pid::from_raw(stages[0].cast_signed()).unwrap(), Signal::KILL).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
    });
}

#[test]
fn ctrl_c_keeps_checkpoints() {
    let project = long_study();
    let child = project.command(&["run", "study.toml", "--jobs", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_checkpoint(&project);
    let signal = if ignores_signal(2) { Signal::TERM } else { Signal::INT };
    kill_process(Pid::from_child(&child), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{printed}");
    assert_contains(&printed, &["help: run the same command again to resume"]);
    let dry = project.ok(&["gc", "--keep-runs", "0", "--dry-run"]).stdout;
    assert_contains(&dry, &["  sft (sft): ", " steps, "]);
    project.ok(&["gc", "--keep-runs", "0"]);
    project.ok(&["run", "study.toml"]).stderr_has(&["      sft: resumes after step "]);
}

#[test]
fn ctrl_c_saves_the_training() {
    let project = study();
    // Long enough that the signal arrives during the training on a busy machine, too.
    project.edit("study.toml", "epochs = 2", "epochs = 20000\nkeep_steps = 1000000");
    let child = project.command(&["run", "study.toml", "--jobs", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("some steps are done", &|| {
        let status = project.ablate(&["status", "--json"]).stdout;
        let status = serde_json::from_str::<Value>(&status).unwrap_or_default();
        status["running"][0]["instance"] == "sft" && status["running"][0]["progress"][0].as_u64() > Some(3)
    });
    let signal = if ignores_signal(2) { Signal::TERM } else { Signal::INT };
    kill_process(Pid::from_child(&child), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{printed}");
    assert_contains(
        &printed,
        &["stopping 1 stage: a training saves its state first", "press Ctrl-C again to end immediately"],
    );
    assert_eq!(project.json(&["status"])["state"], "interrupted");
    project.ok(&["run", "study.toml"]).stderr_has(&["      sft: resumes after step "]);
}
