//! The process executor: each stage in a process of its own, so that a crash, a panic or an out-of-memory kill fails
//! one stage. Knows no plan and no store.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::bounded::LogEnd;
use super::confine;
use super::executor::{Desk, Ended, Executor, Work};
use super::warden::{self, Ending, GRACE, Order, STOP};
use super::wardens::{Heard, TURN, Warden, Wardens};
use ablate_core::base::{ErrorChain, StageEvent, files};
use ablate_core::stage::Summary;

/// The hidden subcommand under which this program runs one job.
pub const SUBCOMMAND: &str = "stage-job";

/// How long a warden may take to end a program that was stopped: more than the grace that the program has.
const PATIENCE: Duration = Duration::from_secs(GRACE.as_secs() + 5);

/// Bytes of a line of events. No event of a stage comes near.
const LONGEST: usize = 256 << 20;

/// Runs jobs as children of this very program, and programs of the user's as they are. Each runs under a
/// [`warden`]; wardens are kept for the next stage.
#[derive(Debug)]
pub struct ProcessExecutor {
    program: PathBuf,
    job: Vec<String>,
    wardens: Arc<Wardens>,
}

impl ProcessExecutor {
    /// This very program with its hidden subcommands. From now on this process ends children that it does not know:
    /// nothing else in it may start any.
    pub fn current() -> Result<ProcessExecutor> {
        let program = std::env::current_exe().context("cannot find the program that is running")?;
        let words = |word: &str| vec![word.to_string()];
        let wardens = Wardens::new(program.clone(), words(warden::SUBCOMMAND), true);
        Ok(ProcessExecutor { program, job: words(SUBCOMMAND), wardens })
    }

    /// A program that runs the job whose path follows the arguments `job`, and is a warden with the arguments `warden`.
    pub fn new(program: PathBuf, job: Vec<String>, warden: Vec<String>) -> ProcessExecutor {
        let wardens = Wardens::new(program.clone(), warden, false);
        ProcessExecutor { program, job, wardens }
    }

    fn attempt(&self, work: &Work, desk: &Desk) -> Result<Ended> {
        let order = self.order(work, desk)?;
        let mut line = serde_json::to_vec(&order).context("the stage has a path that is not UTF-8")?;
        line.push(b'\n');
        let log = LogEnd::of(desk.log);
        let mut warden = self.wardens.send(&line)?;
        let ended = follow(&mut warden, desk, order.events, &log);
        if warden.is_sound {
            self.wardens.keep(warden);
        }
        Ok(ended)
    }

    fn order(&self, work: &Work, desk: &Desk) -> Result<Order> {
        Ok(match work {
            Work::Own(job) => {
                let text = serde_json::to_vec(job).context("the stage has a path that is not UTF-8")?;
                files::write_unsynced(desk.job, &text)?;
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

    /// Stops all programs, does something, and lets them go on.
    pub fn while_paused(&self, act: &dyn Fn()) {
        let known = self.wardens.pause();
        act();
        Wardens::go_on(&known);
    }
}

impl Drop for ProcessExecutor {
    fn drop(&mut self) {
        self.wardens.dismiss();
    }
}

impl Executor for ProcessExecutor {
    fn execute(&self, work: &Work, desk: &Desk) -> Ended {
        self.attempt(work, desk).unwrap_or_else(|error| Ended::Failed(ErrorChain::of(&error)))
    }
}

/// Relays events until the program has ended, and stops it when it is asked to.
fn follow(warden: &mut Warden, desk: &Desk, events: bool, log: &LogEnd) -> Ended {
    let mut result = None;
    let mut line = Vec::new();
    // Time in which this process itself was stopped does not count.
    let (mut last, mut worked) = (Instant::now(), Duration::ZERO);
    let mut asked: Option<Duration> = None;
    loop {
        worked += last.elapsed().min(4 * TURN);
        last = Instant::now();
        if asked.is_none() && desk.stop.load(Ordering::Relaxed) {
            asked = Some(worked);
            warden.is_sound = warden.send(format!("{STOP}\n").as_bytes()).is_ok();
        }
        // A warden that does not answer is ended itself, and the kernel then ends its program.
        warden.is_sound &= asked.is_none_or(|asked| worked < asked.saturating_add(PATIENCE));
        if !warden.is_sound {
            return Ended::Interrupted;
        }
        if desk.time.is_some_and(|time| worked > time.saturating_add(PATIENCE)) {
            warden.is_sound = false;
            return judge(None, &Ending::Late, desk, events, log);
        }
        let heard = warden.hear(&mut line, LONGEST);
        match heard {
            Heard::Nothing if warden.wake() => continue,
            Heard::Line { whole: false } => continue,
            Heard::Line { whole: true } => {}
            Heard::Nothing | Heard::End => {
                warden.is_sound = false;
                let lost = match heard {
                    Heard::End => "the process that watches over the stage was killed",
                    _ => "its program stops the process that watches over it again and again",
                };
                let lost = log.with_last_words(ErrorChain::system(lost));
                return if asked.is_some() { Ended::Interrupted } else { Ended::Failed(lost) };
            }
        }
        if line.len() >= LONGEST {
            let lost = format!("the stage said more than {} MiB in one line", LONGEST >> 20);
            result = Some(Ended::Failed(ErrorChain::system(lost)));
        } else if let Ok(event) = serde_json::from_slice(&line) {
            match event {
                StageEvent::Done { summary } => result = result.or(Some(Ended::Done(Summary(summary)))),
                StageEvent::Failed(causes) => result = Some(Ended::Failed(causes)),
                event => (desk.events)(event),
            }
        } else if let Ok(warden::Ended { ended }) = serde_json::from_slice(&line) {
            return judge(result, &ended, desk, events, log);
        }
        line.clear();
    }
}

/// What the end of a process means for its stage.
fn judge(result: Option<Ended>, ending: &Ending, desk: &Desk, events: bool, log: &LogEnd) -> Ended {
    let late = || {
        let limit = desk.time.unwrap_or_default().as_secs_f64();
        ErrorChain::system(format!("it took longer than its limit of {limit} s"))
    };
    match (result, ending) {
        (_, Ending::Stopped) => Ended::Interrupted,
        (_, Ending::Late) => Ended::Failed(log.with_last_words(late())),
        (Some(failed @ Ended::Failed(_)), _) => failed,
        (Some(done), Ending::Exited { code: 0 }) => done,
        (None, Ending::Exited { code: 0 }) if !events => Ended::Done(Summary::default()),
        (_, Ending::Exited { code }) if events => {
            let told = format!("the child process ended with exit code {code} and without a result");
            Ended::Failed(log.with_last_words(ErrorChain::system(told)))
        }
        (_, Ending::Exited { code }) => {
            Ended::Failed(log.with_last_words(ErrorChain::system(format!("its program ended with exit code {code}"))))
        }
        (_, Ending::Killed { signal }) => {
            let memory = if *signal == 9 { ", as the kernel does when memory runs out" } else { "" };
            let told = format!("the child process was killed by signal {signal}{memory}");
            Ended::Failed(log.with_last_words(ErrorChain::system(told)))
        }
        (_, Ending::NotStarted { cause }) => Ended::Failed(ErrorChain::system(cause.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toys::{REGISTRY, Space};
    use crate::{Outcome, Quiet, RunOptions, RunReport, run, run_job};
    use ablate_store::Lock;
    use expect_test::expect;
    use serde_json::json;
    use std::path::Path;
    use std::process::{Command, Stdio};

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
        let exact = std::env::args().any(|argument| argument == "process::tests::warden_side");
        if exact && std::env::args().any(|argument| argument == "--nocapture") {
            warden::serve();
            std::process::exit(0);
        }
    }

    fn options(space: &Space) -> RunOptions {
        let program = std::env::current_exe().unwrap();
        let side = |name: &str| {
            let name = format!("process::tests::{name}_side");
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
    fn results_and_notes_of_many_mebibytes_arrive_whole() {
        let space = space();
        space.tell("read", "talk");
        let stages = space.stages(&[("read", json!({ "path": "data.txt" }))]);
        assert_eq!(space.run_with(&stages, &options(&space)), "read: ran, it has not run yet\n");
        let store = space.store();
        let record = store.record(store.latest(&"test".into(), "read").fingerprint.unwrap()).unwrap();
        let much = "x".repeat(3 << 20);
        assert!(record.summary.0["much"] == much);
        let log = files::read_text(&store.root().join(&record.provenance.log)).unwrap();
        assert!(log.lines().any(|line| line == much));
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

    fn waiting(space: &Space) -> ablate_experiment::Expansion {
        space.stages(&[("read", json!({ "path": "data.txt" })), ("eval", json!({ "from": ["read"] }))])
    }

    #[test]
    fn a_killed_run_leaves_no_child_and_the_next_one_begins_at_once() {
        let space = space();
        space.tell("read", "wait");
        let mut parent = Command::new(std::env::current_exe().unwrap());
        parent.args(["--exact", "process::tests::parent_side"]).arg(space.path("doomed-run"));
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
