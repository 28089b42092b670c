//! The journal of a run: what happens to its instances, kept where people and later runs look for it: in the run's
//! report, under the instance's name in the store, as links, in the run's own file, and told to the observer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::publish::{self, Links};
use super::run::{InstanceReport, Observer, Outcome};
use ablate_core::base::{StageEvent, files};
use ablate_experiment::{Instance, InstanceId};
use ablate_store::{ExperimentId, LatestNote, SlimRecord, Store, file_name};

/// How long what has happened may wait to be written.
const WRITE_AFTER: Duration = Duration::from_millis(200);

/// Something that happened: one line of the run's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Happening {
    /// Seconds since the run began.
    pub(super) at: f64,
    pub(super) instance: String,
    #[serde(flatten)]
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub(super) enum What {
    Started,
    /// Another run has something that it needs.
    Waits {
        why: String,
    },
    Progress {
        done: u64,
        total: u64,
        unit: String,
        loss: Option<f64>,
    },
    /// The outcome in one word: `ran`, `fresh`, `failed`, `skipped`, `interrupted`.
    Finished {
        outcome: String,
        seconds: f64,
    },
}

pub(super) struct Journal<'a> {
    store: &'a Store,
    experiment: &'a ExperimentId,
    observer: &'a dyn Observer,
    /// Folder of the run.
    folder: &'a Path,
    links: Option<Links>,
    begun: Instant,
    reports: BTreeMap<InstanceId, InstanceReport>,
    /// Notes that are not written yet.
    notes: Vec<(String, LatestNote)>,
    /// Lines that are not written yet, and since when there are some.
    lines: Vec<u8>,
    lines_since: Instant,
    file: Option<File>,
    /// Instances of which it was said that they wait.
    waiting: BTreeSet<InstanceId>,
    /// Whether it was said that results cannot be linked.
    unlinked: bool,
    /// When the last progress of an instance was noted.
    progress: BTreeMap<InstanceId, Instant>,
}

impl<'a> Journal<'a> {
    pub(super) fn new(
        store: &'a Store,
        experiment: &'a ExperimentId,
        observer: &'a dyn Observer,
        folder: &'a Path,
        out: Option<&Path>,
    ) -> Journal<'a> {
        Journal {
            store,
            experiment,
            observer,
            folder,
            links: out.map(|out| Links::new(out, &experiment.name)),
            begun: Instant::now(),
            reports: BTreeMap::new(),
            notes: Vec::new(),
            lines: Vec::new(),
            lines_since: Instant::now(),
            file: files::append(&folder.join("events")).ok(),
            waiting: BTreeSet::new(),
            unlinked: false,
            progress: BTreeMap::new(),
        }
    }

    pub(super) fn started(&mut self, instance: &Instance) {
        self.line(instance, What::Started);
    }

    /// Says once that an instance waits for another run.
    pub(super) fn waits(&mut self, id: InstanceId, instance: &Instance, why: &str) {
        if self.waiting.insert(id) {
            self.line(instance, What::Waits { why: why.to_string() });
            self.observer.waits(id, instance, why);
        }
    }

    pub(super) fn event(&mut self, id: InstanceId, instance: &Instance, event: &StageEvent) {
        if let StageEvent::Progress { done, total, unit, loss, .. } = event
            && self.progress.get(&id).is_none_or(|last| last.elapsed() >= WRITE_AFTER)
        {
            self.progress.insert(id, Instant::now());
            self.line(instance, What::Progress { done: *done, total: *total, unit: unit.clone(), loss: *loss });
        }
        self.observer.event(id, instance, event);
    }

    /// Keeps an outcome. `record` is there when it is to be reached by name; `planned` when nothing happened but that the
    /// plan found it fresh.
    pub(super) fn finished(
        &mut self,
        instance: &Instance,
        report: InstanceReport,
        record: Option<&SlimRecord>,
        planned: bool,
    ) {
        tracing::debug!(instance = instance.name, outcome = ?report.outcome, seconds = report.seconds, "ends");
        let note = publish::note(self.store, self.experiment, instance, record, &report.outcome, &self.log(instance));
        self.notes.extend(note.map(|note| (instance.name.clone(), note)));
        if let (Some(links), Some(record)) = (&self.links, record)
            && let Err(error) = links.make(self.store, instance, record)
        {
            // The result itself is safe. What keeps one link from being made keeps most others too.
            if !std::mem::replace(&mut self.unlinked, true) {
                self.observer.warning(&format!(
                    "results are in the store, but cannot be reached by name: `{}`: {error:#}\nhelp: name a folder that can be written with `--out`",
                    instance.name
                ));
            }
        }
        if !planned {
            self.line(instance, What::Finished { outcome: report.outcome.word().to_string(), seconds: report.seconds });
        }
        self.progress.remove(&report.id);
        self.observer.finished(report.id, instance, &report.outcome, report.seconds);
        self.reports.insert(report.id, report);
    }

    /// What is known of an instance's outcome.
    pub(super) fn outcome(&self, id: InstanceId) -> Option<&Outcome> {
        self.reports.get(&id).map(|report| &report.outcome)
    }

    pub(super) fn into_reports(self) -> Vec<InstanceReport> {
        self.reports.into_values().collect()
    }

    /// Writes what has waited long enough.
    pub(super) fn turn(&mut self) {
        if self.lines_since.elapsed() >= WRITE_AFTER {
            self.write();
        }
    }

    /// Writes everything. What cannot be written now is lost: the stages that run must not suffer from it.
    pub(super) fn write(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if let Some(file) = &mut self.file {
            file.write_all(&lines).ok();
        }
        let notes = std::mem::take(&mut self.notes);
        if let Err(error) = self.store.note_latest(self.experiment, &notes) {
            tracing::warn!("what became of {} instances could not be noted: {error:#}", notes.len());
        }
    }

    pub(super) fn log(&self, instance: &Instance) -> PathBuf {
        self.folder.join("logs").join(format!("{}.log", file_name(&instance.name)))
    }

    fn line(&mut self, instance: &Instance, what: What) {
        if self.lines.is_empty() {
            self.lines_since = Instant::now();
        }
        let happening = Happening { at: self.begun.elapsed().as_secs_f64(), instance: instance.name.clone(), what };
        let line = serde_json::to_vec(&happening).unwrap_or_else(|error| panic!("BUG: a happening is data: {error}"));
        self.lines.extend_from_slice(&line);
        self.lines.push(b'\n');
    }
}
