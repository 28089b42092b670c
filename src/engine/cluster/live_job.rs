//! A task with a job, as the driver follows it.

use std::path::PathBuf;
use std::time::Instant;

use super::Cluster;
use super::queue::{JobEnd, JobState};
use super::submission::{JobEvent, events_path};
use crate::executor::TaskMessage;
use crate::run_folder::new_lines;
use crate::task::Task;
use ablate_core::base::Hash;
use ablate_store::JobNote;

/// A task with a job.
pub(super) struct Live<'a> {
    pub(super) task: Task<'a>,
    /// The key of the note in the store: the fingerprint, or that of an instance in a detached run.
    pub(super) key: Hash,
    pub(super) note: JobNote,
    pub(super) folder: PathBuf,
    pub(super) memory: Option<u64>,
    pub(super) state: Option<JobState>,
    /// What the accounting says about a job that the queue does not know.
    pub(super) past_end: Option<JobEnd>,
    pub(super) asked_accounting: bool,
    /// Since when it has looked ended.
    pub(super) ended: Option<Instant>,
    pub(super) cancelled: Option<Instant>,
    /// Bytes of its events that were read.
    pub(super) events_read: u64,
    /// When the driver saw that its stage has started.
    pub(super) started: Option<Instant>,
    /// The last text about its state.
    pub(super) shown: String,
}

impl<'a> Live<'a> {
    pub(super) fn new(task: Task<'a>, key: Hash, note: JobNote, folder: PathBuf, cluster: &Cluster) -> Live<'a> {
        Live {
            memory: cluster.resources(task.instance).memory,
            task,
            key,
            note,
            folder,
            state: None,
            past_end: None,
            asked_accounting: false,
            ended: None,
            cancelled: None,
            events_read: 0,
            started: None,
            shown: String::new(),
        }
    }

    /// Seconds since its stage was seen to start; 0 before.
    pub(super) fn seconds(&self) -> f64 {
        self.started.map_or(0.0, |started| started.elapsed().as_secs_f64())
    }

    /// The state in the queue for people; empty while there is nothing to say.
    pub(super) fn describe(&self) -> String {
        let id = self.note.id.as_deref().unwrap_or(&self.note.name);
        match &self.state {
            Some(JobState::Pending { why, start: Some(start) }) => {
                format!("job {id} is pending: {why}, expected to start at {start}")
            }
            Some(JobState::Pending { why, start: None }) => format!("job {id} is pending: {why}"),
            Some(JobState::Running { nodes }) => format!("job {id} starts on {nodes}"),
            Some(JobState::Ended(_)) | None => String::new(),
        }
    }

    /// The new events of the job.
    pub(super) fn read_events(&mut self) -> Vec<TaskMessage> {
        let lines = new_lines(&events_path(&self.folder, self.note.index), &mut self.events_read);
        let mut messages = Vec::new();
        for event in lines.lines().filter_map(|line| serde_json::from_str::<JobEvent>(line).ok()) {
            match event {
                // An attempt after the first one is the same work.
                JobEvent::Started { .. } if self.started.is_some() => {}
                JobEvent::Started { .. } => {
                    self.started = Some(Instant::now());
                    messages.push(TaskMessage::Started(self.task.id));
                }
                JobEvent::Stage(event) => messages.push(TaskMessage::Event(self.task.id, event)),
            }
        }
        messages
    }
}
