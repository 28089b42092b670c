//! What a backward pass adds to the gradients of weights, each addition in its turn. Knows no operation.
//!
//! A part of a batch adds to a gradient after the parts before it, but does not wait for them at once: what can be done
//! without goes on. Else the second of two parts that start together would stand still while the first finds the gradient
//! of the head, and so end as much later.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::super::gradients::{Part, from_zeros};
use super::super::kernels::matmul::Accumulate;

/// Additions that may wait at a time: those of one or two layers that learn as a whole. What they need stays in memory so
/// long.
const AHEAD: usize = 16;

/// The additions of a backward pass that wait, in order. A clone is the same ones.
#[derive(Clone, Default)]
pub(super) struct Additions(Rc<RefCell<VecDeque<Addition>>>);

struct Addition {
    part: Part,
    number: usize,
    add: Box<Add>,
}

/// Adds to the numbers that are there, or replaces them.
type Add = dyn FnOnce(&mut [f32], Accumulate);

impl Additions {
    /// Does those whose turn has come, and waits until no more than `most` are left.
    pub(super) fn run(&self, most: usize) {
        while let Some(Addition { part, number, add }) = self.next(most) {
            part.add_product(number, add);
        }
    }

    fn next(&self, most: usize) -> Option<Addition> {
        let mut waiting = self.0.borrow_mut();
        let (count, first) = (waiting.len(), waiting.front()?);
        if count > most || first.part.has_turn(first.number) { waiting.pop_front() } else { None }
    }
}

/// A parameter that learns, for a backward operation.
pub(super) struct Learning {
    pub(super) part: Part,
    pub(super) number: usize,
    pub(super) additions: Additions,
}

impl Learning {
    /// Adds to the gradient when its turn has come.
    pub(super) fn add(self, add: impl FnOnce(&mut [f32]) + 'static) {
        self.add_product(from_zeros(add));
    }

    /// The same with something that can replace what is there, which may then be anything.
    pub(super) fn add_product(self, add: impl FnOnce(&mut [f32], Accumulate) + 'static) {
        let Learning { part, number, additions } = self;
        additions.0.borrow_mut().push_back(Addition { part, number, add: Box::new(add) });
        additions.run(AHEAD);
    }

    /// The same without delay: waits for its turn. Whether it was done: it is not if a part before has failed.
    pub(super) fn add_at_once(self, add: impl FnOnce(&mut [f32], Accumulate)) -> bool {
        self.part.add_product(self.number, add)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::super::super::gradients::GradientSum;
    use super::super::super::learner::Learner;
    use super::*;
    use crate::{Checkpoint, ModelConfig};
    use ablate_core::base::Seed;

    #[test]
    fn what_has_no_turn_yet_is_put_off_and_done_in_order() {
        let model = Checkpoint::fresh(&ModelConfig::default(), 83, 1, Seed(1)).unwrap();
        let learner = Learner::new(model, None, |_| true);
        let sum = Arc::new(GradientSum::new(&learner));
        let (first, second) = (Part::new(&sum, 0), Part::new(&sum, 1));
        let (mine, others) = (Additions::default(), Additions::default());
        let done = Rc::new(Cell::new(0));
        let add = |part: &Part, number: usize, additions: &Additions, digit: usize| {
            let (part, additions, done) = (part.clone(), additions.clone(), done.clone());
            Learning { part, number, additions }.add(move |_| done.set(done.get() * 10 + digit));
        };
        add(&second, 0, &others, 3);
        add(&second, 1, &others, 4);
        assert_eq!(done.get(), 0, "the first part has not added its own");
        add(&first, 0, &mine, 1);
        assert_eq!(done.get(), 1);
        add(&second, 2, &others, 5);
        assert_eq!(done.get(), 13, "that of parameter 0 has its turn now");
        add(&first, 1, &mine, 2);
        first.finish().unwrap();
        others.run(0);
        assert_eq!(done.get(), 13_245);
        second.finish().unwrap();
    }
}
