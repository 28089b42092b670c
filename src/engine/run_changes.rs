//! What changed between two runs: the causes first, then the instances that differ only because something above them does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::dirty::DirtyReason;
use super::history::{PastInstance, PastRun};
use super::manifest_diff::diff_manifests;
use ablate_core::base::Hash;
use ablate_store::{StageRecord, Store};

/// The differences of two runs.
#[derive(Clone, Debug, Serialize)]
pub struct RunChanges {
    pub first: PastRun,
    pub second: PastRun,
    /// Every instance that differs: first those of the second run in its order, then those that only the first run has.
    pub differences: Vec<InstanceDiff>,
}

/// How an instance differs between two runs.
#[derive(Clone, Debug, Serialize)]
pub struct InstanceDiff {
    pub instance: String,
    /// Its outcomes in the two runs; `None` if the run does not have the instance.
    pub outcomes: (Option<String>, Option<String>),
    /// Differences of its manifest, from the first run to the second.
    pub reasons: Vec<DirtyReason>,
    /// Whether all of these are contents of inputs that other instances of the runs gave.
    pub consequence: bool,
    /// Outputs whose content differs.
    pub outputs: Vec<String>,
}

impl RunChanges {
    pub fn new(store: &Store, first: &PastRun, second: &PastRun) -> RunChanges {
        let named = |run: &PastRun| -> BTreeMap<String, PastInstance> {
            run.instances.iter().map(|instance| (instance.name.clone(), instance.clone())).collect()
        };
        let (before, after) = (named(first), named(second));
        let removed = first.instances.iter().filter(|instance| !after.contains_key(&instance.name));
        let names = second.instances.iter().chain(removed).map(|instance| &instance.name);
        let changed: Vec<Changed> =
            names.filter_map(|name| Changed::new(store, name, before.get(name), after.get(name))).collect();
        // An input that changed from one output to another is a consequence.
        let contents = |side: &dyn Fn(&Changed) -> Option<&StageRecord>| -> BTreeSet<Hash> {
            let records = changed.iter().filter_map(side);
            records.flat_map(|record| record.outputs.values().map(|artifact| artifact.hash)).collect()
        };
        let (old, new) = (contents(&|one| one.old.as_ref()), contents(&|one| one.new.as_ref()));
        let differences = changed.iter().map(|one| one.diff(&old, &new)).collect();
        RunChanges { first: first.clone(), second: second.clone(), differences }
    }
}

/// An instance that differs, with its records.
struct Changed {
    name: String,
    outcomes: (Option<String>, Option<String>),
    old: Option<StageRecord>,
    new: Option<StageRecord>,
}

impl Changed {
    /// `None` if the instance is the same in both runs.
    fn new(store: &Store, name: &str, before: Option<&PastInstance>, after: Option<&PastInstance>) -> Option<Changed> {
        let fingerprint = |instance: Option<&PastInstance>| instance.and_then(|instance| instance.fingerprint);
        let done = |instance: Option<&PastInstance>| instance.is_some_and(PastInstance::is_done);
        let same = fingerprint(before) == fingerprint(after) && done(before) == done(after);
        if same && before.is_some() == after.is_some() {
            return None;
        }
        let outcome = |instance: Option<&PastInstance>| instance.map(|instance| instance.outcome.clone());
        let record = |instance| fingerprint(instance).and_then(|fingerprint| store.record(fingerprint));
        let (old, new) = (record(before), record(after));
        Some(Changed { name: name.to_string(), outcomes: (outcome(before), outcome(after)), old, new })
    }

    fn diff(&self, old_contents: &BTreeSet<Hash>, new_contents: &BTreeSet<Hash>) -> InstanceDiff {
        let (mut reasons, mut outputs) = (Vec::new(), Vec::new());
        if let (Some(old), Some(new)) = (&self.old, &self.new) {
            reasons = diff_manifests(&old.manifest, &new.manifest);
            let content = |record: &StageRecord, name: &str| record.outputs.get(name).map(|found| found.hash);
            let all: BTreeSet<&String> = old.outputs.keys().chain(new.outputs.keys()).collect();
            outputs.extend(all.into_iter().filter(|name| content(old, name) != content(new, name)).cloned());
        }
        let from_above = |reason: &DirtyReason| matches!(reason, DirtyReason::InputChanged { old, new, .. } if old_contents.contains(old) && new_contents.contains(new));
        let consequence = !reasons.is_empty() && reasons.iter().all(from_above);
        InstanceDiff { instance: self.name.clone(), outcomes: self.outcomes.clone(), reasons, consequence, outputs }
    }
}

/// Instances of a stage with differences of the same kinds, at the same keys.
struct Group<'a> {
    stage: &'a str,
    /// The kinds and keys of the differences.
    signature: Vec<String>,
    /// What changed in the first instance, one line each.
    lines: Vec<String>,
    /// Whether the lines are the same for all instances.
    equal: bool,
    instances: Vec<&'a str>,
}

fn stage_of(instance: &str) -> &str {
    instance.split('@').next().unwrap_or(instance)
}

/// The differences that have a cause of their own.
fn groups(differences: &[InstanceDiff]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for difference in differences.iter().filter(|difference| !difference.consequence) {
        let InstanceDiff { instance, outcomes, reasons, outputs, .. } = difference;
        let mut lines: Vec<String> = match outcomes {
            (None, Some(after)) => vec![format!("only in the second run ({after})")],
            (Some(before), None) => vec![format!("only in the first run ({before})")],
            (Some(before), Some(after)) if before != after && reasons.is_empty() => {
                vec![format!("{before} -> {after}")]
            }
            _ => Vec::new(),
        };
        let mut signature = lines.clone();
        signature.extend(reasons.iter().map(|reason| format!("{:?} {}", std::mem::discriminant(reason), reason.key())));
        lines.extend(reasons.iter().map(ToString::to_string));
        if !reasons.is_empty() && outputs.is_empty() {
            lines.push("the outputs are equal".to_string());
        }
        let stage = stage_of(instance);
        match groups.iter_mut().find(|group| group.stage == stage && group.signature == signature) {
            Some(group) => {
                group.equal &= group.lines == lines;
                group.instances.push(instance);
            }
            None => groups.push(Group { stage, signature, lines, equal: true, instances: vec![instance] }),
        }
    }
    groups
}

impl fmt::Display for RunChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} -> {}", self.first.run, self.second.run)?;
        if self.differences.is_empty() {
            return writeln!(f, "  no difference: the same instances with the same results");
        }
        for Group { stage, lines, equal, instances, .. } in groups(&self.differences) {
            let name = match &instances[..] {
                [one] => (*one).to_string(),
                several if equal => format!("{stage} ({} instances)", several.len()),
                [first, others @ ..] => format!("{first} and {} more instances, each at these keys", others.len()),
                [] => stage.to_string(),
            };
            match &lines[..] {
                [line] => writeln!(f, "  {name}: {line}")?,
                lines => {
                    writeln!(f, "  {name}")?;
                    lines.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
                }
            }
        }
        let mut below: Vec<(&str, usize, usize)> = Vec::new();
        for difference in self.differences.iter().filter(|difference| difference.consequence) {
            let stage = stage_of(&difference.instance);
            let equal = usize::from(difference.outputs.is_empty());
            match below.iter_mut().find(|(known, ..)| *known == stage) {
                Some((_, count, outputs)) => {
                    *count += 1;
                    *outputs += equal;
                }
                None => below.push((stage, 1, equal)),
            }
        }
        if !below.is_empty() {
            let of_stage = |(stage, count, equal): &(&str, usize, usize)| match (count, equal) {
                (count, 0) => format!("{stage} ({count})"),
                (count, equal) if count == equal => format!("{stage} ({count}, with equal outputs)"),
                (count, equal) => format!("{stage} ({count}, {equal} with equal outputs)"),
            };
            writeln!(
                f,
                "  with other inputs because of these: {}",
                below.iter().map(of_stage).collect::<Vec<_>>().join(", ")
            )?;
        }
        Ok(())
    }
}
