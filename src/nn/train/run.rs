//! The loop that every training shares: batches, shards, steps, curve, progress, and what is kept for a restart.
//! Knows no particular loss.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rayon::ThreadPool;

use super::optimizer::{Optimizer, OptimizerConfig};
use super::parts::even_parts;
use super::state::{self, OpenPoint, Position, TrainState};
use crate::auto_batch::AutoBatch;
use crate::gradients::GradientAccumulator;
use crate::session::{Session, thread_pool};
use crate::trainable_model::TrainableModel;
use crate::{Adapter, Batch, Checkpoint, PixelSource, Resources, Sequence, flops};
use ablate_core::base::{Seed, StageEvent};
use ablate_data::records::CurvePoint;

/// Lines of a curve, about.
const CURVE_LINES: u64 = 100;
/// Events of progress come no faster than this.
const PROGRESS: Duration = Duration::from_millis(200);

/// A finished training.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The model that came out, an adapter merged into it.
    pub checkpoint: Checkpoint,
    /// The adapter by itself, where one was trained.
    pub adapter: Option<Adapter>,
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

    /// From the log-probabilities of the targets of a part to the derivative of the batch's loss by each of them.
    fn derivative(&self, examples: &[usize], whole: Whole, batch: &Batch, log_probs: &[f32]) -> (Vec<f32>, Told);
}

/// Sizes of a whole batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub(super) examples: usize,
    /// Targets that the token-mean part of the loss counts.
    pub(super) targets: usize,
}

/// What a part tells: its summand of the loss, and of the curve.
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
    pub(super) auto_batch: AutoBatch,
    pub(super) seed: Seed,
    pub(super) images: &'a dyn PixelSource,
    pub(super) state: &'a TrainState,
    pub(super) resources: &'a Resources<'a>,
}

impl Run<'_> {
    /// Trains to the end of the plan.
    pub(super) fn train<O: Objective>(&self, trainable_model: TrainableModel, objective: &O) -> Result<Trained> {
        let threads = Arc::new(thread_pool(self.resources.threads)?);
        threads.install(|| self.train_on(&threads, trainable_model, objective))
    }

    /// The same on one of the threads.
    fn train_on<O: Objective>(
        &self,
        threads: &Arc<ThreadPool>,
        mut trainable_model: TrainableModel,
        objective: &O,
    ) -> Result<Trained> {
        let mut optimizer = Optimizer::new(self.optimizer, &trainable_model);
        let mut position = self.resume(&mut trainable_model, &mut optimizer);
        let mut session = Session::with_pool(threads, &trainable_model, self.resources.device)?;
        let sum = Arc::new(GradientAccumulator::new(&trainable_model));
        let steps = self.plan.len() as u64;
        let (began, mut kept, mut told) = (Instant::now(), (position.step, Instant::now()), None::<Instant>);
        let tokens_before = position.tokens;
        while position.step < steps {
            let examples = &self.plan[position.step as usize];
            let number = position.step + 1;
            let place = || format!("training step {number} of {steps}");
            let found = self.gradients(objective, examples, &trainable_model, &session, position.step, &sum).and_then(
                |found| {
                    check::<O>(examples, &found)?;
                    Ok(found)
                },
            );
            let Found { gradients, norm, told: loss, tokens, targets, flops } = match found {
                Ok(found) => found,
                Err(error) => {
                    let kept = self.last_good(&trainable_model, &optimizer, &position);
                    return Err(error.context(format!("{}{kept}", place())));
                }
            };
            session = session.update_weights(&mut trainable_model, |trainable_model| {
                optimizer.step(trainable_model, &gradients, norm, position.step, steps);
            })?;
            sum.recycle(gradients);
            position.tokens += tokens;
            position.targets += targets;
            position.flops += flops;
            self.note(&mut position, loss, norm, steps);
            if self.state.due(position.step - kept.0, kept.1) && position.step < steps {
                self.state.write(&trainable_model, &optimizer, &position).with_context(place)?;
                kept = (position.step, Instant::now());
            }
            if told.is_none_or(|told| told.elapsed() >= PROGRESS) || position.step == steps {
                let seconds = began.elapsed().as_secs_f64().max(1e-9);
                self.resources.progress.emit(StageEvent::Progress {
                    done: position.step,
                    total: steps,
                    unit: "steps".to_string(),
                    loss: Some(loss.loss),
                    tokens_per_second: Some((position.tokens - tokens_before) as f64 / seconds),
                });
                told = Some(Instant::now());
            }
        }
        state::check(&trainable_model).with_context(|| format!("training step {steps} of {steps}"))?;
        let Position { tokens, flops, curve, .. } = position;
        drop(session);
        let TrainableModel { mut checkpoint, adapter, .. } = trainable_model;
        if let Some(adapter) = &adapter {
            adapter.merge(&mut checkpoint)?;
        }
        Ok(Trained { checkpoint, adapter, curve, steps, tokens, flops })
    }

    /// The gradient of the loss of a batch, with as many examples at once as it was asked for.
    pub(super) fn gradients<O: Objective>(
        &self,
        objective: &O,
        examples: &[usize],
        trainable_model: &TrainableModel,
        session: &Session,
        step: u64,
        sum: &Arc<GradientAccumulator>,
    ) -> Result<Found> {
        let mut found = self.auto_batch.run(examples.len(), self.resources.progress, |micro| {
            sum.clear();
            self.add_up(objective, &examples.chunks(micro).collect::<Vec<_>>(), trainable_model, session, step, sum)
        })?;
        found.gradients = sum.take();
        found.norm = Optimizer::norm(trainable_model, &found.gradients);
        Ok(found)
    }

    /// Adds up the gradients of the micro-batches of a batch. They are computed one after the other, each in parts side by
    /// side. Every part weighs by its share of the whole batch, so the sum is the batch's gradient: bit for bit, whatever the
    /// micro-batch, unless rows share an image.
    fn add_up<O: Objective>(
        &self,
        objective: &O,
        micro_batches: &[&[usize]],
        trainable_model: &TrainableModel,
        session: &Session,
        step: u64,
        sum: &Arc<GradientAccumulator>,
    ) -> Result<Found> {
        let (whole, padded) = (objective.whole(&micro_batches.concat()), session.needs_padding());
        let mut found = Found::default();
        for (group, examples) in micro_batches.iter().enumerate() {
            let parts = parts(objective, examples);
            let build = |part: usize| {
                let sequences: Vec<Sequence> =
                    parts[part].iter().flat_map(|&example| objective.sequences(example)).collect();
                let mut batch = Batch::new(&trainable_model.checkpoint.architecture, &sequences, padded, self.images)?;
                batch.dropout = Some(self.seed.derive(&format!("dropout/{step}/{group}/{part}")));
                Ok(batch)
            };
            let loss = |part: usize, batch: &Batch, log_probs: &[f32]| {
                let (derivative, told) = objective.derivative(parts[part], whole, batch, log_probs);
                let flops = 3.0 * flops::forward(&trainable_model.checkpoint.architecture, batch);
                Ok((derivative, (told, batch.unpadded_tokens(), batch.targets(), flops)))
            };
            for (told, tokens, targets, flops) in session.gradients(parts.len(), &build, &loss, sum)? {
                found.told.add(told);
                found.tokens += tokens as u64;
                found.targets += targets as u64;
                found.flops += flops;
            }
        }
        Ok(found)
    }

    /// Keeps the weights that a step began with, the last good ones, and says where.
    fn last_good(&self, trainable_model: &TrainableModel, optimizer: &Optimizer, position: &Position) -> String {
        let step = position.step;
        let Some(path) = self.state.file().filter(|_| step > 0) else { return String::new() };
        match self.state.write(trainable_model, optimizer, position) {
            Ok(()) => format!(" (the state after step {step} is in `{}`)", path.display()),
            Err(why) => format!(" (the state after step {step} could not be kept: {why:#})"),
        }
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

    fn resume(&self, trainable_model: &mut TrainableModel, optimizer: &mut Optimizer) -> Position {
        if self.state.file().is_none_or(|path| !path.exists()) {
            return Position::default();
        }
        let start = (trainable_model.clone(), optimizer.clone());
        match self.state.read(trainable_model, optimizer) {
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
        (*trainable_model, *optimizer) = start;
        Position::default()
    }
}

/// The parts of a batch, which run side by side.
fn parts<'a, O: Objective>(objective: &O, examples: &'a [usize]) -> Vec<&'a [usize]> {
    let length = |&example: &usize| objective.sequences(example).iter().map(|one| one.tokens.len()).sum();
    let lengths: Vec<usize> = examples.iter().map(length).collect();
    even_parts(&lengths).into_iter().map(|part| &examples[part]).collect()
}

/// What a batch told, and its gradient by parameter number.
#[derive(Default)]
pub(super) struct Found {
    pub(super) gradients: Vec<Vec<f32>>,
    norm: f64,
    told: Told,
    tokens: u64,
    targets: u64,
    flops: f64,
}

/// Refuses numbers that no training can go on with.
fn check<O: Objective>(examples: &[usize], found: &Found) -> Result<()> {
    let names = || examples.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (loss, norm) = (found.told.loss, found.norm);
    if !loss.is_finite() {
        bail!("the loss is {loss}; the {}s of the batch, counted from 0: {}", O::EXAMPLE, names());
    }
    if found.targets == 0 {
        bail!("no {} of the batch has a target; counted from 0: {}", O::EXAMPLE, names());
    }
    if !norm.is_finite() {
        bail!("the gradient is {norm}; the {}s of the batch, counted from 0: {}", O::EXAMPLE, names());
    }
    Ok(())
}

impl Told {
    fn add(&mut self, other: Told) {
        self.loss += other.loss;
        self.pairs += other.pairs;
        self.preferred += other.preferred;
        self.margin += other.margin;
    }
}
