//! The loop that every training shares: batches, shards, steps, curve, progress, and what is kept for a restart.
//! Knows no particular loss.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::optimizer::{Optimizer, OptimizerConfig, sum};
use super::state::{OpenPoint, Position, TrainState};
use crate::base::Event;
use crate::data::images::PixelSource;
use crate::data::records::CurvePoint;
use crate::nn::engine::Engine;
use crate::nn::{Batch, Checkpoint, Resources, Sequence, flops};

/// Parts that a batch is always split into, so that the number of threads changes nothing.
const SHARDS: usize = 2;
/// Lines of a curve, about.
const CURVE_LINES: u64 = 100;
/// Events of progress come no faster than this.
const PROGRESS: Duration = Duration::from_millis(200);

/// A finished training.
#[derive(Clone, Debug)]
pub struct Trained {
    pub checkpoint: Checkpoint,
    pub curve: Vec<CurvePoint>,
    /// Optimizer steps.
    pub steps: u64,
    /// Positions computed, image tokens included, padding left out.
    pub tokens: u64,
    /// Counted from the sizes: three times the forward passes of training (forward, and twice that back).
    pub flops: f64,
}

/// A loss over examples that are made of sequences.
pub(super) trait Objective: Sync {
    /// What an error calls an example.
    const EXAMPLE: &'static str;

    /// The sequences of an example.
    fn sequences(&self, example: usize) -> Vec<Sequence<'_>>;

    /// What the loss must know of the whole batch to weigh a part of it.
    fn whole(&self, examples: &[usize]) -> Whole;

    /// From the log-probabilities of the targets of a shard to the derivative of the batch's loss by each of them.
    fn derivative(&self, examples: &[usize], whole: Whole, batch: &Batch, log_probs: &[f32]) -> (Vec<f32>, Told);
}

/// Sizes of a whole batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub(super) examples: usize,
    /// Targets that the token-mean part of the loss counts.
    pub(super) targets: usize,
}

/// What a shard tells: its summand of the loss, and of the curve.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) loss: f64,
    pub(super) pairs: u64,
    pub(super) preferred: u64,
    pub(super) margin: f64,
}

/// Everything that a run is made of besides its objective.
pub(super) struct Run<'a> {
    pub(super) plan: Vec<Vec<usize>>,
    pub(super) optimizer: &'a OptimizerConfig,
    pub(super) pixels: &'a dyn PixelSource,
    pub(super) state: &'a TrainState,
    pub(super) resources: &'a Resources<'a>,
}

impl Run<'_> {
    /// Trains `start` to the end of the plan.
    pub(super) fn train<O: Objective>(&self, start: &Checkpoint, objective: &O) -> Result<Trained> {
        let mut checkpoint = start.clone();
        let mut optimizer = Optimizer::new(self.optimizer, start);
        let mut position = self.resume(&mut checkpoint, &mut optimizer, start);
        let mut engine = Engine::new(&checkpoint, self.resources)?;
        let steps = self.plan.len() as u64;
        let (began, mut kept, mut told) = (Instant::now(), (position.step, Instant::now()), None::<Instant>);
        let tokens_before = position.tokens;
        while position.step < steps {
            let examples = &self.plan[position.step as usize];
            let loss = self
                .step(objective, examples, &mut checkpoint, &mut engine, &mut optimizer, &mut position)
                .with_context(|| format!("training step {} of {steps}", position.step + 1))?;
            if self.state.due(position.step - kept.0, kept.1) && position.step < steps {
                self.state.write(&checkpoint, &optimizer, &position)?;
                kept = (position.step, Instant::now());
            }
            if told.is_none_or(|told| told.elapsed() >= PROGRESS) || position.step == steps {
                let seconds = began.elapsed().as_secs_f64().max(1e-9);
                self.resources.progress.emit(Event::Progress {
                    done: position.step,
                    total: steps,
                    unit: "steps".to_string(),
                    loss: Some(loss),
                    tokens_per_second: Some((position.tokens - tokens_before) as f64 / seconds),
                });
                told = Some(Instant::now());
            }
        }
        let Position { tokens, flops, curve, .. } = position;
        Ok(Trained { checkpoint, curve, steps, tokens, flops })
    }

    /// One optimizer step; the loss of its batch.
    fn step<O: Objective>(
        &self,
        objective: &O,
        examples: &[usize],
        checkpoint: &mut Checkpoint,
        engine: &mut Engine,
        optimizer: &mut Optimizer,
        position: &mut Position,
    ) -> Result<f64> {
        // Every other example: a plan that sorts by length gives shards of like cost.
        let shards: Vec<Vec<usize>> =
            (0..SHARDS).map(|shard| examples.iter().copied().skip(shard).step_by(SHARDS).collect()).collect();
        let shards: Vec<Vec<usize>> = shards.into_iter().filter(|shard| !shard.is_empty()).collect();
        let whole = objective.whole(examples);
        let (model, padded) = (&*checkpoint, engine.padded());
        let build = |shard: usize| self.batch(objective, model, &shards[shard], padded);
        let loss = |shard: usize, batch: &Batch, log_probs: &[f32]| {
            let (derivative, told) = objective.derivative(&shards[shard], whole, batch, log_probs);
            let tokens = batch.sources_used();
            Ok((derivative, (told, tokens, batch.targets(), 3.0 * flops::forward(model, batch))))
        };
        let found = engine.gradients(shards.len(), self.optimizer.learning(), &build, &loss)?;
        let (gradients, told): (Vec<_>, Vec<_>) = found.into_iter().map(|shard| (shard.gradients, shard.told)).unzip();
        let loss: f64 = told.iter().map(|(told, ..)| told.loss).sum();
        let names = || examples.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !loss.is_finite() {
            bail!("the loss is {loss}; the {}s of the batch, counted from 0: {}", O::EXAMPLE, names());
        }
        let Some(gradients) = sum(gradients) else {
            bail!("no {} of the batch has a target; counted from 0: {}", O::EXAMPLE, names());
        };
        let norm = optimizer.norm(&gradients);
        if !norm.is_finite() {
            bail!("the gradient is {norm}; the {}s of the batch, counted from 0: {}", O::EXAMPLE, names());
        }
        let steps = self.plan.len() as u64;
        optimizer.step(&mut checkpoint.weights, &gradients, norm, position.step, steps);
        engine.renew(checkpoint)?;
        for (_, tokens, targets, flops) in &told {
            position.tokens += *tokens as u64;
            position.targets += *targets as u64;
            position.flops += flops;
        }
        let sums = told.iter().fold(Told::default(), |a, (b, ..)| Told {
            loss,
            pairs: a.pairs + b.pairs,
            preferred: a.preferred + b.preferred,
            margin: a.margin + b.margin,
        });
        self.note(position, sums, norm, steps);
        Ok(loss)
    }

    /// Adds a step to the curve.
    fn note(&self, position: &mut Position, told: Told, norm: f64, steps: u64) {
        let step = position.step;
        position.step += 1;
        let open = &mut position.open;
        open.steps += 1;
        open.loss += told.loss;
        open.norm += norm;
        open.pairs += told.pairs;
        open.preferred += told.preferred;
        open.margin += told.margin;
        let every = steps.div_ceil(CURVE_LINES).max(1);
        if position.step.is_multiple_of(every) || position.step == steps {
            let OpenPoint { steps: count, loss, norm, pairs, preferred, margin } = std::mem::take(open);
            let per_pair = |sum: f64| (pairs > 0).then(|| sum / pairs as f64);
            position.curve.push(CurvePoint {
                step: position.step,
                loss: loss / count as f64,
                learning_rate: self.optimizer.lr * self.optimizer.factor(step, steps),
                gradient_norm: norm / count as f64,
                tokens: position.targets,
                reward_accuracy: per_pair(preferred as f64),
                reward_margin: per_pair(margin),
            });
        }
    }

    fn batch<O: Objective>(
        &self,
        objective: &O,
        model: &Checkpoint,
        examples: &[usize],
        padded: bool,
    ) -> Result<Batch> {
        let sequences: Vec<Sequence> = examples.iter().flat_map(|&example| objective.sequences(example)).collect();
        let pixels = |key: &str, size: usize| -> Result<Arc<[f32]>> { self.pixels.pixels(key, size) };
        Batch::new(model, &sequences, padded, &pixels)
    }

    fn resume(&self, checkpoint: &mut Checkpoint, optimizer: &mut Optimizer, start: &Checkpoint) -> Position {
        match self.state.read(checkpoint, optimizer) {
            Ok(Some(position)) if position.step <= self.plan.len() as u64 => {
                self.resources.progress.note(format!("resumed after step {}", position.step));
                return position;
            }
            Ok(None) => return Position::default(),
            Ok(Some(position)) => {
                let steps = self.plan.len();
                self.resources
                    .progress
                    .note(format!("started over: a kept state of step {} of {steps}", position.step));
            }
            Err(error) => self.resources.progress.note(format!("started over: {error:#}")),
        }
        *checkpoint = start.clone();
        *optimizer = Optimizer::new(self.optimizer, start);
        Position::default()
    }
}
