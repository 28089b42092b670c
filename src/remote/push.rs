//! Uploads results: objects first, then the records that name them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::Serialize;

use super::layout::object_name;
use super::parallel::try_map;
use super::records::RecordState;
use super::{GRACE, Remote, TRANSFERS};
use ablate_core::base::Hash;
use ablate_core::stage::Artifact;
use ablate_store::{ObjectFile, ObjectState, StageRecord, Store};

/// What a push did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PushReport {
    /// Results that were sent.
    pub records: usize,
    /// Results that were there already.
    pub records_there: usize,
    /// Results that are there with other outputs, and were kept: the stage is not deterministic, or another machine computes
    /// other bits.
    pub records_different: Vec<Hash>,
    pub objects: usize,
    pub bytes: u64,
    /// Objects that were there already.
    pub objects_there: usize,
    pub bytes_there: u64,
    /// Objects among those sent that were there, and that `gc` would have removed soon or that were damaged.
    pub renewed: usize,
}

impl PushReport {
    /// Adds another push.
    pub fn add(&mut self, other: PushReport) {
        let PushReport {
            records,
            records_there,
            records_different,
            objects,
            bytes,
            objects_there,
            bytes_there,
            renewed,
        } = other;
        self.records += records;
        self.records_there += records_there;
        self.records_different.extend(records_different);
        self.objects += objects;
        self.bytes += bytes;
        self.objects_there += objects_there;
        self.bytes_there += bytes_there;
        self.renewed += renewed;
    }
}

impl PushReport {
    /// Adds a push of the same and further results, which finds there what this one has sent.
    pub fn add_rest(&mut self, rest: PushReport) {
        let first = std::mem::take(self);
        *self = PushReport {
            records: first.records + rest.records,
            records_there: rest.records_there.saturating_sub(first.records),
            records_different: rest.records_different,
            objects: first.objects + rest.objects,
            bytes: first.bytes + rest.bytes,
            objects_there: rest.objects_there.saturating_sub(first.objects),
            bytes_there: rest.bytes_there.saturating_sub(first.bytes),
            renewed: first.renewed + rest.renewed,
        };
    }
}

/// An object at the remote.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Missing,
    There,
    /// `gc` may remove it soon, or it is damaged.
    Stale,
}

impl Remote {
    /// Uploads results of the store. A result that the store does not have is left out.
    pub fn push(&self, store: &Store, fingerprints: &[Hash]) -> Result<PushReport> {
        let records: Vec<StageRecord> = fingerprints.iter().filter_map(|one| store.record(*one)).collect();
        let states = try_map(&records, TRANSFERS, |record| self.record_state(record))?;
        let mut objects: BTreeMap<Hash, ObjectFile> = BTreeMap::new();
        let mut checked: BTreeSet<Hash> = BTreeSet::new();
        for (record, state) in records.iter().zip(&states) {
            if *state != RecordState::Different {
                for artifact in artifacts(store, record) {
                    if checked.insert(artifact.hash) {
                        let files = checked_files(store, record, &artifact)?;
                        objects.extend(files.into_iter().map(|file| (file.hash, file)));
                    }
                }
            }
        }
        let objects: Vec<ObjectFile> = objects.into_values().collect();
        let presence = try_map(&objects, TRANSFERS, |file| self.presence(file))?;
        let mut report = PushReport::default();
        let mut to_send = Vec::new();
        for (file, presence) in objects.into_iter().zip(presence) {
            if presence == Presence::There {
                report.objects_there += 1;
                report.bytes_there += file.size;
                continue;
            }
            report.objects += 1;
            report.bytes += file.size;
            report.renewed += usize::from(presence == Presence::Stale);
            self.meter.expect(file.size);
            to_send.push((file, presence));
        }
        // The largest first, so that no thread is left with one at the end.
        to_send.sort_by_key(|(file, _)| std::cmp::Reverse(file.size));
        try_map(&to_send, TRANSFERS, |(file, _)| self.send(store, file))?;
        let pairs: Vec<(&StageRecord, RecordState)> = records.iter().zip(states).collect();
        let before = try_map(&pairs, TRANSFERS, |(record, state)| self.write_record(store, record, *state))?;
        for (record, before) in records.iter().zip(before) {
            match before {
                RecordState::Missing | RecordState::Damaged => report.records += 1,
                RecordState::Same | RecordState::Old => report.records_there += 1,
                RecordState::Different => report.records_different.push(record.fingerprint),
            }
        }
        // A `gc` that listed an old object before it was renewed may have removed it since.
        let renewed: Vec<&ObjectFile> =
            to_send.iter().filter(|(_, presence)| *presence == Presence::Stale).map(|(file, _)| file).collect();
        try_map(&renewed, TRANSFERS, |file| match self.head(&object_name(file.hash))? {
            Some(_) => Ok(()),
            None => self.upload(store, file),
        })?;
        Ok(report)
    }

    fn send(&self, store: &Store, file: &ObjectFile) -> Result<()> {
        self.upload(store, file)?;
        self.known().insert(file.hash);
        Ok(())
    }

    fn presence(&self, file: &ObjectFile) -> Result<Presence> {
        if self.known().contains(&file.hash) {
            return Ok(Presence::There);
        }
        let Some(meta) = self.head(&object_name(file.hash))? else { return Ok(Presence::Missing) };
        if meta.size != file.size || self.is_damaged(file.hash) || self.age(&meta)? >= GRACE / 2 {
            return Ok(Presence::Stale);
        }
        self.known().insert(file.hash);
        Ok(Presence::There)
    }
}

/// The artifacts that a record needs: its outputs, the image packs that their rows name, and the checkpoints that they build on.
fn artifacts(store: &Store, record: &StageRecord) -> Vec<Artifact> {
    let mut found: Vec<Artifact> = record.outputs.values().cloned().collect();
    for pack in record.outputs.values().flat_map(|output| &output.images) {
        if found.iter().all(|artifact| artifact.hash != *pack) {
            let size = std::fs::metadata(store.object_path(*pack)).map_or(0, |found| found.len());
            found.push(Store::image_pack(*pack, size));
        }
    }
    found.extend(record.outputs.values().flat_map(|output| output.with_bases().skip(1)));
    found
}

/// The files of an artifact, after their content was compared with their names.
fn checked_files(store: &Store, record: &StageRecord, artifact: &Artifact) -> Result<BTreeSet<ObjectFile>> {
    if store.check(artifact, true)? != ObjectState::Present {
        bail!(
            "an output of a result of kind `{}` is missing or damaged in the store, and was not sent\nhelp: `ablate verify` finds it, and `ablate run` makes it again",
            record.manifest.kind
        );
    }
    store.object_files(artifact)
}
