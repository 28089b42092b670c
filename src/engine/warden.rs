//! The warden: a process that runs programs, one after another, and lets nothing of them live on. Knows no stage.
//!
//! It is a process of its own for three reasons. What a program leaves behind, even a daemon that has left its
//! process group, is adopted by its nearest reaper: here that is a process with nothing else below it, so all of it can
//! be ended. The engine's death is the end of this process's stdin, whatever killed it. And a small process starts
//! programs faster than a large one.

use std::collections::VecDeque;
use std::io::{PipeReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::bounded::BoundedLog;
use super::confine;
use super::processes;
use super::stream::Stream;

/// The hidden subcommand under which this program is a warden.
pub const SUBCOMMAND: &str = "warden";

/// The line that ends the running program.
pub(super) const STOP: &str = "stop";

/// The lines that stop whatever runs, and let it go on.
pub(super) const PAUSE: &str = "pause";
pub(super) const CONTINUE: &str = "continue";

/// How long a program may take to end after it was asked to.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// How often a program is looked at where the system cannot tell of its end.
const TURN: Duration = Duration::from_millis(10);

/// A program to run: one line on the warden's stdin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub argv: Vec<String>,
    /// All that the program sees of the environment.
    pub env: Vec<(String, String)>,
    /// What the program finds on its stdin.
    pub input: Option<String>,
    pub dir: PathBuf,
    /// Takes what the program says, within bounds.
    pub log: PathBuf,
    pub time: Option<Duration>,
    /// Whether lines of stdout that are events go to the engine.
    pub events: bool,
}

/// How the program ended: one line on the warden's stdout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    NotStarted {
        cause: String,
    },
    Exited {
        code: i32,
    },
    Killed {
        signal: i32,
    },
    /// It took longer than the order allows.
    Late,
    /// It was asked to stop.
    Stopped,
}

/// The line around an [`Ending`], so that it cannot be taken for an event.
#[derive(Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) ended: Ending,
}

/// The warden's whole life: takes orders until its stdin ends.
pub fn serve() -> ExitCode {
    processes::adopt_orphans();
    confine::hide_memory();
    let mut control = Control::default();
    while let Some(line) = control.wait() {
        let ended = match serde_json::from_str::<Order>(&line) {
            Ok(order) => watch(&order, &mut control),
            // Nothing is started before the engine goes on.
            Err(_) if line == PAUSE => {
                control.wait_for(CONTINUE);
                continue;
            }
            // Asked to do something to what has ended meanwhile.
            Err(_) if line == STOP || line == CONTINUE => continue,
            Err(error) => Ending::NotStarted { cause: format!("the order is not one: {error}") },
        };
        let line = serde_json::to_string(&Ended { ended })
            .unwrap_or_else(|error| panic!("BUG: an ending is plain data: {error}"));
        say(format!("{line}\n").as_bytes());
    }
    ExitCode::SUCCESS
}

fn watch(order: &Order, control: &mut Control) -> Ending {
    let mut log = BoundedLog::new(order.log.clone());
    let started = start(order);
    let (mut child, words, events) = match started {
        Ok(started) => started,
        Err(error) => {
            let program = order.argv.first().map_or("", String::as_str);
            return Ending::NotStarted { cause: format!("cannot start `{program}`: {error}") };
        }
    };
    let mut words = Stream::new(words);
    let mut events = events.map(Stream::new);
    let group = Pid::from_child(&child);
    let end = pidfd(group);
    // A time that the clock cannot tell is none.
    let mut deadline = order.time.and_then(|time| Instant::now().checked_add(time));
    let mut asked: Option<Ending> = None;
    let mut paused: Option<Instant> = None;
    while !has_ended(&child) {
        let readable = {
            let streams = [Some(&words), events.as_ref()].into_iter().flatten().filter(|stream| !stream.closed);
            let mut watched: Vec<BorrowedFd<'_>> = vec![rustix::stdio::stdin()];
            watched.extend(streams.map(|stream| stream.pipe.as_fd()));
            watched.extend(end.as_ref().map(AsFd::as_fd));
            let turn = if end.is_none() { Some(Instant::now() + TURN) } else { None };
            let deadline = deadline.filter(|_| paused.is_none());
            wait_for(&watched, [deadline, turn].into_iter().flatten().min())
        };
        words.drain(&mut |bytes| log.write(bytes));
        if let Some(events) = &mut events {
            events.drain_lines(&mut log, &mut say);
        }
        if readable && control.look() {
            while let Some(line) = control.lines.pop_front() {
                if line == PAUSE && paused.is_none() {
                    paused = Some(Instant::now());
                    processes::signal_group(group, Signal::STOP);
                    processes::pause_descendants();
                } else if let Some(since) = paused.take_if(|_| line != PAUSE) {
                    // The time in which nothing could run is not the program's.
                    deadline = deadline.and_then(|deadline| deadline.checked_add(since.elapsed()));
                    processes::continue_descendants();
                }
                if line == STOP && asked.is_none() {
                    asked = Some(Ending::Stopped);
                    processes::signal_group(group, Signal::TERM);
                    deadline = Some(Instant::now() + GRACE);
                }
            }
            if control.closed {
                // The engine is dead: nobody waits for this program any more.
                end_all(&mut child).ok();
                std::process::exit(1);
            }
        }
        if paused.is_none() && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let mild = asked.is_none();
            asked.get_or_insert(Ending::Late);
            processes::signal_group(group, if mild { Signal::TERM } else { Signal::KILL });
            deadline = Some(Instant::now() + GRACE);
        }
    }
    let status = end_all(&mut child);
    words.drain(&mut |bytes| log.write(bytes));
    if let Some(events) = &mut events {
        events.drain_lines(&mut log, &mut say);
        events.flush(&mut log, &mut say);
    }
    match (asked, status) {
        (Some(asked), _) => asked,
        (None, Ok(status)) => match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Exited { code },
            (None, signal) => Ending::Killed { signal: signal.unwrap_or_default() },
        },
        (None, Err(error)) => Ending::NotStarted { cause: format!("cannot wait for the program: {error}") },
    }
}

/// The program, what it says, and its events where it has some.
fn start(order: &Order) -> std::io::Result<(Child, PipeReader, Option<PipeReader>)> {
    let Some((program, arguments)) = order.argv.split_first() else {
        return Err(std::io::Error::other("the order names no program"));
    };
    let (words, writer) = std::io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&order.dir).process_group(0).env_clear();
    command.envs(order.env.iter().map(|(name, value)| (name, value)));
    command.stdin(if order.input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut events = None;
    if order.events {
        let (reader, writer) = std::io::pipe()?;
        command.stdout(writer);
        events = Some(reader);
    } else {
        command.stdout(writer.try_clone()?);
    }
    command.stderr(writer);
    die_with_warden(&mut command);
    let mut child = command.spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), &order.input) {
        // One that ends without reading it says why by its end.
        stdin.write_all(input.as_bytes()).ok();
    }
    Ok((child, words, events))
}

/// Ends the program's group and everything else that it has started, and gives the program's own end.
fn end_all(child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    // The program is not waited for yet, so the number of its group is still its own.
    processes::signal_group(Pid::from_child(child), Signal::KILL);
    let status = child.wait();
    // Most programs leave nobody.
    if !matches!(rustix::process::wait(WaitOptions::NOHANG), Err(Errno::CHILD)) {
        processes::end_children(&|_| false);
    }
    status
}

/// Bytes to the engine. An engine that no longer listens is dead, which the next look at stdin tells.
fn say(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).ok();
}

/// What the engine says, line by line.
#[derive(Default)]
struct Control {
    pending: Vec<u8>,
    lines: VecDeque<String>,
    closed: bool,
}

impl Control {
    /// The next line, once it is there; `None` at the end.
    fn wait(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.closed {
                return None;
            }
            self.read();
        }
    }

    /// Waits for a line, keeping those before it for later.
    fn wait_for(&mut self, wanted: &str) {
        while !self.closed {
            if let Some(place) = self.lines.iter().position(|line| line == wanted) {
                self.lines.remove(place);
                return;
            }
            self.read();
        }
    }

    /// Reads if there is something to read; false if not.
    fn look(&mut self) -> bool {
        let readable = wait_for(&[rustix::stdio::stdin()], Some(Instant::now()));
        if readable {
            self.read();
        }
        readable
    }

    fn read(&mut self) {
        let mut buffer = [0; 1 << 14];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => self.closed = true,
            Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.closed = true,
        }
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.lines.push_back(String::from_utf8_lossy(&line[..end]).into_owned());
        }
    }
}

/// Waits until one of the descriptors can be read or the time has come; tells whether the first can be read.
fn wait_for(watched: &[BorrowedFd<'_>], until: Option<Instant>) -> bool {
    let mut fds: Vec<PollFd<'_>> = watched.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let timeout = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
    poll(&mut fds, timeout.as_ref()).ok();
    fds.first().is_some_and(|first| !first.revents().is_empty())
}

/// Whether the program has ended. Leaves it to be waited for.
fn has_ended(child: &Child) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(Pid::from_child(child)), options), Ok(None))
}

#[cfg(target_os = "linux")]
fn pidfd(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn pidfd(_: Pid) -> Option<OwnedFd> {
    None
}

/// Lets the kernel kill the program when the warden dies without having ended it.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the standard library has no other way to run code between fork and exec")]
fn die_with_warden(command: &mut Command) {
    let warn = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).ok();
        Ok(())
    };
    // SAFETY: between fork and exec only functions that are safe in a signal handler may be called: this is one
    // system call, without allocation or lock.
    unsafe { command.pre_exec(warn) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_warden(_: &mut Command) {}
