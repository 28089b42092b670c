//! The training loop: batches, shards, steps, curve, progress, and saved states.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rayon::ThreadPool;

use super::sharding;
use super::start_size::start_size;
use super::state::{self, OpenPoint, Position, TrainState};
use super::tuning::Tuning;
use crate::auto_batch::AutoBatch;
use crate::device::available_memory;
use crate::device_error::OutOfMemory;
use crate::ops::TargetGroups;
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::session::{BatchLoss, Session, thread_pool};
use crate::trainable_model::TrainableModel;
use crate::{Adapter, Architecture, Batch, Checkpoint, Device, PixelSource, Resources, Sequence, flops};
use ablate_core::base::{Seed, StageEvent};
use ablate_data::batches::BatchSampler;
use ablate_data::records::CurvePoint;

/// Points of a curve, at most.
const CURVE_POINTS: u64 = 100;
/// Shortest time between two progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The most that one step and the writing of its state take when the run is stopped. Less than the delay after which the
/// process is killed.
const TIME_TO_STOP: Duration = Duration::from_secs(55);

/// The result of training.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The trained model. If an adapter was trained, the unchanged model without it.
    pub checkpoint: Checkpoint,
    /// The adapter, if one was trained.
    pub adapter: Option<Adapter>,
    pub curve: Vec<CurvePoint>,
    /// Optimizer steps.
    pub steps: u64,
    /// Positions computed, with image tokens and without padding.
    pub tokens: u64,
    /// Computed from the sizes: three times the forward passes (the backward pass counts as two).
    pub flops: f64,
}

/// A loss over examples, which consist of sequences.
pub(super) trait Objective: Sync {
    /// The name of an example in errors.
    const EXAMPLE: &'static str;

    /// The sequences of an example.
    fn sequences(&self, example: usize) -> Vec<Sequence<'_>>;

    /// The totals of a whole batch, which give the weight of a shard.
    fn totals(&self, examples: &[usize]) -> BatchTotals;

    /// The groups of a shard's targets.
    fn groups(&self, batch: &Batch) -> TargetGroups;

    /// The derivatives of the batch's loss by the two sums of each group of a shard, and the shard's share of the loss.
    fn slopes(&self, examples: &[usize], totals: BatchTotals, sums: &[[f64; 2]]) -> (Vec<[f64; 2]>, LossStats);
}

/// The totals of a whole batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchTotals {
    pub(super) examples: usize,
    /// Targets in the token mean of the loss.
    pub(super) targets: usize,
}

/// A shard's share of the loss and of the statistics of the curve.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LossStats {
    pub(super) loss: f64,
    pub(super) pairs: u64,
    pub(super) preferred: u64,
    pub(super) margin: f64,
}

/// The batches of a run, in order.
pub(super) trait Batches: Sync {
    /// The number of batches.
    fn steps(&self) -> usize;

    /// The batches from `step` on, counted from 0, as indices of examples.
    fn starting_at(&self, step: usize) -> Box<dyn Iterator<Item = Vec<usize>> + '_>;
}

impl Batches for BatchSampler {
    fn steps(&self) -> usize {
        self.steps()
    }

    fn starting_at(&self, step: usize) -> Box<dyn Iterator<Item = Vec<usize>> + '_> {
        Box::new(self.batches_from(step))
    }
}

/// A training run without its objective.
pub(super) struct Run<'a> {
    pub(super) batches: &'a dyn Batches,
    pub(super) optimizer: &'a OptimizerConfig,
    pub(super) auto_batch: AutoBatch,
    /// Whether blocks are computed again in the backward pass. A run that finds its batch size by trying sets it when a single
    /// row does not fit into memory.
    pub(super) recompute: AtomicBool,
    pub(super) seed: Seed,
    pub(super) images: &'a dyn PixelSource,
    pub(super) state: &'a TrainState,
    pub(super) resources: &'a Resources<'a>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        batches: &'a dyn Batches,
        (optimizer, tuning): (&'a OptimizerConfig, &Tuning),
        seed: Seed,
        images: &'a dyn PixelSource,
        state: &'a TrainState,
        resources: &'a Resources<'a>,
    ) -> Run<'a> {
        let (auto_batch, recompute) = (tuning.auto_batch(), tuning.gradient_checkpointing.into());
        Run { batches, optimizer, auto_batch, recompute, seed, images, state, resources }
    }
}

impl Run<'_> {
    /// Trains on all batches.
    pub(super) fn train<O: Objective>(&self, trainable_model: TrainableModel, objective: &O) -> Result<Trained> {
        let threads = Arc::new(thread_pool(self.resources.threads)?);
        threads.install(|| self.train_on(&threads, trainable_model, objective))
    }

    /// As [`Run::train`], on a thread of the pool.
    fn train_on<O: Objective>(
        &self,
        threads: &Arc<ThreadPool>,
        mut trainable_model: TrainableModel,
        objective: &O,
    ) -> Result<Trained> {
        let mut optimizer = Optimizer::new(self.optimizer, &trainable_model);
        let mut position = self.resume(&mut trainable_model, &mut optimizer);
        self.estimate_size(objective, &trainable_model, position.step)?;
        let mut session = Session::with_pool(threads, &trainable_model, self.resources)?;
        session.start_training(&trainable_model, &optimizer)?;
        let steps = self.batches.steps() as u64;
        let (start, mut saved, mut reported) = (Instant::now(), (position.step, Instant::now()), None::<Instant>);
        let tokens_before = position.tokens;
        self.resources.progress.allow_time_to_stop(TIME_TO_STOP);
        for examples in self.batches.starting_at(position.step as usize) {
            let number = position.step + 1;
            let place = || format!("training step {number} of {steps}");
            let found = self.gradients(objective, &examples, &trainable_model, &mut session, position.step);
            let found = found.and_then(|found| check::<O>(&examples, &found).map(|()| found));
            let StepGradients { norm, stats, tokens, targets, flops } = match found {
                Ok(found) => found,
                Err(error) => {
                    let saved = self.save_last_good(&session, &mut trainable_model, &mut optimizer, &position);
                    return Err(error.context(format!("{}{saved}", place())));
                }
            };
            session = session.step(&mut trainable_model, &mut optimizer, norm, position.step, steps)?;
            position.tokens += tokens;
            position.targets += targets;
            position.flops += flops;
            self.record(&mut position, stats, norm, steps);
            let stops = self.resources.progress.stop_requested();
            if (stops || self.state.due(position.step - saved.0, saved.1)) && position.step < steps {
                session.fetch(&mut trainable_model, &mut optimizer).with_context(place)?;
                self.state.write(&trainable_model, &optimizer, &position).with_context(place)?;
                saved = (position.step, Instant::now());
                if stops {
                    bail!("stopped after step {number} of {steps}; the same command resumes there");
                }
            }
            if reported.is_none_or(|reported| reported.elapsed() >= PROGRESS_INTERVAL) || position.step == steps {
                let seconds = start.elapsed().as_secs_f64().max(1e-9);
                self.resources.progress.emit(StageEvent::Progress {
                    done: position.step,
                    total: steps,
                    unit: "steps".to_string(),
                    loss: Some(stats.loss),
                    tokens_per_second: Some((position.tokens - tokens_before) as f64 / seconds),
                    requests: None,
                });
                reported = Some(Instant::now());
            }
        }
        self.resources.progress.allow_time_to_stop(Duration::ZERO);
        session.fetch(&mut trainable_model, &mut optimizer)?;
        state::check(&trainable_model).with_context(|| format!("training step {steps} of {steps}"))?;
        let Position { tokens, flops, curve, .. } = position;
        drop(session);
        let TrainableModel { checkpoint, adapter, .. } = trainable_model;
        Ok(Trained { checkpoint, adapter, curve, steps, tokens, flops })
    }

    /// On a GPU, begins with as many rows at a time as probably fit into its memory, unless the user chose a size.
    fn estimate_size<O: Objective>(&self, objective: &O, trainable_model: &TrainableModel, step: u64) -> Result<()> {
        let Resources { device, precision, progress, .. } = *self.resources;
        let (Device::Cuda(ordinal), false) = (device, self.auto_batch.is_fixed()) else { return Ok(()) };
        let Some(examples) = self.batches.starting_at(step as usize).next() else { return Ok(()) };
        let free = available_memory(ordinal)?;
        let how = (precision, self.recompute.load(Ordering::Relaxed));
        let sequences: Vec<Sequence> = examples.iter().flat_map(|&example| objective.sequences(example)).collect();
        let start = start_size(&sequences, examples.len(), self.images, trainable_model, how, free as u64)?;
        if start.examples < examples.len() || start.recompute != how.1 {
            let again = if start.recompute { ", with gradient checkpointing" } else { "" };
            let (few, all) = (start.examples.min(examples.len()), examples.len());
            progress.note(format!(
                "the free memory of the GPU suffices for about {few} of {all} {}s at a time{again}",
                O::EXAMPLE
            ));
        }
        self.auto_batch.start_with(start.examples);
        self.recompute.store(start.recompute, Ordering::Relaxed);
        Ok(())
    }

    /// The gradient of the loss of a batch, computed in micro-batches. The session has it.
    pub(super) fn gradients<O: Objective>(
        &self,
        objective: &O,
        examples: &[usize],
        trainable_model: &TrainableModel,
        session: &mut Session,
        step: u64,
    ) -> Result<StepGradients> {
        let attempt = || {
            self.auto_batch.run(examples.len(), self.resources.progress, |micro| {
                session.clear_gradients();
                self.sum_gradients(objective, examples, micro, trainable_model, session, step)
            })
        };
        let mut found = match attempt() {
            Err(error) if self.can_recompute(&error) => {
                self.resources.progress.note(
                    "too little memory for the activations of a single row: they are computed again in the backward pass \
                     (gradient checkpointing)"
                        .to_string(),
                );
                self.recompute.store(true, Ordering::Relaxed);
                attempt()?
            }
            found => found?,
        };
        found.norm = session.finish_gradients(trainable_model)?;
        Ok(found)
    }

    /// Whether less memory may help against an error.
    fn can_recompute(&self, error: &anyhow::Error) -> bool {
        let full = error.root_cause().is::<OutOfMemory>();
        full && !self.auto_batch.is_fixed() && !self.recompute.load(Ordering::Relaxed)
    }

    /// Sums the gradients of micro-batches of at most `micro` examples. They are computed one after the other, each in shards.
    /// Every shard is weighted by its share of the whole batch, so the sum is the batch's gradient. Its bits do not depend on the
    /// size of the micro-batches, unless rows share an image.
    ///
    /// The shards, which have their own random numbers, are those of a micro-batch of the size that the user chose. A size that is
    /// found by trying depends on the device, so then they are those of the whole batch, and a micro-batch has some of them.
    fn sum_gradients<O: Objective>(
        &self,
        objective: &O,
        examples: &[usize],
        micro: usize,
        trainable_model: &TrainableModel,
        session: &Session,
        step: u64,
    ) -> Result<StepGradients> {
        let (totals, recompute) = (objective.totals(examples), self.recompute.load(Ordering::Relaxed));
        let architecture = &trainable_model.checkpoint.architecture;
        let mut found = StepGradients::default();
        let chosen = if self.auto_batch.is_fixed() { micro } else { examples.len() };
        for (group, examples) in examples.chunks(chosen).enumerate() {
            let shards = shards(objective, examples);
            let build = |shard: usize| {
                let sequences: Vec<Sequence> =
                    shards[shard].iter().flat_map(|&example| objective.sequences(example)).collect();
                let mut batch = Batch::new(architecture, &sequences, false, self.images)?;
                batch.dropout = vec![self.seed.derive(&format!("dropout/{step}/{group}/{shard}"))];
                Ok(batch)
            };
            let loss = ShardLoss { objective, shards: &shards, totals, architecture };
            for micro_batch in sharding::in_order(&shards, micro) {
                for (stats, tokens, targets, flops) in session.gradients(micro_batch, &build, &loss, recompute)? {
                    found.stats.add(stats);
                    found.tokens += tokens as u64;
                    found.targets += targets as u64;
                    found.flops += flops;
                }
            }
        }
        Ok(found)
    }

    /// Saves the state before the failed step. Returns a note about its file for the error.
    fn save_last_good(
        &self,
        session: &Session,
        trainable_model: &mut TrainableModel,
        optimizer: &mut Optimizer,
        position: &Position,
    ) -> String {
        let step = position.step;
        let Some(path) = self.state.file().filter(|_| step > 0) else { return String::new() };
        let saved = session
            .fetch(trainable_model, optimizer)
            .and_then(|()| self.state.write(trainable_model, optimizer, position));
        match saved {
            Ok(()) => format!(" (the state after step {step} is saved in `{}`)", path.display()),
            Err(why) => format!(" (the state after step {step} could not be saved: {why:#})"),
        }
    }

    /// Adds a step to the curve.
    fn record(&self, position: &mut Position, stats: LossStats, norm: f64, steps: u64) {
        let step = position.step;
        position.step += 1;
        let open = &mut position.open;
        open.steps += 1;
        open.loss += stats.loss;
        open.norm += norm;
        open.pairs += stats.pairs;
        open.preferred += stats.preferred;
        open.margin += stats.margin;
        let every = steps.div_ceil(CURVE_POINTS).max(1);
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
            Ok(Some(position)) if position.step <= self.batches.steps() as u64 => {
                let steps = self.batches.steps();
                self.resources.progress.choice(format!("resumes after step {} of {steps}", position.step));
                return position;
            }
            Ok(None) => return Position::default(),
            Ok(Some(position)) => {
                let (step, steps) = (position.step, self.batches.steps());
                self.resources.progress.choice(format!("starts over: the saved state is at step {step} of {steps}"));
            }
            Err(error) => self.resources.progress.choice(format!("starts over: {error:#}")),
        }
        (*trainable_model, *optimizer) = start;
        Position::default()
    }
}

/// The shards of a batch, which are computed in parallel.
fn shards<'a, O: Objective>(objective: &O, examples: &'a [usize]) -> Vec<&'a [usize]> {
    let length = |&example: &usize| objective.sequences(example).iter().map(|one| one.tokens.len()).sum();
    let lengths: Vec<usize> = examples.iter().map(length).collect();
    sharding::shards(&lengths).into_iter().map(|shard| &examples[shard]).collect()
}

/// The loss of the shards of a micro-batch.
struct ShardLoss<'a, O> {
    objective: &'a O,
    /// The examples of each shard.
    shards: &'a [&'a [usize]],
    totals: BatchTotals,
    architecture: &'a Architecture,
}

/// The loss, positions, targets and floating-point operations of a shard.
type ShardStats = (LossStats, usize, usize, f64);

impl<O: Objective> BatchLoss<ShardStats> for ShardLoss<'_, O> {
    fn groups(&self, batch: &Batch) -> TargetGroups {
        self.objective.groups(batch)
    }

    fn slopes(&self, shard: usize, batch: &Batch, sums: &[[f64; 2]]) -> Result<(Vec<[f64; 2]>, ShardStats)> {
        let (slopes, stats) = self.objective.slopes(self.shards[shard], self.totals, sums);
        let flops = 3.0 * flops::forward(self.architecture, batch);
        Ok((slopes, (stats, batch.unpadded_tokens(), batch.targets(), flops)))
    }
}

/// The statistics of a step.
#[derive(Default)]
pub(super) struct StepGradients {
    norm: f64,
    stats: LossStats,
    tokens: u64,
    targets: u64,
    flops: f64,
}

/// An error if training cannot continue with these numbers.
fn check<O: Objective>(examples: &[usize], found: &StepGradients) -> Result<()> {
    let names = || examples.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (loss, norm) = (found.stats.loss, found.norm);
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

impl LossStats {
    fn add(&mut self, other: LossStats) {
        self.loss += other.loss;
        self.pairs += other.pairs;
        self.preferred += other.preferred;
        self.margin += other.margin;
    }
}
