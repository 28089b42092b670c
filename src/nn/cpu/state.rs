//! The state of the CPU operations: the tape of a training pass, and the KV caches of generation.

use dfdx::prelude::*;

use super::deferred::{DeferredAdditions, WeightGradient};
use super::kv_cache::{KvCache, KvSegment, Scratch};
use crate::gradients::Shard;
use crate::ops::Param;

#[derive(Default)]
pub(crate) struct CpuOps {
    pub(super) tape: OwnedTape<f32, Cpu>,
    /// Receives the gradients of weights; those of other tensors stay with the tensors.
    pub(super) shard: Option<Shard>,
    pub(super) deferred: DeferredAdditions,
    pub(super) grad_enabled: bool,
    /// One per sequence: token `i` of a decoding step continues sequence `i`.
    pub(crate) caches: Vec<KvCache>,
    /// Receives the keys and values of a prompt.
    pub(crate) prefill: Option<KvSegment>,
    pub(super) scratch: Scratch,
}

impl CpuOps {
    /// The gradient of a parameter, if it is trainable and gradients are enabled.
    pub(super) fn weight_gradient<W>(&self, parameter: &Param<W>) -> Option<WeightGradient> {
        let shard = self.shard.clone().filter(|_| self.grad_enabled && parameter.trainable)?;
        Some(WeightGradient { shard, index: parameter.index, deferred: self.deferred.clone() })
    }

    pub(super) fn on_backward(&mut self, backward: impl FnOnce() + 'static) {
        self.tape.add_backward_op(move |_| {
            backward();
            Ok(())
        });
    }
}
