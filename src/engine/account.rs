//! The account of a stage that has not ended: how far it came and how long it took, for whoever asks what its
//! interrupted work cost. Knows no kind.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ablate_core::base::Hash;
use ablate_experiment::Instance;
use ablate_store::{Store, WorkDone};

/// How often it is written while a stage runs: a run that is killed loses the rest.
const WRITE_AFTER: Duration = Duration::from_secs(2);

pub(super) struct Account<'a> {
    store: &'a Store,
    fingerprint: Hash,
    begun: Instant,
    /// What earlier attempts spent, with the latest progress, and when it was written.
    spent: Mutex<(WorkDone, Instant)>,
}

impl<'a> Account<'a> {
    pub(super) fn new(store: &'a Store, fingerprint: Hash, instance: &Instance) -> Account<'a> {
        let before = store.work_done(fingerprint).unwrap_or_default();
        let (name, kind) = (instance.name.clone(), instance.kind.name.to_string());
        let begun = Instant::now();
        Account { store, fingerprint, begun, spent: Mutex::new((WorkDone { instance: name, kind, ..before }, begun)) }
    }

    pub(super) fn progress(&self, done: u64, total: u64, unit: &str) {
        let mut held = self.held();
        held.0 = WorkDone { done, total, unit: unit.to_string(), ..std::mem::take(&mut held.0) };
        if held.1.elapsed() >= WRITE_AFTER {
            held.1 = Instant::now();
            self.write_held(&held.0);
        }
    }

    /// Writes how things stand at the end of an attempt.
    pub(super) fn write(&self) {
        self.write_held(&self.held().0);
    }

    fn write_held(&self, spent: &WorkDone) {
        let seconds = spent.seconds + self.begun.elapsed().as_secs_f64();
        self.store.save_work_done(self.fingerprint, &WorkDone { seconds, ..spent.clone() });
    }

    fn held(&self) -> MutexGuard<'_, (WorkDone, Instant)> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
