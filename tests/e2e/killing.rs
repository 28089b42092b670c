//! Killed at any moment, a run goes on from its checkpoint and ends with the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::caching::study;
use crate::space::{Space, ignores, kill};

/// The study with a training long enough to be hit, that keeps its state every few steps.
fn long_study() -> Space {
    let space = study();
    let text = space.read("study.toml").replace("epochs = 2", "epochs = 3000\nkeep_steps = 50");
    space.write("study.toml", text);
    space
}

/// Waits until the training has kept its state at least once, and gives the scratch folder.
fn until_kept(space: &Space) -> PathBuf {
    let begun = Instant::now();
    loop {
        let work = fs::read_dir(space.path("cache/work")).into_iter().flatten().flatten();
        for folder in work.map(|entry| entry.path().join("scratch")) {
            // Names with a dot are files that are still being written.
            let kept = |entry: fs::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
            if fs::read_dir(&folder).is_ok_and(|entries| entries.flatten().any(kept)) {
                return folder;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint appeared");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start(space: &Space, threads: &str) -> Child {
    space.start(&["run", "study.toml", "--jobs", "1", "--threads", threads])
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
    let space = long_study();
    space.ok(&["run", "study.toml", "--jobs", "1"]);
    space.outputs("study")
}

#[test]
fn a_killed_program_resumes_to_the_same_bytes_with_one_thread_and_with_two() {
    let expected = uninterrupted();
    assert!(expected.keys().any(|name| name.ends_with("model.safetensors")));
    for threads in ["1", "2"] {
        let space = long_study();
        let mut child = start(&space, threads);
        until_kept(&space);
        kill(child.id());
        child.wait().unwrap();
        let told = space.ok(&["run", "study.toml", "--jobs", "1", "--threads", threads, "-v"]).stderr;
        assert!(told.contains("resumed"), "it began anew:\n{told}");
        assert!(space.outputs("study") == expected, "the bytes differ with {threads} threads");
    }
}

#[test]
fn a_killed_stage_fails_alone_and_resumes_to_the_same_bytes_with_one_thread_and_with_two() {
    let expected = uninterrupted();
    for threads in ["1", "2"] {
        let space = long_study();
        let mut child = start(&space, threads);
        until_kept(&space);
        let stages = children(child.id());
        assert_eq!(stages.len(), 1);
        kill(stages[0]);
        assert_eq!(child.wait().unwrap().code(), Some(1));
        let told = space.ok(&["run", "study.toml", "--jobs", "1", "--threads", threads, "-v"]).stderr;
        assert!(told.contains("resumed"), "it began anew:\n{told}");
        assert!(space.outputs("study") == expected, "the bytes differ with {threads} threads");
    }
}

#[test]
fn ctrl_c_leaves_everything_resumable_and_says_so() {
    let space = long_study();
    let child = space.command(&["run", "study.toml", "--jobs", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    until_kept(&space);
    let id = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    let signal = if ignores(2) { rustix::process::Signal::TERM } else { rustix::process::Signal::INT };
    rustix::process::kill_process(id, signal).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("help: run the same command again to resume"), "{told}");
    let dry = space.ok(&["gc", "--keep-runs", "0", "--dry-run"]).stdout;
    assert!(dry.contains("  sft (sft): ") && dry.contains(" steps, "), "{dry}");
    space.ok(&["gc", "--keep-runs", "0"]);
    assert!(space.ok(&["run", "study.toml", "-v"]).stderr.contains("resumed"));
}
