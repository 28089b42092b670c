//! Saves how far an unfinished stage came and how long it ran, so that `gc` can list the cost of interrupted work.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ablate_core::base::Hash;
use ablate_experiment::Instance;
use ablate_store::{Store, WorkDone};

/// How often the progress is saved while a stage runs. A killed run loses what came after the last save.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);

pub(super) struct WorkDoneWriter<'a> {
    store: &'a Store,
    fingerprint: Hash,
    begun: Instant,
    /// The latest progress with the time of earlier attempts, and when it was last saved.
    latest: Mutex<(WorkDone, Instant)>,
}

impl<'a> WorkDoneWriter<'a> {
    pub(super) fn new(store: &'a Store, fingerprint: Hash, instance: &Instance) -> WorkDoneWriter<'a> {
        let earlier = store.work_done(fingerprint).unwrap_or_default();
        let (name, kind) = (instance.name.clone(), instance.kind.name.to_string());
        let begun = Instant::now();
        let latest = Mutex::new((WorkDone { instance: name, kind, ..earlier }, begun));
        WorkDoneWriter { store, fingerprint, begun, latest }
    }

    pub(super) fn progress(&self, done: u64, total: u64, unit: &str) {
        let mut guard = self.lock();
        guard.0 = WorkDone { done, total, unit: unit.to_string(), ..std::mem::take(&mut guard.0) };
        if guard.1.elapsed() >= WRITE_INTERVAL {
            guard.1 = Instant::now();
            self.save(&guard.0);
        }
    }

    /// Saves the progress at the end of an attempt.
    pub(super) fn write(&self) {
        self.save(&self.lock().0);
    }

    fn save(&self, work: &WorkDone) {
        let seconds = work.seconds + self.begun.elapsed().as_secs_f64();
        self.store.save_work_done(self.fingerprint, &WorkDone { seconds, ..work.clone() });
    }

    fn lock(&self) -> MutexGuard<'_, (WorkDone, Instant)> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
