//! The roots of `gc`: current results of experiments, pinned results, results of recent runs, and stages that were
//! interrupted recently, within limits of age and size.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{ExperimentEntry, ExperimentId, JobNote, StageRecord, Store};
use ablate_core::base::{Hash, files};
use ablate_core::stage::Artifact;

/// How long the folder of a job is kept whose end no run has seen.
const MAX_JOB_AGE: Duration = Duration::from_secs(90 * 24 * 3600);

/// What `gc` keeps.
#[derive(Clone, Copy, Debug)]
pub struct GcRules {
    /// Results of this many latest runs are kept.
    pub runs: usize,
    /// Interrupted stages are kept for this long after their last write.
    pub interrupted: Duration,
    /// Results that were neither made nor used within this time are removed, except pinned ones.
    pub age: Option<Duration>,
    /// The oldest results are removed until the rest needs at most this many bytes. Pinned ones are kept.
    pub size: Option<u64>,
}

impl Default for GcRules {
    fn default() -> GcRules {
        GcRules { runs: 10, interrupted: Duration::from_secs(14 * 24 * 3600), age: None, size: None }
    }
}

/// The records that are kept with their objects, and the interrupted stages that are kept.
#[derive(Clone, Debug, Default)]
pub struct GcRoots {
    pub records: BTreeSet<Hash>,
    pub interrupted: BTreeSet<Hash>,
    /// Submissions to the queue of a cluster whose folders are kept.
    pub jobs: BTreeSet<String>,
    /// Instances that the current file of their experiment does not contain. Their notes are removed too.
    pub forgotten: BTreeSet<(ExperimentId, String)>,
    /// Experiments whose file was removed.
    pub removed_experiments: BTreeSet<ExperimentId>,
}

/// The result of `forget`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    pub instances: Vec<String>,
    /// Number of removed results.
    pub records: usize,
    /// Number of results that a pin or another instance still needs.
    pub kept: usize,
}

/// The fields of a run's `run.json` that `gc` needs.
#[derive(Deserialize)]
pub(super) struct RunFile {
    /// RFC 3339, UTC.
    #[serde(default)]
    pub(super) started: String,
    pub(super) instances: Vec<RunLine>,
}

#[derive(Deserialize)]
pub(super) struct RunLine {
    pub(super) fingerprint: Option<Hash>,
}

impl Store {
    /// The roots under the given rules.
    pub fn gc_roots(&self, rules: &GcRules) -> Result<GcRoots> {
        let mut roots = GcRoots::default();
        let entries = self.experiments()?;
        let experiments: BTreeMap<&ExperimentId, &ExperimentEntry> =
            entries.iter().map(|entry| (&entry.id, entry)).collect();
        let removed = experiments.values().filter(|entry| self.is_file_removed(entry));
        roots.removed_experiments = removed.map(|entry| entry.id.clone()).collect();
        for (id, instance, fingerprint) in self.all_notes()? {
            // An experiment without an entry may have every instance.
            let has = experiments.get(&id).is_none_or(|entry| entry.instances.contains(&instance));
            if has && !roots.removed_experiments.contains(&id) {
                roots.records.extend(fingerprint);
            } else {
                roots.forgotten.insert((id, instance));
            }
        }
        for run in self.latest_runs(rules.runs)? {
            roots.records.extend(run.instances.iter().filter_map(|line| line.fingerprint));
        }
        let pinned: BTreeSet<Hash> = self.pins()?.into_iter().flat_map(|pin| pin.fingerprints).collect();
        self.limit(&mut roots.records, &pinned, rules)?;
        roots.records.extend(pinned);
        let recent = self.interrupted()?.into_iter().filter(|one| one.age < rules.interrupted.as_secs());
        roots.interrupted = recent.map(|one| one.fingerprint).collect();
        let age = |time: Duration| Timestamp::now().as_second().saturating_sub(time.as_secs() as i64);
        let (ended_since, submitted_since) = (age(rules.interrupted), age(MAX_JOB_AGE.max(rules.interrupted)));
        let kept = |note: &JobNote| note.submitted >= if note.ended { ended_since } else { submitted_since };
        roots.jobs = self.all_jobs()?.into_iter().map(|(_, note)| note).filter(kept).map(|note| note.name).collect();
        Ok(roots)
    }

    /// Removes the notes and records of the chosen instances. Results that a pin or another instance needs are kept;
    /// objects stay until `gc`.
    pub fn forget_results(&self, chosen: &dyn Fn(&ExperimentId, &str) -> bool) -> Result<Forgotten> {
        let _lock = self.lock_exclusive()?;
        let mut forgotten = Forgotten::default();
        let mut dropped = BTreeSet::new();
        let mut needed: BTreeSet<Hash> = self.pins()?.into_iter().flat_map(|pin| pin.fingerprints).collect();
        for (id, instance, fingerprint) in self.all_notes()? {
            if chosen(&id, &instance) {
                dropped.extend(fingerprint);
                forgotten.instances.push(instance);
            } else {
                needed.extend(fingerprint);
            }
        }
        forgotten.kept = dropped.intersection(&needed).count();
        forgotten.records = dropped.len() - forgotten.kept;
        let records = self.fingerprints()?.into_iter();
        self.keep_records(&records.filter(|one| needed.contains(one) || !dropped.contains(one)).collect())?;
        self.keep_notes(&|id, instance| !chosen(id, instance))?;
        Ok(forgotten)
    }

    /// The latest `count` runs, newest first.
    pub(super) fn latest_runs(&self, count: usize) -> Result<Vec<RunFile>> {
        let names = files::list_names(&self.runs_path())?;
        let runs = names.iter().rev().take(count);
        Ok(runs.filter_map(|run| files::read_json(&self.runs_path().join(run).join("run.json")).ok()).collect())
    }

    /// Removes records beyond the limits from a set. An object shared by several records counts once; objects of
    /// pinned records count too.
    pub(super) fn limit(&self, records: &mut BTreeSet<Hash>, pinned: &BTreeSet<Hash>, rules: &GcRules) -> Result<()> {
        if rules.age.is_none() && rules.size.is_none() {
            return Ok(());
        }
        let used = self.last_uses()?;
        if let Some(age) = rules.age {
            let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
            let oldest = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
            records.retain(|record| used.get(record).is_some_and(|used| *used >= oldest));
        }
        let Some(max_bytes) = rules.size else { return Ok(()) };
        let objects = |fingerprint: &Hash| -> Vec<(Hash, u64)> {
            let record = self.slim_record(*fingerprint);
            let outputs = record.iter().flat_map(|record| record.outputs.values());
            outputs.flat_map(Artifact::with_bases).map(|artifact| (artifact.hash, artifact.size)).collect()
        };
        let mut users: BTreeMap<Hash, usize> = BTreeMap::new();
        let mut total = 0;
        for record in records.union(pinned) {
            for (hash, size) in objects(record) {
                let users = users.entry(hash).or_default();
                total += if *users == 0 { size } else { 0 };
                *users += 1;
            }
        }
        let mut oldest: Vec<Hash> = records.difference(pinned).copied().collect();
        oldest.sort_by_key(|record| (used.get(record).copied().unwrap_or(Timestamp::MIN), *record));
        for record in oldest {
            if total <= max_bytes {
                break;
            }
            records.remove(&record);
            for (hash, size) in objects(&record) {
                let users = users.entry(hash).or_default();
                *users -= 1;
                total -= if *users == 0 { size } else { 0 };
            }
        }
        Ok(())
    }

    /// The time when each record was made, or last used by a run that had work to do.
    fn last_uses(&self) -> Result<BTreeMap<Hash, Timestamp>> {
        let mut used: BTreeMap<Hash, Timestamp> = BTreeMap::new();
        let mut add_use = |fingerprint: Hash, when: Timestamp| {
            let latest = used.entry(fingerprint).or_insert(when);
            *latest = when.max(*latest);
        };
        for (fingerprint, text) in self.records.scan()?.entries {
            let record = serde_json::from_str::<StageRecord>(&text).ok();
            if let Some(made) = record.and_then(|record| record.provenance.started.parse().ok()) {
                add_use(fingerprint, made);
            }
        }
        for run in self.latest_runs(usize::MAX)? {
            let Ok(started) = run.started.parse() else { continue };
            run.instances.iter().filter_map(|line| line.fingerprint).for_each(|one| add_use(one, started));
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Provenance;
    use crate::tests::support::temp_store;
    use ablate_core::stage::{ArtifactKind, Manifest, Summary};

    #[test]
    fn oldest_results_are_removed_until_the_rest_fits() {
        let (_folder, store) = temp_store();
        let now = Timestamp::now();
        let made: Vec<Hash> = (0..4_u8)
            .map(|day| {
                let path = store.root().join("work/out");
                // The first two share one object.
                files::write_unsynced(&path, &[day.max(1); 100]).unwrap();
                let output = store.put(&path, ArtifactKind::File).unwrap();
                let started = now.checked_sub(SignedDuration::from_hours(24 * i64::from(10 - day))).unwrap();
                let record = StageRecord {
                    fingerprint: Hash::of_bytes(&[day]),
                    manifest: Manifest::new("toy", 1),
                    outputs: [("out".to_string(), output)].into(),
                    summary: Summary::default(),
                    provenance: Provenance { started: started.to_string(), ..Provenance::default() },
                };
                store.commit(std::slice::from_ref(&record)).unwrap();
                record.fingerprint
            })
            .collect();
        let left = |pinned: &[usize], rules: GcRules| {
            let pinned = pinned.iter().map(|one| made[*one]).collect();
            let mut records: BTreeSet<Hash> = made.iter().copied().collect();
            store.limit(&mut records, &pinned, &rules).unwrap();
            (0..4).filter(|one| records.contains(&made[*one])).collect::<Vec<_>>()
        };
        let size = |size| GcRules { size: Some(size), ..GcRules::default() };
        assert_eq!(left(&[], size(300)), [0, 1, 2, 3]);
        assert_eq!(left(&[], size(299)), [2, 3]);
        assert_eq!(left(&[0], size(200)), [0, 3], "the object of the first stays, so the third is removed");
        assert_eq!(left(&[], size(0)), Vec::<usize>::new());
        let days = |days: u64| GcRules { age: Some(Duration::from_secs(days * 24 * 3600)), ..GcRules::default() };
        assert_eq!(left(&[], days(9)), [2, 3]);
        assert_eq!(left(&[], days(30)), [0, 1, 2, 3]);
    }
}
