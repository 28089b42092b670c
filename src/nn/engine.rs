//! A model on whichever device was asked for, and the work that training and scoring give it. Here the kinds of device
//! part; nothing outside `nn` is generic over them.

use anyhow::{Result, anyhow};
use dfdx::prelude::*;
use rayon::prelude::*;

use super::Resources;
use super::batch::Batch;
use super::device::Device as Where;
use super::fused::Fused;
use super::learner::Learner;
use super::model::Model;
use super::ops::{OnDevice, Ops, Taped};
use super::raw::keep_memory;
#[cfg(feature = "cuda")]
use super::stock::Stock;

/// A model on its device.
#[cfg_attr(feature = "cuda", expect(clippy::large_enum_variant, reason = "there is one engine in a process"))]
pub(crate) enum Engine {
    Cpu {
        model: Model<OnDevice<Cpu>>,
        pool: rayon::ThreadPool,
    },
    #[cfg(feature = "cuda")]
    Cuda(Model<OnDevice<Cuda>>),
}

/// The gradient of every parameter that learns, and what the loss told about its shard.
pub(crate) struct Shard<W> {
    /// By number; empty when the shard has no target.
    pub(crate) gradients: Vec<Vec<f32>>,
    pub(crate) told: W,
}

/// From a batch and the log-probabilities of its targets to the loss's derivative by each of them.
pub(crate) type Loss<'a, W> = dyn Fn(usize, &Batch, &[f32]) -> Result<(Vec<f32>, W)> + Sync + 'a;

impl Engine {
    pub(crate) fn new(learner: &Learner, resources: &Resources) -> Result<Engine> {
        match resources.device {
            Where::Cpu => {
                keep_memory();
                let place = OnDevice(Cpu::default());
                Ok(Engine::Cpu { model: Model::new(&place, learner)?, pool: pool(resources.threads)? })
            }
            #[cfg(feature = "cuda")]
            Where::Cuda(ordinal) => {
                let device = Cuda::try_build(ordinal, 0).map_err(super::ops::device_error)?;
                Ok(Engine::Cuda(Model::new(&OnDevice(device), learner)?))
            }
            #[cfg(not(feature = "cuda"))]
            Where::Cuda(_) => Err(anyhow!("this program was built for the CPU only")),
        }
    }

    /// Whether batches must be padded.
    pub(crate) fn padded(&self) -> bool {
        match self {
            Engine::Cpu { .. } => Fused::PADDED,
            #[cfg(feature = "cuda")]
            Engine::Cuda(_) => Stock::<Cuda>::PADDED,
        }
    }

    /// Takes the weights of now of everything that learns.
    pub(crate) fn renew(self, learner: &Learner) -> Result<Engine> {
        Ok(match self {
            Engine::Cpu { model, pool } => Engine::Cpu { model: model.renew(learner)?, pool },
            #[cfg(feature = "cuda")]
            Engine::Cuda(model) => Engine::Cuda(model.renew(learner)?),
        })
    }

    /// Gradients of each of `shards` batches, on its own tape and, on the CPU, its own thread; in order.
    pub(crate) fn gradients<W: Send>(
        &self,
        learner: &Learner,
        shards: usize,
        build: &(dyn Fn(usize) -> Result<Batch> + Sync),
        loss: &Loss<W>,
    ) -> Result<Vec<Shard<W>>> {
        match self {
            Engine::Cpu { model, pool } => {
                let one = |shard| gradients::<Cpu, Fused, W>(model, learner, shard, &build(shard)?, loss);
                in_order(pool, shards, &one)
            }
            #[cfg(feature = "cuda")]
            Engine::Cuda(model) => (0..shards)
                .map(|shard| gradients::<Cuda, Stock<Cuda>, W>(model, learner, shard, &build(shard)?, loss))
                .collect(),
        }
    }

    /// The log-probabilities of the targets of `count` batches, in order, each handed to `sum` with its batch.
    pub(crate) fn log_probs<W: Send>(
        &self,
        count: usize,
        build: &(dyn Fn(usize) -> Result<Batch> + Sync),
        sum: &(dyn Fn(usize, &Batch, &[f32]) -> W + Sync),
    ) -> Result<Vec<W>> {
        match self {
            Engine::Cpu { model, pool } => {
                let one = |index| {
                    let batch = build(index)?;
                    Ok(sum(index, &batch, &scores::<Cpu, Fused>(model, &batch)?))
                };
                in_order(pool, count, &one)
            }
            #[cfg(feature = "cuda")]
            Engine::Cuda(model) => (0..count)
                .map(|index| {
                    let batch = build(index)?;
                    Ok(sum(index, &batch, &scores::<Cuda, Stock<Cuda>>(model, &batch)?))
                })
                .collect(),
        }
    }

    /// The logits after every selected position of a batch: (selected, v).
    pub(crate) fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        match self {
            Engine::Cpu { model, pool } => pool.install(|| model.selected_logits::<Fused>(batch)),
            #[cfg(feature = "cuda")]
            Engine::Cuda(model) => model.selected_logits::<Stock<Cuda>>(batch),
        }
    }
}

/// A pool of its own, so that a run uses the threads that it was given and no more.
pub(crate) fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .build()
        .map_err(|error| anyhow!("cannot start {threads} thread(s): {error}"))
}

/// Results in the order of the tasks, the first error in that order too.
fn in_order<R: Send>(
    pool: &rayon::ThreadPool,
    count: usize,
    one: &(dyn Fn(usize) -> Result<R> + Sync),
) -> Result<Vec<R>> {
    let results: Vec<Result<R>> = pool.install(|| (0..count).into_par_iter().with_max_len(1).map(one).collect());
    results.into_iter().collect()
}

/// Forward and backward on one tape.
pub(crate) fn gradients<D: Device<f32>, O: Taped<D = D>, W>(
    model: &Model<OnDevice<D>>,
    learner: &Learner,
    shard: usize,
    batch: &Batch,
    loss: &Loss<W>,
) -> Result<Shard<W>> {
    if batch.targets.is_empty() {
        let (_, told) = loss(shard, batch, &[])?;
        return Ok(Shard { gradients: Vec::new(), told });
    }
    let (gradients, told) = model.learn::<O, W>(learner, batch, &|log_probs| loss(shard, batch, log_probs))?;
    Ok(Shard { gradients, told })
}

fn scores<D: Device<f32>, O: Taped<D = D>>(model: &Model<OnDevice<D>>, batch: &Batch) -> Result<Vec<f32>> {
    if batch.targets.is_empty() {
        return Ok(Vec::new());
    }
    Ok(model.log_probs(&mut O::new(model.device()), batch, false)?.as_vec())
}
