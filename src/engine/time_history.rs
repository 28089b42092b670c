//! Predicts how long stages take from the records of earlier ones: the most similar record of the same kind, scaled by the
//! numbers in which the two differ.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;
use serde_json::Value;

use ablate_core::base::Hash;
use ablate_core::stage::{ArtifactKind, Kind, Manifest, ManifestEntry, Pool, Work};
use ablate_store::{StageRecord, Store};

/// The records of a kind that predict, the latest first.
const MAX_RECORDS: usize = 400;
/// The records whose errors are measured.
const MAX_CHECKED: usize = 60;
/// The similar records whose median is the prediction.
const SIMILAR: usize = 3;
/// The smallest standard deviation of the logarithm of a prediction: a machine does other things, too.
const MIN_ERROR: f64 = 0.1;
/// The standard deviation if the history of a kind has one record, so that no error can be measured.
const UNKNOWN_ERROR: f64 = 0.7;

/// What a stage that ran, or will run, is like.
#[derive(Clone, Debug, Default)]
pub(super) struct Features {
    /// The values of its table, by key, without the numbers in `work`.
    pub(super) values: BTreeMap<String, Value>,
    pub(super) seed: Option<u64>,
    pub(super) work: Option<Work>,
    /// Bytes of the checkpoints that it reads. `None` if they do not exist yet and nothing like them does.
    pub(super) model_bytes: Option<f64>,
    /// Bytes of the rows that it reads.
    pub(super) row_bytes: Option<f64>,
    /// What a stage that ran reported: the examples and the tokens that it worked on.
    examples: Option<f64>,
    tokens: Option<f64>,
}

/// One earlier stage.
struct Past {
    features: Features,
    seconds: f64,
    on_gpu: bool,
    /// Bytes of its outputs, by name, and whether they grow with its work.
    outputs: BTreeMap<String, (f64, bool)>,
}

/// The earlier stages of a store.
pub(super) struct TimeHistory {
    kinds: BTreeMap<&'static str, History>,
}

/// The earlier stages of one kind.
struct History {
    past: Vec<Past>,
    /// Standard deviation of ln(measured / predicted), each record predicted from the others.
    error: f64,
}

/// A predicted stage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Predicted {
    /// Seconds for a stage on a GPU or that runs no model, else seconds times threads.
    pub(super) seconds: f64,
    /// Standard deviation of the logarithm.
    pub(super) error: f64,
    /// Predicted bytes of its outputs, by name.
    pub(super) outputs: BTreeMap<String, f64>,
}

impl TimeHistory {
    /// Reads the records of these kinds.
    pub(super) fn read(store: &Store, kinds: &[&'static Kind]) -> anyhow::Result<TimeHistory> {
        let records: Vec<StageRecord> =
            store.fingerprints()?.par_iter().filter_map(|fingerprint| store.record(*fingerprint)).collect();
        let artifacts = records.iter().flat_map(|record| record.outputs.values());
        let sizes: HashMap<Hash, (ArtifactKind, u64)> =
            artifacts.map(|artifact| (artifact.hash, (artifact.kind, artifact.size_with_bases()))).collect();
        let mut by_kind: BTreeMap<&'static str, History> = BTreeMap::new();
        for kind in kinds {
            let mut of_kind: Vec<&StageRecord> =
                records.iter().filter(|record| record.manifest.kind == kind.name).collect();
            of_kind.sort_by(|one, other| other.provenance.started.cmp(&one.provenance.started));
            let past: Vec<Past> =
                of_kind.into_iter().take(MAX_RECORDS).map(|record| Past::new(record, kind, &sizes)).collect();
            let error = leave_one_out_error(&past);
            by_kind.insert(kind.name, History { past, error });
        }
        Ok(TimeHistory { kinds: by_kind })
    }

    /// The prediction for a stage. `None` if its kind has no history.
    pub(super) fn predict(&self, kind: &Kind, features: &Features, on_gpu: bool) -> Option<Predicted> {
        let history = self.kinds.get(kind.name)?;
        predict(history.past.iter(), features, on_gpu).map(|(seconds, outputs)| Predicted {
            seconds,
            error: history.error,
            outputs,
        })
    }
}

impl Past {
    fn new(record: &StageRecord, kind: &Kind, sizes: &HashMap<Hash, (ArtifactKind, u64)>) -> Past {
        let inputs = record.manifest.entries.iter().filter_map(|entry| match entry {
            ManifestEntry::Input { hash, .. } => sizes.get(hash).map(|(kind, size)| (*kind, *size as f64)),
            ManifestEntry::Value { .. } | ManifestEntry::Seed { .. } => None,
        });
        let mut features = Features::of_manifest(&record.manifest, kind);
        features.add_inputs(inputs.map(|(kind, size)| (kind, Some(size))));
        let provenance = &record.provenance;
        let on_gpu = provenance.device.starts_with("cuda");
        let threads = if on_gpu || kind.pool != Pool::Model { 1 } else { provenance.threads.max(1) };
        let fact = |key: &str| record.summary.0.get(key).and_then(Value::as_f64);
        (features.examples, features.tokens) = (fact("examples"), fact("tokens"));
        let outputs = record
            .outputs
            .iter()
            .map(|(name, artifact)| (name.clone(), (artifact.size_with_bases() as f64, is_rows(artifact.kind))));
        Past { features, seconds: provenance.seconds * threads as f64, on_gpu, outputs: outputs.collect() }
    }
}

impl Features {
    /// The features that the manifest, or its part without inputs and seed, gives.
    pub(super) fn of_manifest(manifest: &Manifest, kind: &Kind) -> Features {
        let (mut values, mut seed) = (BTreeMap::new(), None);
        for entry in &manifest.entries {
            match entry {
                ManifestEntry::Value { key, value } => drop(values.insert(key.clone(), value.clone())),
                ManifestEntry::Seed { seed: own } => seed = Some(*own),
                ManifestEntry::Input { .. } => {}
            }
        }
        // The numbers that the work is computed from do not count as differences of two stages.
        let counted: RefCell<Vec<String>> = RefCell::default();
        let work = (kind.work)(&|key| {
            counted.borrow_mut().push(key.to_string());
            values.get(key).and_then(Value::as_f64)
        });
        for key in counted.take() {
            values.remove(&key);
        }
        Features { values, seed, work: Some(work), ..Features::default() }
    }

    /// Adds the sizes of the inputs, that of an adapter with its base. A size that is not known makes the sum unknown.
    pub(super) fn add_inputs(&mut self, inputs: impl Iterator<Item = (ArtifactKind, Option<f64>)>) {
        let (mut models, mut rows) = (Some(0.0), Some(0.0));
        for (kind, size) in inputs {
            if kind == ArtifactKind::Checkpoint {
                models = models.zip(size).map(|(sum, size)| sum + size);
            } else if is_rows(kind) {
                rows = rows.zip(size).map(|(sum, size)| sum + size);
            }
        }
        self.model_bytes = models.filter(|bytes| *bytes > 0.0);
        self.row_bytes = rows.filter(|bytes| *bytes > 0.0);
    }

    /// The number of keys with different values.
    fn differences(&self, other: &Features) -> usize {
        let keys: BTreeSet<&String> = self.values.keys().chain(other.values.keys()).collect();
        let different = keys.into_iter().filter(|key| self.values.get(*key) != other.values.get(*key));
        different.count()
    }

    /// The factor by which this stage has more work than `other`, which ran. `None` if the two cannot be compared, because their
    /// lengths are given in different ways.
    fn factor(&self, other: &Features) -> Option<f64> {
        let known = |own: Option<f64>, other: Option<f64>| own.zip(other).map_or(1.0, |(own, other)| ratio(own, other));
        let length = match (self.work?, other.work?) {
            (Work::Constant, _) | (_, Work::Constant) => 1.0,
            (Work::Rows(own), Work::Rows(of_other)) => ratio(own, of_other) * known(self.row_bytes, other.row_bytes),
            (Work::Examples(own), Work::Examples(of_other)) | (Work::Tokens(own), Work::Tokens(of_other)) => {
                ratio(own, of_other)
            }
            (Work::Examples(own), _) => ratio(own, other.examples?),
            (Work::Tokens(own), _) => ratio(own, other.tokens?),
            (Work::Rows(_), Work::Examples(_) | Work::Tokens(_)) => return None,
        };
        Some(length * known(self.model_bytes, other.model_bytes))
    }
}

/// An earlier stage that may predict another one.
struct Candidate<'a> {
    /// Whether it ran on another kind of device; whether its length cannot be compared; the number of different values.
    distance: (bool, bool, usize),
    /// The other one's work relative to its own.
    factor: f64,
    past: &'a Past,
}

/// The median of the most similar stages, each scaled, with the sizes of the outputs of the most similar one.
fn predict<'a>(
    past: impl Iterator<Item = &'a Past>,
    features: &Features,
    on_gpu: bool,
) -> Option<(f64, BTreeMap<String, f64>)> {
    // Similar: same device, length given in the same way, few different values, little to scale.
    let candidate = |past: &'a Past| {
        let factor = features.factor(&past.features);
        let distance = (past.on_gpu != on_gpu, factor.is_none(), features.differences(&past.features));
        Candidate { distance, factor: factor.unwrap_or(1.0), past }
    };
    let mut similar: Vec<Candidate> = past.map(candidate).collect();
    similar.sort_by(|one, other| {
        one.distance.cmp(&other.distance).then(one.factor.ln().abs().total_cmp(&other.factor.ln().abs()))
    });
    let Candidate { distance, past: nearest, .. } = similar.first()?;
    let best = similar.iter().take_while(|one| one.distance == *distance).take(SIMILAR);
    let mut seconds: Vec<f64> = best.map(|one| one.past.seconds * one.factor).collect();
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    let median = if seconds.len().is_multiple_of(2) {
        f64::midpoint(seconds[middle - 1], seconds[middle])
    } else {
        seconds[middle]
    };
    let factor = features.factor(&nearest.features).unwrap_or(1.0);
    let size =
        |(name, (size, grows)): (&String, &(f64, bool))| (name.clone(), if *grows { size * factor } else { *size });
    Some((median, nearest.outputs.iter().map(size).collect()))
}

/// Whether an output has rows, so that its size grows with the work of its stage.
fn is_rows(kind: ArtifactKind) -> bool {
    use ArtifactKind::{Credits, Items, Judged, Pairs, Rollouts, Rows, Scores};
    matches!(kind, Items | Rows | Rollouts | Judged | Credits | Pairs | Scores)
}

/// `own / other`, or 1 if one of them is 0.
fn ratio(own: f64, other: f64) -> f64 {
    if own > 0.0 && other > 0.0 { own / other } else { 1.0 }
}

fn leave_one_out_error(past: &[Past]) -> f64 {
    let checked = past.len().min(MAX_CHECKED);
    let errors: Vec<f64> = (0..checked)
        .into_par_iter()
        .filter_map(|index| {
            let own = &past[index];
            let others = past.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
            let (predicted, _) = predict(others, &own.features, own.on_gpu)?;
            (predicted > 0.0 && own.seconds > 0.0).then(|| (own.seconds / predicted).ln().powi(2))
        })
        .collect();
    if errors.is_empty() {
        UNKNOWN_ERROR
    } else {
        (errors.iter().sum::<f64>() / errors.len() as f64).sqrt().max(MIN_ERROR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn past(values: &[(&str, Value)], work: Work, rows: Option<f64>, seconds: f64) -> Past {
        let values = values.iter().map(|(key, value)| ((*key).to_string(), value.clone())).collect();
        let features = Features { values, work: Some(work), row_bytes: rows, ..Features::default() };
        let outputs = [("model", 10.0, false), ("rows", 100.0, true)];
        let outputs = outputs.map(|(name, size, grows)| (name.to_string(), (size, grows)));
        Past { features, seconds, on_gpu: false, outputs: outputs.into() }
    }

    fn steps(steps: f64, lr: f64, seconds: f64) -> Past {
        past(&[("steps", json!(steps)), ("lr", json!(lr))], Work::Examples(steps), None, seconds)
    }

    fn milliseconds(history: &[Past], wanted: &Past) -> u64 {
        (1000.0 * predict(history.iter(), &wanted.features, wanted.on_gpu).unwrap().0).round() as u64
    }

    #[test]
    fn a_longer_training_takes_longer() {
        let history = [steps(100.0, 0.1, 10.0)];
        assert_eq!(milliseconds(&history, &steps(250.0, 0.1, 0.0)), 25_000);
        let outputs = predict(history.iter(), &steps(250.0, 0.1, 0.0).features, false).unwrap().1;
        assert_eq!(
            (outputs["model"] as u64, outputs["rows"] as u64),
            (10, 250),
            "rows grow with the work, a model does not"
        );
    }

    #[test]
    fn a_stage_with_the_same_values_predicts_better_than_another_one() {
        let long_prompt = |seconds| past(&[("prompt", json!("explain"))], Work::Rows(1.0), Some(50.0), seconds);
        let short_prompt = |seconds| past(&[("prompt", json!("answer"))], Work::Rows(1.0), Some(50.0), seconds);
        let history = [short_prompt(1.0), long_prompt(30.0), short_prompt(3.0)];
        assert_eq!(milliseconds(&history, &long_prompt(0.0)), 30_000);
        assert_eq!(milliseconds(&history, &short_prompt(0.0)), 2_000, "the median of equal stages");
    }

    #[test]
    fn rows_count_only_where_the_length_depends_on_them() {
        let epochs = |rows| past(&[], Work::Rows(1.0), Some(rows), 10.0);
        assert_eq!(milliseconds(&[epochs(100.0)], &epochs(300.0)), 30_000);
        let fixed = |rows| past(&[], Work::Examples(5.0), Some(rows), 10.0);
        assert_eq!(milliseconds(&[fixed(100.0)], &fixed(300.0)), 10_000);
        let unknown = past(&[], Work::Rows(1.0), None, 0.0);
        assert_eq!(milliseconds(&[epochs(100.0)], &unknown), 10_000, "sizes that are not known change nothing");
        assert_eq!(
            milliseconds(&[fixed(100.0), epochs(100.0)], &epochs(200.0)),
            20_000,
            "lengths that can be compared come first"
        );
        let mut ran = epochs(100.0);
        ran.features.examples = Some(50.0);
        assert_eq!(milliseconds(&[ran], &steps(100.0, 0.1, 0.0)), 20_000, "100 examples take twice as long as 50");
    }

    #[test]
    fn the_error_is_that_of_predicting_each_stage_from_the_others() {
        let close = |error: f64, expected: f64| assert!((error - expected).abs() < 1e-9, "{error}");
        close(leave_one_out_error(&[steps(100.0, 0.1, 10.0)]), UNKNOWN_ERROR);
        let exact: Vec<Past> = [100.0, 200.0, 300.0].map(|number| steps(number, 0.1, number / 10.0)).into();
        close(leave_one_out_error(&exact), MIN_ERROR);
        let noisy = [steps(100.0, 0.1, 10.0), steps(100.0, 0.1, 20.0)];
        close(leave_one_out_error(&noisy), 2f64.ln());
    }
}
