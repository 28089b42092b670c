//! A killed run resumes from its checkpoint and produces the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::caching::study;
use crate::support::{Project, ignores_signal, kill};

/// The study with a training long enough to be killed, which saves its state every 50 steps.
fn long_study() -> Project {
    let project = study();
    let text = project.read("study.toml").replace("epochs = 2", "epochs = 3000\nkeep_steps = 50");
    project.write("study.toml", text);
    project
}

/// Waits until the training has saved its state and returns the scratch folder.
fn wait_for_checkpoint(project: &Project) -> PathBuf {
    let begun = Instant::now();
    loop {
        let work = fs::read_dir(project.path("cache/work")).into_iter().flatten().flatten();
        for folder in work.map(|entry| entry.path().join("scratch")) {
            // Names that start with a dot are temporary files.
            let kept = |entry: fs::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
            if fs::read_dir(&folder).is_ok_and(|entries| entries.flatten().any(kept)) {
                return folder;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint appeared");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(project: &Project, threads: &str) -> Child {
    project.start(&["run", "study.toml", "--jobs", "1", "--threads", threads])
}

/// Processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    ids.filter(|id| {
        let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after = status.rsplit(')').next().unwrap_or_default();
        after.split_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}

fn uninterrupted() -> BTreeMap<String, Vec<u8>> {
    let project = long_study();
    project.ok(&["run", "study.toml", "--jobs", "1"]);
    project.outputs("study")
}

#[test]
fn killed_run_resumes_to_the_same_bytes() {
    let expected = uninterrupted();
    assert!(expected.keys().any(|name| name.ends_with("model.safetensors")));
    for threads in ["1", "2"] {
        let project = long_study();
        let mut child = start(&project, threads);
        wait_for_checkpoint(&project);
        kill(child.id());
        child.wait().unwrap();
        let printed = project.ok(&["run", "study.toml", "--jobs", "1", "--threads", threads, "-v"]).stderr;
        assert!(printed.contains("resumed"), "it started from the beginning:\n{printed}");
        assert!(project.outputs("study") == expected, "the bytes differ with {threads} threads");
    }
}

#[test]
fn killed_stage_resumes_to_the_same_bytes() {
    let expected = uninterrupted();
    for threads in ["1", "2"] {
        let project = long_study();
        let mut child = start(&project, threads);
        wait_for_checkpoint(&project);
        let stages = children(child.id());
        assert_eq!(stages.len(), 1);
        kill(stages[0]);
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let printed = project.ok(&["run", "study.toml", "--jobs", "1", "--threads", threads, "-v"]).stderr;
        assert!(printed.contains("resumed"), "it started from the beginning:\n{printed}");
        assert!(project.outputs("study") == expected, "the bytes differ with {threads} threads");
    }
}

#[test]
fn ctrl_c_keeps_checkpoints() {
    let project = long_study();
    let child = project.command(&["run", "study.toml", "--jobs", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_checkpoint(&project);
    let id = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    let signal = if ignores_signal(2) { rustix::process::Signal::TERM } else { rustix::process::Signal::INT };
    rustix::process::kill_process(id, signal).unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{printed}");
    assert!(printed.contains("help: run the same command again to resume"), "{printed}");
    let dry = project.ok(&["gc", "--keep-runs", "0", "--dry-run"]).stdout;
    assert!(dry.contains("  sft (sft): ") && dry.contains(" steps, "), "{dry}");
    project.ok(&["gc", "--keep-runs", "0"]);
    assert!(project.ok(&["run", "study.toml", "-v"]).stderr.contains("resumed"));
}
