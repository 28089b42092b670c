//! How many rows are computed at once: as many as there is memory for, which is found by trying. Knows no model.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};

use super::ops::NoRoom;
use ablate_core::base::Progress;

/// How many rows, or whatever it is, are computed at once.
pub(crate) struct AtOnce {
    /// What they are called, one of them.
    what: &'static str,
    most: AtomicUsize,
    /// Where fewer will not do: how to ask for so many.
    fixed: Option<fn(usize) -> String>,
}

impl AtOnce {
    /// So many, or half as many, and so on, where there is no memory for them.
    pub(crate) fn at_most(what: &'static str, rows: usize) -> AtOnce {
        AtOnce { what, most: rows.into(), fixed: None }
    }

    /// So many. Where there is no memory for them, it is only found out how many there would be memory for: `advice` says
    /// how to ask for these.
    pub(crate) fn exactly(what: &'static str, rows: usize, advice: fn(usize) -> String) -> AtOnce {
        AtOnce { what, most: rows.into(), fixed: Some(advice) }
    }

    /// The first `attempt`, with so many of `count` rows at once, for which there is memory. What an attempt that fails has
    /// done is lost.
    ///
    /// # Errors
    /// The attempt's, or that there is no memory for so many rows, and for how many there is.
    pub(crate) fn compute<R>(
        &self,
        count: usize,
        progress: &dyn Progress,
        mut attempt: impl FnMut(usize) -> Result<R>,
    ) -> Result<R> {
        let asked = self.most.load(Ordering::Relaxed).min(count).max(1);
        let mut rows = asked;
        loop {
            let done = attempt(rows);
            match done {
                Err(error) if error.root_cause().is::<NoRoom>() => {
                    if rows == 1 {
                        return Err(error.context(format!("there is no room for a single {}", self.what)));
                    }
                    let fewer = rows.div_ceil(2);
                    progress.note(format!("no room for {rows} {}s at once: trying {fewer}", self.what));
                    rows = fewer;
                }
                done => {
                    if let (Ok(_), Some(advice)) = (&done, self.fixed.filter(|_| rows < asked)) {
                        let (what, advice) = (self.what, advice(rows));
                        return Err(anyhow!("no room for {asked} {what}s at once")
                            .context(format!("there is room for {rows} {what}s at once: {advice}")));
                    }
                    if rows < asked {
                        self.most.store(rows, Ordering::Relaxed);
                    }
                    return done;
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

    /// Has room for so many rows.
    fn room(most: usize) -> impl FnMut(usize) -> Result<usize> {
        move |rows| if rows > most { Err(NoRoom("full".to_string()).into()) } else { Ok(rows) }
    }

    #[test]
    fn what_fits_is_found_once_and_told() {
        struct Notes(Mutex<Vec<String>>);
        impl Progress for Notes {
            fn emit(&self, event: StageEvent) {
                if let StageEvent::Note { text } = event {
                    self.0.lock().unwrap().push(text);
                }
            }
        }
        let (at_once, notes) = (AtOnce::at_most("row", 100), Notes(Mutex::default()));
        assert_eq!(at_once.compute(20, &notes, room(6)).unwrap(), 5);
        assert_eq!(at_once.compute(20, &notes, room(6)).unwrap(), 5);
        assert_eq!(at_once.compute(3, &notes, room(6)).unwrap(), 3, "there are no more");
        assert_eq!(at_once.compute(20, &notes, room(6)).unwrap(), 5, "a short batch says nothing of the others");
        assert_eq!(
            *notes.0.lock().unwrap(),
            ["no room for 20 rows at once: trying 10", "no room for 10 rows at once: trying 5"]
        );
    }

    #[test]
    fn a_size_that_was_asked_for_is_not_changed_but_the_error_names_one_that_fits() {
        let told = |error: anyhow::Error| format!("{error:#}");
        let at_once = AtOnce::exactly("row", 32, |rows| format!("ask for {rows}"));
        assert_eq!(at_once.compute(32, &NoProgress, room(40)).unwrap(), 32);
        assert_eq!(
            told(at_once.compute(32, &NoProgress, room(9)).unwrap_err()),
            "there is room for 8 rows at once: ask for 8: no room for 32 rows at once"
        );
        for at_once in [at_once, AtOnce::at_most("row", 32)] {
            let error = told(at_once.compute(32, &NoProgress, room(0)).unwrap_err());
            assert_eq!(error, "there is no room for a single row: full");
        }
        let broken = |_| -> Result<()> { Err(anyhow!("broken")) };
        assert_eq!(told(AtOnce::at_most("row", 32).compute(32, &NoProgress, broken).unwrap_err()), "broken");
    }
}
