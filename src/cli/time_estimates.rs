//! The time that a run would take, as `plan` prints it.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;

use super::format::duration;
use super::resources::ResourceArgs;
use super::session::Session;
use ablate_core::base::Hash;
use ablate_core::stage::Range;
use ablate_engine::{Plan, ProcessLauncher, RunOptions, StageTime, TimeEstimate};
use ablate_experiment::{Configuration, InstanceId};

/// Stages shown one by one; the rest is counted.
const MAX_STAGES: usize = 12;

/// The instances of the experiments before, which run first: equal instances run once.
#[derive(Default)]
pub(super) struct EarlierExperiments(BTreeSet<Hash>);

/// Predicts the time of the selected instances that are not fresh and that no earlier experiment runs.
pub(super) fn estimate(
    session: &Session,
    plan: &Plan,
    selected: &BTreeSet<InstanceId>,
    resources: &ResourceArgs,
    configuration: &Configuration,
    earlier: &mut EarlierExperiments,
) -> Result<TimeEstimate> {
    let hashes = session.expansion.static_hashes();
    let shared: BTreeSet<InstanceId> = selected.iter().copied().filter(|id| !earlier.0.insert(hashes[id.0])).collect();
    let options = RunOptions::new(Arc::new(ProcessLauncher::current()?));
    let options = resources.apply(&session.expansion, &session.experiment.settings, configuration, options)?;
    ablate_engine::estimate_time(&session.expansion, &session.store, plan, selected, &shared, &options)
}

/// The total first, then the stages that take longest.
pub(super) fn render(time: &TimeEstimate) -> String {
    let mut text = String::new();
    let known: Vec<(&StageTime, Range)> =
        time.stages.iter().filter_map(|stage| Some((stage, stage.seconds?))).collect();
    if !known.is_empty() {
        let jobs = if time.jobs == 1 { "1 job".to_string() } else { format!("{} jobs", time.jobs) };
        let gpus = time.gpu_hours.map(|hours| format!(", {} GPU hours", hours_range(&hours))).unwrap_or_default();
        text.push_str(&format!(
            "time: about {} with {jobs}{gpus}, from earlier stages of the same kinds\n",
            duration_range(&time.seconds)
        ));
        let mut longest = known.clone();
        longest.sort_by(|(_, one), (_, other)| other.expected.total_cmp(&one.expected));
        for (stage, seconds) in longest.iter().take(MAX_STAGES).filter(|_| known.len() > 1) {
            let instances =
                if stage.instances == 1 { String::new() } else { format!(" ({} instances)", stage.instances) };
            text.push_str(&format!("  {}{instances}: {}\n", stage.stage, duration_range(seconds)));
        }
        if longest.len() > MAX_STAGES {
            text.push_str(&format!("  and {} more stages\n", longest.len() - MAX_STAGES));
        }
    }
    if let Some(unknown) = unknown_kinds(time) {
        let included = if known.is_empty() { "time: cannot be predicted" } else { "not included" };
        text.push_str(&format!("{included}: {unknown}\n"));
    }
    text
}

/// Such as `3 stages of the kind sft have never run in this store`; `None` if all kinds have.
pub(super) fn unknown_kinds(time: &TimeEstimate) -> Option<String> {
    let kind = |(kind, count): (&String, &usize)| {
        format!("{count} {} of the kind `{kind}`", if *count == 1 { "stage" } else { "stages" })
    };
    let kinds: Vec<String> = time.unknown.iter().map(kind).collect();
    (!kinds.is_empty()).then(|| format!("{}: no stage of the kind has run in this store", kinds.join(", ")))
}

/// Such as `2 min 10 s (1 min 40 s to 2 min 50 s)`.
pub(super) fn duration_range(seconds: &Range) -> String {
    format!("{} ({} to {})", duration(seconds.expected), duration(seconds.low), duration(seconds.high))
}

pub(super) fn hours_range(hours: &Range) -> String {
    format!("{:.2} ({:.2} to {:.2})", hours.expected, hours.low, hours.high)
}
