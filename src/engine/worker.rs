//! One execution, from the lock to the commit. Knows no schedule and no other instance.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::executor::{Desk, Ended, Executor};
use super::identity::{Identity, Outside};
use super::job::Job;
use super::outputs;
use super::plan::{PlanOptions, PlanState, judge};
use crate::base::{Causes, Event, Hash, files};
use crate::experiment::{Instance, InstanceId, Upstream};
use crate::stage::{Artifact, ArtifactKind, InputPath};
use crate::store::{Lock, ObjectState, Provenance, StageRecord, Store};

/// Everything that one execution needs.
pub(super) struct Task<'a> {
    pub(super) id: InstanceId,
    pub(super) instance: &'a Instance,
    pub(super) identity: Identity,
    /// Artifacts of the inputs that other stages made, by role.
    pub(super) artifacts: BTreeMap<String, Artifact>,
    /// Runs even if a record is there.
    pub(super) forced: bool,
    pub(super) threads: usize,
    pub(super) device: String,
    pub(super) log: PathBuf,
    pub(super) store: &'a Store,
    pub(super) executor: &'a dyn Executor,
    pub(super) stop: &'a AtomicBool,
}

/// How an execution ended.
#[derive(Debug)]
pub(super) enum Finished {
    Ran(StageRecord),
    /// Another run has done it meanwhile.
    Fresh(StageRecord),
    /// Another run is at it now.
    Busy,
    Failed(Causes),
    Interrupted,
}

impl Task<'_> {
    /// Locks, looks again, runs, checks, commits. `started` is called when the stage is really about to run.
    pub(super) fn perform(&self, started: &dyn Fn(), events: &(dyn Fn(Event) + Sync)) -> Finished {
        match self.attempt(started, events) {
            Ok(finished) => finished,
            Err(error) => Finished::Failed(Causes::of(&error)),
        }
    }

    fn attempt(&self, started: &dyn Fn(), events: &(dyn Fn(Event) + Sync)) -> Result<Finished> {
        let Some(_lock) = self.store.lock_run(self.identity.fingerprint)? else { return Ok(Finished::Busy) };
        if !self.forced {
            let entry = judge(self.id, self.instance, self.identity.clone(), self.store, &PlanOptions::default())?;
            if let (PlanState::Fresh, Some(record)) = (entry.state, entry.record) {
                return Ok(Finished::Fresh(record));
            }
        }
        started();
        let begun = Instant::now();
        let begun_at = jiff::Timestamp::now();
        let job = self.prepare()?;
        let path = self.work().join("job.json");
        let text = serde_json::to_vec(&job).unwrap_or_else(|error| panic!("BUG: a job is plain data: {error}"));
        files::write_soft(&path, &text)?;
        let noting = |event: Event| {
            if let Event::Note { text } = &event {
                self.write_log(text);
            }
            events(event);
        };
        let desk = Desk { job: &path, log: &self.log, stop: self.stop, events: &noting };
        let summary = match self.executor.execute(&job, &desk) {
            Ended::Done(summary) => summary,
            Ended::Failed(causes) => {
                self.write_log(&format!("failed: {}", causes.chain.join("\n  because ")));
                return Ok(Finished::Failed(causes));
            }
            Ended::Interrupted => return Ok(Finished::Interrupted),
        };
        outputs::check(&job.out, self.instance.kind.outputs)?;
        self.check_outside()?;
        let log = self.log.strip_prefix(self.store.root()).unwrap_or(&self.log);
        let record = StageRecord {
            fingerprint: self.identity.fingerprint,
            manifest: self.identity.manifest.clone(),
            outputs: self.commit_outputs(&job)?,
            summary,
            provenance: Provenance {
                host: host(),
                device: job.device,
                version: env!("CARGO_PKG_VERSION").to_string(),
                threads: job.threads,
                started: begun_at.to_string(),
                seconds: begun.elapsed().as_secs_f64(),
                log: log.to_string_lossy().into_owned(),
            },
        };
        self.store.write_record(&record)?;
        files::remove_dir(&self.work())?;
        Ok(Finished::Ran(record))
    }

    /// Adds a line to the log. A log that cannot be written is no reason to stop.
    fn write_log(&self, line: &str) {
        files::append(&self.log).and_then(|mut log| Ok(writeln!(log, "{line}")?)).ok();
    }

    /// Makes the private folder ready: `out` empty, `scratch` as the last attempt left it.
    fn prepare(&self) -> Result<Job> {
        let mut inputs = BTreeMap::new();
        for input in &self.instance.inputs {
            let path = match &input.upstream {
                Upstream::Outside { path } => {
                    InputPath { path: path.clone(), hash: self.input_hash(&input.role)?, kind: None }
                }
                Upstream::Output { kind, .. } => {
                    let artifact = self.artifact(&input.role)?;
                    self.check_artifact(artifact, &input.role)?;
                    let path = self.store.artifact_path(artifact);
                    InputPath { path, hash: artifact.hash, kind: Some(*kind) }
                }
            };
            inputs.insert(input.role.clone(), path);
        }
        let mut images = BTreeMap::new();
        for hash in self.image_packs() {
            let path = self.store.object_path(hash);
            if !path.is_file() {
                bail!(
                    "the image pack {} is missing from the store\nhelp: `verify` tells what is damaged",
                    hash.short()
                );
            }
            images.insert(hash, path);
        }
        // A child of a run that was killed may still be about to die. Nothing is cleared while it writes.
        let child_lock = self.store.child_lock_path(self.identity.fingerprint);
        let Some(lock) = Lock::take_within(&child_lock, 500, Duration::from_millis(20))? else {
            bail!("a process of an earlier run still works on this stage: it holds `{}`", child_lock.display());
        };
        let (out, scratch) = (self.work().join("out"), self.work().join("scratch"));
        files::remove_dir(&out)?;
        files::create_dir(&out)?;
        files::create_dir(&scratch)?;
        drop(lock);
        Ok(Job {
            instance: self.instance.name.clone(),
            kind: self.instance.kind.name.to_string(),
            config: self.instance.config.clone(),
            inputs,
            images,
            out,
            scratch,
            seed: self.instance.seed,
            threads: self.threads,
            device: self.device.clone(),
            lock: child_lock,
        })
    }

    fn commit_outputs(&self, job: &Job) -> Result<BTreeMap<String, Artifact>> {
        let mut images = self.image_packs();
        let mut committed = BTreeMap::new();
        for output in self.instance.kind.outputs {
            let artifact = self.store.put(&job.out.join(output.name), output.kind)?;
            if output.kind == ArtifactKind::Images {
                images.insert(artifact.hash);
            }
            committed.insert(output.name.to_string(), artifact);
        }
        for artifact in committed.values_mut().filter(|artifact| outputs::has_rows(artifact.kind)) {
            artifact.images = images.iter().copied().collect();
        }
        Ok(committed)
    }

    /// A file that changed while the stage read it would be committed under the wrong fingerprint.
    fn check_outside(&self) -> Result<()> {
        let mut outside = Outside::default();
        for input in &self.instance.inputs {
            if let Upstream::Outside { path } = &input.upstream
                && outside.hash(self.store, &input.role, path).ok() != Some(self.input_hash(&input.role)?)
            {
                bail!("`{}` (`{}`) changed while the stage ran", path.display(), input.role);
            }
        }
        Ok(())
    }

    fn check_artifact(&self, artifact: &Artifact, role: &str) -> Result<()> {
        if self.store.check(artifact, true)? != ObjectState::Present {
            bail!(
                "the input `{role}` was damaged in the store while the run went on\nhelp: run again: what is damaged is made again"
            );
        }
        Ok(())
    }

    /// The image packs that the inputs' rows name.
    fn image_packs(&self) -> BTreeSet<Hash> {
        let mut packs = BTreeSet::new();
        for artifact in self.artifacts.values() {
            packs.extend(&artifact.images);
            if artifact.kind == ArtifactKind::Images {
                packs.insert(artifact.hash);
            }
        }
        packs
    }

    fn artifact(&self, role: &str) -> Result<&Artifact> {
        self.artifacts.get(role).with_context(|| format!("BUG: the input `{role}` has no artifact"))
    }

    fn input_hash(&self, role: &str) -> Result<Hash> {
        use crate::stage::ManifestEntry;
        let found = self.identity.manifest.entries.iter().find_map(|entry| match entry {
            ManifestEntry::Input { role: known, hash } if known == role => Some(*hash),
            _ => None,
        });
        found.with_context(|| format!("BUG: the input `{role}` is not in the manifest"))
    }

    fn work(&self) -> PathBuf {
        self.store.work_path(self.identity.fingerprint)
    }
}

/// Name of this machine, for the record only.
fn host() -> String {
    let name = files::read_text(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    name.trim().to_string()
}
