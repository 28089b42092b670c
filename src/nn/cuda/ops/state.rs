//! The state of the CUDA operations: the tape of a training pass, and the cache of generation.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Result;
use dfdx::prelude::{Cpu, OwnedTape, Tape as _};

use super::gpu::Gpu;
use super::gradients::{CudaGradients, WeightGradient};
use super::kv_cache::CacheWriter;
use super::memory::Buffer;
use crate::ops::{self, Param};

/// The recorded operations. The tape is dfdx's: it runs them in reverse.
pub(crate) type Tape = OwnedTape<f32, Cpu>;

pub(crate) struct CudaOps {
    pub(super) gpu: Gpu,
    pub(super) tape: Tape,
    /// The first error of a backward pass. Later operations do nothing.
    failed: Rc<RefCell<Option<anyhow::Error>>>,
    pub(super) gradients: Option<Rc<CudaGradients>>,
    pub(super) grad_enabled: bool,
    /// The gradient by the log-probabilities, where the backward pass begins.
    pub(super) seed: Rc<RefCell<Option<Rc<Buffer>>>>,
    /// In generation, where keys and values are kept.
    pub(super) cache: Option<CacheWriter>,
}

impl CudaOps {
    pub(crate) fn with(gpu: &Gpu, gradients: Option<Rc<CudaGradients>>, cache: Option<CacheWriter>) -> CudaOps {
        CudaOps {
            gpu: gpu.clone(),
            tape: Tape::default(),
            failed: Rc::default(),
            gradients,
            grad_enabled: false,
            seed: Rc::default(),
            cache,
        }
    }

    /// The gradient of a parameter, if it is trainable and gradients are enabled.
    pub(super) fn weight_gradient<W>(&self, parameter: &Param<W>) -> Option<WeightGradient> {
        let gradients = self.gradients.clone().filter(|_| self.grad_enabled && parameter.trainable)?;
        Some(WeightGradient { gradients, index: parameter.index })
    }

    /// Puts an operation on the tape.
    pub(super) fn on_backward(&mut self, backward: impl FnOnce(&Gpu) -> Result<()> + 'static) {
        let (gpu, failed) = (self.gpu.clone(), self.failed.clone());
        self.tape.add_backward_op(move |_| {
            let done = if failed.borrow().is_none() { backward(&gpu) } else { Ok(()) };
            if let Err(error) = done {
                failed.replace(Some(error));
            }
            Ok(())
        });
    }

    /// Runs the operations of a tape in reverse.
    pub(super) fn run(&self, tape: Tape) -> Result<()> {
        ops::run(tape)?;
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
