//! Additions to weight gradients that wait for their turn.
//!
//! Gradient additions must happen in shard order. Instead of blocking, a shard queues its addition and continues its
//! backward pass. Otherwise the second of two shards that start together would wait while the first computes the gradient
//! of the head, and would end that much later.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::gradients::{Shard, from_zeros};
use crate::kernels::matmul::Accumulate;

/// The most additions that are queued: those of one or two trainable layers. A queued addition keeps its inputs in memory.
const MAX_QUEUED: usize = 16;

/// The queue of a backward pass. A clone is the same queue.
#[derive(Clone, Default)]
pub(super) struct DeferredAdditions(Rc<RefCell<VecDeque<Addition>>>);

struct Addition {
    shard: Shard,
    index: usize,
    add: Box<Add>,
}

/// Adds to the values, or replaces them.
type Add = dyn FnOnce(&mut [f32], Accumulate);

impl DeferredAdditions {
    /// Runs the additions whose turn has come, then waits until at most `max` are queued.
    pub(super) fn run(&self, max: usize) {
        while let Some(Addition { shard, index, add }) = self.next(max) {
            shard.accumulate(index, add);
        }
    }

    fn next(&self, max: usize) -> Option<Addition> {
        let mut queue = self.0.borrow_mut();
        let (count, first) = (queue.len(), queue.front()?);
        if count > max || first.shard.has_turn(first.index) { queue.pop_front() } else { None }
    }
}

/// The gradient of a trainable parameter, as a backward operation writes it.
pub(super) struct WeightGradient {
    pub(super) shard: Shard,
    pub(super) index: usize,
    pub(super) deferred: DeferredAdditions,
}

impl WeightGradient {
    /// Queues an operation that adds to the gradient.
    pub(super) fn add_with(self, add: impl FnOnce(&mut [f32]) + 'static) {
        self.accumulate(from_zeros(add));
    }

    /// Queues an operation that adds to the gradient or replaces unset values.
    pub(super) fn accumulate(self, add: impl FnOnce(&mut [f32], Accumulate) + 'static) {
        let WeightGradient { shard, index, deferred } = self;
        deferred.0.borrow_mut().push_back(Addition { shard, index, add: Box::new(add) });
        deferred.run(MAX_QUEUED);
    }

    /// Waits for its turn and runs the operation. False if an earlier shard has failed; then it has not run.
    pub(super) fn accumulate_now(self, add: impl FnOnce(&mut [f32], Accumulate)) -> bool {
        self.shard.accumulate(self.index, add)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::*;
    use crate::gradients::GradientAccumulator;
    use crate::trainable_model::TrainableModel;
    use crate::{Checkpoint, ModelConfig};
    use ablate_core::base::Seed;

    #[test]
    fn early_additions_are_queued_and_run_in_order() {
        let model = Checkpoint::initialize(&ModelConfig::default(), 83, 1, Seed(1)).unwrap();
        let sum = Arc::new(GradientAccumulator::new(&TrainableModel::new(model, None, |_| true)));
        let (first, second) = (Shard::new(&sum, 0), Shard::new(&sum, 1));
        let (first_queue, second_queue) = (DeferredAdditions::default(), DeferredAdditions::default());
        let done = Rc::new(Cell::new(0));
        let add = |shard: &Shard, index: usize, deferred: &DeferredAdditions, digit: usize| {
            let (shard, deferred, done) = (shard.clone(), deferred.clone(), done.clone());
            WeightGradient { shard, index, deferred }.add_with(move |_| done.set(done.get() * 10 + digit));
        };
        add(&second, 0, &second_queue, 3);
        add(&second, 1, &second_queue, 4);
        assert_eq!(done.get(), 0, "the first shard has added nothing yet");
        add(&first, 0, &first_queue, 1);
        assert_eq!(done.get(), 1);
        add(&second, 2, &second_queue, 5);
        assert_eq!(done.get(), 13, "parameter 0 is ready for the second shard");
        add(&first, 1, &first_queue, 2);
        first.finish().unwrap();
        second_queue.run(0);
        assert_eq!(done.get(), 13_245);
        second.finish().unwrap();
    }
}
