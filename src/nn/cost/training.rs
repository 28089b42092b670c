//! The work and the memory of a training step.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use anyhow::Result;

use super::{BatchShape, Memory, Recording, Work, Workload};
use crate::cuda::ops::CudaOps;
use crate::cuda::ops::optimizer::CudaOptimizer;
use crate::ops::TargetGroups;
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::{Batch, Precision};

/// A training step: its work, and the memory of the training.
#[derive(Clone, Debug)]
pub struct TrainingCost {
    /// From the batch to the loss.
    pub forward: Work,
    /// From the loss to the gradients, with the blocks that are computed again.
    pub backward: Work,
    /// The norm of the gradients, and AdamW.
    pub optimizer: Work,
    pub memory: Memory,
}

impl TrainingCost {
    /// The whole step.
    pub fn step(&self) -> Work {
        self.forward.and(&self.backward).and(&self.optimizer)
    }
}

/// The cost of training on batches of one shape, each in one pass.
///
/// # Errors
/// The batch or the adapter does not fit the model, or the model does not run on a GPU.
pub fn training(workload: &Workload, shape: &BatchShape) -> Result<TrainingCost> {
    training_on(workload, &shape.batch(workload.architecture)?)
}

/// As [`training`], of a batch.
pub(crate) fn training_on(workload: &Workload, batch: &Batch) -> Result<TrainingCost> {
    /// From the third step on, all memory comes from freed memory and the tables of rotations are on the GPU.
    const STEPS: usize = 3;
    let recording = Recording::new(workload)?;
    let weights = recording.live_bytes();
    let trainable_model = &recording.trainable_model;
    let (mut trained, mut rounded) = (0, 0);
    for (_, parameter) in trainable_model.trainable_parameters() {
        trained += parameter.len();
        rounded += if parameter.is_matrix() { parameter.len() } else { 0 };
    }
    let config = OptimizerConfig::default();
    let none = || vec![Vec::new(); trainable_model.count()];
    let optimizer = Optimizer { config: config.clone(), first: none(), second: none() };
    let state = CudaOptimizer::new(&recording.gpu, trainable_model, recording.model.loaded(), &optimizer)?;
    let before = recording.live_bytes();
    let groups = row_groups(batch);
    let (forward, activations) = (RefCell::default(), Cell::default());
    let slopes = |sums: &[[f64; 2]]| {
        forward.replace(recording.work());
        activations.set(recording.live_bytes());
        Ok((vec![[0.0; 2]; sums.len()], ()))
    };
    let mut works = (Work::default(), Work::default());
    for step in 0..STEPS {
        recording.work();
        state.gradients.clear();
        let gradients: &Rc<_> = &state.gradients;
        recording.model.learn::<CudaOps, ()>(gradients, batch, (&groups, &slopes), workload.gradient_checkpointing)?;
        works.0 = recording.work();
        let norm = state.norm()?;
        state.step(&config, norm, step as u64, STEPS as u64)?;
        works.1 = recording.work();
    }
    let wide = size_of::<f32>();
    let master = if workload.precision == Precision::Bf16 { rounded * wide } else { 0 };
    let memory = Memory {
        weights,
        master,
        gradients: trained * wide,
        moments: 2 * trained * wide,
        activations: activations.get() - before,
        cache: 0,
        temporary: 0,
    };
    let forward = forward.into_inner();
    Ok(TrainingCost {
        forward,
        backward: works.0,
        optimizer: works.1,
        memory: memory.up_to(recording.recorder.peak_bytes()),
    })
}

/// A group of targets per row.
pub(super) fn row_groups(batch: &Batch) -> TargetGroups {
    let count = batch.targets.len();
    let ends = (0..count).filter(|&at| batch.target_rows.get(at + 1) != batch.target_rows.get(at)).map(|at| at + 1);
    TargetGroups { ends: ends.collect(), factors: vec![1.0; count] }
}
