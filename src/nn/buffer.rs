//! Buffers whose memory is reused by the thread that dropped them, without being zeroed: the user of a buffer must write all
//! of it. Zeroing every activation and gradient took a tenth of a training step of a small model.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Numbers whose memory returns to the pool of the thread that drops it.
pub(crate) struct Buffer {
    /// The first `count` numbers belong to the buffer.
    memory: Vec<f32>,
    count: usize,
}

impl Buffer {
    /// A buffer of `count` numbers with arbitrary contents.
    pub(crate) fn unset(count: usize) -> Buffer {
        let memory = POOL.with_borrow_mut(|pool| pool.take(count)).unwrap_or_else(|| vec![0.0; count]);
        let mut buffer = Buffer { memory, count };
        if cfg!(test) {
            // In unit tests, a number that an operation does not write shows as NaN.
            buffer.fill(f32::NAN);
        }
        buffer
    }

    /// A buffer of `count` zeros.
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
        POOL.with_borrow_mut(|pool| pool.add_used(memory.len()));
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
        // An ending thread has no pool any more.
        let _ = POOL.try_with(|pool| pool.borrow_mut().give(memory));
    }
}

thread_local! { static POOL: RefCell<BufferPool> = const { RefCell::new(BufferPool::new()) }; }

/// Free numbers that are kept beyond the peak (4 MiB), since a small model needs many sizes.
const SLACK: usize = 1 << 20;

/// The free memory of a thread. Used plus free memory is capped at the peak plus [`SLACK`].
struct BufferPool {
    /// The most recently freed one is last: it is still in the caches.
    memories: Vec<Vec<f32>>,
    /// Numbers in `memories`.
    free: usize,
    /// Numbers in use.
    used: usize,
    /// The largest `used` so far.
    peak: usize,
}

impl BufferPool {
    const fn new() -> BufferPool {
        BufferPool { memories: Vec::new(), free: 0, used: 0, peak: 0 }
    }

    /// Free memory for `count` numbers that is at most a quarter too large.
    fn take(&mut self, count: usize) -> Option<Vec<f32>> {
        let fits = |memory: &Vec<f32>| (count..=count + count / 4).contains(&memory.len());
        let found = self.memories.iter().rposition(fits).map(|at| self.memories.remove(at));
        self.free -= found.as_ref().map_or(0, Vec::len);
        self.add_used(found.as_ref().map_or(count, Vec::len));
        self.shrink();
        found
    }

    /// Counts `count` more numbers in use.
    fn add_used(&mut self, count: usize) {
        self.used += count;
        self.peak = self.peak.max(self.used);
    }

    fn give(&mut self, memory: Vec<f32>) {
        // Saturating: the memory may come from another thread.
        self.used = self.used.saturating_sub(memory.len());
        self.free += memory.len();
        self.memories.push(memory);
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.used + self.free > self.peak + SLACK && !self.memories.is_empty() {
            self.free -= self.memories.remove(0).len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reused_and_capped_at_the_peak() {
        let mut pool = BufferPool::new();
        let new = |pool: &mut BufferPool, count: usize| pool.take(count).unwrap_or_else(|| vec![0.0; count]);
        let (a, b) = (new(&mut pool, 10 * SLACK), new(&mut pool, 6 * SLACK));
        pool.give(a);
        let small = new(&mut pool, 5 * SLACK);
        assert_eq!(small.len(), 5 * SLACK, "the free memory is too large");
        assert_eq!((pool.used, pool.free, pool.peak), (11 * SLACK, 0, 16 * SLACK), "21 would exceed the peak");
        pool.give(b);
        pool.give(small);
        assert_eq!((pool.used, pool.free), (0, 11 * SLACK));
        let again = new(&mut pool, 5 * SLACK + 1);
        assert_eq!(again.len(), 6 * SLACK, "at most a quarter too large");
        let new_memory = new(&mut pool, 6 * SLACK);
        assert_eq!((new_memory.len(), pool.used, pool.free), (6 * SLACK, 12 * SLACK, 5 * SLACK));
    }

    #[test]
    fn large_memory_is_aligned_to_cache_lines() {
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
