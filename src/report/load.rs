//! Loads the input of a report from the records and outputs in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::input::{
    Cost, CreditedInstance, Curve, Evaluation, GraphNode, MeasuredBudget, MixtureAxis, NodeState, ReportInput,
    ScoreSource, StageDetails, TimeSpan, TrainingRun,
};
use super::made_by::{MadeBy, Origin};
use super::results::ExperimentResults;
use super::stage_details;
use super::token_credit::{self, INSTANCES, QUESTIONS};
use ablate_core::base::Hash;
use ablate_core::stage::ArtifactKind;
use ablate_data::images::ImagePacks;
use ablate_data::jsonl;
use ablate_data::records::CreditedItem;
use ablate_engine::history::PastRun;
use ablate_engine::{Plan, PlanState};
use ablate_experiment::{Expansion, Experiment, Instance, InstanceId, Lineage, ReportSpec, Upstream};
use ablate_store::{Provenance, SlimRecord, StageRecord, Store};

/// Most bytes of the page that its answers and their images take. The page then has less than 20 MB.
pub const ANSWER_BYTES: usize = 13 << 20;

/// Loads the input for all reports of an experiment, or for the one report whose name is `only`. An instance without an
/// up-to-date result has no scores and no curve. A result counts as reused if the run of `origin` did not make it.
///
/// Errors: an unreadable output, or a name in `only` that the experiment does not have.
pub fn load_input(
    experiment: &Experiment,
    expansion: &Expansion,
    plan: &Plan,
    store: &Store,
    origin: &Origin,
    only: Option<&str>,
) -> Result<ReportInput<'static>> {
    let specs: Vec<&ReportSpec> =
        experiment.reports.iter().filter(|spec| only.is_none_or(|name| spec.name == name)).collect();
    if let (Some(name), true) = (only, specs.is_empty()) {
        let known: Vec<String> = experiment.reports.iter().map(|spec| format!("`{}`", spec.name)).collect();
        let known = match known.as_slice() {
            [] => "it has no reports".to_string(),
            names => format!("its reports are {}", names.join(", ")),
        };
        anyhow::bail!("`{}` has no report `{name}`: {known}", experiment.path.display());
    }
    let ran = origin.run.as_ref().map(PastRun::ran);
    let results = Results { expansion, plan, store, ran };
    let stages: BTreeSet<&str> = specs.iter().map(|spec| spec.stage.as_str()).collect();
    let mut evaluations = Vec::new();
    let mut packs: BTreeMap<Hash, PathBuf> = BTreeMap::new();
    let (mut trainings, mut known): (Vec<TrainingRun>, BTreeMap<InstanceId, usize>) = Default::default();
    for stage in stages {
        for (point, id) in expansion.points_of(stage) {
            packs.extend(results.packs(id));
            let instance = Instance::name_of(stage, point);
            let scores = results.file(id, ArtifactKind::Scores).map(ScoreSource::File);
            let Lineage { training, root, trained_elsewhere } = expansion.lineage(id)?;
            let index = |id: InstanceId| {
                *known.entry(id).or_insert_with(|| {
                    trainings.push(results.training(id));
                    trainings.len() - 1
                })
            };
            evaluations.push(Evaluation {
                instance,
                stage: stage.to_string(),
                point: point.clone(),
                scores,
                training: training.into_iter().map(index).collect(),
                trained_elsewhere: trained_elsewhere.map(|what| format!("`{}` is {what}", expansion.get(root).stage)),
            });
        }
    }
    let mut curves = Vec::new();
    for id in expansion.ids() {
        if let Some(points) = results.rows(id, ArtifactKind::Curve)? {
            let Instance { name, stage, point, .. } = expansion.get(id);
            let (instance, stage, point) = (name.clone(), stage.clone(), point.clone());
            curves.push(Curve { instance, stage, point, points, time: results.time(id) });
        }
    }
    let mut credits: Vec<CreditedInstance> = Vec::new();
    for id in expansion.ids() {
        if credits.len() < INSTANCES
            && let Some(questions) = results.credited(id)?
        {
            credits.push(CreditedInstance { instance: expansion.get(id).name.clone(), questions });
            packs.extend(results.packs(id));
        }
    }
    let mut notes = results.notes();
    let images = match ImagePacks::open(&packs) {
        Ok(packs) => Some(packs),
        Err(error) => {
            notes.push(format!("responses are shown without their images: {error:#}"));
            None
        }
    };
    let made_by = MadeBy::collect(experiment, expansion, plan, store, &results.records(), &specs, origin);
    Ok(ReportInput {
        experiment: experiment.name.clone(),
        about: experiment.about.clone(),
        specs: specs.into_iter().cloned().collect(),
        evaluations,
        trainings,
        curves,
        credits,
        graph: results.graph(),
        costs: results.costs(),
        provenance: made_by.facts(),
        made_by,
        notes,
        mixtures: mixtures(experiment),
        stages: results.stages(),
        answer_bytes: ANSWER_BYTES,
        images: Box::new(move |key| images.as_ref()?.encoded(key).ok()),
    })
}

/// The evaluations of all stages that give scores, also without a report, and the number of those that have no
/// up-to-date result.
pub fn load_results(
    experiment: &Experiment,
    expansion: &Expansion,
    plan: &Plan,
    store: &Store,
) -> (ExperimentResults, usize) {
    let results = Results { expansion, plan, store, ran: None };
    let (mut evaluations, mut missing) = (Vec::new(), 0);
    for stage in scored_stages(expansion) {
        for (point, id) in expansion.points_of(stage) {
            let scores = results.file(id, ArtifactKind::Scores).map(ScoreSource::File);
            missing += usize::from(scores.is_none());
            evaluations.push(Evaluation {
                instance: Instance::name_of(stage, point),
                stage: stage.to_string(),
                point: point.clone(),
                scores,
                training: Vec::new(),
                trained_elsewhere: None,
            });
        }
    }
    (ExperimentResults { experiment: experiment.name.clone(), evaluations }, missing)
}

/// The axes with `simplex`.
fn mixtures(experiment: &Experiment) -> Vec<MixtureAxis> {
    let axis = |(axis, labels): &(String, Vec<String>)| {
        let simplex = experiment.simplexes.get(axis)?;
        let shares = labels.iter().cloned().zip(simplex.shares.iter().cloned()).collect();
        Some(MixtureAxis { axis: axis.clone(), parts: simplex.parts.clone(), shares })
    };
    experiment.axes.iter().filter_map(axis).collect()
}

/// The stages that give scores, in the order of the experiment.
pub(super) fn scored_stages(expansion: &Expansion) -> Vec<&str> {
    let gives_scores = |instance: &Instance| instance.outputs.iter().any(|output| output.kind == ArtifactKind::Scores);
    let mut stages: Vec<&str> = Vec::new();
    for instance in expansion.instances.iter().filter(|instance| gives_scores(instance)) {
        if !stages.contains(&instance.stage.as_str()) {
            stages.push(&instance.stage);
        }
    }
    stages
}

/// The results of an experiment in the store.
struct Results<'a> {
    expansion: &'a Expansion,
    plan: &'a Plan,
    store: &'a Store,
    /// The names of the instances that the run executed, if the report is about a run.
    ran: Option<BTreeSet<&'a str>>,
}

impl Results<'_> {
    /// The record of an instance whose result is up to date.
    fn record(&self, id: InstanceId) -> Option<&SlimRecord> {
        let entry = self.plan.get(id);
        if entry.state == PlanState::Fresh { entry.record.as_ref() } else { None }
    }

    /// The first output of a kind. None without a result or without such an output.
    fn file(&self, id: InstanceId, kind: ArtifactKind) -> Option<PathBuf> {
        let artifact = self.record(id)?.outputs.values().find(|artifact| artifact.kind == kind)?;
        Some(self.store.artifact_path(artifact))
    }

    /// The rows of the first output of a kind. None without a result or without such an output.
    fn rows<T: DeserializeOwned>(&self, id: InstanceId, kind: ArtifactKind) -> Result<Option<Vec<T>>> {
        self.read(id, kind, jsonl::read)
    }

    /// The first credited questions that can be shown. None without any.
    fn credited(&self, id: InstanceId) -> Result<Option<Vec<CreditedItem>>> {
        let shown = |path: &Path| jsonl::read_first(path, QUESTIONS, token_credit::is_shown);
        Ok(self.read(id, ArtifactKind::Credits, shown)?.filter(|questions| !questions.is_empty()))
    }

    /// Reads the first output of a kind. None without a result or without such an output.
    fn read<T>(
        &self,
        id: InstanceId,
        kind: ArtifactKind,
        read: impl FnOnce(&Path) -> Result<Vec<T>>,
    ) -> Result<Option<Vec<T>>> {
        let Some(path) = self.file(id, kind) else { return Ok(None) };
        let rows = read(&path);
        rows.map(Some).with_context(|| format!("cannot read the {kind} of `{}`", self.expansion.get(id).name))
    }

    /// The image packs that the outputs of an instance refer to.
    fn packs(&self, id: InstanceId) -> Vec<(Hash, PathBuf)> {
        let artifacts = self.record(id).into_iter().flat_map(|record| record.outputs.values());
        artifacts.flat_map(|artifact| &artifact.images).map(|hash| (*hash, self.store.object_path(*hash))).collect()
    }

    fn graph(&self) -> Vec<GraphNode> {
        let node = |id: InstanceId| {
            let instance = self.expansion.get(id);
            let reads = instance.inputs.iter().filter_map(|input| match &input.upstream {
                Upstream::Output { instance, .. } => Some(self.expansion.get(*instance).name.clone()),
                Upstream::External { .. } | Upstream::Environment { .. } => None,
            });
            GraphNode {
                instance: instance.name.clone(),
                stage: instance.stage.clone(),
                kind: instance.kind.name.to_string(),
                state: if self.record(id).is_some() { NodeState::Done } else { NodeState::Missing },
                reads: reads.collect(),
            }
        };
        self.expansion.ids().map(node).collect()
    }

    fn stages(&self) -> Vec<StageDetails> {
        let record = |id: InstanceId| self.store.record(self.record(id)?.fingerprint);
        stage_details::load(self.expansion, self.store, record)
    }

    fn training(&self, id: InstanceId) -> TrainingRun {
        let instance = self.expansion.get(id);
        let record = self.record(id).and_then(|record| self.store.record(record.fingerprint));
        let budget = record.map(|record| {
            let fact = |key: &str| record.summary.0.get(key).and_then(Value::as_f64);
            MeasuredBudget {
                steps: fact("steps"),
                tokens: fact("tokens"),
                flops: fact("flops"),
                epochs: fact("epochs"),
                examples: fact("examples"),
                questions: fact("questions"),
            }
        });
        TrainingRun { instance: instance.name.clone(), stage: instance.stage.clone(), budget }
    }

    /// When an instance ran.
    fn time(&self, id: InstanceId) -> TimeSpan {
        let record = self.record(id).and_then(|record| self.store.record(record.fingerprint));
        let Some(StageRecord { provenance: Provenance { started, seconds, .. }, .. }) = record else {
            return TimeSpan::default();
        };
        let started = started.parse::<Timestamp>().map_or(0.0, |time| time.as_millisecond() as f64 / 1000.0);
        TimeSpan { started, seconds }
    }

    fn costs(&self) -> Vec<Cost> {
        let cost = |id: InstanceId| {
            let (record, instance) = (self.record(id)?, self.expansion.get(id));
            let StageRecord { summary, provenance, .. } = self.store.record(record.fingerprint)?;
            let fact = |key: &str| summary.0.get(key);
            Some(Cost {
                instance: instance.name.clone(),
                stage: instance.stage.clone(),
                kind: instance.kind.name.to_string(),
                seconds: provenance.seconds,
                tokens: fact("tokens").and_then(Value::as_u64),
                flops: fact("flops").and_then(Value::as_f64),
                device: Some(provenance.device).filter(|device| !device.is_empty()),
                reused: self.ran.as_ref().is_some_and(|ran| !ran.contains(instance.name.as_str())),
            })
        };
        self.expansion.ids().filter_map(cost).collect()
    }

    fn notes(&self) -> Vec<String> {
        let all = self.expansion.instances.len();
        let missing = self.expansion.ids().filter(|id| self.record(*id).is_none()).count();
        let missing = (missing > 0)
            .then(|| format!("{missing} of {all} instances have not run, or their results are out of date"));
        missing.into_iter().chain(self.warnings()).collect()
    }

    /// The warnings of the stages. Equal warnings of several instances are merged.
    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<(String, &str, usize)> = Vec::new();
        for id in self.expansion.ids() {
            let record = self.record(id).and_then(|record| self.store.record(record.fingerprint));
            let Some(record) = record else { continue };
            for text in record.summary.warnings() {
                match warnings.iter_mut().find(|(known, _, _)| known == text) {
                    Some((_, _, others)) => *others += 1,
                    None => warnings.push((text.to_string(), self.expansion.get(id).name.as_str(), 0)),
                }
            }
        }
        let render = |(text, name, others): (String, &str, usize)| match others {
            0 => format!("`{name}`: {text}"),
            others => format!("`{name}` and {others} more: {text}"),
        };
        warnings.into_iter().map(render).collect()
    }

    /// The records of all results.
    fn records(&self) -> Vec<StageRecord> {
        let fresh = self.expansion.ids().filter_map(|id| self.record(id));
        fresh.filter_map(|record| self.store.record(record.fingerprint)).collect()
    }
}
