//! A model on whichever device was asked for, and the work that training and scoring give it. Here the kinds of device
//! part; nothing outside `nn` is generic over them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
#[cfg(feature = "cuda")]
use dfdx::prelude::Cuda;
use rayon::prelude::*;

use super::Resources;
use super::batch::Batch;
use super::device::Device as Where;
use super::fused::Fused;
use super::gradients::{GradientSum, Part};
use super::kernels::weight::Pass;
use super::learner::Learner;
use super::model::Model;
#[cfg(feature = "cuda")]
use super::ops::{OnDevice, within_memory};
use super::ops::{Ops, Taped};
use super::shared::Shared;
#[cfg(feature = "cuda")]
use super::stock::Stock;
use ablate_core::base::alloc::keep_freed_memory;

/// A model on its device.
#[cfg_attr(feature = "cuda", expect(clippy::large_enum_variant, reason = "there is one engine in a process"))]
pub(crate) enum Engine {
    Cpu {
        model: Model<Shared>,
        pool: Arc<rayon::ThreadPool>,
    },
    #[cfg(feature = "cuda")]
    Cuda(Model<OnDevice<Cuda>>),
}

/// From a batch and the log-probabilities of its targets to the loss's derivative by each of them.
pub(crate) type Loss<'a, W> = dyn Fn(usize, &Batch, &[f32]) -> Result<(Vec<f32>, W)> + Sync + 'a;

impl Engine {
    /// With threads of its own.
    pub(crate) fn new(learner: &Learner, resources: &Resources) -> Result<Engine> {
        Engine::on(&Arc::new(pool(resources.threads)?), learner, resources.device)
    }

    /// On these threads, for a caller that has much to compute in turn and does so on one of them itself: a call from
    /// outside first wakes one and then sleeps, which takes as long as a small product.
    pub(crate) fn on(threads: &Arc<rayon::ThreadPool>, learner: &Learner, device: Where) -> Result<Engine> {
        match device {
            Where::Cpu => {
                keep_freed_memory();
                Ok(Engine::Cpu { model: Model::new(&Shared::default(), learner)?, pool: threads.clone() })
            }
            #[cfg(feature = "cuda")]
            Where::Cuda(ordinal) => Ok(Engine::Cuda(Model::new(&OnDevice(super::cuda::open(ordinal)?), learner)?)),
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

    /// Lets `change` change the weights, and takes up those of now.
    pub(crate) fn around(self, learner: &mut Learner, change: impl FnOnce(&mut Learner)) -> Result<Engine> {
        Ok(match self {
            Engine::Cpu { model, pool } => Engine::Cpu { model: model.around(learner, change)?, pool },
            #[cfg(feature = "cuda")]
            Engine::Cuda(model) => Engine::Cuda(model.around(learner, change)?),
        })
    }

    /// Adds the gradients of `parts` batches to a sum, each on its own tape and, on the CPU, its own thread. What the
    /// loss tells of them, in order.
    pub(crate) fn gradients<W: Send>(
        &self,
        parts: usize,
        build: &(dyn Fn(usize) -> Result<Batch> + Sync),
        loss: &Loss<W>,
        sum: &Arc<GradientSum>,
    ) -> Result<Vec<W>> {
        sum.begin();
        match self {
            Engine::Cpu { model, pool } => {
                lay_out(model, pool, parts, true);
                let one = |number| {
                    let part = Part::new(sum, number);
                    learn::<Fused, W>(model, &part, number, &build(number)?, loss)
                };
                in_order(pool, parts, &one)
            }
            #[cfg(feature = "cuda")]
            Engine::Cuda(model) => (0..parts)
                .map(|number| {
                    let part = Part::new(sum, number);
                    let batch = build(number)?;
                    let advice = "no room to learn from these rows";
                    within_memory(advice, || learn::<Stock<Cuda>, W>(model, &part, number, &batch, loss))
                })
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
                lay_out(model, pool, count, false);
                let one = |index| {
                    let batch = build(index)?;
                    Ok(sum(index, &batch, &scores::<Fused>(model, &batch)?))
                };
                in_order(pool, count, &one)
            }
            #[cfg(feature = "cuda")]
            Engine::Cuda(model) => (0..count)
                .map(|index| {
                    let batch = build(index)?;
                    let advice = "no room to score these responses";
                    let scores = within_memory(advice, || scores::<Stock<Cuda>>(model, &batch))?;
                    Ok(sum(index, &batch, &scores))
                })
                .collect(),
        }
    }

    /// The logits after every selected position of a batch: (selected, v).
    #[cfg(test)]
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

/// Batches for which it pays to lay out the weights beforehand: it costs about what two of them spend on it, and memory.
const MANY: usize = 6;

/// Lays out the weights that so many batches will use, for the passes that go through them.
fn lay_out(model: &Model<Shared>, pool: &rayon::ThreadPool, batches: usize, learning: bool) {
    if batches >= MANY {
        let passes = |(weight, reached)| {
            [Some((weight, Pass::Forward)), (learning && reached).then_some((weight, Pass::Backward))]
        };
        let layouts: Vec<_> = model.matrices().flat_map(passes).flatten().collect();
        pool.install(|| layouts.into_par_iter().for_each(|(weight, pass)| weight.pack(pass)));
    }
}

/// Results in the order of the tasks, which begin in it too; so is the first error. After it no task begins.
fn in_order<R: Send>(
    pool: &rayon::ThreadPool,
    count: usize,
    one: &(dyn Fn(usize) -> Result<R> + Sync),
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return done;
            }
            let result = one(number);
            if result.is_err() {
                next.store(count, Ordering::Relaxed);
            }
            done.push((number, result));
        }
    };
    let mut results: Vec<(usize, Result<R>)> = pool.broadcast(|_| work()).into_iter().flatten().collect();
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Forward and backward of one part, on one tape.
fn learn<O: Taped, W>(model: &Model<O::Place>, part: &Part, number: usize, batch: &Batch, loss: &Loss<W>) -> Result<W> {
    if batch.targets.is_empty() {
        let (_, told) = loss(number, batch, &[])?;
        part.finish()?;
        return Ok(told);
    }
    model.learn::<O, W>(part, batch, &|log_probs| loss(number, batch, log_probs))
}

fn scores<O: Taped>(model: &Model<O::Place>, batch: &Batch) -> Result<Vec<f32>> {
    if batch.targets.is_empty() {
        return Ok(Vec::new());
    }
    Ok(model.log_probs(&mut O::new(model.place(), None), batch, false)?.as_vec())
}
