//! What an interrupted run resumes from: weights, moments, step and curve in one file, written atomically.
//! Knows no loss and no model beyond its arrays.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::optimizer::Optimizer;
use crate::arrays::{self, Array};
use crate::parameters::Parameter;
use crate::trainable_model::TrainableModel;
use ablate_data::records::CurvePoint;

/// Where and how often the state of training is kept. Never changes a result.
#[derive(Clone, Debug)]
pub struct TrainState {
    /// A private folder that survives an interruption of this same run, and of no other. None: nothing is kept.
    pub folder: Option<PathBuf>,
    /// Keep after so many steps, and
    pub every_steps: u64,
    /// after so many seconds, whichever comes first.
    pub every_seconds: f64,
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Position {
    /// BatchDecoder done.
    pub(crate) step: u64,
    /// Positions computed, padding left out.
    pub(crate) tokens: u64,
    /// Targets learned from.
    pub(crate) targets: u64,
    pub(crate) flops: f64,
    pub(crate) curve: Vec<CurvePoint>,
    /// Sums since the last line of the curve.
    pub(crate) open: OpenPoint,
}

/// A line of the curve that is not full yet.
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
    /// Keeps nothing.
    pub const fn none() -> TrainState {
        TrainState { folder: None, every_steps: u64::MAX, every_seconds: f64::INFINITY }
    }

    /// Whether it is time to keep a state again.
    pub(super) fn due(&self, steps: u64, since: Instant) -> bool {
        self.folder.is_some() && (steps >= self.every_steps || since.elapsed().as_secs_f64() >= self.every_seconds)
    }

    /// Keeps what has changed since the start: the weights and moments of everything that learns. What is there stays
    /// if one of them is not finite: nothing could go on from that.
    pub(super) fn write(
        &self,
        trainable_model: &TrainableModel,
        optimizer: &Optimizer,
        position: &Position,
    ) -> Result<()> {
        let Some(path) = self.file() else { return Ok(()) };
        let mut arrays: Vec<Array> = Vec::new();
        for (prefix, values) in [("", None), ("first.", Some(&optimizer.first)), ("second.", Some(&optimizer.second))] {
            for (index, parameter) in trainable_model.trainable_parameters() {
                let values = values.map_or_else(|| trainable_model.weights(index), |moments| &moments[index]);
                let name = format!("{prefix}{}", parameter.name);
                arrays.push(Array { name, shape: parameter.shape.clone(), values });
            }
        }
        arrays.iter().try_for_each(|array| finite(&array.name, array.values))?;
        let text = serde_json::to_string(&Exact::from(position)).context("cannot serialize the training state")?;
        arrays::write(&path, arrays, ("position", &text))
    }

    /// Takes up a state that was kept, if there is one. An error means that it cannot be used.
    pub(super) fn read(
        &self,
        trainable_model: &mut TrainableModel,
        optimizer: &mut Optimizer,
    ) -> Result<Option<Position>> {
        let Some(path) = self.file().filter(|path| path.exists()) else { return Ok(None) };
        let mut expected: Vec<(String, Vec<usize>)> = Vec::new();
        for prefix in ["", "first.", "second."] {
            let of =
                |(_, parameter): (usize, &Parameter)| (format!("{prefix}{}", parameter.name), parameter.shape.clone());
            expected.extend(trainable_model.trainable_parameters().map(of));
        }
        let (arrays, metadata) = arrays::read(&path, &expected)?;
        let Some(text) = metadata.get("position") else { bail!("`{}` does not say where it stands", path.display()) };
        let exact: Exact = serde_json::from_str(text).with_context(|| format!("`{}`", path.display()))?;
        let mut arrays = arrays.into_iter();
        for (_, weights) in trainable_model.trainable_weights_mut() {
            *weights = arrays.next().unwrap_or_default();
        }
        for moments in [&mut optimizer.first, &mut optimizer.second] {
            for (index, _) in trainable_model.trainable_parameters() {
                moments[index] = arrays.next().unwrap_or_default();
            }
        }
        Ok(Some(exact.into()))
    }

    /// The file of the state, if one is kept.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(FILE))
    }
}

/// Refuses weights that no model can have.
pub(super) fn check(trainable_model: &TrainableModel) -> Result<()> {
    trainable_model
        .trainable_parameters()
        .try_for_each(|(index, parameter)| finite(&parameter.name, trainable_model.weights(index)))
}

fn finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => bail!("`{name}` has become {} at place {at}", values[at]),
        None => Ok(()),
    }
}

/// Step, loss, learning rate, gradient norm, tokens, reward accuracy and margin.
type ExactPoint = (u64, u64, u64, u64, u64, Option<u64>, Option<u64>);

/// A position with every number as its bits: decimal digits would not bring each one back.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exact {
    step: u64,
    tokens: u64,
    targets: u64,
    flops: u64,
    curve: Vec<ExactPoint>,
    open: (u64, u64, u64, u64, u64, u64),
}

impl From<&Position> for Exact {
    fn from(position: &Position) -> Exact {
        let Position { step, tokens, targets, flops, curve, open } = position;
        let point = |point: &CurvePoint| {
            let CurvePoint { step, loss, learning_rate, gradient_norm, tokens, reward_accuracy, reward_margin } = point;
            let (accuracy, margin) = (reward_accuracy.map(f64::to_bits), reward_margin.map(f64::to_bits));
            (*step, loss.to_bits(), learning_rate.to_bits(), gradient_norm.to_bits(), *tokens, accuracy, margin)
        };
        let OpenPoint { steps, loss, norm, pairs, preferred, margin } = open;
        Exact {
            step: *step,
            tokens: *tokens,
            targets: *targets,
            flops: flops.to_bits(),
            curve: curve.iter().map(point).collect(),
            open: (*steps, loss.to_bits(), norm.to_bits(), *pairs, *preferred, margin.to_bits()),
        }
    }
}

impl From<Exact> for Position {
    fn from(exact: Exact) -> Position {
        let Exact { step, tokens, targets, flops, curve, open } = exact;
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
