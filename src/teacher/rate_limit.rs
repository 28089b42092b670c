//! Limits of requests and tokens per minute, and pauses that the endpoint asks for.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Spaces requests so that neither limit is exceeded. A limit is spread evenly over the minute.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// Per minute.
    requests: Option<f64>,
    tokens: Option<f64>,
    /// When the next request may start, by each limit.
    next_request: Cell<Instant>,
    next_tokens: Cell<Instant>,
    paused_until: Cell<Instant>,
}

impl RateLimit {
    pub(super) fn new(requests: Option<f64>, tokens: Option<f64>) -> RateLimit {
        let now = Instant::now();
        RateLimit {
            requests,
            tokens,
            next_request: Cell::new(now),
            next_tokens: Cell::new(now),
            paused_until: Cell::new(now),
        }
    }

    /// Waits until a request of this many tokens may start, and counts it.
    pub(super) async fn wait(&self, tokens: u64) {
        loop {
            let now = Instant::now();
            let start = self.paused_until.get().max(self.next_request.get()).max(self.next_tokens.get());
            if start <= now {
                let after = |rate: Option<f64>, units: f64| now + share_of_minute(rate, units);
                self.next_request.set(after(self.requests, 1.0));
                self.next_tokens.set(after(self.tokens, tokens as f64));
                return;
            }
            tokio::time::sleep_until(start).await;
        }
    }

    /// Starts no request for this long.
    pub(super) fn pause(&self, pause: Duration) {
        let now = Instant::now();
        let until = now.checked_add(pause).unwrap_or(now);
        self.paused_until.set(self.paused_until.get().max(until));
    }
}

/// The time in which a rate allows this many units; nothing without a rate.
fn share_of_minute(per_minute: Option<f64>, units: f64) -> Duration {
    per_minute
        .map_or(Duration::ZERO, |rate| Duration::try_from_secs_f64(60.0 * units / rate).unwrap_or(Duration::MAX / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_spread_over_the_minute() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limit = RateLimit::new(Some(60.0), Some(6000.0));
            let start = Instant::now();
            for _ in 0..3 {
                limit.wait(10).await;
            }
            // One request per second, although the tokens would allow ten.
            assert_eq!(start.elapsed().as_secs(), 2);
            limit.wait(1000).await;
            limit.wait(1).await;
            assert_eq!(start.elapsed().as_secs(), 13);
            limit.pause(Duration::from_secs(100));
            limit.wait(1).await;
            assert_eq!(start.elapsed().as_secs(), 113);
        });
    }
}
