//! The wardens of this process: started, spoken to, paused, and ended with all that they have left. Knows no stage and
//! no event.
//!
//! A program has the rights of its user, so it can stop or kill the warden above it. A warden that is stopped is told to
//! go on. What a killed warden leaves behind becomes a child of this process, which ends everything below it that is
//! no warden.

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

use super::processes;
use super::warden::{CONTINUE, PAUSE};

/// How long one look for something to read takes.
pub(super) const TURN: Duration = Duration::from_millis(50);

/// How often a warden may be found stopped by its program before it is given up.
const STOPS: usize = 10;

type Stdin = Arc<Mutex<ChildStdin>>;

/// Every warden that lives, by its process.
#[derive(Debug)]
pub(super) struct Wardens {
    program: PathBuf,
    arguments: Vec<String>,
    /// Whether this process takes in what a killed warden leaves behind: only where it has no other children.
    adopts: bool,
    /// Without its stdin while it is being waited for.
    known: Mutex<HashMap<Pid, Option<Stdin>>>,
    idle: Mutex<Vec<Warden>>,
}

impl Wardens {
    pub(super) fn new(program: PathBuf, arguments: Vec<String>, adopts: bool) -> Arc<Wardens> {
        if adopts {
            processes::adopt_orphans();
        }
        Arc::new(Wardens { program, arguments, adopts, known: Mutex::default(), idle: Mutex::default() })
    }

    /// A warden that has taken an order.
    pub(super) fn send(self: &Arc<Self>, order: &[u8]) -> Result<Warden> {
        let idle = || lock(&self.idle).pop();
        while let Some(mut warden) = idle() {
            // One that was killed while it had nothing to do is no loss.
            if warden.send(order).is_ok() {
                return Ok(warden);
            }
            warden.is_sound = false;
        }
        let mut warden = self.start()?;
        warden.send(order).context("cannot speak to the process that watches over stages")?;
        Ok(warden)
    }

    /// Keeps a warden for the next stage.
    pub(super) fn keep(&self, warden: Warden) {
        lock(&self.idle).push(warden);
    }

    /// Ends those that have nothing to do.
    pub(super) fn dismiss(&self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        drop(idle);
    }

    /// Stops all programs; none is started until the guard is given to [`Wardens::go_on`].
    pub(super) fn pause(&self) -> MutexGuard<'_, HashMap<Pid, Option<Stdin>>> {
        let known = lock(&self.known);
        tell(&known, PAUSE);
        known
    }

    pub(super) fn go_on(known: &HashMap<Pid, Option<Stdin>>) {
        tell(known, CONTINUE);
    }

    fn start(self: &Arc<Self>) -> Result<Warden> {
        let mut command = Command::new(&self.program);
        // A group of its own: Ctrl-C on the terminal is for the engine, which then stops its stages in order.
        command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        // A program could read it in its parent's place under `/proc`.
        command.env_clear();
        let cannot = || format!("cannot start `{}`", self.program.display());
        // Nobody may look for strangers between the start of a warden and its entry in the list.
        let mut known = lock(&self.known);
        let mut process = command.spawn().with_context(cannot)?;
        let stdin = Arc::new(Mutex::new(process.stdin.take().with_context(cannot)?));
        let stdout = BufReader::new(process.stdout.take().with_context(cannot)?);
        known.insert(Pid::from_child(&process), Some(stdin.clone()));
        Ok(Warden { all: self.clone(), process, stdin: Some(stdin), stdout, stops: 0, is_sound: true })
    }

    /// Ends what a killed warden has left behind.
    fn end_orphans(&self) {
        if self.adopts {
            let known = lock(&self.known);
            processes::end_children(&|child| known.contains_key(&child));
        }
    }
}

fn tell(known: &HashMap<Pid, Option<Stdin>>, line: &str) {
    for stdin in known.values().flatten() {
        // One that is dead needs no telling.
        lock(stdin).write_all(format!("{line}\n").as_bytes()).ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A warden's process, seen from here.
#[derive(Debug)]
pub(super) struct Warden {
    all: Arc<Wardens>,
    process: Child,
    /// Its end ends the warden. Always there but while this value is dropped.
    stdin: Option<Stdin>,
    stdout: BufReader<ChildStdout>,
    /// How often its program has stopped it.
    stops: usize,
    pub(super) is_sound: bool,
}

/// What one look at a warden's words shows.
pub(super) enum Heard {
    /// Bytes were added to the line; it is whole, or not yet.
    Line {
        whole: bool,
    },
    Nothing,
    /// It is dead.
    End,
}

impl Warden {
    pub(super) fn send(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.stdin.as_ref().map_or(Ok(()), |stdin| lock(stdin).write_all(line))
    }

    /// Reads what is there into a line, for one turn at most. Of a line that is too long the rest is left out.
    pub(super) fn hear(&mut self, line: &mut Vec<u8>, limit: usize) -> Heard {
        if self.stdout.buffer().is_empty() && !self.is_ready() {
            return Heard::Nothing;
        }
        let Ok(bytes) = self.stdout.fill_buf() else { return Heard::End };
        if bytes.is_empty() {
            return Heard::End;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let words = &bytes[..end.unwrap_or(bytes.len())];
        line.extend_from_slice(&words[..words.len().min(limit.saturating_sub(line.len()))]);
        let count = end.map_or(bytes.len(), |end| end + 1);
        self.stdout.consume(count);
        Heard::Line { whole: end.is_some() }
    }

    /// Lets a warden that its program has stopped go on. False when that happens again and again.
    pub(super) fn wake(&mut self) -> bool {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let pid = Pid::from_child(&self.process);
        if matches!(waitid(WaitId::Pid(pid), options), Ok(Some(_))) {
            self.stops += 1;
            rustix::process::kill_process(pid, Signal::CONT).ok();
        }
        self.stops <= STOPS
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
        let pid = Pid::from_child(&self.process);
        lock(&self.all.known).insert(pid, None);
        self.stdin = None;
        self.process.wait().ok();
        lock(&self.all.known).remove(&pid);
        if !self.is_sound {
            self.all.end_orphans();
        }
    }
}
