//! The supervisor: a process that runs programs, one after another, and ends all their descendants.
//!
//! It is a separate process for three reasons. It is a subreaper with no other children, so every descendant of a program
//! becomes its child and can be killed, even a daemon that left its process group. It notices the death of the engine,
//! whatever the cause, by the end of its stdin. And a small process forks faster than a large one.

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

use super::capped_log::CappedLog;
use super::environment;
use super::output_stream::OutputStream;
use super::process_tree;

/// The hidden subcommand that starts a supervisor.
pub const SUBCOMMAND: &str = "supervisor";

/// The line on stdin that ends the running program.
pub(super) const TERMINATE: &str = "stop";

/// The lines on stdin that pause and continue the running program and its descendants.
pub(super) const PAUSE: &str = "pause";
pub(super) const CONTINUE: &str = "continue";

/// The time between SIGTERM and SIGKILL: five seconds for a program, and a minute for a built-in kind, which may have to
/// write the state of its training.
pub(super) fn kill_delay(is_built_in: bool) -> Duration {
    Duration::from_secs(if is_built_in { 60 } else { 5 })
}

/// How often the program is checked for its end on systems without pidfd.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A program to run: one line on stdin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpawnRequest {
    pub argv: Vec<String>,
    /// The whole environment of the program.
    pub env: Vec<(String, String)>,
    /// The content of its stdin.
    pub input: Option<String>,
    pub dir: PathBuf,
    /// Receives the output of the program. Its size is limited.
    pub log: PathBuf,
    /// Time limit.
    pub time: Option<Duration>,
    /// Whether stdout contains events, which go to the engine.
    pub events: bool,
}

/// How the program ended. `Terminated`: the engine sent [`TERMINATE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    NotStarted { cause: String },
    Exited { code: i32 },
    Killed { signal: i32 },
    TimedOut,
    Terminated,
}

/// The answer to a [`SpawnRequest`]: one line on stdout. Its key distinguishes it from an event.
#[derive(Serialize, Deserialize)]
pub(super) struct SpawnResult {
    pub(super) ended: ExitReason,
}

/// The main function of the supervisor. Returns when stdin ends.
pub fn serve() -> ExitCode {
    process_tree::become_subreaper();
    environment::hide_memory();
    let mut control = Control::default();
    while let Some(line) = control.next_line() {
        let ended = match serde_json::from_str::<SpawnRequest>(&line) {
            Ok(request) => run_program(&request, &mut control),
            // No program is started while the engine is paused.
            Err(_) if line == PAUSE => {
                control.wait_for(CONTINUE);
                continue;
            }
            // The program that this was meant for has ended in the meantime.
            Err(_) if line == TERMINATE || line == CONTINUE => continue,
            Err(error) => ExitReason::NotStarted { cause: format!("the request is not valid: {error}") },
        };
        let line = serde_json::to_string(&SpawnResult { ended })
            .unwrap_or_else(|error| panic!("BUG: a result is plain data: {error}"));
        send(format!("{line}\n").as_bytes());
    }
    ExitCode::SUCCESS
}

fn run_program(request: &SpawnRequest, control: &mut Control) -> ExitReason {
    let mut log = CappedLog::new(request.log.clone());
    let (mut child, output, events) = match spawn(request) {
        Ok(spawned) => spawned,
        Err(error) => {
            let program = request.argv.first().map_or("", String::as_str);
            return ExitReason::NotStarted { cause: format!("cannot start `{program}`: {error}") };
        }
    };
    let mut output = OutputStream::new(output);
    let mut events = events.map(OutputStream::new);
    let group = Pid::from_child(&child);
    let pidfd = pidfd(group);
    // A time limit beyond the range of the clock counts as no limit.
    let mut deadline = request.time.and_then(|time| Instant::now().checked_add(time));
    let mut ending: Option<ExitReason> = None;
    let mut paused: Option<Instant> = None;
    while !has_ended(&child) {
        let readable = {
            let streams = [Some(&output), events.as_ref()].into_iter().flatten().filter(|stream| !stream.closed);
            let mut watched: Vec<BorrowedFd<'_>> = vec![rustix::stdio::stdin()];
            watched.extend(streams.map(|stream| stream.pipe.as_fd()));
            watched.extend(pidfd.as_ref().map(AsFd::as_fd));
            let next_poll = if pidfd.is_none() { Some(Instant::now() + POLL_INTERVAL) } else { None };
            let deadline = deadline.filter(|_| paused.is_none());
            wait_until_readable(&watched, [deadline, next_poll].into_iter().flatten().min())
        };
        output.drain(&mut |bytes| log.write(bytes));
        if let Some(events) = &mut events {
            events.drain_lines(&mut log, &mut send);
        }
        if readable && control.read_available() {
            while let Some(line) = control.lines.pop_front() {
                if line == PAUSE && paused.is_none() {
                    paused = Some(Instant::now());
                    process_tree::signal_group(group, Signal::STOP);
                    process_tree::pause_descendants();
                } else if let Some(since) = paused.take_if(|_| line != PAUSE) {
                    // The pause does not count towards the time limit.
                    deadline = deadline.and_then(|deadline| deadline.checked_add(since.elapsed()));
                    process_tree::continue_descendants();
                }
                if line == TERMINATE && ending.is_none() {
                    ending = Some(ExitReason::Terminated);
                    process_tree::signal_group(group, Signal::TERM);
                    deadline = Some(Instant::now() + kill_delay(request.events));
                }
            }
            if control.closed {
                // The engine is dead, so the result is not needed any more.
                kill_all(&mut child).ok();
                std::process::exit(1);
            }
        }
        if paused.is_none() && deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            let first_signal = ending.is_none();
            ending.get_or_insert(ExitReason::TimedOut);
            process_tree::signal_group(group, if first_signal { Signal::TERM } else { Signal::KILL });
            deadline = Some(Instant::now() + kill_delay(request.events));
        }
    }
    let status = kill_all(&mut child);
    output.drain(&mut |bytes| log.write(bytes));
    if let Some(events) = &mut events {
        events.drain_lines(&mut log, &mut send);
        events.flush(&mut log, &mut send);
    }
    match (ending, status) {
        (Some(ending), _) => ending,
        (None, Ok(status)) => match (status.code(), status.signal()) {
            (Some(code), _) => ExitReason::Exited { code },
            (None, signal) => ExitReason::Killed { signal: signal.unwrap_or_default() },
        },
        (None, Err(error)) => ExitReason::NotStarted { cause: format!("cannot wait for the program: {error}") },
    }
}

/// Starts the program. Returns the pipe of its output, and the pipe of its stdout if that contains events.
fn spawn(request: &SpawnRequest) -> std::io::Result<(Child, PipeReader, Option<PipeReader>)> {
    let Some((program, arguments)) = request.argv.split_first() else {
        return Err(std::io::Error::other("the request names no program"));
    };
    let (output, writer) = std::io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&request.dir).process_group(0).env_clear();
    command.envs(request.env.iter().map(|(name, value)| (name, value)));
    command.stdin(if request.input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut events = None;
    if request.events {
        let (reader, writer) = std::io::pipe()?;
        command.stdout(writer);
        events = Some(reader);
    } else {
        command.stdout(writer.try_clone()?);
    }
    command.stderr(writer);
    kill_with_supervisor(&mut command);
    let mut child = command.spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), &request.input) {
        // An error means that the program has ended. Its exit status shows why.
        stdin.write_all(input.as_bytes()).ok();
    }
    Ok((child, output, events))
}

/// Kills the program's process group and all its descendants, and returns the program's exit status.
fn kill_all(child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    // The program has not been waited for, so no other process can have its number.
    process_tree::signal_group(Pid::from_child(child), Signal::KILL);
    let status = child.wait();
    // Most programs leave no process behind.
    if !matches!(rustix::process::wait(WaitOptions::NOHANG), Err(Errno::CHILD)) {
        process_tree::kill_children(&|_| false);
    }
    status
}

/// Sends bytes to the engine. An error means that the engine is dead. The end of stdin shows that too.
fn send(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).ok();
}

/// The lines that the engine writes to stdin.
#[derive(Default)]
struct Control {
    pending: Vec<u8>,
    lines: VecDeque<String>,
    closed: bool,
}

impl Control {
    /// Waits for the next line; `None` at the end of stdin.
    fn next_line(&mut self) -> Option<String> {
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

    /// Waits for a certain line. Lines before it are kept for later.
    fn wait_for(&mut self, wanted: &str) {
        while !self.closed {
            if let Some(index) = self.lines.iter().position(|line| line == wanted) {
                self.lines.remove(index);
                return;
            }
            self.read();
        }
    }

    /// Reads without waiting. False if there was nothing to read.
    fn read_available(&mut self) -> bool {
        let readable = wait_until_readable(&[rustix::stdio::stdin()], Some(Instant::now()));
        if readable {
            self.read();
        }
        readable
    }

    fn read(&mut self) {
        let mut buffer = [0; 1 << 14];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => self.closed = true,
            Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
        }
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.lines.push_back(String::from_utf8_lossy(&line[..end]).into_owned());
        }
    }
}

/// Waits until a descriptor is readable, or until a point in time. Returns whether the first descriptor is readable.
fn wait_until_readable(watched: &[BorrowedFd<'_>], until: Option<Instant>) -> bool {
    let mut fds: Vec<PollFd<'_>> = watched.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let timeout = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
    poll(&mut fds, timeout.as_ref()).ok();
    fds.first().is_some_and(|first| !first.revents().is_empty())
}

/// Whether the program has ended. Its exit status stays available for a later wait.
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

/// Makes the kernel kill the program if the supervisor dies first.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the standard library has no other way to run code between fork and exec")]
fn kill_with_supervisor(command: &mut Command) {
    let set_death_signal = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).ok();
        Ok(())
    };
    // SAFETY: between fork and exec only functions that are safe in a signal handler may be called: this is one
    // system call, without allocation or lock.
    unsafe { command.pre_exec(set_death_signal) };
}

#[cfg(not(target_os = "linux"))]
fn kill_with_supervisor(_: &mut Command) {}
