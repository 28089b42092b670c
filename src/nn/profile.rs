//! Time, FLOPs and bytes of each kind of operation. Off by default.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static ON: AtomicBool = AtomicBool::new(false);
static COSTS: Mutex<BTreeMap<&'static str, OpCost>> = Mutex::new(BTreeMap::new());

/// The total cost of an operation, over all calls and threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpCost {
    pub calls: u64,
    /// Wall-clock time, including the time a thread waits for another.
    pub time: Duration,
    /// A multiply-add counts as two. Elementwise operations count none: they are bound by memory.
    pub flops: f64,
    /// Bytes that are read or written, each once.
    pub bytes: f64,
}

/// Starts the measurement in this process.
pub fn start() {
    costs().clear();
    ON.store(true, Ordering::Relaxed);
}

/// Stops the measurement. Returns the costs by operation.
pub fn stop() -> BTreeMap<&'static str, OpCost> {
    ON.store(false, Ordering::Relaxed);
    std::mem::take(&mut costs())
}

/// Measures until it is dropped.
pub(crate) struct Timer {
    operation: &'static str,
    flops: usize,
    elements: usize,
    start: Instant,
}

/// Measures an operation of `flops` FLOPs that reads and writes `elements` numbers, if the measurement is on.
pub(crate) fn timer(operation: &'static str, flops: usize, elements: usize) -> Option<Timer> {
    ON.load(Ordering::Relaxed).then(|| Timer { operation, flops, elements, start: Instant::now() })
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut costs = costs();
        let cost = costs.entry(self.operation).or_default();
        cost.calls += 1;
        cost.time += self.start.elapsed();
        cost.flops += self.flops as f64;
        cost.bytes += (self.elements * size_of::<f32>()) as f64;
    }
}

fn costs() -> MutexGuard<'static, BTreeMap<&'static str, OpCost>> {
    // The costs are consistent even if a thread has panicked.
    COSTS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_operations_between_start_and_stop_count() {
        drop(timer("before", 1, 1));
        start();
        drop(timer("ours", 2, 3));
        drop(timer("ours", 2, 3));
        // Other tests can train at the same time, so only our own entry is compared.
        let costs = stop();
        assert!(!costs.contains_key("before"));
        let ours = costs["ours"];
        assert_eq!((ours.calls, ours.flops as u64, ours.bytes as u64), (2, 4, 24));
        drop(timer("ours", 2, 3));
        assert!(!stop().contains_key("ours"));
    }
}
