//! What each operation of a training costs: time, floating-point operations, bytes. Off unless asked for. Knows no model.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static ON: AtomicBool = AtomicBool::new(false);
static TALLIES: Mutex<BTreeMap<&'static str, Tally>> = Mutex::new(BTreeMap::new());

/// What all calls of an operation cost together, those of all threads added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub calls: u64,
    /// On the clock, a thread's waiting for its turn included.
    pub time: Duration,
    /// A multiply-add is two. Elementwise operations count none: they wait for memory.
    pub flops: f64,
    /// What is read and written at least once.
    pub bytes: f64,
}

/// Counts from now on, in this process.
pub fn start() {
    tallies().clear();
    ON.store(true, Ordering::Relaxed);
}

/// Ends the counting. The tallies by operation.
pub fn stop() -> BTreeMap<&'static str, Tally> {
    ON.store(false, Ordering::Relaxed);
    std::mem::take(&mut tallies())
}

/// Runs until it is dropped.
pub(crate) struct Timer {
    operation: &'static str,
    flops: usize,
    numbers: usize,
    start: Instant,
}

/// Times an operation that computes so much and touches so many numbers, if anybody counts.
pub(crate) fn timer(operation: &'static str, flops: usize, numbers: usize) -> Option<Timer> {
    ON.load(Ordering::Relaxed).then(|| Timer { operation, flops, numbers, start: Instant::now() })
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut tallies = tallies();
        let tally = tallies.entry(self.operation).or_default();
        tally.calls += 1;
        tally.time += self.start.elapsed();
        tally.flops += self.flops as f64;
        tally.bytes += (self.numbers * size_of::<f32>()) as f64;
    }
}

fn tallies() -> MutexGuard<'static, BTreeMap<&'static str, Tally>> {
    // A thread that panicked left whole tallies.
    TALLIES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_between_start_and_stop() {
        drop(timer("before", 1, 1));
        start();
        drop(timer("ours", 2, 3));
        drop(timer("ours", 2, 3));
        // Other tests may train meanwhile: only our own line is looked at.
        let tallies = stop();
        assert!(!tallies.contains_key("before"));
        let ours = tallies["ours"];
        assert_eq!((ours.calls, ours.flops as u64, ours.bytes as u64), (2, 4, 24));
        drop(timer("ours", 2, 3));
        assert!(!stop().contains_key("ours"));
    }
}
