//! The jobs of a cluster, as `plan`, `status` and `doctor` print them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::format::duration;
use ablate_engine::cluster::{Cluster, JobState};
use ablate_experiment::{Instance, JobResources};
use ablate_store::JobNote;

/// Jobs with equal resources that a run would submit.
pub(super) struct JobGroup {
    count: usize,
    resources: JobResources,
    /// When such a job would start, or why it never would.
    start: Result<String, String>,
}

/// The jobs of these instances by their resources, and when the queue would start one of each.
pub(super) fn job_groups<'a>(cluster: &Cluster, instances: impl Iterator<Item = &'a Instance>) -> Vec<JobGroup> {
    let mut counts: BTreeMap<JobResources, usize> = BTreeMap::new();
    for instance in instances.filter(|instance| !cluster.is_local(instance)) {
        *counts.entry(cluster.resources(instance)).or_default() += 1;
    }
    let group = |(resources, count): (JobResources, usize)| {
        let start = cluster.queue.expected_start(&resources).map_err(|error| format!("{error:#}"));
        JobGroup { count, resources, start }
    };
    counts.into_iter().map(group).collect()
}

impl JobGroup {
    pub(super) fn render(&self) -> String {
        let jobs = if self.count == 1 { "1 job".to_string() } else { format!("{} jobs", self.count) };
        let start = match &self.start {
            Ok(start) => format!("would start at {start}"),
            Err(why) => format!("would be refused: {why}"),
        };
        format!("{jobs} with {}: {start}", resources_text(&self.resources))
    }

    pub(super) fn json(&self) -> Value {
        let (start, refused) = (self.start.as_ref().ok(), self.start.as_ref().err());
        json!({ "count": self.count, "resources": self.resources, "start": start, "refused": refused })
    }
}

/// Such as `2 cores, 1 GPU, 16 GiB, 4 h in the partition gpu`.
pub(super) fn resources_text(resources: &JobResources) -> String {
    let JobResources { partition, account, qos, time, cpus, gpu, nodes, memory, setup: _, options } = resources;
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut parts = Vec::new();
    parts.extend((*nodes > 1).then(|| format!("{}, each with", counted(*nodes, "node"))));
    parts.push(cpus.map_or("the default cores".to_string(), |cpus| counted(cpus, "core")));
    parts.extend((*gpu > 0).then(|| counted(*gpu, "GPU")));
    parts.push(memory.map_or("the default memory".to_string(), |memory| match memory % 1024 {
        0 => format!("{} GiB", memory / 1024),
        _ => format!("{memory} MiB"),
    }));
    parts.push(time.map_or("the default time".to_string(), |time| duration(time.as_secs_f64())));
    let mut text = parts.join(", ").replace("with,", "with");
    for (what, value) in [("the partition", partition), ("the account", account), ("the QOS", qos)] {
        text.push_str(&value.as_ref().map(|value| format!(", {what} {value}")).unwrap_or_default());
    }
    if !options.is_empty() {
        text.push_str(&format!(", {}", options.join(" ")));
    }
    text
}

/// The number of jobs by state, such as `3 running, 12 pending (Priority)`. `has_result` is whether the result of a job that is not in
/// the queue is in the store.
pub(super) fn count_states(
    jobs: &[(JobNote, Option<JobState>)],
    has_result: &dyn Fn(&JobNote) -> bool,
) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (note, state) in jobs {
        let word = match state {
            Some(JobState::Pending { why, .. }) => format!("pending ({why})"),
            Some(JobState::Running { .. }) => "running".to_string(),
            Some(JobState::Ended(_)) | None if has_result(note) => "with a result".to_string(),
            Some(JobState::Ended(_)) | None => "not in the queue any more and without a result".to_string(),
        };
        *counts.entry(word).or_default() += 1;
    }
    counts
}
