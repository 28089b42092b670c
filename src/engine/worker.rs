//! One execution, from the lock to the commit. Knows no schedule and no other instance.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::account::Account;
use super::bounded::LAST_WORDS;
use super::commit::Pending;
use super::confine;
use super::executor::{Desk, Ended, Executor, Work};
use super::identity::{Identity, Outside};
use super::job::Job;
use super::normalize::normalize;
use super::outputs;
use super::plan::lacking;
use super::room::{self, Circumstances, Seen};
use ablate_core::base::{ErrorChain, Hash, StageEvent, files, modes};
use ablate_core::stage::{Artifact, ArtifactKind, InputPath};
use ablate_experiment::{Instance, InstanceId, Upstream};
use ablate_store::{self, Lock, ObjectState, Provenance, SlimRecord, StageRecord, Store, list_files};

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
    /// How long it may take, where its own limits do not say it.
    pub(super) time: Option<Duration>,
    /// The devices that it has for itself; none is the CPU.
    pub(super) devices: Vec<String>,
    pub(super) log: PathBuf,
    pub(super) store: &'a Store,
    pub(super) executor: &'a dyn Executor,
    pub(super) stop: &'a AtomicBool,
}

/// How an execution ended.
#[derive(Debug)]
pub(super) enum Finished {
    Ran(Box<StageRecord>),
    /// Another run has done it meanwhile.
    Fresh(SlimRecord),
    /// Another run is at it now.
    Busy,
    Failed(ErrorChain),
    Interrupted,
}

/// What a task has come to.
pub(super) enum Performed {
    /// Its outputs are in the store; what is left is to commit.
    Collected(Box<Pending>),
    Finished(Finished),
}

impl Task<'_> {
    /// Locks, looks again, runs, checks, and takes the outputs into the store. What is left to do is to commit.
    /// `started` is called when the stage is really about to run.
    pub(super) fn perform(&self, started: &dyn Fn(), events: &(dyn Fn(StageEvent) + Sync)) -> Performed {
        match self.attempt(started, events) {
            Ok(performed) => performed,
            Err(error) => Performed::Finished(Finished::Failed(ErrorChain::of(&error))),
        }
    }

    fn attempt(&self, started: &dyn Fn(), events: &(dyn Fn(StageEvent) + Sync)) -> Result<Performed> {
        let Some(lock) = self.store.lock_run(self.identity.fingerprint)? else {
            return Ok(Performed::Finished(Finished::Busy));
        };
        if !self.forced {
            let record = self.store.slim_record(self.identity.fingerprint);
            if let Some(record) = record
                && lacking(self.instance, &record, self.store)?.is_empty()
            {
                return Ok(Performed::Finished(Finished::Fresh(record)));
            }
        }
        started();
        let begun = Instant::now();
        let begun_at = jiff::Timestamp::now();
        let work = self.prepare()?;
        let path = self.work().join("job.json");
        let account = Account::new(self.store, self.identity.fingerprint, self.instance);
        let noting = |event: StageEvent| {
            match &event {
                StageEvent::Note { text } => self.write_log(text),
                StageEvent::Warning { text } => self.write_log(&format!("warning: {text}")),
                StageEvent::Progress { done, total, unit, .. } => account.progress(*done, *total, unit),
                StageEvent::Done { .. } | StageEvent::Failed(_) => {}
            }
            events(event);
        };
        let time = self.instance.limits.time.or(self.time);
        let desk = Desk { job: &path, log: &self.log, stop: self.stop, events: &noting, time };
        let ended = self.executor.execute(&work, &desk);
        if matches!((&ended, &work), (Ended::Failed(_) | Ended::Interrupted, Work::Own(_))) {
            account.write();
        }
        let summary = match ended {
            Ended::Done(summary) => summary,
            Ended::Failed(causes) => {
                let causes = self.make_room(&work, causes);
                // What was quoted from the log is in it already.
                let causes_of_its_own = causes.chain.iter().filter(|cause| !cause.starts_with(LAST_WORDS));
                let causes_of_its_own: Vec<&str> = causes_of_its_own.map(String::as_str).collect();
                self.write_log(&format!("failed: {}", causes_of_its_own.join("\n  because ")));
                return Ok(Performed::Finished(Finished::Failed(causes)));
            }
            Ended::Interrupted => return Ok(Performed::Finished(Finished::Interrupted)),
        };
        for text in summary.warnings() {
            noting(StageEvent::Warning { text: text.to_string() });
        }
        normalize(work.out(), &self.instance.outputs)?;
        if !outputs::check(work.out(), &self.instance.outputs, self.stop)? {
            return Ok(Performed::Finished(Finished::Interrupted));
        }
        self.check_inputs()?;
        let log = self.log.strip_prefix(self.store.root()).unwrap_or(&self.log);
        let record = StageRecord {
            fingerprint: self.identity.fingerprint,
            manifest: self.identity.manifest(self.instance),
            outputs: self.take_outputs(work.out())?,
            summary,
            provenance: Provenance {
                host: ablate_store::host(),
                device: self.device(),
                version: env!("CARGO_PKG_VERSION").to_string(),
                threads: self.threads,
                started: begun_at.to_string(),
                seconds: begun.elapsed().as_secs_f64(),
                log: log.to_string_lossy().into_owned(),
            },
        };
        let work = if let Work::Program(room) = work { room.out } else { self.work() };
        Ok(Performed::Collected(Box::new(Pending {
            id: self.id,
            record,
            lock,
            work,
            seconds: begun.elapsed().as_secs_f64(),
        })))
    }

    /// On a full disk what a program has left there is in everybody's way, and nothing could go on from it. Its own words
    /// may have found no room either, so the cause is named here.
    fn make_room(&self, work: &Work, mut causes: ErrorChain) -> ErrorChain {
        if files::is_disk_full(self.store.root()) {
            causes.chain.push(format!("the disk of the store `{}` is full", self.store.root().display()));
            if let Work::Program(room) = work {
                files::remove_dir(&room.out).ok();
            }
        }
        causes
    }

    /// The devices in the words of the record and of model stages.
    fn device(&self) -> String {
        if self.devices.is_empty() { "cpu".to_string() } else { self.devices.join(",") }
    }

    /// Adds a line to the log. A log that cannot be written is no reason to stop.
    fn write_log(&self, line: &str) {
        // In one write: the stage's processes write to it too.
        files::append(&self.log).and_then(|mut log| Ok(log.write_all(format!("{line}\n").as_bytes())?)).ok();
    }

    /// Makes the private folder ready: a program's room, or `out` empty and `scratch` as the last attempt left it.
    fn prepare(&self) -> Result<Work> {
        let mut inputs = BTreeMap::new();
        for (input, hash) in self.instance.inputs.iter().zip(&self.identity.inputs) {
            let path = match &input.upstream {
                Upstream::Environment { .. } => continue,
                Upstream::External { path } => InputPath { path: path.clone(), hash: *hash, kind: None },
                Upstream::Output { kind, .. } => {
                    let artifact = self.artifact(&input.role)?;
                    self.check_artifact(artifact, &input.role)?;
                    let path = self.store.artifact_path(artifact);
                    InputPath { path, hash: artifact.hash, kind: Some(*kind) }
                }
            };
            inputs.insert(input.role.to_string(), path);
        }
        if let Some(program) = self.instance.parsed()?.program() {
            let input = |role: &str| {
                self.seen(
                    inputs.get(role).with_context(|| format!("BUG: no input `{role}`"))?,
                    self.artifacts.get(role),
                )
            };
            let around = Circumstances { seed: self.instance.seed, devices: &self.devices };
            let room = self.store.sandbox_path(self.identity.fingerprint);
            let note = |text: String| self.write_log(&text);
            return Ok(Work::Program(room::furnish(room, &program, &input, &around, &note)?));
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
        self.hide_ignored(&mut inputs)?;
        drop(lock);
        let variables = confine::values(&self.instance.parsed()?.variables())?;
        Ok(Work::Own(Box::new(Job {
            instance: self.instance.name.clone(),
            kind: self.instance.kind.name.to_string(),
            config: self.instance.table()?,
            inputs,
            images,
            out,
            scratch,
            seed: self.instance.seed,
            threads: self.threads,
            device: self.device(),
            lock: child_lock,
            variables,
        })))
    }

    /// Lets a folder of which an `.ablateignore` leaves something out be seen as links to the rest: a stage must not read
    /// what was not hashed.
    fn hide_ignored(&self, inputs: &mut BTreeMap<String, InputPath>) -> Result<()> {
        let links = self.work().join("inputs");
        files::remove_dir(&links)?;
        for (role, input) in inputs.iter_mut().filter(|(_, input)| input.kind.is_none() && input.path.is_dir()) {
            let listing = list_files(&input.path)?;
            if listing.is_partial {
                let folder = links.join(ablate_store::file_name(role));
                files::create_dir(&folder)?;
                for (name, path) in listing.files {
                    files::symlink(&std::path::absolute(path)?, &folder.join(name))?;
                }
                input.path = folder;
            }
        }
        Ok(())
    }

    /// What a program finds of an input.
    fn seen(&self, input: &InputPath, artifact: Option<&Artifact>) -> Result<Seen> {
        Ok(match artifact {
            Some(artifact) if artifact.tree => {
                let names = self.store.tree(artifact.hash)?.files.into_keys();
                let found = names.map(|name| (name.clone(), input.path.join(&name))).collect();
                Seen::Files { found, outside: false }
            }
            Some(_) => Seen::Object(input.path.clone()),
            None if input.path.is_dir() => Seen::Files { found: list_files(&input.path)?.files, outside: true },
            None => Seen::Files { found: vec![(String::new(), input.path.clone())], outside: true },
        })
    }

    fn take_outputs(&self, out: &Path) -> Result<BTreeMap<String, Artifact>> {
        let mut images = self.image_packs();
        let mut taken = BTreeMap::new();
        for output in &*self.instance.outputs {
            let path = out.join(&*output.name);
            if path.is_dir() {
                modes::make_folders_writable(&path)?;
                for empty in files::remove_empty_dirs(&path)? {
                    self.write_log(&format!("`{}/{empty}` holds no file, so it is no part of the output", output.name));
                }
            }
            let artifact = self.store.put(&path, output.kind)?;
            if output.kind == ArtifactKind::Images {
                images.insert(artifact.hash);
            }
            taken.insert(output.name.to_string(), artifact);
        }
        for artifact in taken.values_mut().filter(|artifact| outputs::has_rows(artifact.kind)) {
            artifact.images = images.iter().copied().collect();
        }
        Ok(taken)
    }

    /// An input that changed while the stage read it would be committed under the wrong fingerprint.
    fn check_inputs(&self) -> Result<()> {
        let mut outside = Outside::default();
        for (input, hash) in self.instance.inputs.iter().zip(&self.identity.inputs) {
            match &input.upstream {
                Upstream::External { path } => {
                    if outside.hash(self.store, &input.role, path).ok() != Some(*hash) {
                        bail!("`{}` (`{}`) changed while the stage ran", path.display(), input.role);
                    }
                }
                // A program of the user's may have written through its link.
                Upstream::Output { .. } => {
                    let artifact = self.artifact(&input.role)?;
                    if self.store.check(artifact, false)? != ObjectState::Present {
                        self.store.quarantine(artifact)?;
                        bail!(
                            "its input `{}` changed while the stage ran: inputs may only be read\nhelp: copy what is to be edited; the next run makes the input again",
                            input.role
                        );
                    }
                }
                Upstream::Environment { .. } => {}
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
        for path in self.store.quarantine_extra_files(artifact)? {
            self.write_log(&format!("`{}` did not belong in the input `{role}` and was taken out", path.display()));
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

    fn work(&self) -> PathBuf {
        self.store.work_path(self.identity.fingerprint)
    }
}

/// What other stages have made for an instance, by role.
pub(super) fn artifacts(instance: &Instance, records: &[Option<SlimRecord>]) -> BTreeMap<String, Artifact> {
    let found = instance.inputs.iter().filter_map(|input| match &input.upstream {
        Upstream::Output { instance: above, output, .. } => {
            let artifact = records[above.0].as_ref()?.outputs.get(output)?;
            Some((input.role.to_string(), artifact.clone()))
        }
        Upstream::External { .. } | Upstream::Environment { .. } => None,
    });
    found.collect()
}
