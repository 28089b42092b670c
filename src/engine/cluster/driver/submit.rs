//! How the driver finds the jobs of its tasks in the queue, and submits those that have none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use super::{Driver, FULL_PAUSES, Waiting};
use crate::cluster::SUBCOMMAND;
use crate::cluster::job::declared_variables;
use crate::cluster::live_job::Live;
use crate::cluster::queue::{JobState, QueueEntry, Submission, Submitted};
use crate::cluster::submission::{
    JobResult, MAX_ARRAY, TaskFile, TaskWork, command, comment, detached_key, end_path, submission_name, write_task,
};
use crate::executor::TaskMessage;
use crate::task::TaskResult;
use ablate_core::base::{ErrorChain, Hash, StageEvent, files};
use ablate_experiment::{Instance, JobResources, PortableInstance};
use ablate_store::JobNote;

impl<'a> Driver<'a> {
    /// Follows jobs of earlier runs, and submits the tasks that have none.
    pub(super) fn submit(&mut self) {
        let lock = match self.store.lock_submission() {
            Ok(lock) => lock,
            Err(error) => return self.fail_waiting(&error),
        };
        if let Err(error) = self.adopt() {
            self.silent(&error);
            self.next_submission = Instant::now() + FULL_PAUSES[0];
            return;
        }
        self.finish_fresh();
        let mut groups: BTreeMap<JobResources, Vec<Waiting<'a>>> = BTreeMap::new();
        for one in std::mem::take(&mut self.waiting) {
            groups.entry(self.cluster.resources(one.task.instance)).or_default().push(one);
        }
        for (resources, mut group) in groups {
            let mut size = MAX_ARRAY;
            while !group.is_empty() {
                let rest = group.split_off(group.len().min(size));
                match self.submit_array(&resources, group) {
                    Ok(None) => group = rest,
                    // Perhaps fewer are accepted.
                    Ok(Some((mut refused, _))) if refused.len() > 1 => {
                        size = refused.len() / 2;
                        refused.extend(rest);
                        group = refused;
                    }
                    Ok(Some((refused, words))) => {
                        self.wait_for_space(&words, refused.len() + rest.len());
                        self.waiting.extend(refused);
                        self.waiting.extend(rest);
                        break;
                    }
                    Err((failed, error)) => {
                        let causes = ErrorChain::of(&error);
                        for one in &failed {
                            self.finish(&one.task, TaskResult::Failed(causes.clone()), 0.0);
                        }
                        group = rest;
                    }
                }
            }
        }
        drop(lock);
        self.poll_soon();
    }

    /// Ends the tasks whose result came into the store since the scheduler looked.
    fn finish_fresh(&mut self) {
        for one in std::mem::take(&mut self.waiting) {
            match self.slim_record(&one.task).filter(|_| !one.task.forced) {
                Some(record) => self.finish(&one.task, TaskResult::Fresh(record), 0.0),
                None => self.waiting.push(one),
            }
        }
    }

    fn fail_waiting(&mut self, error: &anyhow::Error) {
        let causes = ErrorChain::of(error);
        for one in std::mem::take(&mut self.waiting) {
            self.finish(&one.task, TaskResult::Failed(causes.clone()), 0.0);
        }
    }

    /// The queue accepts no more jobs now.
    fn wait_for_space(&mut self, words: &str, count: usize) {
        if self.full_pause == FULL_PAUSES[0] {
            let queue = self.cluster.queue.name();
            self.send(TaskMessage::Warning(format!("{queue} accepts no more jobs now, {count} wait: {words}")));
        }
        self.next_submission = Instant::now() + self.full_pause;
        self.full_pause = (self.full_pause * 2).min(FULL_PAUSES[1]);
    }

    /// Follows the jobs of earlier runs that are still in the queue, or that may appear there.
    fn adopt(&mut self) -> Result<()> {
        let note = |one: &Waiting<'_>| {
            let keys = [one.task.identity.fingerprint, detached_key(self.experiment, &one.task.instance.name)];
            let mut notes = keys.into_iter().filter_map(|key| Some((key, self.store.job(key)?)));
            notes.find(|(_, note)| !note.ended).filter(|_| one.may_have_job)
        };
        let notes: Vec<Option<(Hash, JobNote)>> = self.waiting.iter().map(note).collect();
        let names: BTreeSet<String> = notes.iter().flatten().map(|(_, note)| note.name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = names.into_iter().collect();
        let entries = self.cluster.queue.entries(&names)?;
        let entries: BTreeMap<(&str, usize), &QueueEntry> =
            entries.iter().map(|entry| ((entry.name.as_str(), entry.index), entry)).collect();
        for (mut one, note) in std::mem::take(&mut self.waiting).into_iter().zip(notes) {
            one.may_have_job = false;
            let Some((key, note)) = note else {
                self.waiting.push(one);
                continue;
            };
            let folder = self.store.jobs_path().join(&note.name);
            let entry = entries.get(&(note.name.as_str(), note.index));
            // A job that the queue does not know may have been submitted just before the driver was killed.
            let age = jiff::Timestamp::now().as_second().saturating_sub(note.submitted);
            let is_recent = age < self.cluster.table.lost_after.as_secs() as i64;
            let end = end_path(&folder, note.index);
            // Its record may appear later than its end.
            let is_done =
                !one.task.forced && files::read_json::<JobResult>(&end).is_ok_and(|end| end == JobResult::Done);
            let is_live = match entry.map(|entry| &entry.state) {
                Some(JobState::Ended(_)) => is_done,
                Some(JobState::Pending { .. } | JobState::Running { .. }) => true,
                None => is_recent && (is_done || !end.exists()),
            };
            if is_live {
                self.send(TaskMessage::Event(
                    one.task.id,
                    StageEvent::Note { text: "its job is in the queue".to_string() },
                ));
                self.live.push(Live::new(one.task, key, note, folder, self.cluster));
            } else {
                self.waiting.push(one);
            }
        }
        Ok(())
    }

    /// Submits tasks with equal resources. Returns them with the queue's words if it has too little space for them, and with the
    /// error if they cannot be submitted at all.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn submit_array(
        &mut self,
        resources: &JobResources,
        group: Vec<Waiting<'a>>,
    ) -> Result<Option<(Vec<Waiting<'a>>, String)>, (Vec<Waiting<'a>>, anyhow::Error)> {
        let prepared = self.prepare(resources, &group);
        let (name, folder, notes, variables) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err((group, error)),
        };
        let command = command(self.cluster, SUBCOMMAND, &folder);
        let comment = comment(&self.experiment.name, group.iter().map(|one| one.task.instance));
        let submitted = self.cluster.queue.submit(&Submission {
            name: &name,
            count: group.len(),
            resources,
            folder: &folder,
            command: &command,
            after: &[],
            requeues: 0,
            variables: &variables,
            comment: &comment,
        });
        let keys = group.iter().map(|one| one.task.identity.fingerprint);
        let mut notes: Vec<(Hash, JobNote)> = keys.zip(notes).collect();
        let accepted = matches!(submitted, Submitted::Accepted(_) | Submitted::Unknown(_));
        for (_, note) in &mut notes {
            note.ended = !accepted;
            if let Submitted::Accepted(id) = &submitted {
                note.id = Some(self.cluster.queue.job_id(id, note.index));
            }
        }
        if let Err(error) = self.store.note_jobs(&notes) {
            // The jobs are found by their name.
            self.send(TaskMessage::Warning(format!("the ids of {} jobs could not be noted: {error:#}", notes.len())));
        }
        let queue = self.cluster.queue.name();
        match submitted {
            Submitted::Full(words) => {
                files::remove_dir(&folder).ok();
                return Ok(Some((group, words)));
            }
            Submitted::Refused(words) => {
                files::remove_dir(&folder).ok();
                let chain = vec![format!("{queue} does not accept its job: {words}")];
                for one in &group {
                    let causes = ErrorChain { chain: chain.clone(), input: true };
                    self.finish(&one.task, TaskResult::Failed(causes), 0.0);
                }
                return Ok(None);
            }
            Submitted::Unknown(words) => self.send(TaskMessage::Warning(format!(
                "{queue} gave no answer to the submission of {name}, which is looked for in the queue: {words}"
            ))),
            Submitted::Accepted(_) => {}
        }
        self.full_pause = FULL_PAUSES[0];
        for (one, (key, note)) in group.into_iter().zip(notes) {
            self.live.push(Live::new(one.task, key, note, folder.clone(), self.cluster));
        }
        Ok(None)
    }

    /// Writes the tasks, and notes that they are about to be submitted.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn prepare(
        &self,
        resources: &JobResources,
        group: &[Waiting<'a>],
    ) -> Result<(String, PathBuf, Vec<JobNote>, Vec<(String, String)>)> {
        let instances: Vec<&Instance> = group.iter().map(|one| one.task.instance).collect();
        let variables = declared_variables(&instances)?;
        let name = submission_name(&self.run);
        let folder = self.store.jobs_path().join(&name);
        files::create_private_dir(&folder)?;
        let mut notes = Vec::with_capacity(group.len());
        for (index, Waiting { task, resumes, .. }) in group.iter().enumerate() {
            let file = TaskFile {
                work: TaskWork::Ready {
                    instance: Box::new(PortableInstance::from(task.instance)),
                    inputs: task.identity.inputs.clone(),
                    fingerprint: task.identity.fingerprint,
                    artifacts: task.artifacts.clone(),
                },
                experiment: self.experiment.clone(),
                store: self.store.root().to_path_buf(),
                log: std::path::absolute(&task.log).context("the working directory does not exist any more")?,
                forced: task.forced,
                retry: task.retry.clone(),
                time: task.time,
                gpu: resources.gpu,
                memory: resources.memory,
            };
            write_task(&folder, index, &file)?;
            notes.push(JobNote {
                name: name.clone(),
                index,
                id: None,
                instance: task.instance.name.clone(),
                run: self.run.clone(),
                submitted: jiff::Timestamp::now().as_second(),
                resumes: *resumes,
                ended: false,
            });
        }
        let keys = group.iter().map(|one| one.task.identity.fingerprint);
        self.store.note_jobs(&keys.zip(notes.iter().cloned()).collect::<Vec<_>>())?;
        files::crash_point("job: noted");
        Ok((name, folder, notes, variables))
    }
}
