//! Loads one side of a comparison: evaluations of an experiment by a pattern, or those of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::comparison::Side;
use super::input::{Evaluation, Images, ScoreSource};
use super::load::scored_stages;
use ablate_core::base::Hash;
use ablate_core::base::diagnostic::nearest;
use ablate_core::stage::{Artifact, ArtifactKind};
use ablate_data::images::ImagePacks;
use ablate_engine::history::PastRun;
use ablate_engine::select::{matches_point, matching, with_upstream};
use ablate_engine::{Plan, PlanState};
use ablate_experiment::{Expansion, Instance, InstanceId};
use ablate_store::{StageRecord, Store};

/// A side with the image packs of its evaluations.
pub struct LoadedSide {
    pub side: Side,
    packs: BTreeMap<Hash, PathBuf>,
}

/// The evaluations of an experiment that a pattern names: `eval@model=dpo`, `model=dpo,prompt=cot`, or a stage or an instance
/// that gives a model, such as `dpo`: then the evaluations of that model.
///
/// Errors: the pattern matches nothing, or only instances that give neither scores nor a model that is evaluated.
pub fn load_side(expansion: &Expansion, plan: &Plan, store: &Store, pattern: &str) -> Result<LoadedSide> {
    let found = evaluations_named(expansion, pattern)?;
    let mut side = Side { label: pattern.to_string(), ..Side::default() };
    let mut packs = BTreeMap::new();
    let record = |id: InstanceId| {
        let entry = plan.get(id);
        entry.record.as_ref().filter(|_| entry.state == PlanState::Fresh)
    };
    for (instance, stage, point, id) in &found {
        let outputs = || record(*id).into_iter().flat_map(|record| record.outputs.values());
        let scores = outputs().find(|artifact| artifact.kind == ArtifactKind::Scores);
        packs.extend(outputs().flat_map(|artifact| packs_of(store, artifact)));
        side.evaluations.push(Evaluation {
            scores: scores.map(|artifact| ScoreSource::File(store.artifact_path(artifact))),
            ..evaluation(instance, stage, point)
        });
    }
    let mut indices: BTreeMap<InstanceId, Option<usize>> = BTreeMap::new();
    for (.., id) in &found {
        let mut made_by = Vec::new();
        for id in with_upstream(expansion, BTreeSet::from([*id])) {
            let index = *indices.entry(id).or_insert_with(|| {
                let record = record(id).and_then(|record| store.record(record.fingerprint))?;
                side.stages.push((expansion.get(id).stage.clone(), record.manifest));
                Some(side.stages.len() - 1)
            });
            made_by.extend(index);
        }
        side.made_by.push(made_by);
    }
    Ok(LoadedSide { side, packs })
}

/// The evaluations of a run that have a result, and the number of those whose result was removed.
pub fn load_run(store: &Store, run: &PastRun) -> (LoadedSide, usize) {
    let mut side = Side { label: run.run.clone(), ..Side::default() };
    let (mut packs, mut removed) = (BTreeMap::new(), 0);
    for instance in &run.instances {
        let Some(fingerprint) = instance.fingerprint.filter(|_| instance.is_done()) else { continue };
        let Some(record) = store.record(fingerprint) else {
            removed += 1;
            continue;
        };
        let StageRecord { outputs, .. } = &record;
        let (stage, point) = split_name(&instance.name);
        if let Some(scores) = outputs.values().find(|artifact| artifact.kind == ArtifactKind::Scores) {
            let path = store.artifact_path(scores);
            if !path.exists() {
                removed += 1;
                continue;
            }
            packs.extend(outputs.values().flat_map(|artifact| packs_of(store, artifact)));
            let scores = Some(ScoreSource::File(path));
            side.evaluations.push(Evaluation { scores, ..evaluation(&instance.name, &stage, &point) });
        }
    }
    // What changed between two runs says more than the values of all their stages.
    side.made_by = vec![Vec::new(); side.evaluations.len()];
    (LoadedSide { side, packs }, removed)
}

/// Leaves out the evaluations of the same name that have the same result on both sides. Returns their number.
pub fn drop_identical(sides: &mut [LoadedSide; 2]) -> usize {
    let results = |side: &Side| -> BTreeMap<String, Option<ScoreSource>> {
        side.evaluations.iter().map(|one| (one.instance.clone(), one.scores.clone())).collect()
    };
    let [first, second] = sides.each_ref().map(|loaded| results(&loaded.side));
    let same =
        |name: &String| first.get(name).zip(second.get(name)).is_some_and(|(one, other)| one.is_some() && one == other);
    for loaded in sides.iter_mut() {
        let Side { evaluations, made_by, .. } = &mut loaded.side;
        let kept: Vec<bool> = evaluations.iter().map(|one| !same(&one.instance)).collect();
        let mut of_evaluation = kept.iter();
        evaluations.retain(|_| of_evaluation.next().is_some_and(|kept| *kept));
        let mut of_evaluation = kept.iter();
        made_by.retain(|_| of_evaluation.next().is_some_and(|kept| *kept));
    }
    first.keys().filter(|name| same(name)).count()
}

/// The two sides and a function that finds their images. A pack that cannot be opened has no images, and a note says so.
pub fn with_images(sides: [LoadedSide; 2]) -> ([Side; 2], Images<'static>, Option<String>) {
    let packs = sides.iter().flat_map(|side| side.packs.clone()).collect();
    let (images, note) = match ImagePacks::open(&packs) {
        Ok(packs) => (Some(packs), None),
        Err(error) => (None, Some(format!("answers are shown without their images: {error:#}"))),
    };
    let images: Images<'static> = Box::new(move |key| images.as_ref()?.encoded(key).ok());
    (sides.map(|side| side.side), images, note)
}

/// The name, stage, point and instance of an evaluation.
type Named = (String, String, BTreeMap<String, String>, InstanceId);

fn evaluations_named(expansion: &Expansion, pattern: &str) -> Result<Vec<Named>> {
    let all = evaluations(expansion);
    // A selector as in a report: any stage.
    let with_stage =
        if pattern.contains('=') && !pattern.contains('@') { format!("*@{pattern}") } else { pattern.to_string() };
    let named: Vec<Named> = all
        .iter()
        .filter(|(name, stage, point, _)| name == pattern || matches_point(&with_stage, stage, point))
        .cloned()
        .collect();
    if !named.is_empty() {
        return Ok(named);
    }
    if with_stage != pattern {
        let values =
            all.iter().flat_map(|(_, _, point, _)| point.iter().map(|(axis, value)| format!("{axis}={value}")));
        let values: BTreeSet<String> = values.collect();
        // The first pair that no evaluation has.
        let wrong = pattern.split(',').find(|pair| !values.contains(*pair)).unwrap_or(pattern);
        let help = match nearest(wrong, values.iter().map(String::as_str)) {
            Some(near) => format!("a similar one is `{near}`"),
            None => "`ablate ls` lists the instances".to_string(),
        };
        bail!("`{pattern}` matches no evaluation\nhelp: {help}");
    }
    let models = matching(expansion, &[pattern.to_string()])?;
    let mut of_models = Vec::new();
    for evaluation in all {
        let lineage = expansion.lineage(evaluation.3)?;
        if models.contains(lineage.training.last().unwrap_or(&lineage.root)) {
            of_models.push(evaluation);
        }
    }
    if of_models.is_empty() {
        bail!(
            "`{pattern}` gives neither scores nor a model that a stage evaluates\nhelp: name an evaluation, such as `eval@model=dpo`"
        );
    }
    Ok(of_models)
}

/// Every point of the stages that give scores.
fn evaluations(expansion: &Expansion) -> Vec<Named> {
    let of_stage = |stage: &&str| {
        let stage = (*stage).to_string();
        let points: Vec<_> = expansion.points_of(&stage).map(|(point, id)| (point.clone(), id)).collect();
        points.into_iter().map(move |(point, id)| (Instance::name_of(&stage, &point), stage.clone(), point, id))
    };
    scored_stages(expansion).iter().flat_map(of_stage).collect()
}

fn evaluation(instance: &str, stage: &str, point: &BTreeMap<String, String>) -> Evaluation {
    Evaluation {
        instance: instance.to_string(),
        stage: stage.to_string(),
        point: point.clone(),
        scores: None,
        training: Vec::new(),
        trained_elsewhere: None,
    }
}

fn packs_of<'a>(store: &'a Store, artifact: &'a Artifact) -> impl Iterator<Item = (Hash, PathBuf)> + 'a {
    artifact.images.iter().map(|hash| (*hash, store.object_path(*hash)))
}

/// The stage and the point of an instance's name.
fn split_name(name: &str) -> (String, BTreeMap<String, String>) {
    let (stage, values) = name.split_once('@').unwrap_or((name, ""));
    let pairs = values.split(',').filter_map(|pair| pair.split_once('='));
    (stage.to_string(), pairs.map(|(axis, value)| (axis.to_string(), value.to_string())).collect())
}
