//! The supervisors of this process: starts, reuses, pauses and ends them.
//!
//! A program runs as the same user, so it can stop or kill its supervisor. A stopped supervisor is continued. The
//! descendants of a killed supervisor become children of this process, which kills every child that is not a supervisor.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use super::process_tree;
use super::supervisor::{CONTINUE, PAUSE};

/// How long one read waits for data.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often a program may stop its supervisor before the supervisor is killed.
const MAX_STOPS: usize = 10;

type Stdin = Arc<Mutex<ChildStdin>>;

#[derive(Debug)]
pub(super) struct SupervisorPool {
    program: PathBuf,
    arguments: Vec<String>,
    /// Whether this process is the subreaper of the supervisors. It must have no other children then.
    is_subreaper: bool,
    /// Every living supervisor. The stdin is `None` while the process is waited for.
    alive: Mutex<HashMap<Pid, Option<Stdin>>>,
    idle: Mutex<Vec<Supervisor>>,
}

impl SupervisorPool {
    pub(super) fn new(program: PathBuf, arguments: Vec<String>, is_subreaper: bool) -> Arc<SupervisorPool> {
        if is_subreaper {
            process_tree::become_subreaper();
        }
        let (alive, idle) = (Mutex::default(), Mutex::default());
        Arc::new(SupervisorPool { program, arguments, is_subreaper, alive, idle })
    }

    /// Sends a request to an idle supervisor, or to a new one, and returns it.
    pub(super) fn submit(self: &Arc<Self>, request: &[u8]) -> Result<Supervisor> {
        let idle = || lock(&self.idle).pop();
        while let Some(mut supervisor) = idle() {
            // A supervisor that was killed while idle is dropped.
            if supervisor.send(request).is_ok() {
                return Ok(supervisor);
            }
            supervisor.is_usable = false;
        }
        let mut supervisor = self.start()?;
        supervisor.send(request).context("cannot write to the supervisor process")?;
        Ok(supervisor)
    }

    /// Keeps a supervisor for the next stage.
    pub(super) fn put_back(&self, supervisor: Supervisor) {
        lock(&self.idle).push(supervisor);
    }

    pub(super) fn end_idle(&self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        drop(idle);
    }

    /// Pauses all programs. No program is started until the guard is passed to [`SupervisorPool::resume`].
    pub(super) fn pause(&self) -> MutexGuard<'_, HashMap<Pid, Option<Stdin>>> {
        let alive = lock(&self.alive);
        send_to_all(&alive, PAUSE);
        alive
    }

    pub(super) fn resume(alive: &HashMap<Pid, Option<Stdin>>) {
        send_to_all(alive, CONTINUE);
    }

    fn start(self: &Arc<Self>) -> Result<Supervisor> {
        let mut command = Command::new(&self.program);
        // Its own process group: Ctrl-C on the terminal must reach the engine only, which then ends the stages in order.
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        // A program could read the environment of its parent under `/proc`.
        command.env_clear();
        let cannot = || format!("cannot start `{}`", self.program.display());
        // Locked until the new supervisor is in the map, so that `kill_orphans` does not take it for an orphan.
        let mut alive = lock(&self.alive);
        let mut process = command.spawn().with_context(cannot)?;
        let stdin = Arc::new(Mutex::new(process.stdin.take().with_context(cannot)?));
        let stdout = BufReader::new(process.stdout.take().with_context(cannot)?);
        alive.insert(Pid::from_child(&process), Some(stdin.clone()));
        Ok(Supervisor { pool: self.clone(), process, stdin: Some(stdin), stdout, stops: 0, is_usable: true })
    }

    /// Kills the orphans of a killed supervisor.
    fn kill_orphans(&self) {
        if self.is_subreaper {
            let alive = lock(&self.alive);
            process_tree::kill_children(&|child| alive.contains_key(&child));
        }
    }
}

fn send_to_all(alive: &HashMap<Pid, Option<Stdin>>, line: &str) {
    for stdin in alive.values().flatten() {
        // An error means that the supervisor is dead.
        lock(stdin).write_all(format!("{line}\n").as_bytes()).ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle of a supervisor process.
#[derive(Debug)]
pub(super) struct Supervisor {
    pool: Arc<SupervisorPool>,
    process: Child,
    /// Closing it ends the supervisor. `None` only while this value is dropped.
    stdin: Option<Stdin>,
    stdout: BufReader<ChildStdout>,
    /// How often its program has stopped it.
    stops: usize,
    /// If false, the process is killed on drop.
    pub(super) is_usable: bool,
}

/// The result of one read from a supervisor.
pub(super) enum ReadResult {
    /// Bytes were added to the line.
    Bytes { complete: bool },
    /// No data arrived within one poll interval.
    Nothing,
    /// The supervisor is dead.
    Closed,
}

impl Supervisor {
    pub(super) fn send(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.stdin.as_ref().map_or(Ok(()), |stdin| lock(stdin).write_all(line))
    }

    /// Adds available bytes to a line, waiting for one poll interval at most. Bytes beyond `limit` are discarded.
    pub(super) fn read_line(&mut self, line: &mut Vec<u8>, limit: usize) -> ReadResult {
        if self.stdout.buffer().is_empty() && !self.is_readable() {
            return ReadResult::Nothing;
        }
        let Ok(bytes) = self.stdout.fill_buf() else { return ReadResult::Closed };
        if bytes.is_empty() {
            return ReadResult::Closed;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        line.extend_from_slice(&piece[..piece.len().min(limit.saturating_sub(line.len()))]);
        let count = end.map_or(bytes.len(), |end| end + 1);
        self.stdout.consume(count);
        ReadResult::Bytes { complete: end.is_some() }
    }

    /// Continues the supervisor if its program has stopped it. False if that happened too often.
    pub(super) fn continue_if_stopped(&mut self) -> bool {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let pid = Pid::from_child(&self.process);
        if matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_))) {
            self.stops += 1;
            rustix::process::kill_process(pid, Signal::CONT).ok();
        }
        self.stops <= MAX_STOPS
    }

    /// Waits for data for one poll interval at most.
    fn is_readable(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.stdout.get_ref().as_fd(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: POLL_INTERVAL.subsec_nanos().into() };
        poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if !self.is_usable {
            self.process.kill().ok();
        }
        let pid = Pid::from_child(&self.process);
        lock(&self.pool.alive).insert(pid, None);
        self.stdin = None;
        self.process.wait().ok();
        lock(&self.pool.alive).remove(&pid);
        if !self.is_usable {
            self.pool.kill_orphans();
        }
    }
}
