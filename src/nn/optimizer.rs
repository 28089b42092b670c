//! AdamW with a schedule, gradient clipping, learning rates per part and frozen parts.

use std::borrow::Cow;

use rayon::prelude::*;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::kernels::elementwise::{AdamW, adamw};
use crate::kernels::math::sum_of_squares;
use crate::parameters::Parameter;
use crate::profile::timer;
use crate::trainable_model::TrainableModel;
use crate::{ParamGroup, Pattern};

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine from `lr` to `lr * final_lr` (Loshchilov and Hutter 2017).
    #[default]
    Cosine,
    /// A line from `lr` to `lr * final_lr`.
    Linear,
    /// Constantly `lr`.
    Constant,
}

/// Learning rates of the parts of a model; the default is `lr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LearningRates {
    pub vision: Option<f64>,
    pub projector: Option<f64>,
    pub decoder: Option<f64>,
}

/// AdamW (Loshchilov and Hutter 2019) and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Highest learning rate.
    pub lr: f64,
    pub lr_parts: LearningRates,
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay per step, times the learning rate. Matrices only.
    pub weight_decay: f64,
    /// Largest global norm of the gradient. 0: no clipping.
    pub clip: f64,
    pub schedule: Schedule,
    /// Fraction of the steps over which the learning rate rises to `lr`.
    pub warmup: f64,
    /// Learning rate that is reached after the last step, as a fraction of the highest.
    pub final_lr: f64,
    /// What is not trained: parts, or parameters whose names match.
    pub freeze: Vec<Freeze>,
}

/// A part, or a pattern over the names of parameters. A pattern must contain a `.` or a `*`, so that a misspelled part is an
/// error.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", untagged)]
pub enum Freeze {
    Group(ParamGroup),
    Named(Pattern),
}

impl JsonSchema for Freeze {
    fn schema_name() -> Cow<'static, str> {
        "Freeze".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A part, or a pattern over the names of parameters, with a `.` or a `*` in it.",
            "anyOf": [generator.subschema_for::<ParamGroup>(), { "type": "string", "pattern": "[.*]" }],
        })
    }
}

impl TryFrom<String> for Freeze {
    type Error = String;

    fn try_from(text: String) -> Result<Freeze, String> {
        match text.as_str() {
            "vision" => Ok(Freeze::Group(ParamGroup::Vision)),
            "projector" => Ok(Freeze::Group(ParamGroup::Projector)),
            "decoder" => Ok(Freeze::Group(ParamGroup::Decoder)),
            _ if text.contains(['.', '*']) => Ok(Freeze::Named(Pattern(text))),
            _ => Err(format!(
                "unknown part `{text}`, expected one of `vision`, `projector`, `decoder`, or a pattern over the names of \
                 parameters such as `model.layers.0.*`"
            )),
        }
    }
}

impl Freeze {
    /// Whether a parameter is selected, by its full name or the name without `.weight` or `.bias`. A parameter of an adapter is
    /// also selected by the name of its layer.
    pub(crate) fn matches(&self, parameter: &Parameter) -> bool {
        match self {
            Freeze::Group(part) => parameter.group == *part,
            Freeze::Named(pattern) => {
                let parent =
                    |name: &str| name.rsplit_once('.').map_or_else(String::new, |(start, _)| start.to_string());
                let layer = parent(&parameter.name);
                let adapted_layer = if layer.ends_with(".lora_A") || layer.ends_with(".lora_B") {
                    parent(&layer)
                } else {
                    String::new()
                };
                let names = [parameter.name.clone(), layer, adapted_layer];
                names.iter().filter(|name| !name.is_empty()).any(|name| pattern.matches(name))
            }
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            lr: 5e-6,
            lr_parts: LearningRates::default(),
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            schedule: Schedule::Cosine,
            warmup: 0.03,
            final_lr: 0.0,
            freeze: Vec::new(),
        }
    }
}

impl OptimizerConfig {
    /// All problems of the values, each with its key.
    pub fn check(&self) -> Vec<(String, String)> {
        let OptimizerConfig { lr, lr_parts, betas, eps, weight_decay, clip, schedule: _, warmup, final_lr, freeze } =
            self;
        let mut wrong = Vec::new();
        let mut need = |key: &str, holds: bool, rule: &str, value: f64| {
            if !holds {
                wrong.push((key.to_string(), format!("must be {rule}, not {value}")));
            }
        };
        let rate = |value: f64| value.is_finite() && value > 0.0;
        need("lr", rate(*lr), "above 0", *lr);
        let LearningRates { vision, projector, decoder } = lr_parts;
        for (part, value) in [("vision", vision), ("projector", projector), ("decoder", decoder)] {
            if let Some(value) = value {
                need(&format!("lr_parts.{part}"), rate(*value), "above 0 (to leave a part alone, `freeze` it)", *value);
            }
        }
        for (index, beta) in betas.iter().enumerate() {
            need(&format!("betas.{index}"), (0.0..1.0).contains(beta), "at least 0 and below 1", *beta);
        }
        need("eps", rate(*eps), "above 0", *eps);
        need("weight_decay", weight_decay.is_finite() && *weight_decay >= 0.0, "at least 0", *weight_decay);
        need("clip", clip.is_finite() && *clip >= 0.0, "at least 0 (0: no clipping)", *clip);
        need("warmup", (0.0..=1.0).contains(warmup), "between 0 and 1, a fraction of the steps", *warmup);
        need("final_lr", (0.0..=1.0).contains(final_lr), "between 0 and 1, a fraction of `lr`", *final_lr);
        if [ParamGroup::Vision, ParamGroup::Projector, ParamGroup::Decoder]
            .iter()
            .all(|&part| freeze.contains(&Freeze::Group(part)))
        {
            wrong.push(("freeze".to_string(), "leaves no trainable part".to_string()));
        }
        wrong
    }

    /// The factor of the learning rate at step `step` of `steps`, counted from 0.
    ///
    /// With `w` warm-up steps, step `k < w` has `(k + 1) / w`. After them, `progress = (k - w) / (steps - w)` is 0 at the
    /// first step and would be 1 after the last, so the factor reaches `final_lr` when training has ended. The decay
    /// is that of transformers' `get_cosine_schedule_with_warmup` and `get_linear_schedule_with_warmup`. Their warm-up is
    /// `k / w`, so their first step has the rate 0.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        let warm = ((self.warmup * steps as f64).ceil() as u64).min(steps);
        if step < warm {
            return (step + 1) as f64 / warm as f64;
        }
        // 1 - progress. Above 0 at every step, also after rounding.
        let remaining = steps.saturating_sub(step) as f64 / (steps - warm).max(1) as f64;
        let decay = match self.schedule {
            // (1 + cos(pi progress)) / 2.
            Schedule::Cosine => (std::f64::consts::FRAC_PI_2 * remaining).sin().powi(2),
            Schedule::Linear => remaining,
            Schedule::Constant => return 1.0,
        };
        self.final_lr + (1.0 - self.final_lr) * decay
    }

    /// Whether a parameter is frozen.
    pub(crate) fn freezes(&self, parameter: &Parameter) -> bool {
        self.freeze.iter().any(|freeze| freeze.matches(parameter))
    }

    /// The highest learning rate of a part.
    pub(crate) fn rate(&self, part: ParamGroup) -> f64 {
        let LearningRates { vision, projector, decoder } = self.lr_parts;
        match part {
            ParamGroup::Vision => vision,
            ParamGroup::Projector => projector,
            ParamGroup::Decoder => decoder,
        }
        .unwrap_or(self.lr)
    }
}

/// Numbers per parallel task.
const PIECE: usize = 1 << 15;

/// The moments of every parameter by its index; empty for a frozen parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Optimizer {
    pub(crate) config: OptimizerConfig,
    pub(crate) first: Vec<Vec<f32>>,
    pub(crate) second: Vec<Vec<f32>>,
}

impl Optimizer {
    pub(crate) fn new(config: &OptimizerConfig, trainable_model: &TrainableModel) -> Optimizer {
        let zeros = || {
            let mut zeros = vec![Vec::new(); trainable_model.count()];
            for (index, parameter) in trainable_model.trainable_parameters() {
                zeros[index] = vec![0.0; parameter.len()];
            }
            zeros
        };
        // Two calls instead of a clone: memory that is allocated as zeros is not touched before its first use.
        Optimizer { config: config.clone(), first: zeros(), second: zeros() }
    }

    /// The global norm of the gradients of all trainable parameters.
    pub(crate) fn norm(trainable_model: &TrainableModel, gradients: &[Vec<f32>]) -> f64 {
        let pieces: Vec<&[f32]> =
            trainable_model.trainable_parameters().flat_map(|(index, _)| gradients[index].chunks(PIECE)).collect();
        let squares: Vec<f64> = pieces
            .into_par_iter()
            .map(|piece| {
                let _timer = timer("gradient norm", 0, piece.len());
                sum_of_squares(piece)
            })
            .collect();
        squares.into_iter().sum::<f64>().sqrt()
    }

    /// Step `step` of `steps`, counted from 0, with gradients of global norm `norm`.
    pub(crate) fn step(
        &mut self,
        trainable_model: &mut TrainableModel,
        gradients: &[Vec<f32>],
        norm: f64,
        step: u64,
        steps: u64,
    ) {
        let OptimizerConfig { betas: [beta1, beta2], eps, weight_decay, clip, .. } = self.config;
        let factor = self.config.factor(step, steps);
        let power = i32::try_from(step + 1).unwrap_or(i32::MAX);
        let clipped = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        let update = |parameter: &Parameter| {
            let rate = self.config.rate(parameter.group) * factor;
            let decay = if parameter.is_matrix() { weight_decay } else { 0.0 };
            AdamW {
                scale: clipped as f32,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                rate: (rate / (1.0 - beta1.powi(power))) as f32,
                correction2: (1.0 / (1.0 - beta2.powi(power))) as f32,
                eps: eps as f32,
                keep: (1.0 - rate * decay) as f32,
            }
        };
        let mut updates = vec![None; trainable_model.count()];
        for (index, parameter) in trainable_model.trainable_parameters() {
            updates[index] = Some(update(parameter));
        }
        let others = self.first.iter_mut().zip(&mut self.second).zip(gradients).zip(updates);
        let others = others.filter_map(|(arrays, update)| Some((arrays, update?)));
        // All parameters in one parallel loop: each parameter of a small model is one piece.
        let mut pieces = Vec::new();
        for ((_, weights), (((first, second), gradients), update)) in
            trainable_model.trainable_weights_mut().zip(others)
        {
            let moments = first.chunks_mut(PIECE).zip(second.chunks_mut(PIECE));
            let weights = weights.chunks_mut(PIECE).zip(gradients.chunks(PIECE));
            pieces.extend(weights.zip(moments).map(|(weights, moments)| (update, weights, moments)));
        }
        pieces.into_par_iter().for_each(|(update, (weights, gradients), (first, second))| {
            let _timer = timer("optimizer", 0, 7 * weights.len());
            adamw(update, weights, gradients, first, second);
        });
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the results are exact")]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_warms_up_and_decays() {
        let mut config = OptimizerConfig { warmup: 0.1, final_lr: 0.02, ..OptimizerConfig::default() };
        let near = |factor: f64, expected: f64| assert!((factor - expected).abs() < 1e-12, "{factor}, not {expected}");
        // 20 steps: two of warm-up, then a half cosine over 18.
        assert_eq!((config.factor(0, 20), config.factor(1, 20), config.factor(2, 20)), (0.5, 1.0, 1.0));
        near(config.factor(11, 20), 0.02 + 0.98 * 0.5);
        near(config.factor(19, 20), 0.02 + 0.98 * (1.0 + (std::f64::consts::PI * 17.0 / 18.0).cos()) / 2.0);
        assert_eq!(config.factor(20, 20), 0.02, "after the last step");
        config.schedule = Schedule::Linear;
        near(config.factor(5, 20), 0.02 + 0.98 * (1.0 - 3.0 / 18.0));
        config.schedule = Schedule::Constant;
        assert_eq!(config.factor(19, 20), 1.0);
        config.final_lr = 1.0;
        config.schedule = Schedule::Cosine;
        assert_eq!((config.factor(10, 20), config.factor(19, 20)), (1.0, 1.0));
    }

    #[test]
    fn no_step_has_a_rate_of_0() {
        for schedule in [Schedule::Cosine, Schedule::Linear, Schedule::Constant] {
            for warmup in [0.0, 0.03, 0.5, 1.0] {
                let config = OptimizerConfig { schedule, warmup, final_lr: 0.0, ..OptimizerConfig::default() };
                for steps in [1, 2, 3, 100, 1_000_000_000] {
                    for step in [0, 1, steps / 2, steps - 1].into_iter().filter(|step| *step < steps) {
                        let factor = config.factor(step, steps);
                        assert!(factor > 0.0 && factor <= 1.0, "{config:?}: {factor} at step {step} of {steps}");
                    }
                }
                // A single step has the highest rate.
                assert_eq!(config.factor(0, 1), 1.0);
            }
        }
        // With a warm-up over all steps, the last step has the highest rate.
        let config = OptimizerConfig { warmup: 1.0, ..OptimizerConfig::default() };
        assert_eq!((config.factor(0, 4), config.factor(3, 4)), (0.25, 1.0));
    }

    #[test]
    fn problems_have_their_keys() {
        let config = OptimizerConfig {
            lr: 0.0,
            betas: [0.9, 1.0],
            warmup: 3.0,
            freeze: [ParamGroup::Vision, ParamGroup::Decoder, ParamGroup::Projector].map(Freeze::Group).to_vec(),
            ..OptimizerConfig::default()
        };
        let problems: Vec<String> = config.check().iter().map(|(key, text)| format!("{key} {text}")).collect();
        assert_eq!(
            problems,
            [
                "lr must be above 0, not 0",
                "betas.1 must be at least 0 and below 1, not 1",
                "warmup must be between 0 and 1, a fraction of the steps, not 3",
                "freeze leaves no trainable part",
            ]
        );
    }
}
