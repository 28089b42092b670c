//! The values of stages in which two sides differ.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use ablate_core::stage::{Manifest, ManifestEntry};

/// The values of all stages that made the evaluations of one side: stage, then key, then the values that occur.
type Parameters = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// A key of a stage whose values differ between the sides. A stage that only one side has is one difference without a
/// key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParameterDifference {
    pub stage: String,
    /// None if only one side has the stage.
    pub key: Option<String>,
    /// The values of each side, as in the experiment's file. For a stage that one side has: its keys with their values.
    pub values: [Vec<String>; 2],
}

/// The values of the manifests, except seeds and inputs.
fn parameters(stages: &[&(String, Manifest)]) -> Parameters {
    let mut parameters = Parameters::new();
    for (stage, manifest) in stages {
        let of_stage = parameters.entry(stage.clone()).or_default();
        for entry in &manifest.entries {
            if let ManifestEntry::Value { key, value } = entry {
                of_stage.entry(key.clone()).or_default().insert(text(value));
            }
        }
    }
    parameters
}

/// A value as in the experiment's file.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// The keys whose values differ, by stage in alphabetical order.
pub(super) fn parameter_differences(sides: &[Vec<&(String, Manifest)>; 2]) -> Vec<ParameterDifference> {
    let [first, second] = sides.each_ref().map(|stages| parameters(stages));
    let stages: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let mut differences = Vec::new();
    for stage in stages {
        match (first.get(stage), second.get(stage)) {
            (Some(before), Some(after)) => {
                let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
                let values = |of: &BTreeMap<String, BTreeSet<String>>, key: &str| -> Vec<String> {
                    of.get(key).into_iter().flatten().cloned().collect()
                };
                for key in keys.into_iter().filter(|key| before.get(*key) != after.get(*key)) {
                    let values = [values(before, key), values(after, key)];
                    differences.push(ParameterDifference { stage: stage.clone(), key: Some(key.clone()), values });
                }
            }
            (before, after) => {
                let listed = |of: Option<&BTreeMap<String, BTreeSet<String>>>| -> Vec<String> {
                    let pair = |(key, values): (&String, &BTreeSet<String>)| {
                        format!("{key} = {}", values.iter().cloned().collect::<Vec<_>>().join(" | "))
                    };
                    of.into_iter().flatten().map(pair).collect()
                };
                let values = [listed(before), listed(after)];
                differences.push(ParameterDifference { stage: stage.clone(), key: None, values });
            }
        }
    }
    differences
}
