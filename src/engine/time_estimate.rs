//! The time that a run would take, from the history of the store: per stage, and in all with a number of jobs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Serialize;

use super::graph::Graph;
use super::options::RunOptions;
use super::plan::{Plan, PlanState};
use super::run_state::{InstanceState, RunState};
use super::time_history::{Features, TimeHistory};
use ablate_core::stage::{Kind, Manifest, Pool, Range};
use ablate_experiment::{Expansion, InstanceId, Upstream};
use ablate_store::Store;

/// Half the width of an 80 % interval, in standard deviations.
const INTERVAL: f64 = 1.2816;

/// The predicted time of a run. Stages without a prediction are counted and not included.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimeEstimate {
    /// From the start of the run to its end, with this many jobs.
    pub seconds: Range,
    pub jobs: usize,
    /// The sum over all stages, each alone.
    pub stage_seconds: Range,
    /// Hours of GPUs; absent without a stage on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_hours: Option<Range>,
    /// By stage in the order of the experiment.
    pub stages: Vec<StageTime>,
    /// Instances whose kind has never run in this store, by kind.
    pub unknown: BTreeMap<String, usize>,
}

/// The predicted time of the instances of one stage that would run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageTime {
    pub stage: String,
    pub instances: usize,
    /// The sum over its instances. `None` if its kind has never run in this store.
    pub seconds: Option<Range>,
}

/// Predicts the run of the `selected` instances that are not fresh. Those in `shared` are made by an earlier run: they take no
/// time.
pub fn estimate_time(
    expansion: &Expansion,
    store: &Store,
    plan: &Plan,
    selected: &BTreeSet<InstanceId>,
    shared: &BTreeSet<InstanceId>,
    options: &RunOptions,
) -> Result<TimeEstimate> {
    let running: Vec<InstanceId> =
        selected.iter().copied().filter(|id| plan.get(*id).state != PlanState::Fresh).collect();
    let mut kinds: Vec<&'static Kind> = Vec::new();
    for id in &running {
        let kind = expansion.get(*id).kind;
        if !kinds.iter().any(|known| known.name == kind.name) {
            kinds.push(kind);
        }
    }
    let history = TimeHistory::read(store, &kinds)?;
    let graph = Graph::new(expansion);
    let state = RunState::new(expansion, &graph, options);
    let mut predictions = Predictions { expansion, plan, history, state, sizes: BTreeMap::new(), of: BTreeMap::new() };
    for id in &running {
        predictions.add(*id)?;
    }
    let Predictions { state, of, .. } = predictions;
    let running: Vec<InstanceId> = running.into_iter().filter(|id| !shared.contains(id)).collect();
    Ok(total(expansion, &running, &of, state, options.jobs.max(1)))
}

/// The prediction of one instance.
#[derive(Clone, Copy)]
struct InstanceTime {
    /// Seconds, or seconds times threads if `parallel`.
    seconds: f64,
    error: f64,
    /// Whether it uses the threads that a run gives to a stage.
    parallel: bool,
    gpus: usize,
}

impl InstanceTime {
    fn with_threads(self, threads: usize) -> f64 {
        if self.parallel { self.seconds / threads.max(1) as f64 } else { self.seconds }
    }
}

struct Predictions<'a> {
    expansion: &'a Expansion,
    plan: &'a Plan,
    history: TimeHistory,
    state: RunState,
    /// Predicted bytes of outputs that do not exist yet.
    sizes: BTreeMap<(InstanceId, String), f64>,
    of: BTreeMap<InstanceId, InstanceTime>,
}

impl Predictions<'_> {
    /// Predicts an instance. Those that it reads come first.
    fn add(&mut self, id: InstanceId) -> Result<()> {
        let instance = self.expansion.get(id);
        let manifest: Manifest = serde_json::from_str(&instance.identity)
            .with_context(|| format!("BUG: the identity of `{}` is not a manifest", instance.name))?;
        let mut features = Features::of_manifest(&manifest, instance.kind);
        features.seed = Some(instance.seed);
        let inputs = instance.inputs.iter().filter_map(|input| match &input.upstream {
            Upstream::Output { instance, output, kind } => Some((*kind, self.size(*instance, output))),
            Upstream::External { .. } | Upstream::Environment { .. } => None,
        });
        features.add_inputs(inputs.collect::<Vec<_>>().into_iter());
        let gpus = self.state.gpus_of(id);
        let Some(predicted) = self.history.predict(instance.kind, &features, gpus > 0) else { return Ok(()) };
        self.sizes.extend(predicted.outputs.into_iter().map(|(name, size)| ((id, name), size)));
        let parallel = gpus == 0 && instance.kind.pool == Pool::Model;
        self.of.insert(id, InstanceTime { seconds: predicted.seconds, error: predicted.error, parallel, gpus });
        Ok(())
    }

    /// Bytes of an output: measured if it exists, else predicted.
    fn size(&self, id: InstanceId, output: &str) -> Option<f64> {
        let entry = self.plan.get(id);
        let record = entry.record.as_ref().filter(|_| entry.state == PlanState::Fresh);
        let stored =
            record.and_then(|record| record.outputs.get(output)).map(|artifact| artifact.size_with_bases() as f64);
        stored.or_else(|| self.sizes.get(&(id, output.to_string())).copied())
    }
}

fn total(
    expansion: &Expansion,
    running: &[InstanceId],
    times: &BTreeMap<InstanceId, InstanceTime>,
    state: RunState,
    jobs: usize,
) -> TimeEstimate {
    let cores = state.cores();
    let (mut all, mut on_gpus) = (Sum::default(), Sum::default());
    let mut stages: Vec<(String, usize, Sum)> = Vec::new();
    let mut unknown: BTreeMap<String, usize> = BTreeMap::new();
    for id in running {
        let instance = expansion.get(*id);
        let place = stages.iter().position(|(stage, ..)| *stage == instance.stage).unwrap_or_else(|| {
            stages.push((instance.stage.clone(), 0, Sum::default()));
            stages.len() - 1
        });
        stages[place].1 += 1;
        let Some(time) = times.get(id) else {
            *unknown.entry(instance.kind.name.to_string()).or_default() += 1;
            continue;
        };
        let alone = time.with_threads(cores);
        for sum in [&mut all, &mut stages[place].2] {
            sum.add(instance.kind.name, alone, time.error);
        }
        if time.gpus > 0 {
            on_gpus.add(instance.kind.name, alone * time.gpus as f64 / 3600.0, time.error);
        }
    }
    let seconds = simulate(expansion, running, times, state);
    let stage_seconds = all.range();
    let scale = if stage_seconds.expected > 0.0 { seconds / stage_seconds.expected } else { 0.0 };
    let seconds = Range { low: stage_seconds.low * scale, expected: seconds, high: stage_seconds.high * scale };
    let stages = stages.into_iter().map(|(stage, instances, sum)| StageTime {
        stage,
        instances,
        seconds: (!sum.kinds.is_empty()).then(|| sum.range()),
    });
    TimeEstimate {
        seconds,
        jobs,
        stage_seconds,
        gpu_hours: (!on_gpus.kinds.is_empty()).then(|| on_gpus.range()),
        stages: stages.collect(),
        unknown,
    }
}

/// A sum of predictions. The errors of one kind are correlated, those of different kinds are independent.
#[derive(Default)]
struct Sum {
    /// By kind: the sum and the sum of the absolute errors.
    kinds: BTreeMap<&'static str, (f64, f64)>,
}

impl Sum {
    fn add(&mut self, kind: &'static str, value: f64, error: f64) {
        let (sum, errors) = self.kinds.entry(kind).or_default();
        *sum += value;
        *errors += value * error;
    }

    /// The 80 % interval of a log-normal distribution.
    fn range(&self) -> Range {
        let expected: f64 = self.kinds.values().map(|(sum, _)| sum).sum();
        let error = self.kinds.values().map(|(_, errors)| errors * errors).sum::<f64>().sqrt();
        let factor = if expected > 0.0 { (INTERVAL * error / expected).exp() } else { 1.0 };
        Range { low: expected / factor, expected, high: expected * factor }
    }
}

/// The seconds until the last stage ends, with the queues and slots of a run. A stage without a prediction takes no time.
fn simulate(
    expansion: &Expansion,
    running: &[InstanceId],
    times: &BTreeMap<InstanceId, InstanceTime>,
    mut state: RunState,
) -> f64 {
    let must_run: BTreeSet<InstanceId> = running.iter().copied().collect();
    let mut waits_for: BTreeMap<InstanceId, usize> = BTreeMap::new();
    let mut readers: BTreeMap<InstanceId, Vec<InstanceId>> = BTreeMap::new();
    for id in running {
        let upstream: BTreeSet<InstanceId> = expansion
            .get(*id)
            .inputs
            .iter()
            .filter_map(|input| match input.upstream {
                Upstream::Output { instance, .. } => Some(instance),
                Upstream::External { .. } | Upstream::Environment { .. } => None,
            })
            .filter(|instance| must_run.contains(instance))
            .collect();
        waits_for.insert(*id, upstream.len());
        for above in &upstream {
            readers.entry(*above).or_default().push(*id);
        }
        if upstream.is_empty() {
            state.set(*id, InstanceState::Ready);
        }
    }
    let (mut now, mut ends): (f64, Vec<(f64, InstanceId)>) = (0.0, Vec::new());
    loop {
        while let Some(id) = state.next() {
            let threads = state.threads();
            let devices = state.free_devices_for(id);
            state.start(id, devices);
            let seconds = times.get(&id).map_or(0.0, |time| time.with_threads(threads));
            ends.push((now + seconds, id));
        }
        let first =
            ends.iter().enumerate().min_by(|(_, one), (_, other)| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        // Stages that need more GPUs than there are never start.
        let Some((place, _)) = first else { return now };
        let (end, id) = ends.swap_remove(place);
        now = end;
        state.set(id, InstanceState::Done);
        for reader in readers.remove(&id).unwrap_or_default() {
            if let Some(count) = waits_for.get_mut(&reader) {
                *count -= 1;
                if *count == 0 {
                    state.set(reader, InstanceState::Ready);
                }
            }
        }
    }
}
