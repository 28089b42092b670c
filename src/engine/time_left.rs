//! Estimates the time left of a stage from its progress.

/// The progress must span this many seconds,
const MIN_SECONDS: f64 = 2.0;
/// and this many units or this share of all units, before the time left is estimated.
const MIN_UNITS: u64 = 3;
const MIN_SHARE: f64 = 0.02;

/// Older speeds lose their weight with this time constant in seconds.
const MEMORY_SECONDS: f64 = 20.0;

/// The speed of a stage. What an earlier attempt did is not part of it: the first progress is the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    /// Time in seconds and number of units at the first progress.
    first: Option<(f64, u64)>,
    /// The same at the latest progress with more units than the one before.
    last: (f64, u64),
    /// Seconds per unit, smoothed.
    per_unit: f64,
}

impl Speed {
    /// Takes the number of finished units at a time in seconds.
    pub fn add(&mut self, seconds: f64, done: u64) {
        let Some(first) = self.first else {
            self.first = Some((seconds, done));
            self.last = (seconds, done);
            return;
        };
        let (passed, units) = (seconds - self.last.0, done.saturating_sub(self.last.1));
        if units == 0 || passed <= 0.0 {
            return;
        }
        let latest = passed / units as f64;
        let is_first_speed = self.last == first;
        let weight = if is_first_speed { 1.0 } else { 1.0 - (-passed / MEMORY_SECONDS).exp() };
        self.per_unit += weight * (latest - self.per_unit);
        self.last = (seconds, done);
    }

    /// The seconds left at a time in seconds; `None` while too little was measured.
    pub fn left(&self, now: f64, total: u64) -> Option<f64> {
        let (first_seconds, first_done) = self.first?;
        let (seconds, done) = self.last;
        let units = done - first_done;
        let is_enough = units >= MIN_UNITS || units as f64 >= MIN_SHARE * total as f64;
        if seconds - first_seconds < MIN_SECONDS || units == 0 || !is_enough || total <= done {
            return None;
        }
        Some((self.per_unit * (total - done) as f64 - (now - seconds)).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_estimated_from_the_first_steps() {
        let mut speed = Speed::default();
        assert_eq!(speed.left(0.0, 400), None);
        // The first step compiles kernels.
        speed.add(60.0, 1);
        assert_eq!(speed.left(60.0, 400), None);
        speed.add(61.0, 2);
        speed.add(61.5, 10);
        assert_eq!(speed.left(61.5, 400), None, "many steps in less than two seconds");
        speed.add(63.0, 11);
        assert!(speed.left(63.0, 400).is_some());
        let mut slow = Speed::default();
        slow.add(0.0, 0);
        slow.add(100.0, 1);
        assert_eq!(slow.left(100.0, 400), None, "one step of 400");
        assert_eq!(slow.left(100.0, 50), Some(4900.0), "one step of 50 is enough");
        assert_eq!(slow.left(400.0, 50), Some(4600.0));
    }

    #[test]
    fn a_resumed_stage_counts_from_where_it_resumed() {
        let mut speed = Speed::default();
        speed.add(0.0, 300);
        speed.add(5.0, 305);
        assert_eq!(speed.left(5.0, 400), Some(95.0));
        assert_eq!(speed.left(5.0, 305), None, "it is done");
    }

    #[test]
    fn one_slow_step_changes_little() {
        let mut speed = Speed::default();
        (0..=100).for_each(|step| speed.add(step as f64, step));
        let before = speed.left(100.0, 1000).unwrap();
        speed.add(103.0, 101);
        let after = speed.left(103.0, 1000).unwrap();
        assert!((before - 900.0).abs() < 1e-6 && after > 899.0 && after < 1.35 * before, "{before} {after}");
    }
}
