//! The gradients of a batch, accumulated over its shards in order.
//!
//! The shards of a batch run in parallel, but they add to the gradient of a parameter one after the other: shard 1 waits
//! until shard 0 has added its own. So a gradient is one sum over the tokens of the batch in their order. Its bits do not
//! depend on the number of shards or threads, and there is only one copy of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use anyhow::{Result, bail};

use super::kernels::elementwise::accumulate;
use super::kernels::matmul::Accumulate;
use super::parameters;
use super::profile::timer;
use super::trainable_model::TrainableModel;

/// The gradients of all trainable parameters, by index.
pub(crate) struct GradientAccumulator {
    slots: Vec<Slot>,
    /// The slots of the embedding and of the head that is tied to it. With one slot for both, the next shard would have to
    /// wait from a shard's first backward operation (the head) to its last (the embedding).
    tied: Option<(usize, usize)>,
}

struct Slot {
    /// The number of elements; 0 for a frozen parameter.
    size: usize,
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Default)]
struct State {
    /// The shard that adds next.
    next: usize,
    /// The first shard that has failed. Later shards stop; earlier ones continue, so the error that is reported is that of
    /// the first failed shard.
    failed: Option<usize>,
    /// Whether anything has been added since the last [`GradientAccumulator::take`].
    used: bool,
    values: Vec<f32>,
}

impl GradientAccumulator {
    pub(crate) fn new(trainable_model: &TrainableModel) -> GradientAccumulator {
        let slot = |size| Slot { size, state: Mutex::default(), turn: Condvar::new() };
        let size = |index: usize| {
            if trainable_model.is_trainable(index) { trainable_model.shape(index).iter().product() } else { 0 }
        };
        let mut slots: Vec<Slot> = (0..trainable_model.count()).map(|index| slot(size(index))).collect();
        let embedding = trainable_model.index(&parameters::weight(parameters::EMBEDDING));
        let tied = embedding.filter(|_| trainable_model.checkpoint.architecture.decoder.tied_head);
        let tied = tied.map(|embedding| (embedding, slots.len()));
        slots.extend(tied.map(|(embedding, _)| slot(size(embedding))));
        GradientAccumulator { slots, tied }
    }

    /// Prepares for shards that count from 0. The sums so far stay.
    pub(crate) fn start(&self) {
        for slot in &self.slots {
            let mut state = slot.lock();
            (state.next, state.failed) = (0, None);
        }
    }

    /// Resets the sums to zero.
    pub(crate) fn clear(&self) {
        for slot in &self.slots {
            slot.lock().used = false;
        }
    }

    /// The sums by index, empty for frozen parameters. The next sum starts from zero.
    pub(crate) fn take(&self) -> Vec<Vec<f32>> {
        let mut sums: Vec<Vec<f32>> = self.slots.iter().map(Slot::take).collect();
        if let Some((embedding, head)) = self.tied {
            let head = sums.swap_remove(head);
            accumulate(&mut sums[embedding], &head);
            self.slots[self.slots.len() - 1].recycle(head);
        }
        sums
    }

    /// Reuses the memory of sums that were taken.
    pub(crate) fn recycle(&self, sums: Vec<Vec<f32>>) {
        for (slot, values) in self.slots.iter().zip(sums) {
            slot.recycle(values);
        }
    }
}

/// One shard's access to the gradients. If it is dropped without [`Shard::finish`], later shards stop.
#[derive(Clone)]
pub(crate) struct Shard(Arc<Inner>);

struct Inner {
    sum: Arc<GradientAccumulator>,
    number: usize,
    finished: Mutex<bool>,
}

impl Shard {
    pub(crate) fn new(sum: &Arc<GradientAccumulator>, number: usize) -> Shard {
        Shard(Arc::new(Inner { sum: sum.clone(), number, finished: Mutex::new(false) }))
    }

    #[cfg(test)]
    pub(crate) fn is_trainable(&self, index: usize) -> bool {
        self.0.sum.slots[index].size > 0
    }

    /// Whether all earlier shards have added to the gradient of a parameter. Does not block: false while another shard is
    /// adding.
    pub(crate) fn has_turn(&self, index: usize) -> bool {
        match self.0.sum.slots[index].state.try_lock() {
            Ok(state) => !self.is_early(&state),
            Err(TryLockError::Poisoned(poisoned)) => !self.is_early(&poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// Waits for its turn, then calls `add`, which adds to the gradient of a trainable parameter.
    #[cfg(test)]
    pub(crate) fn add_with(&self, index: usize, add: impl FnOnce(&mut [f32])) {
        self.accumulate(index, from_zeros(add));
    }

    /// Waits for its turn, then calls `add`, which adds to the gradient or replaces unset values. False if an earlier shard
    /// has failed; then `add` is not called.
    pub(crate) fn accumulate(&self, index: usize, add: impl FnOnce(&mut [f32], Accumulate)) -> bool {
        let Some(mut state) = self.wait(index) else { return false };
        let into = if state.used { Accumulate::Yes } else { Accumulate::No };
        state.values.resize(self.0.sum.slots[index].size, 0.0);
        add(&mut state.values, into);
        (state.used, state.next) = (true, self.0.number + 1);
        self.0.sum.slots[index].turn.notify_all();
        true
    }

    /// The slot for the gradient of the head, whose parameter is `index`: a slot of its own if it is tied to the embedding.
    pub(crate) fn head(&self, index: usize) -> usize {
        self.0.sum.tied.map_or(index, |(_, head)| head)
    }

    /// Gives the turn to the next shard for all parameters to which this one has added nothing.
    pub(crate) fn finish(&self) -> Result<()> {
        for (index, slot) in self.0.sum.slots.iter().enumerate() {
            if let Some(mut state) = self.wait(index) {
                state.next = self.0.number + 1;
                slot.turn.notify_all();
            }
            if self.is_stopped(&slot.lock()) {
                bail!("another shard of the batch failed");
            }
        }
        *self.0.finished.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }

    /// Waits for the turn on a parameter's slot. None if this shard has already finished it, or an earlier one has failed.
    fn wait(&self, index: usize) -> Option<MutexGuard<'_, State>> {
        let slot = &self.0.sum.slots[index];
        let clock = (!self.has_turn(index)).then(|| timer("waiting for earlier shards", 0, 0));
        let early = |state: &mut State| self.is_early(state);
        let state = slot.turn.wait_while(slot.lock(), early).unwrap_or_else(PoisonError::into_inner);
        drop(clock);
        (state.next == self.0.number && !self.is_stopped(&state)).then_some(state)
    }

    fn is_early(&self, state: &State) -> bool {
        state.next < self.0.number && !self.is_stopped(state)
    }

    fn is_stopped(&self, state: &State) -> bool {
        state.failed.is_some_and(|failed| failed < self.0.number)
    }
}

/// Turns an operation that adds into one that can also replace: it zeroes the values first.
pub(crate) fn from_zeros(add: impl FnOnce(&mut [f32])) -> impl FnOnce(&mut [f32], Accumulate) {
    |values, into| {
        if into == Accumulate::No {
            values.fill(0.0);
        }
        add(values);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if *self.finished.lock().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        for slot in &self.sum.slots {
            let mut state = slot.lock();
            state.failed = Some(state.failed.map_or(self.number, |failed| failed.min(self.number)));
            drop(state);
            slot.turn.notify_all();
        }
    }
}

impl Slot {
    /// A poisoned lock means that a shard panicked; dropping it stops the others.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<f32> {
        let mut state = self.lock();
        let mut values = std::mem::take(&mut state.values);
        values.resize(self.size, 0.0);
        if !std::mem::take(&mut state.used) {
            values.fill(0.0);
        }
        values
    }

    fn recycle(&self, values: Vec<f32>) {
        self.lock().values = values;
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums must be exact")]
mod tests {
    use super::*;
    use crate::{Checkpoint, ModelConfig};

    /// An accumulator, and the index of a norm's weight.
    fn accumulator() -> (Arc<GradientAccumulator>, usize) {
        let model = Checkpoint::initialize(&ModelConfig::default(), 83, 1, ablate_core::base::Seed(1)).unwrap();
        let trainable_model = TrainableModel::new(model, None, |_| true);
        let norm = trainable_model.index("model.norm.weight").unwrap();
        (Arc::new(GradientAccumulator::new(&trainable_model)), norm)
    }

    /// A value after every shard has computed `value x 10 + number`, started in the given order.
    fn started_in(order: &[usize]) -> f32 {
        let (sum, norm) = accumulator();
        std::thread::scope(|scope| {
            for &number in order {
                let shard = Shard::new(&sum, number);
                scope.spawn(move || {
                    shard.add_with(norm, |values| {
                        for value in values {
                            *value = *value * 10.0 + number as f32;
                        }
                    });
                    shard.finish().unwrap();
                });
            }
        });
        sum.take()[norm][0]
    }

    #[test]
    fn shards_add_in_order_whichever_starts_first() {
        assert_eq!([started_in(&[0, 1, 2]), started_in(&[2, 1, 0]), started_in(&[1, 2, 0])], [12.0; 3]);
    }

    #[test]
    fn failed_shard_stops_later_ones() {
        let (sum, norm) = accumulator();
        let (earlier, failing, later) = (Shard::new(&sum, 0), Shard::new(&sum, 1), Shard::new(&sum, 2));
        std::thread::scope(|scope| {
            let later = scope.spawn(move || {
                later.add_with(norm, |_| panic!("an earlier shard has failed"));
                later.finish().unwrap_err().to_string()
            });
            drop(failing);
            earlier.add_with(norm, |values| values.fill(1.0));
            earlier.finish().unwrap();
            assert_eq!(later.join().unwrap(), "another shard of the batch failed");
        });
        // The next batch works.
        assert!(sum.take()[norm].iter().all(|&value| value == 1.0));
        sum.start();
        let shard = Shard::new(&sum, 0);
        shard.add_with(norm, |values| values.fill(2.0));
        shard.finish().unwrap();
        assert!(sum.take()[norm].iter().all(|&value| value == 2.0));
        assert!(sum.take()[norm].iter().all(|&value| value == 0.0));
    }
}
