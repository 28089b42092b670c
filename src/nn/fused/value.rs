//! The values that the fused operations compute with: numbers, and a place for their gradient. Knows no operation.
//!
//! Their memory is used again by the thread that let go of it, without being zeroed: an operation writes all of its
//! output. To zero every activation and every gradient first took a tenth of a training step of a small model.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::super::kernels::elementwise::accumulate;
use super::super::kernels::matmul::Into;

/// Numbers whose memory goes back to the thread.
pub(crate) struct Buffer {
    /// As many as there is room for: the first `count` are the buffer's.
    memory: Vec<f32>,
    count: usize,
}

impl Buffer {
    /// So many numbers, which may be anything.
    pub(super) fn unset(count: usize) -> Buffer {
        let memory = SPARE.with_borrow_mut(|spare| spare.take(count)).unwrap_or_else(|| vec![0.0; count]);
        let mut buffer = Buffer { memory, count };
        if cfg!(test) {
            // What an operation forgets to write, the tests see.
            buffer.fill(f32::NAN);
        }
        buffer
    }

    /// So many zeros.
    pub(super) fn zeros(count: usize) -> Buffer {
        let mut buffer = Buffer::unset(count);
        buffer.fill(0.0);
        buffer
    }

    pub(super) fn copy(numbers: &[f32]) -> Buffer {
        let mut buffer = Buffer::unset(numbers.len());
        buffer.copy_from_slice(numbers);
        buffer
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        Buffer::copy(self)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[..self.count]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.count]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        // A thread that ends has no use for it.
        let _ = SPARE.try_with(|spare| spare.borrow_mut().give(memory));
    }
}

thread_local! { static SPARE: RefCell<Spare> = const { RefCell::new(Spare::new()) }; }

/// So many numbers more than were used at the fullest moment are kept (4 MiB), since a small model needs many sizes.
const SLACK: usize = 1 << 20;

/// Memory that nobody uses now. With what is used it is hardly more than was used at the fullest moment.
struct Spare {
    /// The one that came last at the end: the caches still hold it.
    memories: Vec<Vec<f32>>,
    /// How many numbers these are.
    held: usize,
    used: usize,
    most: usize,
}

impl Spare {
    const fn new() -> Spare {
        Spare { memories: Vec::new(), held: 0, used: 0, most: 0 }
    }

    /// Memory for so many numbers, if there is some that is not much too large.
    fn take(&mut self, count: usize) -> Option<Vec<f32>> {
        let fits = |memory: &Vec<f32>| (count..=count + count / 4).contains(&memory.len());
        let found = self.memories.iter().rposition(fits).map(|at| self.memories.remove(at));
        self.held -= found.as_ref().map_or(0, Vec::len);
        self.used += found.as_ref().map_or(count, Vec::len);
        self.most = self.most.max(self.used);
        self.shrink();
        found
    }

    fn give(&mut self, memory: Vec<f32>) {
        // Saturating: it may come from another thread.
        self.used = self.used.saturating_sub(memory.len());
        self.held += memory.len();
        self.memories.push(memory);
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.used + self.held > self.most + SLACK && !self.memories.is_empty() {
            self.held -= self.memories.remove(0).len();
        }
    }
}

/// Numbers, a token per row, and what a backward pass finds of their gradient. A clone is the same value.
#[derive(Clone)]
pub(crate) struct Value(Rc<Inner>);

struct Inner {
    numbers: Buffer,
    width: usize,
    gradient: Gradient,
}

impl Value {
    /// Rows of `width` numbers.
    pub(super) fn new(numbers: Buffer, width: usize) -> Value {
        Value(Rc::new(Inner { numbers, width, gradient: Gradient::default() }))
    }

    pub(super) fn width(&self) -> usize {
        self.0.width
    }

    pub(super) fn rows(&self) -> usize {
        self.0.numbers.len() / self.0.width.max(1)
    }

    pub(super) fn gradient(&self) -> Gradient {
        self.0.gradient.clone()
    }

    /// Its numbers to be changed: a copy, if others need them as they are.
    pub(super) fn into_numbers(self) -> Buffer {
        Rc::try_unwrap(self.0).map_or_else(|shared| Buffer::copy(&shared.numbers), |inner| inner.numbers)
    }
}

impl Deref for Value {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0.numbers
    }
}

/// The gradient of a value, empty until the first of the operations that use the value adds to it. A clone is the same
/// gradient; it does not hold the value.
#[derive(Clone, Default)]
pub(super) struct Gradient(Rc<RefCell<Option<Rc<Buffer>>>>);

impl Gradient {
    /// What has arrived for a value of so many numbers. The value's own operation reads it, once.
    pub(super) fn take(&self, count: usize) -> Rc<Buffer> {
        self.0.take().unwrap_or_else(|| Rc::new(Buffer::zeros(count)))
    }

    /// The same, to be changed.
    pub(super) fn take_numbers(&self, count: usize) -> Buffer {
        Rc::unwrap_or_clone(self.take(count))
    }

    /// Adds to it with something that adds or, the first time, replaces what is there.
    pub(super) fn receive(&self, count: usize, receive: impl FnOnce(&mut [f32], Into)) {
        let mut held = self.0.borrow_mut();
        match &mut *held {
            Some(gradient) => receive(own(gradient), Into::Add),
            None => receive(own(held.insert(Rc::new(Buffer::unset(count)))), Into::Replace),
        }
    }

    /// The same with something that can only add.
    pub(super) fn add(&self, count: usize, add: impl FnOnce(&mut [f32])) {
        add(own(self.0.borrow_mut().get_or_insert_with(|| Rc::new(Buffer::zeros(count)))));
    }

    /// Adds numbers to it, which others may hold too.
    pub(super) fn put(&self, numbers: Rc<Buffer>) {
        let mut held = self.0.borrow_mut();
        match &mut *held {
            Some(gradient) => accumulate(own(gradient), &numbers),
            None => *held = Some(numbers),
        }
    }
}

/// Numbers to be changed: a copy takes their place, if others hold them too.
fn own(numbers: &mut Rc<Buffer>) -> &mut Buffer {
    Rc::make_mut(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_hardly_more_of_it_than_at_the_fullest_moment() {
        let mut spare = Spare::new();
        let new = |spare: &mut Spare, count: usize| spare.take(count).unwrap_or_else(|| vec![0.0; count]);
        let (a, b) = (new(&mut spare, 10 * SLACK), new(&mut spare, 6 * SLACK));
        spare.give(a);
        let small = new(&mut spare, 5 * SLACK);
        assert_eq!(small.len(), 5 * SLACK, "the other is much too large");
        assert_eq!((spare.used, spare.held, spare.most), (11 * SLACK, 0, 16 * SLACK), "21 were too many");
        spare.give(b);
        spare.give(small);
        assert_eq!((spare.used, spare.held), (0, 11 * SLACK));
        let again = new(&mut spare, 5 * SLACK + 1);
        assert_eq!(again.len(), 6 * SLACK, "nearly what is wanted");
        let fresh = new(&mut spare, 6 * SLACK);
        assert_eq!((fresh.len(), spare.used, spare.held), (6 * SLACK, 12 * SLACK, 5 * SLACK));
    }

    #[test]
    fn large_memory_begins_with_a_cache_line_and_keeps_its_numbers_as_it_grows_and_shrinks() {
        let mut numbers: Vec<f32> = Vec::new();
        let begins = |numbers: &Vec<f32>| numbers.capacity() < 512 || (numbers.as_ptr() as usize).is_multiple_of(64);
        let all = |numbers: &[f32]| numbers.iter().enumerate().all(|(at, &number)| number as usize == at);
        for count in (0..40_000).step_by(100) {
            numbers.extend((numbers.len()..count).map(|number| number as f32));
            assert!(begins(&numbers) && all(&numbers), "{count} numbers");
        }
        for count in [20_000, 600, 500, 10] {
            numbers.truncate(count);
            numbers.shrink_to_fit();
            assert!(begins(&numbers) && all(&numbers), "{count} numbers");
        }
        assert!(begins(&vec![0.0; 1000]));
    }

    #[test]
    fn a_gradient_is_the_sum_of_what_arrives_whichever_way() {
        let value = Value::new(Buffer::copy(&[1.0, 2.0]), 2);
        let gradient = value.gradient();
        let first = Rc::new(Buffer::copy(&[3.0, 4.0]));
        gradient.put(first.clone());
        gradient.put(Rc::new(Buffer::copy(&[1.0, 1.0])));
        assert_eq!(first[..], [3.0, 4.0], "it is somebody else's, too");
        gradient.add(2, |sum| sum[0] += 0.5);
        gradient.receive(2, |sum, into| {
            assert!(into == Into::Add);
            sum[1] += 0.5;
        });
        assert_eq!(value.gradient().take(2)[..], [4.5, 5.5]);
        assert_eq!(gradient.take_numbers(2)[..], [0.0, 0.0], "it has been read");
        gradient.receive(2, |sum, into| {
            assert!(into == Into::Replace);
            sum.copy_from_slice(&[7.0, 8.0]);
        });
        assert_eq!(gradient.take(2)[..], [7.0, 8.0]);
    }

    #[test]
    fn numbers_are_changed_in_place_unless_others_hold_them() {
        let value = Value::new(Buffer::copy(&[1.0, 2.0]), 1);
        let (held, place) = (value.clone(), value.as_ptr());
        let mut copy = value.into_numbers();
        copy[0] = 9.0;
        assert_eq!((held[..].to_vec(), held.rows(), held.width()), (vec![1.0, 2.0], 2, 1));
        assert_eq!(held.into_numbers().as_ptr(), place);
    }
}
