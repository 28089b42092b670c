//! Reads and writes the records of results at a remote.

use anyhow::Result;

use super::conditional::{Conditional, Created};
use super::error::explain;
use super::layout::{parse_record, record_file, record_name};
use super::{GRACE, Remote};
use ablate_core::base::Hash;
use ablate_store::{StageRecord, Store};

/// A record at the remote, compared with that of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordState {
    Missing,
    /// It names the same outputs.
    Same,
    /// As `Same`, and `gc` may remove it soon.
    Old,
    /// It names other outputs.
    Different,
    /// It cannot be read.
    Damaged,
}

impl Remote {
    /// The record of a fingerprint. The inner error says why it cannot be used.
    pub(crate) fn read_record(&self, fingerprint: Hash) -> Result<Option<Result<StageRecord>>> {
        let bytes = self.get(&record_name(fingerprint))?;
        Ok(bytes.map(|bytes| parse_record(fingerprint, &bytes)))
    }

    pub(crate) fn record_state(&self, record: &StageRecord) -> Result<RecordState> {
        Ok(match self.read_record(record.fingerprint)? {
            None => RecordState::Missing,
            Some(Err(_)) => RecordState::Damaged,
            Some(Ok(other)) if other.outputs != record.outputs => RecordState::Different,
            Some(Ok(_)) => match self.head(&record_name(record.fingerprint))? {
                Some(meta) if self.age(&meta)? < GRACE / 2 => RecordState::Same,
                _ => RecordState::Old,
            },
        })
    }

    /// Writes a record whose objects are all there. Returns its state at the remote before: another machine may have written it in
    /// the meantime.
    pub(crate) fn write_record(&self, store: &Store, record: &StageRecord, state: RecordState) -> Result<RecordState> {
        let name = record_name(record.fingerprint);
        let bytes = record_file(record)?;
        if state == RecordState::Missing && self.conditional(store)? == Conditional::Works {
            return match self.create(&name, bytes)? {
                Ok(Created::New) => Ok(RecordState::Missing),
                Ok(Created::Exists) => self.record_state(record),
                Err(error) => Err(explain(&format!("cannot write `{name}` to {}", self.address), &error)),
            };
        }
        match state {
            RecordState::Missing | RecordState::Damaged | RecordState::Old => self.put(&name, bytes)?,
            RecordState::Same | RecordState::Different => {}
        }
        Ok(state)
    }
}
