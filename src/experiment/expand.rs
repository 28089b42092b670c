//! Expansion: from declared stages to instances.
//!
//! Stages are expanded in topological order. The points of a stage are its variants (axes that patch it x lists that
//! fan out x seeds), joined with the points of every stage that it reads: two points match when they agree on each axis
//! that both have. So only the stages that an axis changes, and the stages that read them, have several points. A
//! reference that pins an axis selects one of its values, and the reading stage does not vary with it. Points with
//! equal instances share one instance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::constraints::Constraints;
use super::declaration::{Declaration, StageDeclaration};
use super::diagnostics::Diagnostics;
use super::instance::{Alias, Expansion, Instance, InstanceId, InstanceInput, Upstream};
use super::join::{AxisId, Candidates, Joined, MAX_POINTS, Point};
use super::selector::Selector;
use super::stage_variants::{StageVariant, VariantBuilder, VariantInput, VariantSource, too_many_points};
use super::toposort::toposort;
use ablate_core::base::Hash;

/// The seed of an instance whose point has none.
const DEFAULT_SEED: u64 = 0;

/// Expands the targets and the stages that they read. Stages with errors are reported and left out.
pub(crate) fn expand(
    declaration: &Declaration<'_>,
    constraints: &Constraints,
    folder: &Path,
    diagnostics: &mut Diagnostics,
) -> Expansion {
    let stages = &declaration.stages;
    let mut builder = VariantBuilder::new(declaration, constraints, folder);
    let mut variants = builder.build_targets(diagnostics);
    builder.resolve(&mut variants, diagnostics);
    let mut reads = vec![BTreeMap::new(); stages.len()];
    for (variants, reads) in variants.iter().zip(&mut reads) {
        for input in variants.iter().flatten().flat_map(|variant| &variant.inputs) {
            if let VariantSource::Output { stage, .. } = &input.source {
                reads.entry(*stage).or_insert_with(|| input.span.clone());
            }
        }
    }
    let names: Vec<&str> = stages.iter().map(|stage| &*stage.name).collect();
    let (order, cycles) = toposort(&names, &reads);
    for (members, diagnostic) in cycles {
        diagnostics.push(diagnostic);
        for member in members {
            variants[member] = None;
        }
    }
    let seeded: BTreeSet<&str> = declaration.seeds.from.iter().map(String::as_str).collect();
    let mut expander = Expander {
        declaration,
        constraints,
        expanded: stages.iter().map(|_| None).collect(),
        candidates: BTreeMap::new(),
        expansion: Expansion::default(),
        by_content: BTreeMap::new(),
        points: 0,
    };
    for index in order {
        if let Some(variants) = variants[index].take() {
            let variants = if seeded.contains(names[index]) { expander.with_seeds(&variants) } else { variants };
            expander.expand_stage(index, &variants, diagnostics);
        }
    }
    let expansion = expander.expansion;
    if diagnostics.is_empty() {
        constraints.report_unmet(diagnostics);
    }
    expansion
}

struct Expander<'a> {
    declaration: &'a Declaration<'a>,
    constraints: &'a Constraints,
    /// Per stage: its points and the names of its axes. `None` for a stage that is not expanded yet, or has errors.
    expanded: Vec<Option<ExpandedStage>>,
    /// By stage and pinned values: the points that such a reference selects.
    candidates: BTreeMap<(usize, BTreeMap<String, String>), Candidates>,
    expansion: Expansion,
    /// Instances by a hash of everything that makes two of them equal.
    by_content: BTreeMap<Hash, InstanceId>,
    /// The number of points of all expanded stages.
    points: usize,
}

struct ExpandedStage {
    points: Vec<(Point, InstanceId)>,
    axes: BTreeMap<AxisId, String>,
}

impl Expander<'_> {
    fn with_seeds(&self, variants: &[StageVariant]) -> Vec<StageVariant> {
        let axis = AxisId::Shared("seed".into());
        let seeds: Vec<Arc<str>> = self.declaration.seeds.values.iter().map(|seed| seed.to_string().into()).collect();
        let with = |variant: &StageVariant, seed: &Arc<str>| {
            let mut variant = variant.clone();
            variant.point.insert(axis.clone(), seed.clone());
            variant
        };
        let pairs = variants.iter().flat_map(|variant| seeds.iter().map(move |seed| (variant, seed)));
        pairs.map(|(variant, seed)| with(variant, seed)).collect()
    }

    fn expand_stage(&mut self, index: usize, variants: &[StageVariant], diagnostics: &mut Diagnostics) {
        let stage = &self.declaration.stages[index];
        let mut joined: Vec<(&StageVariant, Joined)> = Vec::new();
        for variant in variants {
            let Some(combinations) = self.join_inputs(stage, variant, diagnostics) else { return };
            joined.extend(combinations.into_iter().map(|combination| (variant, combination)));
            if self.points + joined.len() > MAX_POINTS {
                return too_many_points(stage, diagnostics);
            }
        }
        if joined.is_empty() {
            let message = format!("`stage.{}` has no point: the stages that it reads have no common point", stage.name);
            return diagnostics.error(stage.header, message, None);
        }
        self.points += joined.len();
        let axes = self.axis_names(stage, joined.iter().map(|(_, joined)| &joined.point));
        let mut points = Vec::with_capacity(joined.len());
        for (variant, joined) in joined {
            let instance = self.instance(stage, variant, &joined, &axes);
            points.push((joined.point, instance));
        }
        self.expanded[index] = Some(ExpandedStage { points, axes });
    }

    /// Joins a variant with the points of everything that it reads. `None` when an upstream stage has no points, which
    /// is already reported.
    fn join_inputs(
        &mut self,
        stage: &StageDeclaration<'_>,
        variant: &StageVariant,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<Joined>> {
        let mut joined = vec![Joined { point: variant.point.clone(), upstream: Vec::new() }];
        // The seeds were added after the constraints were applied to the variants.
        joined.retain(|joined| self.constraints.allow(&joined.point));
        let mut valid = true;
        for input in &variant.inputs {
            let VariantSource::Output { stage: upstream, pins, .. } = &input.source else { continue };
            let key = (*upstream, pins.clone());
            if !self.candidates.contains_key(&key) {
                let Some(points) = self.pinned_points(stage, input, *upstream, pins, diagnostics) else {
                    valid = false;
                    continue;
                };
                self.candidates.insert(key.clone(), Candidates::new(points));
            }
            let Some(candidates) = self.candidates.get_mut(&key).filter(|_| valid) else { continue };
            let Some(next) = candidates.join(joined) else {
                too_many_points(stage, diagnostics);
                return None;
            };
            joined = next;
            joined.retain(|joined| self.constraints.allow(&joined.point));
        }
        valid.then_some(joined)
    }

    /// The points of an upstream stage that have the pinned values, without the pinned axes.
    fn pinned_points(
        &self,
        reader: &StageDeclaration<'_>,
        input: &VariantInput,
        upstream: usize,
        pins: &BTreeMap<String, String>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Vec<(Point, InstanceId)>> {
        let name = &self.declaration.stages[upstream].name;
        let upstream = self.expanded[upstream].as_ref()?;
        if pins.keys().any(|pin| self.declaration.invalid_axes.contains(pin.as_str())) {
            return None;
        }
        let is_pinned = |pin: &str, axis: &AxisId, name: &str| {
            name == pin || matches!(axis, AxisId::FanOut { stage, key } if pin == format!("{stage}.{key}"))
        };
        let axis_of = |pin: &str| upstream.axes.iter().find(|(axis, name)| is_pinned(pin, axis, name));
        let mut points = upstream.points.clone();
        for (pin, value) in pins {
            let axis = axis_of(pin).map(|(axis, _)| axis);
            points.retain_mut(|(point, _)| {
                axis.and_then(|axis| point.remove(axis)).is_some_and(|label| *label == **value)
            });
        }
        if !points.is_empty() {
            return Some(points);
        }
        let named: Vec<BTreeMap<String, String>> =
            upstream.points.iter().map(|(point, _)| named_point(point, &upstream.axes)).collect();
        let values =
            pins.iter().map(|(pin, value)| (axis_of(pin).map_or(pin, |(_, name)| name).clone(), value.clone()));
        let selector = Selector { values: values.collect(), absent: BTreeSet::new() };
        let (message, help) = selector.check(name, &named.iter().collect::<Vec<_>>()).err()?;
        let message = format!("`stage.{}.{}`: {message}", reader.name, input.key);
        diagnostics.error(&input.span, message, Some(help));
        None
    }

    /// The names of a stage's axes. A list that fans out is named by its key alone, unless that is ambiguous.
    fn axis_names<'p>(
        &self,
        stage: &StageDeclaration<'_>,
        points: impl Iterator<Item = &'p Point>,
    ) -> BTreeMap<AxisId, String> {
        let axes: BTreeSet<&AxisId> = points.flat_map(BTreeMap::keys).collect();
        let is_unambiguous = |owner: &Arc<str>, key: &'static str| {
            let shared = key == "seed" || self.declaration.axes.iter().any(|axis| *axis.name == *key);
            let others = axes.iter().any(
                |axis| matches!(axis, AxisId::FanOut { stage: other, key: same } if *same == key && other != owner),
            );
            !shared && (*owner == stage.name || !others)
        };
        let name_of = |axis: &AxisId| match axis {
            AxisId::Shared(name) => name.to_string(),
            AxisId::FanOut { stage, key } if is_unambiguous(stage, key) => (*key).to_string(),
            AxisId::FanOut { stage, key } => format!("{stage}.{key}"),
        };
        axes.iter().map(|axis| ((*axis).clone(), name_of(axis))).collect()
    }

    /// The instance of a point: a new one, or an equal one that exists already.
    fn instance(
        &mut self,
        stage: &StageDeclaration<'_>,
        variant: &StageVariant,
        joined: &Joined,
        axes: &BTreeMap<AxisId, String>,
    ) -> InstanceId {
        let point = named_point(&joined.point, axes);
        let seed = point.get("seed").and_then(|seed| seed.parse().ok()).unwrap_or(DEFAULT_SEED);
        let mut upstream = joined.upstream.iter();
        let inputs: Vec<InstanceInput> = variant
            .inputs
            .iter()
            .filter_map(|input| {
                let upstream = match &input.source {
                    VariantSource::External(path) => Upstream::External { path: path.clone() },
                    VariantSource::Environment(name) => Upstream::Environment { name: name.clone() },
                    VariantSource::Output { output, kind, .. } => {
                        Upstream::Output { instance: *upstream.next()?, output: output.clone(), kind: *kind }
                    }
                    VariantSource::Reference { .. } => return None,
                };
                Some(InstanceInput { role: input.role.clone(), upstream })
            })
            .collect();
        let name = Instance::name_of(&stage.name, &point);
        let used_seed = stage.kind.seeded.then_some(seed);
        let content = format!("{} {used_seed:?} {inputs:?} {:?}", &*variant.identity, variant.limits);
        let content = Hash::of_bytes(content.as_bytes());
        if let Some(known) = self.by_content.get(&content) {
            let known = *known;
            if self.expansion.get(known).name != name {
                let alias = Alias { stage: stage.name.to_string(), point, instance: known };
                self.expansion.aliases.insert(name, alias);
            }
            return known;
        }
        let id = InstanceId(self.expansion.instances.len());
        self.by_content.insert(content, id);
        self.expansion.instances.push(Instance {
            name,
            stage: stage.name.to_string(),
            point,
            kind: stage.kind,
            config: variant.config.clone(),
            identity: variant.identity.clone(),
            seed,
            inputs,
            outputs: variant.outputs.clone(),
            pool: variant.pool,
            limits: variant.limits.clone(),
            spans: variant.spans.clone(),
            parsed: variant.stage.clone().into(),
        });
        id
    }
}

/// The point with the names of its axes.
fn named_point(point: &Point, axes: &BTreeMap<AxisId, String>) -> BTreeMap<String, String> {
    point.iter().filter_map(|(axis, label)| Some((axes.get(axis)?.clone(), label.to_string()))).collect()
}
