//! Slots that all runs of a store share: of named pools, and GPUs. Each is a lock in the store, which its holder's death
//! frees. Knows no state of an instance.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::room::visible;
use ablate_experiment::InstanceId;
use ablate_store::{Lock, Store, file_name, host};

/// What an instance needs before it may start, besides a place in its own run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need<'a> {
    /// Jobs of this machine are counted per run.
    Nothing,
    /// One slot of a pool of so many.
    Slot { pool: &'a str, size: usize },
    /// So many of the devices that no instance of this run has.
    Devices { free: &'a BTreeSet<String>, count: usize },
}

impl Need<'_> {
    /// What is waited for, for people.
    pub(super) fn waits_for(&self) -> String {
        match self {
            Need::Nothing => "nothing".to_string(),
            Need::Slot { pool, .. } => format!("other runs have every slot of the pool `{pool}`"),
            Need::Devices { count: 1, .. } => "other runs have every GPU of this run".to_string(),
            Need::Devices { count, .. } => format!("it needs {count} GPUs, and other runs have too many of them"),
        }
    }
}

/// The slots that the instances of this run have.
pub(super) struct SharedSlots<'a> {
    store: &'a Store,
    held: BTreeMap<InstanceId, Vec<Lock>>,
}

impl<'a> SharedSlots<'a> {
    pub(super) fn new(store: &'a Store) -> SharedSlots<'a> {
        SharedSlots { store, held: BTreeMap::new() }
    }

    /// Takes what an instance needs, all or nothing, and gives its devices. `None` while other runs have it.
    pub(super) fn take(&mut self, id: InstanceId, need: &Need) -> Result<Option<Vec<String>>> {
        let (devices, locks) = match need {
            Need::Nothing => (Vec::new(), Vec::new()),
            Need::Slot { pool, size } => {
                let Some(lock) = self.slot(pool, *size)? else { return Ok(None) };
                (Vec::new(), vec![lock])
            }
            Need::Devices { free, count } => {
                let Some(taken) = self.devices(free, *count)? else { return Ok(None) };
                taken.into_iter().unzip()
            }
        };
        self.held.insert(id, locks);
        Ok(Some(devices))
    }

    pub(super) fn release(&mut self, id: InstanceId) {
        self.held.remove(&id);
    }

    fn slot(&self, pool: &str, size: usize) -> Result<Option<Lock>> {
        for number in 0..size {
            if let Some(lock) = self.store.lock_slot(&format!("{}.{number}", file_name(pool)))? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    fn devices(&self, free: &BTreeSet<String>, count: usize) -> Result<Option<Vec<(String, Lock)>>> {
        let host = file_name(&host());
        // Two runs that want several would else each take a part and let go again, for ever.
        let _one_at_a_time = self.store.wait_for_slot(&format!("gpu.{host}"))?;
        let seen = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let mut taken = Vec::new();
        for device in free {
            if taken.len() == count {
                break;
            }
            // The number that the device has for everybody on this machine.
            let id = visible(device, seen.as_deref()).unwrap_or(device);
            if let Some(lock) = self.store.lock_slot(&format!("gpu.{host}.{}", file_name(id)))? {
                taken.push((device.clone(), lock));
            }
        }
        Ok((taken.len() == count).then_some(taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_one_store_share_slots_and_devices_all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [0, 1].map(|_| Store::open(&folder.path().join("cache")).unwrap());
        let (mut mine, mut theirs) = (SharedSlots::new(&one), SharedSlots::new(&other));
        let licence = Need::Slot { pool: "a licence/..", size: 2 };
        assert_eq!(mine.take(InstanceId(0), &licence).unwrap(), Some(vec![]));
        assert_eq!(theirs.take(InstanceId(0), &licence).unwrap(), Some(vec![]));
        assert_eq!(theirs.take(InstanceId(1), &licence).unwrap(), None);
        mine.release(InstanceId(0));
        assert_eq!(theirs.take(InstanceId(1), &licence).unwrap(), Some(vec![]));
        assert_eq!(mine.take(InstanceId(0), &Need::Nothing).unwrap(), Some(vec![]));

        let free: BTreeSet<String> = ["cuda:90", "cuda:91", "cuda:GPU-5ebe"].map(String::from).into();
        let devices = |count| Need::Devices { free: &free, count };
        let named = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(mine.take(InstanceId(2), &devices(2)).unwrap(), named(&["cuda:90", "cuda:91"]));
        assert_eq!(theirs.take(InstanceId(2), &devices(2)).unwrap(), None);
        // What they could not use is free for others.
        assert_eq!(mine.take(InstanceId(3), &devices(1)).unwrap(), named(&["cuda:GPU-5ebe"]));
        mine.release(InstanceId(2));
        assert_eq!(theirs.take(InstanceId(2), &devices(2)).unwrap(), named(&["cuda:90", "cuda:91"]));
        drop((mine, theirs));
        let left = std::fs::read_dir(folder.path().join("cache/locks")).unwrap();
        assert_eq!(left.count(), 0, "a lock that is free leaves no file");
    }
}
