//! Finds a batch size for which there is enough memory, by trying.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};

use super::device_error::OutOfMemory;
use ablate_core::base::Progress;

/// The number of rows (or other units) that are computed in one batch.
pub(crate) struct AutoBatch {
    /// The name of one unit.
    unit: &'static str,
    size: AtomicUsize,
    /// Set if the size is fixed: how to ask for a smaller one.
    advice: Option<fn(usize) -> String>,
}

impl AutoBatch {
    /// A batch of `size` units; halved while there is too little memory.
    pub(crate) fn at_most(unit: &'static str, size: usize) -> AutoBatch {
        AutoBatch { unit, size: size.into(), advice: None }
    }

    /// A batch of exactly `size` units. If there is too little memory, smaller sizes are tried only for the error message:
    /// `advice` says how to ask for the size that fits.
    pub(crate) fn exactly(unit: &'static str, size: usize, advice: fn(usize) -> String) -> AutoBatch {
        AutoBatch { unit, size: size.into(), advice: Some(advice) }
    }

    /// Begins with at most `size` units, unless the user chose the size.
    pub(crate) fn start_with(&self, size: usize) {
        if !self.is_fixed() {
            self.size.fetch_min(size, Ordering::Relaxed);
        }
    }

    /// Whether the user chose the size.
    pub(crate) fn is_fixed(&self) -> bool {
        self.advice.is_some()
    }

    /// Calls `attempt` with smaller and smaller sizes, starting from at most `count`, until one does not run out of memory.
    /// The results of failed attempts are dropped.
    ///
    /// # Errors
    /// The error of the attempt; or too little memory for a fixed size, with the size that fits.
    pub(crate) fn run<R>(
        &self,
        count: usize,
        progress: &dyn Progress,
        mut attempt: impl FnMut(usize) -> Result<R>,
    ) -> Result<R> {
        let wanted = self.size.load(Ordering::Relaxed).min(count).max(1);
        let (mut size, unit) = (wanted, self.unit);
        loop {
            let result = attempt(size);
            match result {
                Err(error) if error.root_cause().is::<OutOfMemory>() => {
                    if size == 1 {
                        return Err(error.context(format!("too little memory for a single {unit}")));
                    }
                    let smaller = size.div_ceil(2);
                    progress.note(format!("too little memory for a batch of {size} {unit}s: trying {smaller}"));
                    size = smaller;
                }
                result => {
                    if let (Ok(_), Some(advice)) = (&result, self.advice.filter(|_| size < wanted)) {
                        return Err(anyhow!("too little memory for a batch of {wanted} {unit}s")
                            .context(format!("a batch of {size} {unit}s fits into memory: set {}", advice(size))));
                    }
                    if size < wanted {
                        self.size.store(size, Ordering::Relaxed);
                    }
                    return result;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use ablate_core::base::{StageEvent, progress::NoProgress};

    /// A device with memory for `max` rows.
    fn device(max: usize) -> impl FnMut(usize) -> Result<usize> {
        move |rows| if rows > max { Err(OutOfMemory("full".to_string()).into()) } else { Ok(rows) }
    }

    #[test]
    fn size_that_fits_is_found_once_and_reported() {
        struct Notes(Mutex<Vec<String>>);
        impl Progress for Notes {
            fn emit(&self, event: StageEvent) {
                if let StageEvent::Note { text } = event {
                    self.0.lock().unwrap().push(text);
                }
            }
        }
        let (auto_batch, notes) = (AutoBatch::at_most("row", 100), Notes(Mutex::default()));
        assert_eq!(auto_batch.run(20, &notes, device(6)).unwrap(), 5);
        assert_eq!(auto_batch.run(20, &notes, device(6)).unwrap(), 5);
        assert_eq!(auto_batch.run(3, &notes, device(6)).unwrap(), 3, "only three rows");
        assert_eq!(auto_batch.run(20, &notes, device(6)).unwrap(), 5, "a short batch does not change the size");
        assert_eq!(
            *notes.0.lock().unwrap(),
            [
                "too little memory for a batch of 20 rows: trying 10",
                "too little memory for a batch of 10 rows: trying 5"
            ]
        );
    }

    #[test]
    fn fixed_size_fails_and_names_the_size_that_fits() {
        let message = |error: anyhow::Error| format!("{error:#}");
        let auto_batch = AutoBatch::exactly("row", 32, |rows| format!("rows = {rows}"));
        assert_eq!(auto_batch.run(32, &NoProgress, device(40)).unwrap(), 32);
        assert_eq!(
            message(auto_batch.run(32, &NoProgress, device(9)).unwrap_err()),
            "a batch of 8 rows fits into memory: set rows = 8: too little memory for a batch of 32 rows"
        );
        for auto_batch in [auto_batch, AutoBatch::at_most("row", 32)] {
            let error = message(auto_batch.run(32, &NoProgress, device(0)).unwrap_err());
            assert_eq!(error, "too little memory for a single row: full");
        }
        let broken = |_| -> Result<()> { Err(anyhow!("broken")) };
        assert_eq!(message(AutoBatch::at_most("row", 32).run(32, &NoProgress, broken).unwrap_err()), "broken");
    }
}
