//! Distributes what happens in a run: to the observer, the `events` file, the report, the links to outputs, and the
//! notes in the store (the last outcome of an instance by name).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::links::OutputLinks;
use super::observer::Observer;
use super::report::{InstanceReport, Outcome};
use super::run_folder::{EventKind, RunEvent, events_path, log_path};
use ablate_core::base::{StageEvent, files};
use ablate_experiment::{Instance, InstanceId};
use ablate_store::{ExperimentId, LatestNote, SlimRecord, Store};

/// The longest time that lines and notes are buffered, and the shortest time between two progress lines of an instance.
const WRITE_INTERVAL: Duration = Duration::from_millis(200);

pub(super) struct Journal<'a> {
    store: &'a Store,
    experiment: &'a ExperimentId,
    observer: &'a dyn Observer,
    /// Folder of the run.
    folder: &'a Path,
    links: Option<OutputLinks>,
    begun: Instant,
    reports: BTreeMap<InstanceId, InstanceReport>,
    /// Notes that are not written yet.
    notes: Vec<(String, LatestNote)>,
    /// Lines that are not written yet.
    lines: Vec<u8>,
    /// When the first of these lines was added.
    lines_since: Instant,
    file: Option<File>,
    /// Instances whose waiting was reported.
    waiting: BTreeSet<InstanceId>,
    /// Whether the warning about missing links was given.
    warned_of_links: bool,
    /// When the last progress of each instance was written.
    progress: BTreeMap<InstanceId, Instant>,
}

impl<'a> Journal<'a> {
    pub(super) fn new(
        store: &'a Store,
        experiment: &'a ExperimentId,
        observer: &'a dyn Observer,
        folder: &'a Path,
        links: Option<&Path>,
    ) -> Journal<'a> {
        Journal {
            store,
            experiment,
            observer,
            folder,
            links: links.map(OutputLinks::new),
            begun: Instant::now(),
            reports: BTreeMap::new(),
            notes: Vec::new(),
            lines: Vec::new(),
            lines_since: Instant::now(),
            file: files::append(&events_path(folder)).ok(),
            waiting: BTreeSet::new(),
            warned_of_links: false,
            progress: BTreeMap::new(),
        }
    }

    pub(super) fn started(&mut self, instance: &Instance) {
        self.add_line(instance, EventKind::Started);
    }

    /// Reports once that an instance waits for another run.
    pub(super) fn waits(&mut self, id: InstanceId, instance: &Instance, why: &str) {
        if self.waiting.insert(id) {
            self.add_line(instance, EventKind::Waits { why: why.to_string() });
            self.observer.waits(id, instance, why);
        }
    }

    /// Reports the state of an instance's job in the queue of a cluster.
    pub(super) fn queued(&mut self, id: InstanceId, instance: &Instance, state: &str) {
        self.add_line(instance, EventKind::Waits { why: state.to_string() });
        self.observer.queued(id, instance, state);
    }

    pub(super) fn event(&mut self, id: InstanceId, instance: &Instance, event: &StageEvent) {
        if let StageEvent::Progress { done, total, unit, loss, tokens_per_second: _, requests } = event
            && self.progress.get(&id).is_none_or(|last| last.elapsed() >= WRITE_INTERVAL)
        {
            self.progress.insert(id, Instant::now());
            let (unit, requests) = (unit.clone(), requests.clone());
            self.add_line(instance, EventKind::Progress { done: *done, total: *total, unit, loss: *loss, requests });
        }
        self.observer.event(id, instance, event);
    }

    /// Takes the outcome of an instance. With `record`, the outputs are linked. `planned` means that the plan found the
    /// instance fresh, so that there is no event.
    pub(super) fn finished(
        &mut self,
        instance: &Instance,
        report: InstanceReport,
        record: Option<&SlimRecord>,
        planned: bool,
    ) {
        tracing::debug!(instance = instance.name, outcome = ?report.outcome, seconds = report.seconds, "ends");
        let note = self.note(instance, record, &report.outcome);
        self.notes.extend(note.map(|note| (instance.name.clone(), note)));
        if let (Some(links), Some(record)) = (&self.links, record)
            && let Err(error) = links.write(self.store, instance, record)
        {
            // The result itself is safe. What prevents one link usually prevents the others too, so warn once.
            if !std::mem::replace(&mut self.warned_of_links, true) {
                self.observer.warning(&format!(
                    "the results are in the store, but the links to them cannot be written: `{}`: {error:#}\nhelp: choose a writable folder with `--out`",
                    instance.name
                ));
            }
        }
        if !planned {
            let waits_for = match &report.outcome {
                Outcome::Detached { waits_for } => Some(waits_for.clone()),
                _ => None,
            };
            let outcome = report.outcome.name().to_string();
            self.add_line(instance, EventKind::Finished { outcome, seconds: report.seconds, waits_for });
        }
        self.progress.remove(&report.id);
        self.observer.finished(report.id, instance, &report.outcome, report.seconds);
        self.reports.insert(report.id, report);
    }

    /// The note of an outcome; `None` if the store has the same note already.
    fn note(&self, instance: &Instance, record: Option<&SlimRecord>, outcome: &Outcome) -> Option<LatestNote> {
        if record.is_none() && *outcome == Outcome::Fresh {
            return None;
        }
        let log = self.log(instance);
        let old = self.store.latest(self.experiment, &instance.name);
        let relative = log.strip_prefix(self.store.root()).unwrap_or(&log).to_string_lossy().into_owned();
        let note = match (record, outcome) {
            (Some(record), Outcome::Ran | Outcome::Fresh | Outcome::Fetched) => {
                let (fingerprint, log) = (Some(record.fingerprint), Some(record.log.clone()));
                LatestNote { fingerprint, log, failed: false, causes: Vec::new() }
            }
            (_, Outcome::Failed(failure)) if failure.log.is_some() => {
                let (log, causes) = (Some(relative), failure.causes.chain.clone());
                LatestNote { log, failed: true, causes, ..old.clone() }
            }
            (_, Outcome::Interrupted) if log.exists() => LatestNote { log: Some(relative), ..old.clone() },
            (_, Outcome::Detached { .. }) => {
                LatestNote { log: Some(relative), failed: false, causes: Vec::new(), ..old.clone() }
            }
            _ => return None,
        };
        (note != old).then_some(note)
    }

    /// The outcome of an instance, once it has one.
    pub(super) fn outcome(&self, id: InstanceId) -> Option<&Outcome> {
        self.reports.get(&id).map(|report| &report.outcome)
    }

    pub(super) fn into_reports(self) -> Vec<InstanceReport> {
        self.reports.into_values().collect()
    }

    /// Writes the buffers if they are old enough.
    pub(super) fn flush_if_due(&mut self) {
        if self.lines_since.elapsed() >= WRITE_INTERVAL {
            self.flush();
        }
    }

    /// Writes the buffers. A write error loses their content, but does not stop the run.
    pub(super) fn flush(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if let Some(file) = &mut self.file {
            file.write_all(&lines).ok();
        }
        let notes = std::mem::take(&mut self.notes);
        if let Err(error) = self.store.note_latest(self.experiment, &notes) {
            tracing::warn!("the outcomes of {} instances could not be noted: {error:#}", notes.len());
        }
    }

    pub(super) fn log(&self, instance: &Instance) -> PathBuf {
        log_path(self.folder, &instance.name)
    }

    fn add_line(&mut self, instance: &Instance, kind: EventKind) {
        if self.lines.is_empty() {
            self.lines_since = Instant::now();
        }
        let event = RunEvent { seconds: self.begun.elapsed().as_secs_f64(), instance: instance.name.clone(), kind };
        let line = serde_json::to_vec(&event).unwrap_or_else(|error| panic!("BUG: an event is plain data: {error}"));
        self.lines.extend_from_slice(&line);
        self.lines.push(b'\n');
    }
}
