//! The process executor: each stage in a process of its own, so that a crash, a panic or an out-of-memory kill fails
//! one stage. Knows no plan and no store.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::confine;
use super::executor::{Desk, Ended, Executor, Work};
use super::warden::{self, Ending, Order, STOP};
use crate::base::escape::visible_log;
use crate::base::{Causes, Event, files};
use crate::stage::Summary;

/// The hidden subcommand under which this program runs one job.
pub const SUBCOMMAND: &str = "stage-job";

/// How often a stage that says nothing is asked whether it should stop.
const TURN: Duration = Duration::from_millis(50);

/// How long a warden may take to end a program that was stopped: more than the grace that the program has.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs jobs as children of this very program, and programs of the user's as they are. Each runs under a
/// [`warden`]; wardens are kept for the next stage.
#[derive(Debug)]
pub struct ProcessExecutor {
    program: PathBuf,
    job: Vec<String>,
    warden: Vec<String>,
    idle: Mutex<Vec<Warden>>,
}

impl ProcessExecutor {
    /// This very program with its hidden subcommands.
    pub fn current() -> Result<ProcessExecutor> {
        let program = std::env::current_exe().context("cannot find the program that is running")?;
        let words = |word: &str| vec![word.to_string()];
        Ok(ProcessExecutor::new(program, words(SUBCOMMAND), words(warden::SUBCOMMAND)))
    }

    /// A program that runs the job whose path follows the arguments `job`, and is a warden with the arguments `warden`.
    pub fn new(program: PathBuf, job: Vec<String>, warden: Vec<String>) -> ProcessExecutor {
        ProcessExecutor { program, job, warden, idle: Mutex::default() }
    }

    fn attempt(&self, work: &Work, desk: &Desk) -> Result<Ended> {
        let order = self.order(work, desk)?;
        let mut line = serde_json::to_vec(&order).context("the stage has a path that is not UTF-8")?;
        line.push(b'\n');
        let mut warden = self.send(&line)?;
        let ended = warden.follow(desk, order.events);
        if warden.is_sound {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(warden);
        }
        Ok(ended)
    }

    fn order(&self, work: &Work, desk: &Desk) -> Result<Order> {
        Ok(match work {
            Work::Own(job) => {
                let text = serde_json::to_vec(job).context("the stage has a path that is not UTF-8")?;
                files::write_soft(desk.job, &text)?;
                let words = [self.program.as_path(), desk.job].map(|path| path.display().to_string());
                let [program, path] = words;
                let argv = [program].into_iter().chain(self.job.iter().cloned()).chain([path]).collect();
                Order {
                    argv,
                    env: confine::environment(job.threads),
                    input: (!job.variables.is_empty()).then(|| serde_json::to_string(&job.variables)).transpose()?,
                    dir: std::env::current_dir().context("the working directory is gone")?,
                    log: desk.log.to_path_buf(),
                    time: desk.time,
                    events: true,
                }
            }
            Work::Program(room) => Order {
                argv: room.argv.clone(),
                env: room.env.clone(),
                input: None,
                dir: room.dir.clone(),
                log: desk.log.to_path_buf(),
                time: desk.time,
                events: false,
            },
        })
    }

    /// A warden that has taken the order.
    fn send(&self, order: &[u8]) -> Result<Warden> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(mut warden) = idle() {
            // One that was killed while it had nothing to do is no loss.
            if warden.send(order).is_ok() {
                return Ok(warden);
            }
        }
        let mut warden = Warden::start(&self.program, &self.warden)?;
        warden.send(order).context("cannot speak to the process that watches over stages")?;
        Ok(warden)
    }
}

impl Executor for ProcessExecutor {
    fn execute(&self, work: &Work, desk: &Desk) -> Ended {
        self.attempt(work, desk).unwrap_or_else(|error| Ended::Failed(Causes::of(&error)))
    }
}

/// A warden's process, seen from here.
#[derive(Debug)]
struct Warden {
    process: Child,
    /// Its end ends the warden. Always there but while this value is dropped.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    is_sound: bool,
}

impl Warden {
    fn start(program: &Path, arguments: &[String]) -> Result<Warden> {
        let mut command = Command::new(program);
        // A group of its own: Ctrl-C on the terminal is for the engine, which then stops its stages in order.
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        // A program could read it in its parent's place under `/proc`.
        command.env_clear();
        let cannot = || format!("cannot start `{}`", program.display());
        let mut process = command.spawn().with_context(cannot)?;
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().with_context(cannot)?);
        Ok(Warden { process, stdin, stdout, is_sound: true })
    }

    fn send(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(line))
    }

    /// Relays events until the program has ended, and stops it when it is asked to.
    fn follow(&mut self, desk: &Desk, events: bool) -> Ended {
        let mut result = None;
        let mut asked: Option<Instant> = None;
        let mut line = Vec::new();
        loop {
            if asked.is_none() && desk.stop.load(Ordering::Relaxed) {
                asked = Some(Instant::now());
                self.is_sound = self.send(format!("{STOP}\n").as_bytes()).is_ok();
            }
            // A warden that does not answer is ended itself, and the kernel then ends its program.
            self.is_sound &= asked.is_none_or(|asked| asked.elapsed() < PATIENCE);
            if !self.is_sound {
                return Ended::Interrupted;
            }
            if self.stdout.buffer().is_empty() && !self.is_ready() {
                continue;
            }
            line.clear();
            if !self.stdout.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                self.is_sound = false;
                let lost = "the process that watches over the stage was killed".to_string();
                return if asked.is_some() { Ended::Interrupted } else { Ended::Failed(Causes::world(lost)) };
            }
            if let Ok(event) = serde_json::from_slice(&line) {
                match event {
                    Event::Done { summary } => result = Some(Ended::Done(Summary(summary))),
                    Event::Failed(causes) => result = Some(Ended::Failed(causes)),
                    event => (desk.events)(event),
                }
            } else if let Ok(warden::Ended { ended }) = serde_json::from_slice(&line) {
                return judge(result, &ended, desk, events);
            }
        }
    }

    /// Whether there is something to read before the turn is over.
    fn is_ready(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.stdout.get_ref().as_fd(), PollFlags::IN)];
        let turn = Timespec { tv_sec: 0, tv_nsec: TURN.subsec_nanos().into() };
        poll(&mut fds, Some(&turn)).is_ok_and(|ready| ready > 0)
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        if !self.is_sound {
            self.process.kill().ok();
        }
        self.stdin = None;
        self.process.wait().ok();
    }
}

/// What the end of a process means for its stage.
fn judge(result: Option<Ended>, ending: &Ending, desk: &Desk, events: bool) -> Ended {
    let late = || {
        let limit = desk.time.unwrap_or_default().as_secs_f64();
        Causes::world(format!("it took longer than its limit of {limit} s"))
    };
    match (result, ending) {
        (_, Ending::Stopped) => Ended::Interrupted,
        (_, Ending::Late) => Ended::Failed(with_last_words(late(), desk.log)),
        (Some(failed @ Ended::Failed(_)), _) => failed,
        (Some(done), Ending::Exited { code: 0 }) => done,
        (None, Ending::Exited { code: 0 }) if !events => Ended::Done(Summary::default()),
        (_, Ending::Exited { code }) if events => {
            let told = format!("the child process ended with exit code {code} and without a result");
            Ended::Failed(with_last_words(Causes::world(told), desk.log))
        }
        (_, Ending::Exited { code }) => {
            Ended::Failed(with_last_words(Causes::world(format!("its program ended with exit code {code}")), desk.log))
        }
        (_, Ending::Killed { signal }) => {
            let memory = if *signal == 9 { ", as the kernel does when memory runs out" } else { "" };
            let told = format!("the child process was killed by signal {signal}{memory}");
            Ended::Failed(with_last_words(Causes::world(told), desk.log))
        }
        (_, Ending::NotStarted { cause }) => Ended::Failed(Causes::world(cause.clone())),
    }
}

/// Adds the end of a log to the causes.
fn with_last_words(mut causes: Causes, log: &Path) -> Causes {
    let words = visible_log(&tail(log, 4096).unwrap_or_default()).into_owned();
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

    /// Not a test of its own: the warden's side.
    #[test]
    fn warden_side() {
        let exact = std::env::args().any(|argument| argument == "engine::process::tests::warden_side");
        if exact && std::env::args().any(|argument| argument == "--nocapture") {
            warden::serve();
            std::process::exit(0);
        }
    }

    fn options(space: &Space) -> RunOptions {
        let program = std::env::current_exe().unwrap();
        let side = |name: &str| {
            let name = format!("engine::process::tests::{name}_side");
            ["--exact", &name, "--nocapture"].map(str::to_string).to_vec()
        };
        let executor = ProcessExecutor::new(program, side("child"), side("warden"));
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
        let record = store.record(store.latest(&"test".into(), "eval").fingerprint.unwrap()).unwrap();
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
            space.wait_until_one_runs();
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
        space.wait_until_one_runs();
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
        let executor = ProcessExecutor::new("/nowhere/ablate".into(), Vec::new(), Vec::new());
        let told = space.run_with(&stages, &RunOptions { executor: Arc::new(executor), ..space.options() });
        assert!(told.starts_with("`read` failed: cannot start `/nowhere/ablate`\n"), "{told}");
    }
}
