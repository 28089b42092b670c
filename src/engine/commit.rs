//! The committer: finished stages reach the store together, because a disk syncs ten of them as fast as one. Knows no
//! schedule.

use std::error::Error;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use anyhow::Result;

use super::crew::Message;
use super::worker::Finished;
use ablate_core::base::{ErrorChain, files};
use ablate_experiment::InstanceId;
use ablate_store::{Lock, StageRecord, Store};

/// How often a full disk is tried again, and how long it is left alone in between.
const PATIENCE: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// A stage whose outputs are in the store, and whose record is not.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: InstanceId,
    pub(super) record: StageRecord,
    /// Held until other runs can see the record.
    pub(super) lock: Lock,
    /// Goes once nothing can be resumed from it any more.
    pub(super) work: PathBuf,
    pub(super) seconds: f64,
}

/// Commits batch after batch, until nobody is left who could send more. What cannot be written fails all of its batch.
pub(super) fn commit_all(store: &Store, batches: &Receiver<Vec<Pending>>, messages: &Sender<Message>) {
    while let Ok(batch) = batches.recv() {
        let records: Vec<StageRecord> = batch.iter().map(|pending| pending.record.clone()).collect();
        let committed = commit(store, &records).map_err(|error| ErrorChain::of(&error));
        for Pending { id, record, lock, work, seconds } in batch {
            let finished = match &committed {
                Ok(()) => {
                    // The result is safe; a work folder that cannot be removed is only a nuisance, and `gc` takes it.
                    files::remove_dir(&work).ok();
                    Finished::Ran(Box::new(record))
                }
                Err(causes) => Finished::Failed(causes.clone()),
            };
            drop(lock);
            // A run that no longer listens has ended.
            messages.send(Message::Finished(id, finished, seconds)).ok();
        }
    }
}

/// A stage that fills the disk is about to fail, and to leave room again: what others have finished can wait for that.
fn commit(store: &Store, records: &[StageRecord]) -> Result<()> {
    for _ in 0..PATIENCE {
        match store.commit(records) {
            Err(error) if wants_room(&error) => std::thread::sleep(PAUSE),
            committed => return committed,
        }
    }
    store.commit(records)
}

fn wants_room(error: &anyhow::Error) -> bool {
    let cause = |cause: &(dyn Error + 'static)| Some(cause.downcast_ref::<std::io::Error>()?.kind());
    error.chain().any(|link| cause(link) == Some(ErrorKind::StorageFull))
}
