//! Selects instances by name: `sft`, `sft@mix=both`, `eval@prompt=*`, `*@seed=0`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use ablate_core::base::diagnostic::nearest;
use ablate_experiment::{Expansion, InstanceId, InstanceInput, Upstream};

/// The instances of a run: those in all three lists. An empty list selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// These instances only. Their inputs must be in the store already.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// These instances and everything upstream of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub until: Vec<String>,
    /// These instances, everything downstream of them, and what these instances need.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub downstream_of: Vec<String>,
}

impl Selection {
    /// Whether it selects every instance.
    pub fn is_all(&self) -> bool {
        *self == Selection::default()
    }

    /// The selected instances. A pattern that matches nothing is an error.
    pub fn resolve(&self, expansion: &Expansion) -> anyhow::Result<BTreeSet<InstanceId>> {
        let all = || expansion.ids().collect::<BTreeSet<_>>();
        let until =
            if self.until.is_empty() { all() } else { with_upstream(expansion, matching(expansion, &self.until)?) };
        let only = if self.only.is_empty() { all() } else { matching(expansion, &self.only)? };
        let mut selected: BTreeSet<InstanceId> = until.intersection(&only).copied().collect();
        if !self.downstream_of.is_empty() {
            let downstream = with_downstream(expansion, matching(expansion, &self.downstream_of)?);
            selected = selected.intersection(&with_upstream(expansion, downstream)).copied().collect();
        }
        Ok(selected)
    }
}

/// Every instance that matches one of the patterns. A pattern that matches none is an error with the nearest name.
pub fn matching(expansion: &Expansion, patterns: &[String]) -> anyhow::Result<BTreeSet<InstanceId>> {
    let mut found = BTreeSet::new();
    for pattern in patterns {
        let alias = expansion.aliases.get(pattern).map(|alias| alias.instance);
        let mut ids = expansion.ids().filter(|id| matches(pattern, expansion, *id)).chain(alias).peekable();
        if ids.peek().is_none() {
            let names = expansion.instances.iter().flat_map(|instance| [&*instance.name, &*instance.stage]);
            let help = match nearest(pattern, names) {
                Some(near) => format!("a similar name exists: `{near}`"),
                None => "`ablate ls` lists the instances".to_string(),
            };
            anyhow::bail!("`{pattern}` matches no stage and no instance\nhelp: {help}");
        }
        found.extend(ids);
    }
    Ok(found)
}

/// The instances and everything upstream of them.
pub fn with_upstream(expansion: &Expansion, start: BTreeSet<InstanceId>) -> BTreeSet<InstanceId> {
    let mut found = start.clone();
    let mut pending: Vec<InstanceId> = start.into_iter().collect();
    while let Some(id) = pending.pop() {
        for input in &expansion.get(id).inputs {
            if let Upstream::Output { instance, .. } = input.upstream
                && found.insert(instance)
            {
                pending.push(instance);
            }
        }
    }
    found
}

/// The instances and everything downstream of them.
fn with_downstream(expansion: &Expansion, mut found: BTreeSet<InstanceId>) -> BTreeSet<InstanceId> {
    // An instance comes after the instances that it reads.
    for id in expansion.ids() {
        let reads = |input: &InstanceInput| match input.upstream {
            Upstream::Output { instance, .. } => found.contains(&instance),
            Upstream::External { .. } | Upstream::Environment { .. } => false,
        };
        if expansion.get(id).inputs.iter().any(reads) {
            found.insert(id);
        }
    }
    found
}

/// A pattern is a full name, or a stage with any of its axis values. `*` matches any characters.
fn matches(pattern: &str, expansion: &Expansion, id: InstanceId) -> bool {
    let instance = expansion.get(id);
    pattern == instance.name || matches_point(pattern, &instance.stage, &instance.point)
}

/// Whether a pattern matches a stage at a point.
pub fn matches_point(pattern: &str, own: &str, point: &BTreeMap<String, String>) -> bool {
    let (stage, values) = pattern.split_once('@').unwrap_or((pattern, ""));
    glob(stage, own)
        && values.split(',').filter(|pair| !pair.is_empty()).all(|pair| match pair.split_once('=') {
            Some((axis, value)) => point.get(axis).is_some_and(|label| glob(value, label)),
            None => false,
        })
}

/// Whether a pattern matches the full name of an instance or the name of its stage.
pub fn matches_name(pattern: &str, instance: &str) -> bool {
    glob(pattern, instance) || instance.split('@').next().is_some_and(|stage| glob(pattern, stage))
}

/// Whether `text` matches `pattern`, in which `*` matches any characters.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).filter(|cut| tail.is_char_boundary(*cut)).any(|cut| glob(rest, &tail[cut..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_characters() {
        assert!(glob("*", ""));
        assert!(glob("e*l", "eval"));
        assert!(glob("*a*", "eval"));
        assert!(!glob("e*x", "eval"));
        assert!(!glob("eva", "eval"));
    }
}
