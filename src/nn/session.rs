//! A model on the device of a run, for training and scoring. Code outside of this file is not generic over devices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
#[cfg(feature = "cuda")]
use dfdx::prelude::Cuda;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::Resources;
use super::batch::Batch;
use super::cpu::CpuOps;
use super::cpu::weights::CpuWeights;
use super::device::Device;
#[cfg(feature = "cuda")]
use super::device_error::catch_out_of_memory;
#[cfg(feature = "cuda")]
use super::dfdx::{DfdxOps, weights::DfdxWeights};
use super::gradients::{GradientAccumulator, Shard};
use super::kernels::weight::Pass;
use super::model::Model;
use super::ops::{AutogradOps, Ops};
use super::trainable_model::TrainableModel;
use ablate_core::base::alloc::keep_freed_memory;

#[cfg_attr(feature = "cuda", expect(clippy::large_enum_variant, reason = "there is one session in a process"))]
pub(crate) enum Session {
    Cpu {
        model: Model<CpuWeights>,
        pool: Arc<ThreadPool>,
    },
    #[cfg(feature = "cuda")]
    Cuda(Model<DfdxWeights<Cuda>>),
}

/// From the index of a batch, the batch and the log-probabilities of its targets to the derivative of the loss by each of
/// them, and the loss's statistics.
pub(crate) type Loss<'a, W> = dyn Fn(usize, &Batch, &[f32]) -> Result<(Vec<f32>, W)> + Sync + 'a;

impl Session {
    /// A session with its own threads.
    pub(crate) fn new(trainable_model: &TrainableModel, resources: &Resources) -> Result<Session> {
        Session::with_pool(&Arc::new(thread_pool(resources.threads)?), trainable_model, resources.device)
    }

    /// A session on the threads of `pool`. A caller with many small computations should itself run on one of these
    /// threads: a call from another thread wakes one and sleeps, which takes as long as a small product.
    pub(crate) fn with_pool(
        pool: &Arc<ThreadPool>,
        trainable_model: &TrainableModel,
        device: Device,
    ) -> Result<Session> {
        match device {
            Device::Cpu => {
                keep_freed_memory();
                let model = Model::new(&CpuWeights::default(), trainable_model)?;
                Ok(Session::Cpu { model, pool: pool.clone() })
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                Ok(Session::Cuda(Model::new(&DfdxWeights(super::cuda::open(ordinal)?), trainable_model)?))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(anyhow!("this program was built for the CPU only")),
        }
    }

    /// Whether batches must be padded.
    pub(crate) fn needs_padding(&self) -> bool {
        match self {
            Session::Cpu { .. } => CpuOps::NEEDS_PADDING,
            #[cfg(feature = "cuda")]
            Session::Cuda(_) => DfdxOps::<Cuda>::NEEDS_PADDING,
        }
    }

    /// Lets `update` change the trainable weights, and loads them again.
    pub(crate) fn update_weights(
        self,
        trainable_model: &mut TrainableModel,
        update: impl FnOnce(&mut TrainableModel),
    ) -> Result<Session> {
        Ok(match self {
            Session::Cpu { model, pool } => {
                Session::Cpu { model: model.update_weights(trainable_model, update)?, pool }
            }
            #[cfg(feature = "cuda")]
            Session::Cuda(model) => Session::Cuda(model.update_weights(trainable_model, update)?),
        })
    }

    /// Adds the gradients of `shards` batches to `gradients`. Each batch has its own tape and, on the CPU, its own thread.
    /// Returns the statistics of the loss, in the order of the batches.
    pub(crate) fn gradients<W: Send>(
        &self,
        shards: usize,
        build: &(dyn Fn(usize) -> Result<Batch> + Sync),
        loss: &Loss<W>,
        gradients: &Arc<GradientAccumulator>,
    ) -> Result<Vec<W>> {
        gradients.start();
        match self {
            Session::Cpu { model, pool } => {
                pack_weights(model, pool, shards, true);
                let one = |index| {
                    let shard = Shard::new(gradients, index);
                    forward_backward::<CpuOps, W>(model, &shard, index, &build(index)?, loss)
                };
                run_in_order(pool, shards, &one)
            }
            #[cfg(feature = "cuda")]
            Session::Cuda(model) => (0..shards)
                .map(|index| {
                    let shard = Shard::new(gradients, index);
                    let batch = build(index)?;
                    catch_out_of_memory("too little GPU memory for the gradients of these rows", || {
                        forward_backward::<DfdxOps<Cuda>, W>(model, &shard, index, &batch, loss)
                    })
                })
                .collect(),
        }
    }

    /// Calls `reduce` with the log-probabilities of the targets of each of `count` batches. Returns its results in the
    /// order of the batches.
    pub(crate) fn log_probs<W: Send>(
        &self,
        count: usize,
        build: &(dyn Fn(usize) -> Result<Batch> + Sync),
        reduce: &(dyn Fn(usize, &Batch, &[f32]) -> W + Sync),
    ) -> Result<Vec<W>> {
        match self {
            Session::Cpu { model, pool } => {
                pack_weights(model, pool, count, false);
                let one = |index| {
                    let batch = build(index)?;
                    Ok(reduce(index, &batch, &log_probs::<CpuOps>(model, &batch)?))
                };
                run_in_order(pool, count, &one)
            }
            #[cfg(feature = "cuda")]
            Session::Cuda(model) => (0..count)
                .map(|index| {
                    let batch = build(index)?;
                    let advice = "too little GPU memory to score these responses";
                    let values = catch_out_of_memory(advice, || log_probs::<DfdxOps<Cuda>>(model, &batch))?;
                    Ok(reduce(index, &batch, &values))
                })
                .collect(),
        }
    }

    /// The logits at every position of a batch where they are needed: (needed, v).
    #[cfg(test)]
    pub(crate) fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        match self {
            Session::Cpu { model, pool } => pool.install(|| model.batch_logits::<CpuOps>(batch)),
            #[cfg(feature = "cuda")]
            Session::Cuda(model) => model.batch_logits::<DfdxOps<Cuda>>(batch),
        }
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

/// A batch without targets only counts as a finished shard.
fn forward_backward<O: AutogradOps, W>(
    model: &Model<O::Weights>,
    shard: &Shard,
    index: usize,
    batch: &Batch,
    loss: &Loss<W>,
) -> Result<W> {
    if batch.targets.is_empty() {
        let (_, statistics) = loss(index, batch, &[])?;
        shard.finish()?;
        return Ok(statistics);
    }
    model.forward_backward::<O, W>(shard, batch, &|log_probs| loss(index, batch, log_probs))
}

fn log_probs<O: AutogradOps>(model: &Model<O::Weights>, batch: &Batch) -> Result<Vec<f32>> {
    if batch.targets.is_empty() {
        return Ok(Vec::new());
    }
    Ok(model.log_probs(&mut O::new(model.weights(), None), batch, false)?.as_vec())
}
