//! Signal handling of a run: Ctrl-C and SIGTERM stop it and keep its work, Ctrl-Z pauses its programs too. A signal
//! that was ignored at the start, for example by `nohup`, stays ignored.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::INTERRUPTED;
use ablate_core::base::{STOP, files};
use ablate_engine::ProcessLauncher;
use ablate_engine::cluster::JobSignals;

/// Handles signals until the process ends. The first signal that ends a run sets the flag; the second one ends the
/// process immediately, and its children with it.
pub(super) fn listen(launcher: Arc<ProcessLauncher>) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let mut signals =
        Signals::new(not_ignored(&[SIGINT, SIGTERM, SIGHUP, SIGTSTP])).context("cannot listen for Ctrl-C")?;
    let set = flag.clone();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if signal == SIGTSTP {
                // Returns when the process is resumed.
                launcher.while_paused(&|| drop(emulate_default_handler(SIGTSTP)));
            } else if set.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(INTERRUPTED));
            }
        }
    });
    Ok(flag)
}

/// In a job of a cluster: SIGUSR1 says that the time of the job is nearly up, and SIGTERM that it has to end. The queue kills it
/// some time later.
pub(super) fn listen_in_job() -> Result<JobSignals> {
    let signals = JobSignals::default();
    let mut arriving = Signals::new([SIGTERM, SIGINT, SIGUSR1]).context("cannot listen for SIGTERM")?;
    let set = signals.clone();
    std::thread::spawn(move || {
        for signal in arriving.forever() {
            if signal == SIGUSR1 && !set.stop.load(Ordering::SeqCst) {
                set.time_limit.store(true, Ordering::SeqCst);
            }
            set.stop.store(true, Ordering::SeqCst);
        }
    });
    Ok(signals)
}

/// Calls `end` at the first Ctrl-C, SIGTERM or SIGHUP. A second one ends the process immediately.
pub(super) fn call_on_end(end: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut signals = Signals::new(not_ignored(&[SIGINT, SIGTERM, SIGHUP])).context("cannot listen for Ctrl-C")?;
    std::thread::spawn(move || {
        let mut arrived = signals.forever();
        if arrived.next().is_some() {
            end();
        }
        if arrived.next().is_some() {
            std::process::exit(i32::from(INTERRUPTED));
        }
    });
    Ok(())
}

/// The signals that this process does not ignore.
fn not_ignored(signals: &[i32]) -> Vec<i32> {
    let ignored = ignored(&files::read_text(Path::new("/proc/self/status")).unwrap_or_default());
    signals.iter().copied().filter(|signal| ignored & bit(*signal) == 0).collect()
}

/// In a supervisor: SIGTERM has no effect. A queue sends it to all processes of a job, and a stage needs its supervisor while it
/// saves its work. Unlike an ignored signal, programs do not inherit this.
pub(super) fn outlive_terminate() -> Result<()> {
    signal_hook::flag::register(SIGTERM, Arc::default()).context("cannot handle SIGTERM")?;
    Ok(())
}

/// In the process of a stage: SIGTERM asks the stage to save its work and end, and ends the process after the time that
/// the stage has asked for.
pub(super) fn save_on_terminate() -> Result<()> {
    let mut signals = Signals::new([SIGTERM]).context("cannot listen for SIGTERM")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            std::thread::sleep(STOP.make());
            emulate_default_handler(signal).ok();
        }
    });
    Ok(())
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The signals that this process ignores, as a bit mask from `/proc/self/status`; 0 if that is not available.
fn ignored(status: &str) -> u64 {
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    digits.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_parsed_from_status() {
        let status = "Name:\tablate\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored(status), bit(SIGHUP) | bit(13));
        assert_eq!(ignored(""), 0);
    }
}
