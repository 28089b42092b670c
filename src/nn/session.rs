//! A model on the device of a run, for training and scoring. Code outside of this file is not generic over devices.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use rayon::ThreadPool;
use rayon::prelude::*;

use super::Resources;
use super::batch::Batch;
use super::cpu::CpuOps;
use super::cpu::weights::CpuWeights;
#[cfg(feature = "cuda")]
use super::cuda::ops::{CudaOps, Gpu, optimizer::CudaOptimizer, weights::CudaWeights};
use super::device::Device;
#[cfg(feature = "cuda")]
use super::device_error::advise;
use super::gradients::{GradientAccumulator, Shard};
use super::kernels::weight::Pass;
use super::model::Model;
use super::ops::{AutogradOps, TargetGroups};
use super::optimizer::Optimizer;
use super::trainable_model::TrainableModel;
use ablate_core::base::alloc::keep_freed_memory;

pub(crate) enum Session {
    Cpu(Box<CpuSession>),
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaSession>),
}

pub(crate) struct CpuSession {
    model: Model<CpuWeights>,
    pool: Arc<ThreadPool>,
    sums: Arc<GradientAccumulator>,
    /// The gradients of the last step by index.
    gradients: Vec<Vec<f32>>,
}

#[cfg(feature = "cuda")]
pub(crate) struct CudaSession {
    model: Model<CudaWeights>,
    /// None: the model does not learn.
    optimizer: Option<CudaOptimizer>,
}

/// A loss over batches.
pub(crate) trait BatchLoss<W>: Sync {
    /// The groups of a batch's targets.
    fn groups(&self, batch: &Batch) -> TargetGroups;

    /// From the index of a batch and the two sums of each group to the derivatives of the loss by them, and the loss's statistics.
    fn slopes(&self, index: usize, batch: &Batch, sums: &[[f64; 2]]) -> Result<(Vec<[f64; 2]>, W)>;
}

/// Builds the batch of an index.
pub(crate) type Build<'a> = dyn Fn(usize) -> Result<Batch> + Sync + 'a;

impl Session {
    /// A session with its own threads.
    pub(crate) fn new(trainable_model: &TrainableModel, resources: &Resources) -> Result<Session> {
        Session::with_pool(&Arc::new(thread_pool(resources.threads)?), trainable_model, resources)
    }

    /// A session on the threads of `pool`. A caller with many small computations should itself run on one of these
    /// threads: a call from another thread wakes one and sleeps, which takes as long as a small product.
    pub(crate) fn with_pool(
        pool: &Arc<ThreadPool>,
        trainable_model: &TrainableModel,
        resources: &Resources,
    ) -> Result<Session> {
        resources.check()?;
        match resources.device {
            Device::Cpu => {
                keep_freed_memory();
                let model = Model::new(&CpuWeights::default(), trainable_model)?;
                let sums = Arc::new(GradientAccumulator::new(trainable_model));
                Ok(Session::Cpu(Box::new(CpuSession { model, pool: pool.clone(), sums, gradients: Vec::new() })))
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                let weights = CudaWeights(Gpu::open(ordinal, resources.precision)?);
                let model = Model::new(&weights, trainable_model);
                let model = advise("the model does not fit into the memory of the GPU", model)?;
                Ok(Session::Cuda(Box::new(CudaSession { model, optimizer: None })))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(anyhow!("this program was built for the CPU only")),
        }
    }

    /// Prepares for training: a GPU gets the moments of `optimizer`.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, clippy::unnecessary_wraps, reason = "for a GPU"))]
    pub(crate) fn start_training(&mut self, trainable_model: &TrainableModel, optimizer: &Optimizer) -> Result<()> {
        match self {
            Session::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Session::Cuda(session) => {
                let advice = "too little GPU memory for the gradients and moments of the trainable parameters";
                let create = || {
                    let (gpu, loaded) = (&session.model.weights().0, session.model.loaded());
                    CudaOptimizer::new(gpu, trainable_model, loaded, optimizer)
                };
                session.optimizer = Some(advise(advice, create())?);
                Ok(())
            }
        }
    }

    /// Resets the sums of gradients to zero.
    pub(crate) fn clear_gradients(&self) {
        match self {
            Session::Cpu(session) => session.sums.clear(),
            #[cfg(feature = "cuda")]
            Session::Cuda(session) => session.optimizer().gradients.clear(),
        }
    }

    /// Adds the gradients of some batches to the sums. On the CPU each batch has its own tape and thread; on a GPU they are one
    /// batch. Returns the statistics of the loss, in the order of the batches. `recompute` saves memory (see [`Model::learn`]).
    pub(crate) fn gradients<W: Send>(
        &self,
        batches: Range<usize>,
        build: &Build,
        loss: &dyn BatchLoss<W>,
        recompute: bool,
    ) -> Result<Vec<W>> {
        let (first, count) = (batches.start, batches.len());
        match self {
            Session::Cpu(session) => {
                let CpuSession { model, pool, sums, .. } = &**session;
                sums.start();
                pack_weights(model, pool, count, true);
                let one = |at: usize| {
                    let shard = Shard::new(sums, at);
                    let statistics =
                        shard_gradients(model, &shard, first + at, &build(first + at)?, (loss, recompute))?;
                    shard.finish()?;
                    Ok(statistics)
                };
                run_in_order(pool, count, &one)
            }
            #[cfg(feature = "cuda")]
            Session::Cuda(session) => {
                let parts: Vec<Batch> = batches.map(build).collect::<Result<_>>()?;
                let result = session.gradients(first, &parts, loss, recompute);
                advise("too little GPU memory for the gradients of these rows", result)
            }
        }
    }

    /// Ends the sums of a step. Returns the global norm.
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, reason = "for a GPU"))]
    pub(crate) fn finish_gradients(&mut self, trainable_model: &TrainableModel) -> Result<f64> {
        match self {
            Session::Cpu(session) => {
                session.gradients = session.sums.take();
                Ok(Optimizer::norm(trainable_model, &session.gradients))
            }
            #[cfg(feature = "cuda")]
            Session::Cuda(session) => session.optimizer().norm(),
        }
    }

    /// Changes the trainable weights: step `step` of `steps`, counted from 0, with gradients of global norm `norm`. On a GPU,
    /// `trainable_model` and `optimizer` keep their values until [`Session::fetch`].
    pub(crate) fn step(
        self,
        trainable_model: &mut TrainableModel,
        optimizer: &mut Optimizer,
        norm: f64,
        step: u64,
        steps: u64,
    ) -> Result<Session> {
        match self {
            Session::Cpu(session) => {
                let CpuSession { model, pool, sums, gradients } = *session;
                let update = |trainable_model: &mut TrainableModel| {
                    optimizer.step(trainable_model, &gradients, norm, step, steps);
                };
                let model = model.update_weights(trainable_model, update)?;
                sums.recycle(gradients);
                Ok(Session::Cpu(Box::new(CpuSession { model, pool, sums, gradients: Vec::new() })))
            }
            #[cfg(feature = "cuda")]
            Session::Cuda(session) => {
                session.optimizer().step(&optimizer.config, norm, step, steps)?;
                Ok(Session::Cuda(session))
            }
        }
    }

    /// Copies the weights and moments of a GPU to the host.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, clippy::unnecessary_wraps, reason = "for a GPU"))]
    pub(crate) fn fetch(&self, trainable_model: &mut TrainableModel, optimizer: &mut Optimizer) -> Result<()> {
        match self {
            Session::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Session::Cuda(session) => session.optimizer().fetch(trainable_model, optimizer),
        }
    }

    /// The gradients of the last step by index.
    #[cfg(test)]
    #[cfg_attr(not(feature = "cuda"), expect(clippy::unnecessary_wraps, reason = "for a GPU"))]
    pub(crate) fn host_gradients(&self) -> Result<Vec<Vec<f32>>> {
        match self {
            Session::Cpu(session) => Ok(session.gradients.clone()),
            #[cfg(feature = "cuda")]
            Session::Cuda(session) => session.optimizer().gradients.to_host(),
        }
    }

    /// Calls `reduce` with the log-probabilities of the targets of each of `count` batches. Returns its results in the
    /// order of the batches.
    pub(crate) fn log_probs<W: Send>(
        &self,
        count: usize,
        build: &Build,
        reduce: &(dyn Fn(usize, &Batch, &[f32]) -> W + Sync),
    ) -> Result<Vec<W>> {
        match self {
            Session::Cpu(session) => {
                let CpuSession { model, pool, .. } = &**session;
                pack_weights(model, pool, count, false);
                let one = |index| {
                    let batch = build(index)?;
                    Ok(reduce(index, &batch, &log_probs::<CpuOps>(model, &batch)?))
                };
                run_in_order(pool, count, &one)
            }
            #[cfg(feature = "cuda")]
            Session::Cuda(session) => (0..count)
                .map(|index| {
                    let batch = build(index)?;
                    let advice = "too little GPU memory to score these responses";
                    let values = advise(advice, log_probs::<CudaOps>(&session.model, &batch))?;
                    Ok(reduce(index, &batch, &values))
                })
                .collect(),
        }
    }

    /// The logits at every position of a batch where they are needed: (needed, v).
    #[cfg(test)]
    pub(crate) fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        match self {
            Session::Cpu(session) => session.pool.install(|| session.model.batch_logits::<CpuOps>(batch)),
            #[cfg(feature = "cuda")]
            Session::Cuda(session) => session.model.batch_logits::<CudaOps>(batch),
        }
    }
}

#[cfg(feature = "cuda")]
impl CudaSession {
    fn optimizer(&self) -> &CudaOptimizer {
        self.optimizer.as_ref().unwrap_or_else(|| panic!("BUG: training that was not started"))
    }

    /// Adds the gradients of batches from `first` on, which are computed as one.
    fn gradients<W>(&self, first: usize, parts: &[Batch], loss: &dyn BatchLoss<W>, recompute: bool) -> Result<Vec<W>> {
        let batch = Batch::join(parts);
        let by_part: Vec<TargetGroups> = parts.iter().map(|part| loss.groups(part)).collect();
        let slopes = |sums: &[[f64; 2]]| {
            let (mut start, mut slopes, mut statistics) = (0, Vec::new(), Vec::new());
            for (at, (part, groups)) in parts.iter().zip(&by_part).enumerate() {
                let end = start + groups.ends.len();
                let (of_part, found) = loss.slopes(first + at, part, &sums[start..end])?;
                slopes.extend(of_part);
                statistics.push(found);
                start = end;
            }
            Ok((slopes, statistics))
        };
        let groups = TargetGroups::join(&by_part);
        if batch.targets.is_empty() {
            return Ok(slopes(&vec![[0.0; 2]; groups.ends.len()])?.1);
        }
        self.model.learn::<CudaOps, _>(&self.optimizer().gradients, &batch, (&groups, &slopes), recompute)
    }
}

/// A pool of its own, so that a run uses only the threads that it was given.
pub(crate) fn thread_pool(threads: usize) -> Result<ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .build()
        .map_err(|error| anyhow!("cannot start {threads} thread(s): {error}"))
}

/// From this number of batches on, packing the weights in advance is faster. It costs memory, and about as much time as two
/// batches spend on packing.
const PACK_FROM: usize = 6;

/// Packs the weights for the passes of `batches` batches.
fn pack_weights(model: &Model<CpuWeights>, pool: &ThreadPool, batches: usize, training: bool) {
    if batches >= PACK_FROM {
        let passes = |(weight, needs_backward)| {
            [Some((weight, Pass::Forward)), (training && needs_backward).then_some((weight, Pass::Backward))]
        };
        let layouts: Vec<_> = model.matrices().flat_map(passes).flatten().collect();
        pool.install(|| layouts.into_par_iter().for_each(|(weight, pass)| weight.pack(pass)));
    }
}

/// Runs `one` for 0 to `count`, started in this order. Returns the results in order, or the first error in this order.
/// After an error no further call starts.
fn run_in_order<R: Send>(pool: &ThreadPool, count: usize, one: &(dyn Fn(usize) -> Result<R> + Sync)) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return done;
            }
            let result = one(index);
            if result.is_err() {
                next.store(count, Ordering::Relaxed);
            }
            done.push((index, result));
        }
    };
    let mut results: Vec<(usize, Result<R>)> = pool.broadcast(|_| work()).into_iter().flatten().collect();
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Adds the gradients of a batch. One without targets has none.
fn shard_gradients<W>(
    model: &Model<CpuWeights>,
    shard: &Shard,
    index: usize,
    batch: &Batch,
    (loss, recompute): (&dyn BatchLoss<W>, bool),
) -> Result<W> {
    let groups = loss.groups(batch);
    if batch.targets.is_empty() {
        return Ok(loss.slopes(index, batch, &vec![[0.0; 2]; groups.ends.len()])?.1);
    }
    model.learn::<CpuOps, W>(shard, batch, (&groups, &|sums| loss.slopes(index, batch, sums)), recompute)
}

fn log_probs<O: AutogradOps>(model: &Model<O::Weights>, batch: &Batch) -> Result<Vec<f32>> {
    if batch.targets.is_empty() {
        return Ok(Vec::new());
    }
    let mut ops = O::new(model.weights(), None);
    let log_probs = model.log_probs(&mut ops, batch, false)?;
    ops.values(&log_probs)
}
