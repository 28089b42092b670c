//! Runs the commands of a queue with a time limit.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::process_tree::signal_group;

/// How often a command is checked for its end, at first and at most.
const POLL_INTERVALS: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// The result of a command of the queue.
#[derive(Debug)]
pub(super) enum Answer {
    Ended {
        status: ExitStatus,
        stdout: String,
        stderr: String,
    },
    /// It was not found, could not be started, or did not end in time. It may have done its work or not.
    Nothing(String),
}

/// Runs a command in an environment of its own. It is killed after `limit`, with the processes that it started.
///
/// The engine kills children that are not supervisors after it has lost a supervisor. A command of the queue that is
/// killed in this way counts as one that gave no answer.
pub(super) fn run(argv: &[String], environment: &[(OsString, OsString)], limit: Duration) -> Answer {
    let Some((program, arguments)) = argv.split_first() else { return Answer::Nothing("no command".to_string()) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Answer::Nothing(format!("cannot start `{program}`: {error}")),
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Read in threads, because a full pipe would block the command.
    let readers = [std::thread::spawn(move || read(stdout)), std::thread::spawn(move || read(stderr))];
    let begun = Instant::now();
    let mut pause = POLL_INTERVALS[0];
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if begun.elapsed() < limit => {}
            Ok(None) => {
                signal_group(Pid::from_child(&child), Signal::KILL);
                child.wait().ok();
                break Err(format!("`{program}` did not end within {:.0} s", limit.as_secs_f64()));
            }
            Err(error) => break Err(format!("cannot wait for `{program}`: {error}")),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(POLL_INTERVALS[1]);
    };
    let [stdout, stderr] = readers.map(|reader| reader.join().unwrap_or_default());
    match status {
        Ok(status) => Answer::Ended { status, stdout, stderr },
        Err(why) => Answer::Nothing(why),
    }
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is kept.
    pipe.map(|mut pipe| pipe.read_to_end(&mut bytes).ok());
    String::from_utf8_lossy(&bytes).into_owned()
}
