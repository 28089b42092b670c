//! The execution of one instance: takes its lock, runs it, checks the outputs and moves them into the store. Only the
//! commit of the record is left to the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::capped_log::LOG_END;
use super::environment;
use super::identity::{ExternalInputs, Identity};
use super::input_paths::{base_paths, image_pack_paths, image_packs, input_paths};
use super::job::Job;
use super::launcher::{ExecutionContext, ExecutionResult, Launcher, Work};
use super::output_permissions::normalize_permissions;
use super::outputs;
use super::plan::missing_outputs;
use super::sandbox::{self, ProgramContext, SandboxInput};
use super::shared_results::{SharedResults, fetch_one};
use super::stop::StopFlag;
use super::work_done::WorkDoneWriter;
use ablate_core::base::{ErrorChain, Hash, StageEvent, files, modes};
use ablate_core::stage::{Artifact, ArtifactKind, BaseCheckpoint, InputPath, OutputSpec};
use ablate_experiment::{Instance, InstanceId, Upstream};
use ablate_store::{self, Build, Lock, ObjectState, Provenance, SlimRecord, StageRecord, Store, list_files};

pub(super) struct Task<'a> {
    pub(super) id: InstanceId,
    pub(super) instance: &'a Instance,
    pub(super) identity: Identity,
    /// The inputs that other instances produced, by role.
    pub(super) artifacts: BTreeMap<String, Artifact>,
    /// Runs even if a record exists.
    pub(super) forced: bool,
    /// The bad replies that it requests again.
    pub(super) retry: BTreeSet<String>,
    /// Whether it may end while an endpoint still works on its requests.
    pub(super) detach: bool,
    pub(super) threads: usize,
    /// Time limit, if the instance has no limit of its own.
    pub(super) time: Option<Duration>,
    /// The devices that this task may use exclusively; empty on the CPU.
    pub(super) devices: Vec<String>,
    /// Environment variables of the cluster's queue, for programs that start further processes through it.
    pub(super) variables: Vec<(String, String)>,
    pub(super) log: PathBuf,
    /// The build of this program.
    pub(super) build: &'a Build,
    pub(super) store: &'a Store,
    pub(super) launcher: &'a dyn Launcher,
    /// Where a result of another machine may be.
    pub(super) shared: Option<&'a dyn SharedResults>,
    pub(super) stop: StopFlag,
}

/// How a task ended.
#[derive(Debug)]
pub(super) enum TaskResult {
    Ran(Box<StageRecord>),
    /// Another run produced the result in the meantime.
    Fresh(SlimRecord),
    /// The result of another machine was fetched.
    Fetched(SlimRecord),
    /// Another run holds the lock.
    Busy,
    Failed(ErrorChain),
    Interrupted,
    /// An endpoint still works on its requests: on what.
    Detached(String),
}

/// A stage whose outputs are in the store, but whose record is not committed yet.
#[derive(Debug)]
pub(super) struct Uncommitted {
    pub(super) id: InstanceId,
    pub(super) record: StageRecord,
    /// Held until other runs can see the record.
    pub(super) lock: Lock,
    /// The work folder, removed after the commit.
    pub(super) work: PathBuf,
    pub(super) seconds: f64,
}

/// What [`Task::perform`] returns.
pub(super) enum Performed {
    Uncommitted(Box<Uncommitted>),
    Finished(TaskResult),
}

impl Task<'_> {
    /// Executes the instance. `started` is called right before the stage runs.
    pub(super) fn perform(&self, started: &dyn Fn(), events: &(dyn Fn(StageEvent) + Sync)) -> Performed {
        let performed = self.attempt(started, events);
        performed.unwrap_or_else(|error| Performed::Finished(TaskResult::Failed(ErrorChain::of(&error))))
    }

    fn attempt(&self, started: &dyn Fn(), events: &(dyn Fn(StageEvent) + Sync)) -> Result<Performed> {
        let Some(lock) = self.store.lock_run(self.identity.fingerprint)? else {
            return Ok(Performed::Finished(TaskResult::Busy));
        };
        if !self.forced
            && let Some(record) = self.store.slim_record(self.identity.fingerprint)
            && missing_outputs(self.instance, &record, self.store)?.is_empty()
        {
            return Ok(Performed::Finished(TaskResult::Fresh(record)));
        }
        let warn = |text: String| events(StageEvent::Warning { text });
        if !self.forced
            && let Some(shared) = self.shared
            && let Some(record) = fetch_one(shared, self.instance, &self.identity, self.store, &warn)
        {
            return Ok(Performed::Finished(TaskResult::Fetched(record)));
        }
        started();
        let begun = Instant::now();
        let begun_at = jiff::Timestamp::now();
        let work = self.prepare()?;
        let path = self.work().join("job.json");
        let work_done = WorkDoneWriter::new(self.store, self.identity.fingerprint, self.instance);
        let on_event = |event: StageEvent| {
            match &event {
                StageEvent::Note { text } | StageEvent::Choice { text } => self.write_log(text),
                StageEvent::Warning { text } => self.write_log(&format!("warning: {text}")),
                StageEvent::Progress { done, total, unit, .. } => work_done.progress(*done, *total, unit),
                StageEvent::Done { .. } | StageEvent::Detached { .. } | StageEvent::Failed(_) => {}
            }
            events(event);
        };
        let time = self.instance.limits.time.or(self.time);
        let context = ExecutionContext { job: &path, log: &self.log, stop: &self.stop, events: &on_event, time };
        let result = self.execute(&work, &context)?;
        if matches!(work, Work::BuiltIn(_)) && !matches!(result, ExecutionResult::Done(_)) {
            work_done.write();
        }
        let summary = match result {
            ExecutionResult::Done(summary) => summary,
            ExecutionResult::Failed(causes) => {
                let causes = self.handle_full_disk(&work, causes);
                // The cause that quotes the end of the log is not written into the log again.
                let to_log = causes.chain.iter().filter(|cause| !cause.starts_with(LOG_END));
                let to_log: Vec<&str> = to_log.map(String::as_str).collect();
                self.write_log(&format!("failed: {}", to_log.join("\n  because ")));
                return Ok(Performed::Finished(TaskResult::Failed(causes)));
            }
            ExecutionResult::Interrupted => return Ok(Performed::Finished(TaskResult::Interrupted)),
            ExecutionResult::Detached(waits_for) => {
                self.write_log(&format!("waits for its endpoint: {waits_for}"));
                return Ok(Performed::Finished(TaskResult::Detached(waits_for)));
            }
        };
        normalize_permissions(work.out(), &self.instance.outputs)?;
        let stage = self.instance.parsed()?;
        let packs = match work {
            Work::Program(_) => self.program_packs(work.out())?,
            Work::BuiltIn(_) => BTreeMap::new(),
        };
        let checker = |output: &OutputSpec| match work {
            Work::Program(_) => stage.output_checker(output, &packs),
            Work::BuiltIn(_) => None,
        };
        let Some(warnings) = outputs::check(work.out(), &self.instance.outputs, &checker, &self.stop)? else {
            return Ok(Performed::Finished(TaskResult::Interrupted));
        };
        let summary = summary.with_warnings(warnings);
        for text in summary.warnings() {
            on_event(StageEvent::Warning { text: text.to_string() });
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
                build: self.build.clone(),
                threads: self.threads,
                started: begun_at.to_string(),
                seconds: begun.elapsed().as_secs_f64(),
                log: log.to_string_lossy().into_owned(),
            },
        };
        let work = if let Work::Program(sandbox) = work { sandbox.out } else { self.work() };
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Performed::Uncommitted(Box::new(Uncommitted { id: self.id, record, lock, work, seconds })))
    }

    /// On a full disk, adds that as a cause, because the program's own message may not have been written. Also removes a
    /// program's sandbox: it takes space, and a program cannot be resumed.
    fn handle_full_disk(&self, work: &Work, mut causes: ErrorChain) -> ErrorChain {
        if files::is_disk_full(self.store.root()) {
            causes.chain.push(format!("the disk of the store `{}` is full", self.store.root().display()));
            if let Work::Program(sandbox) = work {
                files::remove_dir(&sandbox.out).ok();
            }
        }
        causes
    }

    /// The devices as the record and the job write them.
    fn device(&self) -> String {
        if self.devices.is_empty() { "cpu".to_string() } else { self.devices.join(",") }
    }

    /// Adds a line to the log. A write error does not fail the stage.
    fn write_log(&self, line: &str) {
        // One write, because the processes of the stage write to the same file.
        files::append(&self.log).and_then(|mut log| Ok(log.write_all(format!("{line}\n").as_bytes())?)).ok();
    }

    /// Prepares the work folder: the sandbox of a program, or an empty `out` and the `scratch` of the last attempt.
    fn prepare(&self) -> Result<Work> {
        for (role, artifact) in &self.artifacts {
            artifact.with_bases().try_for_each(|artifact| self.check_artifact(&artifact, role))?;
        }
        let mut inputs = input_paths(self.instance, &self.identity, &self.artifacts, self.store)?;
        if let Some(program) = self.instance.parsed()?.program() {
            let input = |role: &str| {
                let input = inputs.get(role).with_context(|| format!("BUG: no input `{role}`"))?;
                self.sandbox_input(input, self.artifacts.get(role))
            };
            let context = ProgramContext { seed: self.instance.seed, devices: &self.devices, queue: &self.variables };
            let folder = self.store.sandbox_path(self.identity.fingerprint);
            let note = |text: String| self.write_log(&text);
            return Ok(Work::Program(sandbox::prepare(folder, &program, &input, &context, &note)?));
        }
        let (out, scratch) = (self.work().join("out"), self.work().join("scratch"));
        let images = image_pack_paths(&self.artifacts, self.store)?;
        // The child of a killed run may still be writing. Wait for its end before the folder is cleared.
        let child_lock = self.store.child_lock_path(self.identity.fingerprint);
        let Some(lock) = Lock::take_within(&child_lock, 500, Duration::from_millis(20))? else {
            bail!("a process of an earlier run is still working on this stage: it holds `{}`", child_lock.display());
        };
        files::remove_dir(&out)?;
        files::create_dir(&out)?;
        files::create_dir(&scratch)?;
        self.hide_ignored(&mut inputs)?;
        drop(lock);
        Ok(Work::BuiltIn(Box::new(Job { images, ..self.job(inputs, out, scratch)? })))
    }

    /// A job of the instance's kind with these inputs, without image packs.
    pub(super) fn job(&self, inputs: BTreeMap<String, InputPath>, out: PathBuf, scratch: PathBuf) -> Result<Job> {
        Ok(Job {
            instance: self.instance.name.clone(),
            kind: self.instance.kind.name.to_string(),
            config: self.instance.table()?,
            inputs,
            images: BTreeMap::new(),
            bases: base_paths(&self.artifacts, self.store),
            out,
            scratch,
            seed: self.instance.seed,
            threads: self.threads,
            device: self.device(),
            replies: self.store.replies_path(),
            retry: self.retry.clone(),
            detach: self.detach,
            lock: self.store.child_lock_path(self.identity.fingerprint),
            variables: environment::declared_variables(&self.instance.parsed()?.variables())?,
        })
    }

    /// Replaces an input folder with ignored files by a folder of links to the other files, because a stage must not read
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

    /// An input as the sandbox of a program shows it.
    fn sandbox_input(&self, input: &InputPath, artifact: Option<&Artifact>) -> Result<SandboxInput> {
        Ok(match artifact {
            Some(artifact) if !artifact.bases.is_empty() => SandboxInput::WrittenByKind,
            Some(artifact) if artifact.tree => {
                let names = self.store.tree(artifact.hash)?.files.into_keys();
                let files = names.map(|name| (name.clone(), input.path.join(&name))).collect();
                SandboxInput::Files { files, external: false }
            }
            Some(_) => SandboxInput::Object(input.path.clone()),
            None if input.path.is_dir() => {
                SandboxInput::Files { files: list_files(&input.path)?.files, external: true }
            }
            None => SandboxInput::Files { files: vec![(String::new(), input.path.clone())], external: true },
        })
    }

    fn take_outputs(&self, out: &Path) -> Result<BTreeMap<String, Artifact>> {
        let mut images = image_packs(&self.artifacts);
        let stage = self.instance.parsed()?;
        let mut taken = BTreeMap::new();
        for output in &*self.instance.outputs {
            let path = out.join(&*output.name);
            if path.is_dir() {
                modes::make_folders_writable(&path)?;
                for empty in files::remove_empty_dirs(&path)? {
                    self.write_log(&format!("the empty folder `{}/{empty}` is not part of the output", output.name));
                }
            }
            let mut artifact = self.store.put(&path, output.kind)?;
            if let Some(role) = stage.base_input(&output.name) {
                let Artifact { hash, size, bases, .. } = self.artifact(role)?.clone();
                artifact.bases = bases;
                artifact.bases.push(BaseCheckpoint { hash, size });
            }
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

    /// Fails if an input changed while the stage ran: the result would be committed under the wrong fingerprint.
    fn check_inputs(&self) -> Result<()> {
        let mut external = ExternalInputs::default();
        for (input, hash) in self.instance.inputs.iter().zip(&self.identity.inputs) {
            match &input.upstream {
                Upstream::External { path } => {
                    if external.hash(self.store, &input.role, path).ok() != Some(*hash) {
                        bail!("`{}` (`{}`) changed while the stage ran", path.display(), input.role);
                    }
                }
                // A program may have written through its link.
                Upstream::Output { .. } => {
                    for artifact in self.artifact(&input.role)?.with_bases() {
                        if self.store.check(&artifact, false)? != ObjectState::Present {
                            self.store.quarantine(&artifact)?;
                            bail!(
                                "its input `{}` changed while the stage ran: inputs are read-only\nhelp: edit a copy instead; the next run produces the input again",
                                input.role
                            );
                        }
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
                "the input `{role}` became corrupt in the store during the run\nhelp: run the same command again: it produces corrupt inputs again"
            );
        }
        for path in self.store.quarantine_extra_files(artifact)? {
            let path = path.display();
            self.write_log(&format!("`{path}` is not part of the input `{role}` and was moved to `quarantine/`"));
        }
        Ok(())
    }

    /// The image packs that rows of a program can name: those of its inputs, and those that it wrote into `out`.
    fn program_packs(&self, out: &Path) -> Result<BTreeMap<Hash, PathBuf>> {
        let mut packs: BTreeMap<Hash, PathBuf> =
            image_packs(&self.artifacts).into_iter().map(|hash| (hash, self.store.object_path(hash))).collect();
        for output in self.instance.outputs.iter().filter(|output| output.kind == ArtifactKind::Images) {
            let path = out.join(&*output.name);
            // A missing or wrong output is reported by its own check.
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                packs.insert(Hash::of_file(&path)?, path);
            }
        }
        Ok(packs)
    }

    fn artifact(&self, role: &str) -> Result<&Artifact> {
        self.artifacts.get(role).with_context(|| format!("BUG: the input `{role}` has no artifact"))
    }

    fn work(&self) -> PathBuf {
        self.store.work_path(self.identity.fingerprint)
    }
}
