//! Calls that are repeated after failures until the patience ends.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use anyhow::Result;

use super::backoff::Backoff;
use super::failure::Failure;
use super::health::Health;
use super::rate_limit::RateLimit;
use ablate_core::base::Progress;

/// How calls are repeated, one at a time.
pub(super) struct Calls<'a> {
    patience: Duration,
    progress: &'a dyn Progress,
    rate: RateLimit,
    health: RefCell<Health>,
    retries: Cell<u64>,
}

impl<'a> Calls<'a> {
    pub(super) fn new(patience: Duration, requests_per_minute: Option<f64>, progress: &'a dyn Progress) -> Calls<'a> {
        let rate = RateLimit::new(requests_per_minute, None);
        Calls { patience, progress, rate, health: RefCell::default(), retries: Cell::new(0) }
    }

    /// Failed attempts that were repeated.
    pub(super) fn retries(&self) -> u64 {
        self.retries.get()
    }

    /// Calls until the endpoint answers or refuses.
    pub(super) async fn repeat<T>(&self, mut call: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T> {
        let mut backoff = Backoff::new(self.patience);
        loop {
            self.rate.wait(0).await;
            let (error, pause) = match call().await {
                Ok(answer) => {
                    if let Some(text) = self.health.borrow_mut().answered() {
                        self.progress.choice(text);
                    }
                    return Ok(answer);
                }
                Err(Failure::Permanent(error) | Failure::Rejected(error)) => return Err(error),
                Err(Failure::Retryable { error, pause }) => (error, pause),
            };
            tracing::debug!(error = format!("{error:#}"), "failed");
            self.health.borrow_mut().failed(&error);
            if let Some(pause) = pause {
                self.rate.pause(pause);
            }
            let pause = backoff.failed(pause);
            if let Some(text) = self.health.borrow_mut().report(self.patience) {
                self.progress.choice(text);
            }
            match pause {
                Ok(pause) => tokio::time::sleep(pause).await,
                Err(end) => return Err(error.context(end.to_string())),
            }
            self.retries.set(self.retries.get() + 1);
        }
    }
}
