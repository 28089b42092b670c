//! The command of `[settings] notify`, which runs when a run ends.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use super::environment;
use super::process_tree::signal_group;
use super::report::{Outcome, RunReport};
use ablate_core::base::files;

/// How long the command may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// How often the command is checked for its end.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Runs a shell command in the current folder with the run as JSON on stdin, and ends it after `limit`. `page` is the
/// report's HTML page, if one was written. The command's output goes to `notify.log` in the folder of the run.
///
/// It sees a short list of variables and not this environment, which may hold secrets that any process of the same user could
/// then read. A run in which every instance was fresh notifies of nothing.
pub fn notify(command: &str, report: &RunReport, page: Option<&Path>, limit: Duration) -> Result<()> {
    let is_idle = report.count(|outcome| *outcome != Outcome::Fresh) == 0;
    let Some(folder) = report.folder.as_ref().filter(|_| !is_idle) else { return Ok(()) };
    let log = folder.join("notify.log");
    let output = files::append_private(&log)?;
    let errors = output.try_clone().with_context(|| format!("cannot write `{}`", log.display()))?;
    let text = serde_json::to_vec(report).context("BUG: a report is plain data")?;
    let page = page.map(|page| std::path::absolute(page).unwrap_or_else(|_| page.to_path_buf()));
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env_clear()
        .envs(environment::for_helper())
        .env("ABLATE_RUN", &report.run)
        .env("ABLATE_EXPERIMENT", &report.experiment.name)
        .env("ABLATE_OUTCOME", report.phase.name())
        .env("ABLATE_SECONDS", format!("{:.1}", report.seconds))
        .env("ABLATE_REPORT", page.unwrap_or_default())
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .context("cannot start `sh`")?;
    if let Some(mut stdin) = child.stdin.take() {
        // In a thread, because a command that does not read must not block. An error means that it has ended.
        std::thread::spawn(move || stdin.write_all(&text).ok());
    }
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for the command")? {
            break status;
        }
        if begun.elapsed() >= limit {
            signal_group(Pid::from_child(&child), Signal::KILL);
            child.wait().context("cannot wait for the command")?;
            bail!("it took longer than {} s and was ended; its output is in `{}`", limit.as_secs(), log.display());
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    if !status.success() {
        bail!("it ended with {status}; its output is in `{}`", log.display());
    }
    Ok(())
}
