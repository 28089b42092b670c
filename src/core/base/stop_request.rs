//! The request to a stage's process to end: whether it was made, and how much time the stage needs to save its work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A request that a signal handler makes and a stage asks for.
#[derive(Debug)]
pub struct StopRequest {
    made: AtomicBool,
    /// In milliseconds.
    time: AtomicU64,
}

/// The request to this process.
pub static STOP: StopRequest = StopRequest::new();

impl StopRequest {
    pub const fn new() -> StopRequest {
        StopRequest { made: AtomicBool::new(false), time: AtomicU64::new(0) }
    }

    /// Sets the time that the stage needs from the request to its end. At first it is zero: the process ends immediately.
    pub fn allow(&self, time: Duration) {
        self.time.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Makes the request. Returns the time after which the process should end if the stage has not ended by itself.
    pub fn make(&self) -> Duration {
        self.made.store(true, Ordering::SeqCst);
        Duration::from_millis(self.time.load(Ordering::SeqCst))
    }

    /// Whether the request was made.
    pub fn is_made(&self) -> bool {
        self.made.load(Ordering::SeqCst)
    }
}

impl Default for StopRequest {
    fn default() -> StopRequest {
        StopRequest::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_gets_the_time_that_it_needs() {
        let request = StopRequest::new();
        assert!(!request.is_made());
        request.allow(Duration::from_secs(5));
        assert_eq!(request.make(), Duration::from_secs(5));
        assert!(request.is_made());
        assert_eq!(StopRequest::default().make(), Duration::ZERO);
    }
}
