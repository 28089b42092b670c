//! Pauses between the attempts of a request, and the end of the patience.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// The pause before the first retry. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The failed attempts of one request.
#[derive(Debug)]
pub(super) struct Backoff {
    patience: Duration,
    first_failure: Option<Instant>,
    attempts: u32,
    pause: Duration,
}

/// The patience ended. The text says after how many attempts.
#[derive(Debug)]
pub(super) struct PatienceEnded {
    /// The time of the first failure.
    pub(super) since: Instant,
    attempts: u32,
    /// The pause before the next attempt.
    pause: Duration,
}

impl Backoff {
    pub(super) fn new(patience: Duration) -> Backoff {
        Backoff { patience, first_failure: None, attempts: 0, pause: FIRST_PAUSE }
    }

    /// Counts a failed attempt. Returns the pause before the next one, which is at least what the server `asked` for.
    pub(super) fn failed(&mut self, asked: Option<Duration>) -> Result<Duration, PatienceEnded> {
        self.attempts += 1;
        let since = *self.first_failure.get_or_insert_with(Instant::now);
        let pause = asked.unwrap_or_default().max(self.pause.mul_f64(0.5 + 0.5 * random_fraction()));
        if since.elapsed() + pause > self.patience {
            return Err(PatienceEnded { since, attempts: self.attempts, pause });
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(pause)
    }
}

impl fmt::Display for PatienceEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = if self.attempts == 1 { "1 attempt".to_string() } else { format!("{} attempts", self.attempts) };
        write!(f, "no reply after {attempts} in {:.0} s", self.since.elapsed().as_secs_f64())?;
        if self.pause > Duration::from_secs(60) {
            write!(f, "; the next one would be in {:.0} s", self.pause.as_secs_f64())?;
        }
        Ok(())
    }
}

/// A random number from 0 to 1, so that clients that failed together do not return together. It is no part of any result.
fn random_fraction() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
