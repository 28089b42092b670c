//! The remote of a command: its address, its progress bar, and the connection between a run and the results of other machines.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{ExperimentArgs, Targets};
use super::format::human_bytes;
use super::session::Session;
use super::shell::Shell;
use ablate_core::base::Hash;
use ablate_engine::{Lookup, PlanState, SharedResults};
use ablate_experiment::Configuration;
use ablate_remote::{Address, Found, Meter, PushReport, Remote, Root, is_no_remote, is_unreachable};
use ablate_store::{StageRecord, Store, host};

/// The environment variable with the address of the remote.
const VARIABLE: &str = "ABLATE_REMOTE";

/// How often a progress bar is drawn, and how often a line is printed without a terminal.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// The remote of a command that can do without one.
#[derive(Debug, Args)]
pub(super) struct RemoteArgs {
    /// Share results with other machines: `s3://bucket/prefix`, or a folder. Also `ABLATE_REMOTE`, or `url` of `[remote]` in
    /// `.ablate.toml`.
    #[arg(long, value_name = "URL", conflicts_with = "no_remote")]
    remote: Option<String>,
    /// Use no remote, although one is configured.
    #[arg(long)]
    no_remote: bool,
}

impl RemoteArgs {
    /// The address, if there is one.
    pub(super) fn address(&self, configuration: &Configuration) -> Result<Option<Address>> {
        if self.no_remote { Ok(None) } else { address(self.remote.as_deref(), configuration) }
    }
}

/// The arguments of `push` and `pull`.
#[derive(Debug, Args)]
pub(super) struct TransferArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(super) targets: Targets,
    /// The remote: `s3://bucket/prefix`, or a folder. Default: `ABLATE_REMOTE`, or `url` of `[remote]` in `.ablate.toml`.
    #[arg(long, value_name = "URL")]
    pub(super) remote: Option<String>,
}

/// The address of an option, or else of the environment or of a configuration file.
fn address(option: Option<&str>, configuration: &Configuration) -> Result<Option<Address>> {
    if let Some(text) = option.filter(|text| !text.is_empty()) {
        return text.parse().map(Some).context("`--remote`");
    }
    match std::env::var(VARIABLE) {
        Ok(text) if !text.trim().is_empty() => return text.parse().map(Some).context(format!("`{VARIABLE}`")),
        _ => {}
    }
    let configured = configuration.remote.url.as_deref();
    configured.map(|text| text.parse().context("`url` of `[remote]` in the configuration")).transpose()
}

/// As [`address`], for a command that needs a remote.
pub(super) fn required_address(option: Option<&str>, configuration: &Configuration) -> Result<Address> {
    match address(option, configuration)? {
        Some(address) => Ok(address),
        None => bail!(
            "there is no remote\nhelp: name one with `--remote s3://bucket/prefix`, or write `url = \"s3://bucket/prefix\"` under `[remote]` into `.ablate.toml`"
        ),
    }
}

/// Opens a remote that the command can do without: one that does not answer is a warning. Without `create`, one that does not exist
/// yet has no results.
pub(super) fn open_if_reachable(
    shell: Shell,
    address: &Address,
    create: bool,
    stop: Arc<AtomicBool>,
) -> Result<Option<Arc<Remote>>> {
    match Remote::open(address, create, stop) {
        Ok(remote) => Ok(Some(Arc::new(remote))),
        Err(error) if is_unreachable(&error) => {
            shell.warning(&format!("the remote is not used: {error:#}"));
            Ok(None)
        }
        Err(error) if is_no_remote(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs a transfer and shows its bytes.
pub(super) fn with_progress<T>(shell: Shell, meter: &Meter, what: &str, transfer: impl FnOnce() -> T) -> T {
    let (end, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || show_progress(shell, meter, what, &ended));
        let output = transfer();
        drop(end);
        output
    })
}

/// Draws a bar, or prints lines without a terminal, until the channel is closed.
fn show_progress(shell: Shell, meter: &Meter, what: &str, ended: &mpsc::Receiver<()>) {
    let target = if shell.live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let template = "{spinner} {prefix} {bar:20.cyan/dim} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_string());
    let (before, _) = meter.read();
    let mut last_line = Instant::now();
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(BAR_INTERVAL) {
        let (done, total) = meter.read();
        if total == before {
            continue;
        }
        bar.set_length(total.saturating_sub(before));
        bar.set_position(done.saturating_sub(before));
        if !shell.live && !shell.json && last_line.elapsed() >= LINE_INTERVAL {
            last_line = Instant::now();
            let (done, total) = (done.saturating_sub(before), total.saturating_sub(before));
            shell.status(&format!("      {what} {} of {}", human_bytes(done), human_bytes(total)));
        }
    }
    bar.finish_and_clear();
}

/// What an experiment and its store keep at the remote: the results that are fresh now.
pub(super) fn root(session: &Session, overrides: &[String]) -> Result<Root> {
    let plan = session.plan()?;
    let fresh = plan.entries.iter().filter(|entry| entry.state == PlanState::Fresh);
    let mut fingerprints: Vec<Hash> =
        fresh.filter_map(|entry| entry.record.as_ref()).map(|record| record.fingerprint).collect();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    Ok(Root {
        experiment: session.experiment.name.clone(),
        file: session.id.file.clone(),
        host: host(),
        store: session.store.root().display().to_string(),
        overrides: overrides.to_vec(),
        fingerprints,
    })
}

/// The remote of a run. Results are sent by a thread of its own while the run goes on.
pub(super) struct SharedRemote {
    shell: Shell,
    remote: Arc<Remote>,
    sender: Mutex<Option<Sender<Hash>>>,
    thread: Mutex<Option<JoinHandle<PushReport>>>,
}

impl SharedRemote {
    /// Starts the thread. It has a handle of its own on the store.
    pub(super) fn start(shell: Shell, remote: Arc<Remote>, store: &Path, interrupt: Arc<AtomicBool>) -> Result<Self> {
        let (sender, committed) = mpsc::channel::<Hash>();
        let (store, to) = (Store::open(store)?, remote.clone());
        let thread = std::thread::spawn(move || {
            let mut sent = PushReport::default();
            while let Ok(first) = committed.recv() {
                let batch: Vec<Hash> = [first].into_iter().chain(committed.try_iter()).collect();
                if interrupt.load(Ordering::Relaxed) {
                    break;
                }
                match to.push(&store, &batch) {
                    Ok(report) => sent.add(report),
                    // The end of the run tries again, and reports what cannot be sent.
                    Err(error) => tracing::debug!("{} results were not sent: {error:#}", batch.len()),
                }
            }
            sent
        });
        Ok(SharedRemote { shell, remote, sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Waits for the thread and returns what it sent.
    pub(super) fn finish(&self) -> PushReport {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return PushReport::default() };
        with_progress(self.shell, self.remote.meter(), "sending", || thread.join().unwrap_or_default())
    }
}

impl SharedResults for SharedRemote {
    fn find(&self, fingerprints: &[Hash]) -> Result<Lookup> {
        let mut lookup = Lookup::default();
        for found in self.remote.find(fingerprints)? {
            lookup.records.push(match found {
                Found::Record(record) => Some(*record),
                Found::Missing => None,
                Found::Unusable(error) => {
                    lookup.warnings.push(format!("{error:#}"));
                    None
                }
            });
        }
        Ok(lookup)
    }

    fn fetch(&self, store: &Store, records: &[StageRecord]) -> Result<Vec<Result<()>>> {
        self.remote.fetch(store, records)
    }

    fn committed(&self, fingerprint: Hash) {
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            sender.send(fingerprint).ok();
        }
    }
}
