//! The process executor: each stage in a child of its own, so that a crash, a panic or an out-of-memory kill fails
//! one stage. Knows no plan and no store.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::executor::{Desk, Ended, Executor};
use super::job::Job;
use crate::base::{Causes, Event, files};
use crate::stage::Summary;

/// The hidden subcommand under which this program runs one job.
pub const SUBCOMMAND: &str = "stage-job";

/// How long a child may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How often a child is looked at while it says nothing.
const TURN: Duration = Duration::from_millis(50);

/// Starts a program with the path of the job as its last argument.
#[derive(Clone, Debug)]
pub struct ProcessExecutor {
    program: PathBuf,
    arguments: Vec<String>,
}

impl ProcessExecutor {
    /// This very program with its hidden subcommand.
    pub fn current() -> Result<ProcessExecutor> {
        let program = std::env::current_exe().context("cannot find the program that is running")?;
        Ok(ProcessExecutor::new(program, vec![SUBCOMMAND.to_string()]))
    }

    pub fn new(program: PathBuf, arguments: Vec<String>) -> ProcessExecutor {
        ProcessExecutor { program, arguments }
    }

    fn spawn(&self, job: &Job, desk: &Desk) -> Result<Child> {
        let log = files::append(desk.log)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(desk.job);
        command.env("RAYON_NUM_THREADS", job.threads.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        command.process_group(0);
        command.spawn().with_context(|| format!("cannot start `{}`", self.program.display()))
    }
}

impl Executor for ProcessExecutor {
    fn execute(&self, job: &Job, desk: &Desk) -> Ended {
        match self.spawn(job, desk) {
            Ok(child) => watch(child, desk),
            Err(error) => Ended::Failed(Causes::of(&error)),
        }
    }
}

/// Relays a child's events until it ends. The child's stdin stays open as long as this function runs.
fn watch(mut child: Child, desk: &Desk) -> Ended {
    let heartbeat = child.stdin.take();
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        let log = desk.log.to_path_buf();
        std::thread::spawn(move || read_events(stdout, &log, &sender));
    }
    let mut result = None;
    let mut asked: Option<Instant> = None;
    let mut silent_since_end = 0;
    loop {
        match receiver.recv_timeout(TURN) {
            Ok(Event::Done { summary }) => result = Some(Ended::Done(Summary(summary))),
            Ok(Event::Failed(causes)) => result = Some(Ended::Failed(causes)),
            Ok(event) => (desk.events)(event),
            Err(RecvTimeoutError::Disconnected) if has_ended(&child) => break,
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(1)),
            Err(RecvTimeoutError::Timeout) if has_ended(&child) => {
                // Something that the stage started holds its stdout open: it goes with the group, or is not waited for.
                signal(&child, Signal::KILL);
                silent_since_end += 1;
                if silent_since_end > 20 {
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if desk.stop.load(Ordering::Relaxed) {
            let since = *asked.get_or_insert_with(|| {
                signal(&child, Signal::TERM);
                Instant::now()
            });
            if since.elapsed() > GRACE {
                signal(&child, Signal::KILL);
            }
        }
    }
    // The child has ended but is not reaped, so its group's number is still its own: programs that the stage
    // started and left behind must not write on.
    signal(&child, Signal::KILL);
    let status = child.wait();
    drop(heartbeat);
    match (result, status) {
        (Some(Ended::Done(summary)), Ok(status)) if status.success() => Ended::Done(summary),
        (Some(failed @ Ended::Failed(_)), _) => failed,
        _ if asked.is_some() => Ended::Interrupted,
        (_, Ok(status)) => Ended::Failed(last_words(status, desk.log)),
        (_, Err(error)) => Ended::Failed(Causes::world(format!("cannot wait for the child process: {error}"))),
    }
}

/// Whether the child has ended. Leaves it to be waited for.
fn has_ended(child: &Child) -> bool {
    let Some(pid) = Pid::from_raw(child.id() as i32) else { return true };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
}

/// Sends each event on; anything else that the child prints goes to the log.
fn read_events(stdout: ChildStdout, log: &Path, sender: &mpsc::Sender<Event>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        match serde_json::from_slice(&line) {
            Ok(event) => {
                if sender.send(event).is_err() {
                    return;
                }
            }
            Err(_) => {
                files::append(log).and_then(|mut log| Ok(log.write_all(&line)?)).ok();
            }
        }
        line.clear();
    }
}

/// Signals the child's whole process group.
fn signal(child: &Child, signal: Signal) {
    if let Some(group) = Pid::from_raw(child.id() as i32) {
        // The group may be gone already, which is what we want.
        kill_process_group(group, signal).ok();
    }
}

/// Why a child ended without saying so, with the end of its log.
fn last_words(status: ExitStatus, log: &Path) -> Causes {
    let mut causes = Causes::world(match (status.code(), status.signal()) {
        (_, Some(9)) => "the child process was killed by signal 9, as the kernel does when memory runs out".to_string(),
        (_, Some(signal)) => format!("the child process was killed by signal {signal}"),
        (Some(code), _) => format!("the child process ended with exit code {code} and without a result"),
        (None, None) => "the child process ended without a result".to_string(),
    });
    let words = tail(log, 4096).unwrap_or_default();
    let lines: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
    if !lines.is_empty() {
        causes.chain.push(format!("the end of its log: {}", lines[lines.len().saturating_sub(5)..].join("\n")));
    }
    causes
}

/// The last bytes of a file as text.
fn tail(path: &Path, bytes: u64) -> Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::toys::{REGISTRY, Space};
    use crate::engine::{Outcome, Quiet, RunOptions, RunReport, run, run_job};
    use crate::store::Lock;
    use expect_test::expect;
    use serde_json::json;
    use std::sync::Arc;

    /// Not a test of its own: the child's side, when this very test program is started on a job.
    #[test]
    fn child_side() {
        let Some(job) = std::env::args().next_back().filter(|last| last.ends_with("job.json")) else { return };
        run_job(Path::new(&job), REGISTRY);
        // The harness must not go on to print and to end with a code of its own.
        std::process::exit(0);
    }

    fn options(space: &Space) -> RunOptions {
        let program = std::env::current_exe().unwrap();
        let arguments = ["--exact", "engine::process::tests::child_side", "--nocapture"];
        let executor = ProcessExecutor::new(program, arguments.map(str::to_string).to_vec());
        RunOptions { executor: Arc::new(executor), ..space.options() }
    }

    fn space() -> Space {
        let space = Space::new();
        space.write("data.txt", "one");
        space
    }

    #[test]
    fn a_child_runs_a_stage_and_its_chatter_goes_to_the_log() {
        let space = space();
        let stages = space.stages(&[
            ("base", json!({ "kind": "model", "path": "data.txt" })),
            ("eval", json!({ "from": ["base"], "word": "x" })),
        ]);
        expect![[r#"
            base: ran, it has not run yet
            eval: ran, it has not run yet
        "#]]
        .assert_eq(&space.run_with(&stages, &options(&space)));
        assert_eq!(space.output("eval"), r#""one" "" "x""#);
        let store = space.store();
        let record = store.record(store.latest("test", "eval").fingerprint.unwrap()).unwrap();
        assert_eq!(record.summary.0["rows"], 3);
        let log = files::read_text(&store.root().join(&record.provenance.log)).unwrap();
        assert!(log.contains("running 1 test"), "{log}");
    }

    #[test]
    fn a_child_that_panics_or_dies_fails_one_stage() {
        let space = space();
        space.tell("panic", "panic");
        space.tell("abort", "abort");
        let stage = |word: &str| json!({ "path": "data.txt", "word": word });
        let stages = space.stages(&[("panic", stage("1")), ("abort", stage("2")), ("good", stage("3"))]);
        let told = space.run_with(&stages, &options(&space));
        let lines = told.lines().filter(|line| ["failed", "signal", "ran"].iter().any(|word| line.contains(word)));
        expect![[r#"
            `panic` failed: the stage panicked: a mistake of ours
            `abort` failed: the child process was killed by signal 6
            good: ran, it has not run yet"#]]
        .assert_eq(&lines.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn an_interrupted_child_is_ended_and_its_work_stays() {
        let space = space();
        space.tell("read", "wait");
        let stages = space.stages(&[("read", json!({ "path": "data.txt" })), ("eval", json!({ "from": ["read"] }))]);
        let options = options(&space);
        let report: RunReport = std::thread::scope(|scope| {
            let run = scope.spawn(|| run("test", &stages, &space.store(), &options, &Quiet).unwrap());
            while !space.path("ran").exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            options.interrupt.store(true, Ordering::Relaxed);
            run.join().unwrap()
        });
        assert_eq!(report.exit_code(), 130);
        assert_eq!(report.count(|outcome| *outcome == Outcome::Interrupted), 2);
        assert_eq!(space.store().unfinished().unwrap().len(), 1);
        space.forgive("read", "wait");
        options.interrupt.store(false, Ordering::Relaxed);
        assert_eq!(run("test", &stages, &space.store(), &options, &Quiet).unwrap().exit_code(), 0);
        assert_eq!(space.store().unfinished().unwrap(), []);
    }

    /// Not a test of its own: a whole run in a process that will be killed.
    #[test]
    fn parent_side() {
        let Some(marker) = std::env::args().next_back().filter(|last| last.ends_with("doomed-run")) else { return };
        let space = Space::at(Path::new(&marker).parent().unwrap());
        run("test", &waiting(&space), &space.store(), &options(&space), &Quiet).unwrap();
    }

    fn waiting(space: &Space) -> crate::experiment::Expansion {
        space.stages(&[("read", json!({ "path": "data.txt" })), ("eval", json!({ "from": ["read"] }))])
    }

    #[test]
    fn a_killed_run_leaves_no_child_and_the_next_one_begins_at_once() {
        let space = space();
        space.tell("read", "wait");
        let mut parent = Command::new(std::env::current_exe().unwrap());
        parent.args(["--exact", "engine::process::tests::parent_side"]).arg(space.path("doomed-run"));
        let mut parent = parent.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !space.path("ran").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let store = space.store();
        let fingerprint = store.unfinished().unwrap()[0];
        assert!(store.lock_run(fingerprint).unwrap().is_none(), "the run holds its lock");
        parent.kill().unwrap();
        parent.wait().unwrap();
        // The orphan still waits for the file to go; if it lived, it would write its output over the new one.
        let dead = Lock::take_within(&store.child_lock_path(fingerprint), 1000, Duration::from_millis(10)).unwrap();
        assert!(dead.is_some(), "the child died with its parent");
        drop(dead);
        space.forgive("read", "wait");
        expect![[r#"
            read: ran, it has not run yet
            eval: ran, it has not run yet
        "#]]
        .assert_eq(&space.run_with(&waiting(&space), &options(&space)));
        assert_eq!(space.ran(), "read read eval");
    }

    #[test]
    fn a_program_that_cannot_be_started_fails_the_stage() {
        let space = space();
        let stages = space.stages(&[("read", json!({ "path": "data.txt" }))]);
        let executor = ProcessExecutor::new("/nowhere/ablate".into(), Vec::new());
        let told = space.run_with(&stages, &RunOptions { executor: Arc::new(executor), ..space.options() });
        assert!(told.starts_with("`read` failed: cannot start `/nowhere/ablate`\n"), "{told}");
    }
}
