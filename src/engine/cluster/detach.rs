//! Submits a whole graph of instances with dependencies, for a run without a driver.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, bail};

use super::job::declared_variables;
use super::queue::{Submission, Submitted};
use super::submission::{MAX_ARRAY, TaskFile, TaskWork, command, comment, detached_key, submission_name, write_task};
use super::{Cluster, SUBCOMMAND};
use crate::graph::Graph;
use crate::options::RunOptions;
use crate::run_folder::log_path;
use ablate_core::base::files;
use ablate_experiment::{Expansion, Instance, InstanceId, JobResources, PortableInstance};
use ablate_store::{ExperimentId, JobNote, Store};

/// What the jobs of a detached run share.
pub(crate) struct DetachContext<'a> {
    pub(crate) store: &'a Store,
    pub(crate) cluster: &'a Cluster,
    pub(crate) experiment: &'a ExperimentId,
    pub(crate) options: &'a RunOptions,
    /// Folder of the run.
    pub(crate) folder: &'a Path,
}

/// Submits the jobs of `instances`, which are in topological order: all that must run. Each starts when those that it needs have
/// succeeded. Returns the queue's id of each job.
///
/// Errors: a stage that only the driver can run; the queue refuses a job or does not answer. The jobs before it are
/// cancelled then.
pub(crate) fn detach(
    expansion: &Expansion,
    instances: &[InstanceId],
    context: &DetachContext<'_>,
) -> Result<Vec<(InstanceId, String)>> {
    let DetachContext { store, cluster, folder, .. } = context;
    if let Some(local) = instances.iter().map(|id| expansion.get(*id)).find(|instance| cluster.is_local(instance)) {
        bail!(
            "`{}` does not run as a job: it asks an endpoint, or `executor.slurm.local` names it\nhelp: run it first, \
             with `ablate run --until '{}'`",
            local.name,
            local.name
        );
    }
    let all: Vec<PortableInstance> = expansion.instances.iter().map(PortableInstance::from).collect();
    let file = std::path::absolute(folder)?.join("instances.json");
    files::write_private(&file, &serde_json::to_vec(&all)?)?;
    let graph = Graph::new(expansion);
    let _lock = store.lock_submission()?;
    let mut jobs: BTreeMap<InstanceId, String> = BTreeMap::new();
    let mut left: Vec<InstanceId> = instances.to_vec();
    while !left.is_empty() {
        // Everything whose upstream has jobs can be submitted now.
        let is_waiting = |id: &InstanceId| graph.upstream(*id).iter().any(|up| left.contains(up));
        let (waiting, ready): (Vec<InstanceId>, Vec<InstanceId>) = left.iter().partition(|id| is_waiting(id));
        let mut groups: BTreeMap<(JobResources, BTreeSet<String>), Vec<InstanceId>> = BTreeMap::new();
        for id in ready {
            let after = graph.upstream(id).iter().filter_map(|up| jobs.get(up).cloned()).collect();
            groups.entry((cluster.resources(expansion.get(id)), after)).or_default().push(id);
        }
        for ((resources, after), ids) in groups {
            let after: Vec<String> = after.into_iter().collect();
            for part in ids.chunks(MAX_ARRAY) {
                match context.submit(expansion, &file, &resources, &after, part) {
                    Ok(submitted) => jobs.extend(submitted),
                    Err(error) => {
                        let ids: Vec<String> = jobs.into_values().collect();
                        if !ids.is_empty() {
                            cluster.queue.cancel(&ids)?;
                        }
                        return Err(error);
                    }
                }
            }
        }
        left = waiting;
    }
    Ok(jobs.into_iter().collect())
}

impl DetachContext<'_> {
    fn submit(
        &self,
        expansion: &Expansion,
        file: &Path,
        resources: &JobResources,
        after: &[String],
        ids: &[InstanceId],
    ) -> Result<Vec<(InstanceId, String)>> {
        let instances: Vec<&Instance> = ids.iter().map(|id| expansion.get(*id)).collect();
        let all_instances = file;
        let run = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = submission_name(&run);
        let folder = self.store.jobs_path().join(&name);
        files::create_private_dir(&folder)?;
        let mut notes = Vec::new();
        for (index, instance) in instances.iter().enumerate() {
            let file = TaskFile {
                work: TaskWork::Planned { instances: all_instances.to_path_buf(), instance: instance.name.clone() },
                experiment: self.experiment.clone(),
                store: self.store.root().to_path_buf(),
                log: std::path::absolute(log_path(self.folder, &instance.name))?,
                forced: false,
                retry: BTreeSet::new(),
                time: self.options.time,
                gpu: resources.gpu,
                memory: resources.memory,
            };
            write_task(&folder, index, &file)?;
            let key = detached_key(self.experiment, &instance.name);
            let submitted = jiff::Timestamp::now().as_second();
            let (name, instance, run) = (name.clone(), instance.name.clone(), run.clone());
            notes.push((key, JobNote { name, index, id: None, instance, run, submitted, resumes: 0, ended: false }));
        }
        self.store.note_jobs(&notes)?;
        let submitted = self.cluster.queue.submit(&Submission {
            name: &name,
            count: ids.len(),
            resources,
            folder: &folder,
            command: &command(self.cluster, SUBCOMMAND, &folder),
            after,
            requeues: self.cluster.table.resumes,
            variables: &declared_variables(&instances)?,
            comment: &comment(&self.experiment.name, instances.iter().copied()),
        });
        let queue = self.cluster.queue.name();
        let id = match submitted {
            Submitted::Accepted(id) => id,
            Submitted::Refused(words) | Submitted::Full(words) => bail!("{queue} does not accept {name}: {words}"),
            Submitted::Unknown(words) => {
                bail!("{queue} gave no answer to the submission of {name}, which may be in the queue: {words}")
            }
        };
        for (_, note) in &mut notes {
            note.id = Some(self.cluster.queue.job_id(&id, note.index));
        }
        self.store.note_jobs(&notes)?;
        let jobs = ids.iter().enumerate().map(|(index, at)| (*at, self.cluster.queue.job_id(&id, index)));
        Ok(jobs.collect())
    }
}
