//! Requests to stop one instance, or the whole run, from another process: lines of the file `stop` in the folder of the
//! run, which the scheduler reads while it runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::follow::RunFollower;
use super::report::RunPhase;
use super::run_folder::{new_lines, stop_path};
use super::select::matches_name;
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::files;
use ablate_store::Store;

/// How often a run looks for new requests.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The line that stops the whole run.
const WHOLE_RUN: &str = "*";

/// Whether an execution has to stop, because its run or only its instance was stopped.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    run: Arc<AtomicBool>,
    instance: Arc<AtomicBool>,
}

impl StopFlag {
    /// The flag of an instance of a run that stops when `run` is set.
    pub fn new(run: Arc<AtomicBool>) -> StopFlag {
        StopFlag { run, instance: Arc::default() }
    }

    /// Stops the instance.
    pub fn stop_instance(&self) {
        self.instance.store(true, Ordering::Relaxed);
    }

    /// Whether the instance itself was stopped.
    pub fn is_instance_stopped(&self) -> bool {
        self.instance.load(Ordering::Relaxed)
    }

    pub fn is_set(&self) -> bool {
        self.run.load(Ordering::Relaxed) || self.is_instance_stopped()
    }
}

/// What a line of the file stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StopRequest {
    Run,
    Instance(String),
}

/// Reads the requests of a run as they arrive.
pub(super) struct StopRequests {
    path: PathBuf,
    /// Number of bytes that were read.
    read: u64,
    last_poll: Instant,
}

impl StopRequests {
    pub(super) fn new(folder: &Path) -> StopRequests {
        StopRequests { path: stop_path(folder), read: 0, last_poll: Instant::now() }
    }

    /// The new requests, if it is time to look for some.
    pub(super) fn poll_if_due(&mut self) -> Vec<StopRequest> {
        if self.last_poll.elapsed() < POLL_INTERVAL {
            return Vec::new();
        }
        self.last_poll = Instant::now();
        self.poll()
    }

    fn poll(&mut self) -> Vec<StopRequest> {
        let request = |line: &str| match line {
            WHOLE_RUN => StopRequest::Run,
            name => StopRequest::Instance(name.to_string()),
        };
        new_lines(&self.path, &mut self.read).lines().map(request).collect()
    }
}

/// Asks a run that is going on to stop the instances that match the patterns, or to end as a whole without a pattern.
/// Returns the names of the instances that it will stop.
///
/// Errors: a run that has ended, and a pattern that matches no instance of the run that could still be stopped.
pub fn request_stop(store: &Store, run: &str, patterns: &[String]) -> Result<Vec<String>> {
    let follower = RunFollower::open(store, run)?;
    let status = follower.status();
    let number = status.run.number;
    if status.state != RunPhase::Running {
        bail!("run {number} has ended ({}), so nothing of it can be stopped", status.state.name());
    }
    let running = status.running.iter().map(|running| running.instance.as_str());
    let stoppable: Vec<&str> = running.chain(follower.pending()).collect();
    let mut names: Vec<String> = Vec::new();
    for pattern in patterns {
        let matching: Vec<&str> = stoppable.iter().copied().filter(|name| matches_name(pattern, name)).collect();
        if matching.is_empty() {
            if let Some(name) = follower.ended().iter().map(|(name, _)| name).find(|name| matches_name(pattern, name)) {
                bail!("`{name}` of run {number} has ended already");
            }
            let stages = stoppable.iter().filter_map(|name| name.split('@').next());
            let help = match nearest(pattern, stoppable.iter().copied().chain(stages)) {
                Some(near) => format!("a similar name exists: `{near}`"),
                None => format!("`ablate status {number}` lists what runs"),
            };
            bail!("`{pattern}` matches no instance that run {number} executes\nhelp: {help}");
        }
        for name in matching {
            if !names.iter().any(|other| other == name) {
                names.push(name.to_string());
            }
        }
    }
    let lines = if patterns.is_empty() { format!("{WHOLE_RUN}\n") } else { names.join("\n") + "\n" };
    // One write, so that lines of two processes are not mixed.
    let path = stop_path(&store.runs_path().join(run));
    let written = files::append_private(&path)?.write_all(lines.as_bytes());
    written.with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_once_and_only_when_complete() {
        let folder = tempfile::tempdir().unwrap();
        let mut requests = StopRequests::new(folder.path());
        let append = |text: &str| files::append(&stop_path(folder.path())).unwrap().write_all(text.as_bytes()).unwrap();
        assert_eq!(requests.poll(), []);
        append("sft@lr=0.1\nev");
        assert_eq!(requests.poll(), [StopRequest::Instance("sft@lr=0.1".to_string())]);
        assert_eq!(requests.poll(), []);
        append("al\n*\n");
        assert_eq!(requests.poll(), [StopRequest::Instance("eval".to_string()), StopRequest::Run]);
        assert_eq!(requests.poll(), []);
    }

    #[test]
    fn a_flag_is_set_by_its_run_and_by_its_instance() {
        let run = Arc::new(AtomicBool::new(false));
        let flags = [StopFlag::new(run.clone()), StopFlag::new(run.clone())];
        flags[0].stop_instance();
        assert_eq!(flags.each_ref().map(StopFlag::is_set), [true, false]);
        run.store(true, Ordering::Relaxed);
        assert_eq!(flags.each_ref().map(StopFlag::is_set), [true, true]);
        assert_eq!(flags.each_ref().map(StopFlag::is_instance_stopped), [true, false]);
    }
}
