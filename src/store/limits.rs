//! Limits by age and by size: which results go although an experiment still has them. Pins are above them. Removes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use super::{GcRules, StageRecord, Store};
use ablate_core::base::Hash;

impl Store {
    /// Takes records beyond the limits out of a set. The size counts objects once, those of pinned records too.
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
        let Some(most) = rules.size else { return Ok(()) };
        let objects = |fingerprint: &Hash| -> Vec<(Hash, u64)> {
            let record = self.committed(*fingerprint);
            let outputs = record.iter().flat_map(|record| record.outputs.values());
            outputs.map(|artifact| (artifact.hash, artifact.size)).collect()
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
            if total <= most {
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

    /// When each record was made, or last asked for by a run that had something to do.
    fn last_uses(&self) -> Result<BTreeMap<Hash, Timestamp>> {
        let mut used: BTreeMap<Hash, Timestamp> = BTreeMap::new();
        let mut note = |fingerprint: Hash, when: Timestamp| {
            let latest = used.entry(fingerprint).or_insert(when);
            *latest = when.max(*latest);
        };
        for (fingerprint, text) in self.survey()?.entries {
            let record = serde_json::from_str::<StageRecord>(&text).ok();
            if let Some(made) = record.and_then(|record| record.provenance.started.parse().ok()) {
                note(fingerprint, made);
            }
        }
        for run in self.latest_runs(usize::MAX)? {
            let Ok(started) = run.started.parse() else { continue };
            run.instances.iter().filter_map(|line| line.fingerprint).for_each(|one| note(one, started));
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Provenance;
    use ablate_core::base::files;
    use ablate_core::stage::{ArtifactKind, Manifest, Summary};

    #[test]
    fn the_oldest_go_until_the_rest_fits_and_pins_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let now = Timestamp::now();
        let made: Vec<Hash> = (0..4_u8)
            .map(|day| {
                let path = store.root().join("work/out");
                // The first two are one object.
                files::write_soft(&path, &[day.max(1); 100]).unwrap();
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
        assert_eq!(left(&[0], size(200)), [0, 3], "the object of the first stays, so the third has to go");
        assert_eq!(left(&[], size(0)), Vec::<usize>::new());
        let days = |days: u64| GcRules { age: Some(Duration::from_secs(days * 24 * 3600)), ..GcRules::default() };
        assert_eq!(left(&[], days(9)), [2, 3]);
        assert_eq!(left(&[], days(30)), [0, 1, 2, 3]);
    }
}
