//! The gradient of a batch, added up from its parts in order, in one place. Knows no operation and no tensor.
//!
//! The parts of a batch run side by side, but each parameter's gradient takes theirs one after the other: part 1 waits
//! until part 0 has added its own. So a gradient is one sum over the tokens of the batch in their order, and neither the
//! number of parts nor that of threads changes a bit of it; nor is there more than one copy of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use anyhow::{Result, bail};

use super::kernels::elementwise::accumulate;
use super::kernels::matmul::Accumulate;
use super::learner::Learner;
use super::profile::timer;

/// The gradients of all parameters that learn, by number.
pub(crate) struct GradientSum {
    slots: Vec<Slot>,
    /// Where the gradient of a tied head goes, which is the embedding's in another use: were they one slot, a part would
    /// hold up the next from its first operation to its last.
    tied: Option<(usize, usize)>,
}

struct Slot {
    /// How many numbers there are; 0 where nothing learns.
    size: usize,
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Default)]
struct State {
    /// The part that comes next.
    next: usize,
    /// The first part that has failed. Those behind it have no turn any more; those before it are not touched, so that
    /// the error of the first part that failed is the first error.
    failed: Option<usize>,
    /// Whether anything has been added since the last [`GradientSum::take`].
    used: bool,
    values: Vec<f32>,
}

impl GradientSum {
    pub(crate) fn new(learner: &Learner) -> GradientSum {
        let slot = |size| Slot { size, state: Mutex::default(), turn: Condvar::new() };
        let size = |number: usize| if learner.learns(number) { learner.shape(number).iter().product() } else { 0 };
        let mut slots: Vec<Slot> = (0..learner.count()).map(|number| slot(size(number))).collect();
        let embedding = learner.number("model.embed_tokens.weight");
        let tied = embedding.filter(|_| learner.checkpoint.architecture.decoder.tied_head);
        let tied = tied.map(|embedding| (embedding, slots.len()));
        slots.extend(tied.map(|(embedding, _)| slot(size(embedding))));
        GradientSum { slots, tied }
    }

    /// Makes ready for parts that are counted from 0; what was added before stays.
    pub(crate) fn begin(&self) {
        for slot in &self.slots {
            let mut state = slot.lock();
            (state.next, state.failed) = (0, None);
        }
    }

    /// Forgets what was added.
    pub(crate) fn clear(&self) {
        for slot in &self.slots {
            slot.lock().used = false;
        }
    }

    /// The sum by number, empty for what does not learn. The next sum begins anew.
    pub(crate) fn take(&self) -> Vec<Vec<f32>> {
        let mut sums: Vec<Vec<f32>> = self.slots.iter().map(Slot::take).collect();
        if let Some((embedding, head)) = self.tied {
            let head = sums.swap_remove(head);
            accumulate(&mut sums[embedding], &head);
            self.slots[self.slots.len() - 1].give_back(head);
        }
        sums
    }

    /// Takes the memory of a sum back.
    pub(crate) fn give_back(&self, sums: Vec<Vec<f32>>) {
        for (slot, values) in self.slots.iter().zip(sums) {
            slot.give_back(values);
        }
    }
}

/// One part's access to the sum. Dropped without [`Part::finish`], it stops the parts behind it.
#[derive(Clone)]
pub(crate) struct Part(Arc<Inner>);

struct Inner {
    sum: Arc<GradientSum>,
    number: usize,
    finished: Mutex<bool>,
}

impl Part {
    pub(crate) fn new(sum: &Arc<GradientSum>, number: usize) -> Part {
        Part(Arc::new(Inner { sum: sum.clone(), number, finished: Mutex::new(false) }))
    }

    /// Whether a parameter learns.
    pub(crate) fn wants(&self, number: usize) -> bool {
        self.0.sum.slots[number].size > 0
    }

    /// Whether adding to the gradient of a parameter would not have to wait for the parts before. Does not wait itself:
    /// while another part is adding, it is not yet this one's turn.
    pub(crate) fn has_turn(&self, number: usize) -> bool {
        match self.0.sum.slots[number].state.try_lock() {
            Ok(state) => !self.is_early(&state),
            Err(TryLockError::Poisoned(poisoned)) => !self.is_early(&poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// Adds to the gradient of a parameter that learns, once the parts before have.
    pub(crate) fn add(&self, number: usize, add: impl FnOnce(&mut [f32])) {
        self.add_product(number, from_zeros(add));
    }

    /// The same with something that can replace what is there, which may then be anything. Whether it was done: it is not
    /// if a part before has failed.
    pub(crate) fn add_product(&self, number: usize, add: impl FnOnce(&mut [f32], Accumulate)) -> bool {
        let Some(mut state) = self.wait(number) else { return false };
        let into = if state.used { Accumulate::Yes } else { Accumulate::No };
        state.values.resize(self.0.sum.slots[number].size, 0.0);
        add(&mut state.values, into);
        (state.used, state.next) = (true, self.0.number + 1);
        self.0.sum.slots[number].turn.notify_all();
        true
    }

    /// The slot of a head: that of its parameter, unless it is tied to the embedding.
    pub(crate) fn head(&self, number: usize) -> usize {
        self.0.sum.tied.map_or(number, |(_, head)| head)
    }

    /// Lets the next part pass wherever this one had nothing to add.
    pub(crate) fn finish(&self) -> Result<()> {
        for (number, slot) in self.0.sum.slots.iter().enumerate() {
            if let Some(mut state) = self.wait(number) {
                state.next = self.0.number + 1;
                slot.turn.notify_all();
            }
            if self.is_cut_off(&slot.lock()) {
                bail!("another part of the batch failed");
            }
        }
        *self.0.finished.lock().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }

    /// The slot of a parameter once the parts before are through; none if this one is, or if one of them failed.
    fn wait(&self, number: usize) -> Option<MutexGuard<'_, State>> {
        let slot = &self.0.sum.slots[number];
        let clock = (!self.has_turn(number)).then(|| timer("waiting for its turn", 0, 0));
        let early = |state: &mut State| self.is_early(state);
        let state = slot.turn.wait_while(slot.lock(), early).unwrap_or_else(PoisonError::into_inner);
        drop(clock);
        (state.next == self.0.number && !self.is_cut_off(&state)).then_some(state)
    }

    fn is_early(&self, state: &State) -> bool {
        state.next < self.0.number && !self.is_cut_off(state)
    }

    fn is_cut_off(&self, state: &State) -> bool {
        state.failed.is_some_and(|failed| failed < self.0.number)
    }
}

/// What can only add, as something that can replace.
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
    /// A poisoned lock means that a part panicked, which stops the others in an orderly way.
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

    fn give_back(&self, values: Vec<f32>) {
        self.lock().values = values;
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact numbers are what is promised")]
mod tests {
    use super::*;
    use crate::{Checkpoint, ModelConfig};

    fn sum() -> (Arc<GradientSum>, usize) {
        let model = Checkpoint::fresh(&ModelConfig::default(), 83, 1, ablate_core::base::Seed(1)).unwrap();
        let learner = Learner::new(model, None, |_| true);
        let norm = learner.number("model.norm.weight").unwrap();
        (Arc::new(GradientSum::new(&learner)), norm)
    }

    /// The numbers after parts have each written `old x 10 + number`, started in the given order.
    fn in_turn(order: &[usize]) -> f32 {
        let (sum, norm) = sum();
        std::thread::scope(|scope| {
            for &number in order {
                let part = Part::new(&sum, number);
                scope.spawn(move || {
                    part.add(norm, |values| values.iter_mut().for_each(|value| *value = *value * 10.0 + number as f32));
                    part.finish().unwrap();
                });
            }
        });
        sum.take()[norm][0]
    }

    #[test]
    fn parts_add_in_their_order_whichever_comes_first() {
        assert_eq!([in_turn(&[0, 1, 2]), in_turn(&[2, 1, 0]), in_turn(&[1, 2, 0])], [12.0; 3]);
    }

    #[test]
    fn a_part_that_fails_stops_those_behind_it_and_none_waits_for_ever() {
        let (sum, norm) = sum();
        let (before, failing, behind) = (Part::new(&sum, 0), Part::new(&sum, 1), Part::new(&sum, 2));
        std::thread::scope(|scope| {
            let behind = scope.spawn(move || {
                behind.add(norm, |_| panic!("its turn never comes"));
                behind.finish().unwrap_err().to_string()
            });
            drop(failing);
            before.add(norm, |values| values.fill(1.0));
            before.finish().unwrap();
            assert_eq!(behind.join().unwrap(), "another part of the batch failed");
        });
        // The next batch is not disturbed.
        assert!(sum.take()[norm].iter().all(|&value| value == 1.0));
        sum.begin();
        let part = Part::new(&sum, 0);
        part.add(norm, |values| values.fill(2.0));
        part.finish().unwrap();
        assert!(sum.take()[norm].iter().all(|&value| value == 2.0));
        assert!(sum.take()[norm].iter().all(|&value| value == 0.0));
    }
}
