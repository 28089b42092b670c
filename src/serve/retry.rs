//! Starts runs for pages. A run is a process of its own that goes on when the server ends.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use ablate_core::base::files;
use ablate_engine::history::{self, PastRun};
use ablate_store::{ExperimentId, Store};

/// How long a started run may take to appear in the store.
const START_TIME: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(super) struct Retries {
    program: PathBuf,
    store: Arc<Store>,
    /// The experiments whose run is being started.
    starting: Mutex<BTreeSet<ExperimentId>>,
}

impl Retries {
    pub(super) fn new(program: PathBuf, store: Arc<Store>) -> Retries {
        Retries { program, store, starting: Mutex::default() }
    }

    /// Runs an instance of a past run again with everything that it needs, or all that the run selected. Returns the name of
    /// the new run.
    ///
    /// Errors: a run of the experiment is going on, its file does not exist any more, or the new run does not start.
    pub(super) fn start(&self, past: &PastRun, instance: Option<&str>) -> Result<String> {
        let id = &past.experiment;
        if id.file.is_empty() {
            bail!("run {} has no experiment file", past.number);
        }
        if !self.starting().insert(id.clone()) {
            bail!("a run of `{}` is being started already", id.name);
        }
        let started = self.start_alone(past, instance);
        self.starting().remove(id);
        started
    }

    fn starting(&self) -> std::sync::MutexGuard<'_, BTreeSet<ExperimentId>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_alone(&self, past: &PastRun, instance: Option<&str>) -> Result<String> {
        let before: BTreeSet<String> = history::runs(&self.store)?.into_iter().collect();
        for run in history::running(&self.store)? {
            let running = history::read(&self.store, &run)?;
            if running.experiment == past.experiment {
                bail!("run {} of `{}` is going on: wait for its end, or stop it", running.number, past.experiment.name);
            }
        }
        let log = self.store.root().join("serve.log");
        let output = files::append_private(&log)?;
        let start = output.metadata().map_or(0, |metadata| metadata.len());
        let mut command = self.command(past, instance)?;
        let errors = output.try_clone().context("cannot share the log")?;
        // A process group of its own: Ctrl-C in the terminal of the server does not reach it.
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start `{}`", self.program.display()))?;
        let found = self.wait_for_run(&mut child, past, &before);
        let ended = matches!(child.try_wait(), Ok(Some(_)));
        if !ended {
            // Waits for the end, because an ended child stays in the process table until its parent does.
            std::thread::spawn(move || child.wait());
        }
        match found? {
            Some(run) => Ok(run),
            None if ended => {
                let text = read_from(&log, start).unwrap_or_default();
                let text = if text.trim().is_empty() { "everything is up to date".to_string() } else { text };
                bail!("no run was started: {}", text.trim())
            }
            None => bail!("the run has not started within {} s: see `{}`", START_TIME.as_secs(), log.display()),
        }
    }

    fn command(&self, past: &PastRun, instance: Option<&str>) -> Result<Command> {
        let absolute =
            |path: PathBuf| std::path::absolute(&path).with_context(|| format!("wrong path `{}`", path.display()));
        let file = absolute(self.store.experiment_file(&past.experiment))?;
        if !file.exists() {
            bail!("the experiment's file `{}` does not exist any more", file.display());
        }
        let mut command = Command::new(&self.program);
        // A secret of the server.
        command.env_remove("ABLATE_SERVE_TOKEN");
        command.arg("run").arg(&file).arg("--quiet").arg("--store").arg(absolute(self.store.root().to_path_buf())?);
        if let Some(out) = self.store.experiment_entry(&past.experiment).and_then(|entry| entry.out) {
            command.arg("--out").arg(out);
        }
        command.args(past.overrides.iter().map(|text| format!("--set={text}")));
        if let Some(instance) = instance {
            command.arg(format!("--until={instance}"));
        } else {
            command.args(past.selection.until.iter().map(|name| format!("--until={name}")));
            command.args(past.selection.only.iter().map(|name| format!("--only={name}")));
        }
        Ok(command)
    }

    /// The new run of the child; `None` if the child ended, or the time is over, without one.
    fn wait_for_run(&self, child: &mut Child, past: &PastRun, before: &BTreeSet<String>) -> Result<Option<String>> {
        let begun = Instant::now();
        while begun.elapsed() < START_TIME {
            // Before the look, so that a short run is found after its end.
            let ended = child.try_wait().context("cannot wait for the run")?.is_some();
            for run in history::runs(&self.store)?.into_iter().rev().filter(|run| !before.contains(run)) {
                // Its file may not be written yet.
                if history::read(&self.store, &run).is_ok_and(|new| new.experiment == past.experiment) {
                    return Ok(Some(run));
                }
            }
            if ended {
                return Ok(None);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(None)
    }
}

fn read_from(log: &std::path::Path, start: u64) -> Result<String> {
    let mut file = files::open_file(log)?;
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    // A message is short.
    file.take(1 << 16).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
