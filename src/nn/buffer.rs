//! Memory for numbers that is used again by the thread that let go of it, without being zeroed: who asks for it writes all of
//! it. To zero every activation and every gradient first took a tenth of a training step of a small model.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Numbers whose memory goes back to the thread.
pub(crate) struct Buffer {
    /// As many as there is room for: the first `count` are the buffer's.
    memory: Vec<f32>,
    count: usize,
}

impl Buffer {
    /// So many numbers, which may be anything.
    pub(crate) fn unset(count: usize) -> Buffer {
        let memory = SPARE.with_borrow_mut(|spare| spare.take(count)).unwrap_or_else(|| vec![0.0; count]);
        let mut buffer = Buffer { memory, count };
        if cfg!(test) {
            // What an operation forgets to write, the tests see.
            buffer.fill(f32::NAN);
        }
        buffer
    }

    /// So many zeros.
    pub(crate) fn zeros(count: usize) -> Buffer {
        let mut buffer = Buffer::unset(count);
        buffer.fill(0.0);
        buffer
    }

    pub(crate) fn copy(numbers: &[f32]) -> Buffer {
        let mut buffer = Buffer::unset(numbers.len());
        buffer.copy_from_slice(numbers);
        buffer
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(memory: Vec<f32>) -> Buffer {
        SPARE.with_borrow_mut(|spare| spare.note(memory.len()));
        Buffer { count: memory.len(), memory }
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
        self.note(found.as_ref().map_or(count, Vec::len));
        self.shrink();
        found
    }

    /// So many numbers more are used.
    fn note(&mut self, count: usize) {
        self.used += count;
        self.most = self.most.max(self.used);
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
}
