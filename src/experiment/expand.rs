//! From declared stages to instances: only what an axis touches, and what lies below it, multiplies. Runs nothing.
//!
//! Stages are taken in dependency order. A stage's points are its own points (axes that patch it x lists that fan out x
//! seeds) joined with the points of every stage it reads: two points go together when they agree on each axis that both
//! have. A pinned axis is settled by the reference and is no axis of the reader. Points whose instances come out equal
//! share one instance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::declaration::{Declaration, StageDeclaration};
use super::instance::{Expansion, Instance, InstanceId, InstanceInput, Upstream};
use super::join::{AxisId, Candidates, Joined, MAX_POINTS, Point};
use super::order::order;
use super::own::{OwnInput, OwnPoint, OwnPoints, OwnSource, too_many};
use super::points::Constraints;
use super::problems::Problems;
use super::text::list;
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::{Diagnostic, Hash};

/// The seed of an instance whose point has none.
const DEFAULT_SEED: u64 = 0;

/// Expands all stages that are wanted and can be; the others of them are reported.
pub(crate) fn expand(
    declaration: &Declaration<'_>,
    constraints: &Constraints,
    folder: &Path,
    problems: &mut Problems,
) -> Expansion {
    let stages = &declaration.stages;
    let mut own_points = OwnPoints::new(declaration, constraints, folder);
    let mut own = own_points.wanted(problems);
    own_points.resolve(&mut own, problems);
    let mut reads = vec![BTreeMap::new(); stages.len()];
    for (points, reads) in own.iter().zip(&mut reads) {
        for input in points.iter().flatten().flat_map(|point| &point.inputs) {
            if let OwnSource::Output { stage, .. } = &input.source {
                reads.entry(*stage).or_insert_with(|| input.place.clone());
            }
        }
    }
    let names: Vec<&str> = stages.iter().map(|stage| &*stage.name).collect();
    let (order, cycles) = order(&names, &reads);
    for (members, diagnostic) in cycles {
        problems.push(diagnostic);
        for member in members {
            own[member] = None;
        }
    }
    let seeded: BTreeSet<&str> = declaration.seeds.from.iter().map(String::as_str).collect();
    let mut expander = Expander {
        declaration,
        constraints,
        expanded: stages.iter().map(|_| None).collect(),
        candidates: BTreeMap::new(),
        expansion: Expansion::default(),
        equal: BTreeMap::new(),
        found: 0,
    };
    for index in order {
        if let Some(points) = own[index].take() {
            let points = if seeded.contains(names[index]) { expander.with_seeds(&points) } else { points };
            expander.stage(index, &points, problems);
        }
    }
    let expansion = expander.expansion;
    if problems.is_empty() {
        constraints.report_unmet(problems);
    }
    expansion
}

struct Expander<'a> {
    declaration: &'a Declaration<'a>,
    constraints: &'a Constraints,
    /// Per stage: its points and what its axes are called. `None` for one that is not expanded, or cannot be.
    expanded: Vec<Option<ExpandedStage>>,
    /// The points that references with equal pins choose from.
    candidates: BTreeMap<(usize, BTreeMap<String, String>), Candidates>,
    expansion: Expansion,
    /// Instances by all that makes them equal.
    equal: BTreeMap<Hash, InstanceId>,
    /// Points found so far, of all stages.
    found: usize,
}

struct ExpandedStage {
    points: Vec<(Point, InstanceId)>,
    axes: BTreeMap<AxisId, String>,
}

impl Expander<'_> {
    fn with_seeds(&self, points: &[OwnPoint]) -> Vec<OwnPoint> {
        let axis = AxisId::Shared("seed".into());
        let seeds: Vec<Arc<str>> = self.declaration.seeds.values.iter().map(|seed| seed.to_string().into()).collect();
        let with = |point: &OwnPoint, seed: &Arc<str>| {
            let mut point = point.clone();
            point.point.insert(axis.clone(), seed.clone());
            point
        };
        points.iter().flat_map(|point| seeds.iter().map(move |seed| (point, seed))).map(|(p, s)| with(p, s)).collect()
    }

    fn stage(&mut self, index: usize, own: &[OwnPoint], problems: &mut Problems) {
        let stage = &self.declaration.stages[index];
        let mut joined: Vec<(&OwnPoint, Joined)> = Vec::new();
        for point in own {
            let Some(combinations) = self.join(stage, point, problems) else { return };
            joined.extend(combinations.into_iter().map(|combination| (point, combination)));
            if self.found + joined.len() > MAX_POINTS {
                return too_many(stage, problems);
            }
        }
        if joined.is_empty() {
            let message = format!("`stage.{}` has no point: what it reads has no point in common", stage.name);
            problems.push(Diagnostic::error(message).at(stage.header.clone(), ""));
            return;
        }
        self.found += joined.len();
        let axes = self.axis_names(stage, joined.iter().map(|(_, joined)| &joined.point));
        let mut points = Vec::with_capacity(joined.len());
        for (own, joined) in joined {
            let instance = self.instance(stage, own, &joined, &axes);
            points.push((joined.point, instance));
        }
        self.expanded[index] = Some(ExpandedStage { points, axes });
    }

    /// Every combination of upstream points that goes with an own point. `None` when an upstream stage has no points,
    /// which is said elsewhere or here.
    fn join(&mut self, stage: &StageDeclaration<'_>, own: &OwnPoint, problems: &mut Problems) -> Option<Vec<Joined>> {
        let mut joined = vec![Joined { point: own.point.clone(), chosen: Vec::new() }];
        // Seeds were added since the stage's own points were looked at.
        joined.retain(|joined| self.constraints.allow(&joined.point));
        let mut sound = true;
        for input in &own.inputs {
            let OwnSource::Output { stage: above, pins, .. } = &input.source else { continue };
            let key = (*above, pins.clone());
            if !self.candidates.contains_key(&key) {
                let Some(points) = self.pinned(stage, input, *above, pins, problems) else {
                    sound = false;
                    continue;
                };
                self.candidates.insert(key.clone(), Candidates::new(points));
            }
            let Some(candidates) = self.candidates.get_mut(&key).filter(|_| sound) else { continue };
            let Some(next) = candidates.join(joined) else {
                too_many(stage, problems);
                return None;
            };
            joined = next;
            joined.retain(|joined| self.constraints.allow(&joined.point));
        }
        sound.then_some(joined)
    }

    /// The points of a stage that have the pinned values, without the pinned axes.
    fn pinned(
        &self,
        reader: &StageDeclaration<'_>,
        input: &OwnInput,
        above: usize,
        pins: &BTreeMap<String, String>,
        problems: &mut Problems,
    ) -> Option<Vec<(Point, InstanceId)>> {
        let name = &self.declaration.stages[above].name;
        let upstream = self.expanded[above].as_ref()?;
        let mut wrong = |message: String, help: String| {
            let message = format!("`stage.{}.{}`: {message}", reader.name, input.named);
            problems.push(Diagnostic::error(message).at(input.place.clone(), "").help(help));
        };
        let mut points = upstream.points.clone();
        for (pin, value) in pins {
            if self.declaration.unusable_axes.contains(pin.as_str()) {
                return None;
            }
            let named = |axis: &AxisId, shown: &String| {
                shown == pin || matches!(axis, AxisId::Own { stage, key } if *pin == format!("{stage}.{key}"))
            };
            let Some((axis, _)) = upstream.axes.iter().find(|(axis, shown)| named(axis, shown)) else {
                let help = if upstream.axes.is_empty() {
                    format!("`{name}` is one instance: nothing varies there")
                } else {
                    match nearest(pin, upstream.axes.values().map(String::as_str)) {
                        Some(near) => format!("an axis of a similar name exists: `{near}`"),
                        None => format!("`{name}` varies with {}", list(upstream.axes.values())),
                    }
                };
                wrong(format!("`{name}` does not vary with `{pin}`"), help);
                return None;
            };
            let known: BTreeSet<&str> =
                upstream.points.iter().filter_map(|(point, _)| point.get(axis)).map(|label| &**label).collect();
            if !known.contains(value.as_str()) {
                wrong(
                    format!("`{name}` has no point `{pin}={value}`"),
                    format!("the values of `{pin}` are {}", list(known)),
                );
                return None;
            }
            points.retain_mut(|(point, _)| point.remove(axis).is_some_and(|label| *label == **value));
        }
        if points.is_empty() {
            let pins: Vec<String> = pins.iter().map(|(pin, value)| format!("{pin}={value}")).collect();
            let help = "each value exists, but not together".to_string();
            wrong(format!("`{name}` has no point `{}`", pins.join(",")), help);
            return None;
        }
        Some(points)
    }

    /// What the axes of a stage are called: a list under a key by its key, unless that would be ambiguous.
    fn axis_names<'p>(
        &self,
        stage: &StageDeclaration<'_>,
        points: impl Iterator<Item = &'p Point>,
    ) -> BTreeMap<AxisId, String> {
        let axes: BTreeSet<&AxisId> = points.flat_map(BTreeMap::keys).collect();
        let bare = |owner: &Arc<str>, key: &'static str| {
            let shared = key == "seed" || self.declaration.axes.iter().any(|axis| *axis.name == *key);
            let others = axes
                .iter()
                .any(|axis| matches!(axis, AxisId::Own { stage: other, key: same } if *same == key && other != owner));
            !shared && (*owner == stage.name || !others)
        };
        let named = |axis: &AxisId| match axis {
            AxisId::Shared(name) => name.to_string(),
            AxisId::Own { stage, key } if bare(stage, key) => (*key).to_string(),
            AxisId::Own { stage, key } => format!("{stage}.{key}"),
        };
        axes.iter().map(|axis| ((*axis).clone(), named(axis))).collect()
    }

    /// The instance of a point: a new one, or the equal one that is there already.
    fn instance(
        &mut self,
        stage: &StageDeclaration<'_>,
        own: &OwnPoint,
        joined: &Joined,
        axes: &BTreeMap<AxisId, String>,
    ) -> InstanceId {
        let point: BTreeMap<String, String> = joined
            .point
            .iter()
            .filter_map(|(axis, label)| Some((axes.get(axis)?.clone(), label.to_string())))
            .collect();
        let seed = point.get("seed").and_then(|seed| seed.parse().ok()).unwrap_or(DEFAULT_SEED);
        let mut chosen = joined.chosen.iter();
        let inputs: Vec<InstanceInput> = own
            .inputs
            .iter()
            .filter_map(|input| {
                let upstream = match &input.source {
                    OwnSource::Outside(path) => Upstream::Outside { path: path.clone() },
                    OwnSource::Environment(name) => Upstream::Environment { name: name.clone() },
                    OwnSource::Output { output, kind, .. } => {
                        Upstream::Output { instance: *chosen.next()?, output: output.clone(), kind: *kind }
                    }
                    OwnSource::Reference { .. } => return None,
                };
                Some(InstanceInput { role: input.role.clone(), upstream })
            })
            .collect();
        let name = Instance::name_of(&stage.name, &point);
        let drawn = stage.kind.seeded.then_some(seed);
        let equal = Hash::of_bytes(format!("{} {drawn:?} {inputs:?} {:?}", &*own.identity, own.limits).as_bytes());
        if let Some(known) = self.equal.get(&equal) {
            if self.expansion.get(*known).name != name {
                self.expansion.aliases.insert(name, *known);
            }
            return *known;
        }
        let id = InstanceId(self.expansion.instances.len());
        self.equal.insert(equal, id);
        self.expansion.instances.push(Instance {
            name,
            stage: stage.name.to_string(),
            point,
            kind: stage.kind,
            config: own.config.clone(),
            identity: own.identity.clone(),
            seed,
            inputs,
            outputs: own.outputs.clone(),
            pool: own.pool,
            limits: own.limits.clone(),
            origins: own.origins.clone(),
            parsed: own.stage.clone().into(),
        });
        id
    }
}
