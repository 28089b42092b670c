//! The state from which an interrupted run resumes: weights, moments, step and curve in one file, written atomically.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::arrays::{self, Array};
use crate::optimizer::Optimizer;
use crate::parameters::Parameter;
use crate::trainable_model::TrainableModel;
use ablate_data::records::CurvePoint;

/// Where and how often the state of training is saved. It does not change the result.
#[derive(Clone, Debug)]
pub struct TrainState {
    /// A folder of this run, which survives an interruption. None: no state is saved.
    pub folder: Option<PathBuf>,
    /// Save after this many steps, or
    pub every_steps: u64,
    /// after this many seconds, whichever comes first.
    pub every_seconds: f64,
}

/// The progress of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Position {
    /// Steps done.
    pub(crate) step: u64,
    /// Positions computed, without padding.
    pub(crate) tokens: u64,
    /// Targets used.
    pub(crate) targets: u64,
    pub(crate) flops: f64,
    pub(crate) curve: Vec<CurvePoint>,
    /// Sums since the last point of the curve.
    pub(crate) open: OpenPoint,
}

/// The sums for the next point of the curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OpenPoint {
    pub(crate) steps: u64,
    pub(crate) loss: f64,
    pub(crate) norm: f64,
    pub(crate) pairs: u64,
    pub(crate) preferred: u64,
    pub(crate) margin: f64,
}

const FILE: &str = "training.safetensors";

impl TrainState {
    /// Saves no state.
    pub const fn none() -> TrainState {
        TrainState { folder: None, every_steps: u64::MAX, every_seconds: f64::INFINITY }
    }

    /// Whether it is time to save the state again.
    pub(super) fn due(&self, steps: u64, since: Instant) -> bool {
        self.folder.is_some() && (steps >= self.every_steps || since.elapsed().as_secs_f64() >= self.every_seconds)
    }

    /// Saves the weights and moments of all trainable parameters. If one of them is not finite, the previous file is kept,
    /// since a run cannot resume from such a state.
    pub(super) fn write(&self, model: &TrainableModel, optimizer: &Optimizer, position: &Position) -> Result<()> {
        let Some(path) = self.file() else { return Ok(()) };
        let mut arrays: Vec<Array> = Vec::new();
        for (prefix, values) in [("", None), ("first.", Some(&optimizer.first)), ("second.", Some(&optimizer.second))] {
            for (index, parameter) in model.trainable_parameters() {
                let values = values.map_or_else(|| model.weights(index), |moments| &moments[index]);
                let name = format!("{prefix}{}", parameter.name);
                arrays.push(Array { name, shape: parameter.shape.clone(), values });
            }
        }
        arrays.iter().try_for_each(|array| finite(&array.name, array.values))?;
        let bits = PositionBits::from(position);
        let text = serde_json::to_string(&bits).context("cannot serialize the training state")?;
        arrays::write(&path, arrays, ("position", &text))
    }

    /// Reads a saved state, if there is one. An error means that the state cannot be used.
    pub(super) fn read(&self, model: &mut TrainableModel, optimizer: &mut Optimizer) -> Result<Option<Position>> {
        let Some(path) = self.file().filter(|path| path.exists()) else { return Ok(None) };
        let mut expected: Vec<(String, Vec<usize>)> = Vec::new();
        for prefix in ["", "first.", "second."] {
            let of =
                |(_, parameter): (usize, &Parameter)| (format!("{prefix}{}", parameter.name), parameter.shape.clone());
            expected.extend(model.trainable_parameters().map(of));
        }
        let (arrays, metadata) = arrays::read(&path, &expected)?;
        let Some(text) = metadata.get("position") else {
            bail!("`{}` has no `position` in its metadata", path.display())
        };
        let bits: PositionBits = serde_json::from_str(text).with_context(|| format!("`{}`", path.display()))?;
        let mut arrays = arrays.into_iter();
        for (_, weights) in model.trainable_weights_mut() {
            *weights = arrays.next().unwrap_or_default();
        }
        for moments in [&mut optimizer.first, &mut optimizer.second] {
            for (index, _) in model.trainable_parameters() {
                moments[index] = arrays.next().unwrap_or_default();
            }
        }
        Ok(Some(bits.into()))
    }

    /// The file of the state, if states are saved.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(FILE))
    }
}

/// An error if a weight is not finite.
pub(super) fn check(model: &TrainableModel) -> Result<()> {
    model.trainable_parameters().try_for_each(|(index, parameter)| finite(&parameter.name, model.weights(index)))
}

fn finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => bail!("`{name}` has become {} at index {at}", values[at]),
        None => Ok(()),
    }
}

/// Step, loss, learning rate, gradient norm, tokens, reward accuracy and margin.
type PointBits = (u64, u64, u64, u64, u64, Option<u64>, Option<u64>);

/// A [`Position`] with the bits of every float, since decimal digits do not restore each value exactly.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PositionBits {
    step: u64,
    tokens: u64,
    targets: u64,
    flops: u64,
    curve: Vec<PointBits>,
    open: (u64, u64, u64, u64, u64, u64),
}

impl From<&Position> for PositionBits {
    fn from(position: &Position) -> PositionBits {
        let Position { step, tokens, targets, flops, curve, open } = position;
        let point = |point: &CurvePoint| {
            let CurvePoint { step, loss, learning_rate, gradient_norm, tokens, reward_accuracy, reward_margin } = point;
            let (accuracy, margin) = (reward_accuracy.map(f64::to_bits), reward_margin.map(f64::to_bits));
            (*step, loss.to_bits(), learning_rate.to_bits(), gradient_norm.to_bits(), *tokens, accuracy, margin)
        };
        let OpenPoint { steps, loss, norm, pairs, preferred, margin } = open;
        PositionBits {
            step: *step,
            tokens: *tokens,
            targets: *targets,
            flops: flops.to_bits(),
            curve: curve.iter().map(point).collect(),
            open: (*steps, loss.to_bits(), norm.to_bits(), *pairs, *preferred, margin.to_bits()),
        }
    }
}

impl From<PositionBits> for Position {
    fn from(bits: PositionBits) -> Position {
        let PositionBits { step, tokens, targets, flops, curve, open } = bits;
        let curve =
            curve.into_iter().map(|(step, loss, learning_rate, gradient_norm, tokens, accuracy, margin)| CurvePoint {
                step,
                loss: f64::from_bits(loss),
                learning_rate: f64::from_bits(learning_rate),
                gradient_norm: f64::from_bits(gradient_norm),
                tokens,
                reward_accuracy: accuracy.map(f64::from_bits),
                reward_margin: margin.map(f64::from_bits),
            });
        let (steps, loss, norm, pairs, preferred, margin) = open;
        let (loss, norm, margin) = (f64::from_bits(loss), f64::from_bits(norm), f64::from_bits(margin));
        let open = OpenPoint { steps, loss, norm, pairs, preferred, margin };
        Position { step, tokens, targets, flops: f64::from_bits(flops), curve: curve.collect(), open }
    }
}
