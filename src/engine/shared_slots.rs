//! Slots that all runs of a store share: those of named pools, and GPUs. Each slot is a lock in the store, which the
//! system frees when its holder dies.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::environment::cuda_visible_device;
use ablate_experiment::InstanceId;
use ablate_store::{Lock, Store, file_name, host};

/// What an instance needs from the shared slots before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SlotRequest<'a> {
    /// No shared slot: jobs of this machine are counted per run.
    None,
    /// One of the `size` slots of a pool.
    Pool { name: &'a str, size: usize },
    /// `count` of the devices in `free`, which no instance of this run uses.
    Devices { free: &'a BTreeSet<String>, count: usize },
}

impl SlotRequest<'_> {
    /// The message for an instance that waits for this request.
    pub(super) fn wait_reason(&self) -> String {
        match self {
            SlotRequest::None => "nothing".to_string(),
            SlotRequest::Pool { name, .. } => format!("other runs use all slots of the pool `{name}`"),
            SlotRequest::Devices { count: 1, .. } => "other runs use all GPUs of this run".to_string(),
            SlotRequest::Devices { count, .. } => format!("it needs {count} GPUs, and other runs use too many of them"),
        }
    }
}

/// The slots that the instances of this run hold.
pub(super) struct SharedSlots<'a> {
    store: &'a Store,
    held: BTreeMap<InstanceId, Vec<Lock>>,
}

impl<'a> SharedSlots<'a> {
    pub(super) fn new(store: &'a Store) -> SharedSlots<'a> {
        SharedSlots { store, held: BTreeMap::new() }
    }

    /// Takes all requested slots or none, and returns the devices. `None` while other runs use them.
    pub(super) fn take(&mut self, id: InstanceId, request: &SlotRequest) -> Result<Option<Vec<String>>> {
        let (devices, locks) = match request {
            SlotRequest::None => (Vec::new(), Vec::new()),
            SlotRequest::Pool { name, size } => {
                let Some(lock) = self.lock_pool_slot(name, *size)? else { return Ok(None) };
                (Vec::new(), vec![lock])
            }
            SlotRequest::Devices { free, count } => {
                let Some(taken) = self.lock_devices(free, *count)? else { return Ok(None) };
                taken.into_iter().unzip()
            }
        };
        self.held.insert(id, locks);
        Ok(Some(devices))
    }

    pub(super) fn release(&mut self, id: InstanceId) {
        self.held.remove(&id);
    }

    fn lock_pool_slot(&self, pool: &str, size: usize) -> Result<Option<Lock>> {
        for number in 0..size {
            if let Some(lock) = self.store.lock_slot(&format!("{}.{number}", file_name(pool)))? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    fn lock_devices(&self, free: &BTreeSet<String>, count: usize) -> Result<Option<Vec<(String, Lock)>>> {
        let host = file_name(&host());
        // Without this lock, two runs that need several devices could each take some and release them again, forever.
        let _one_at_a_time = self.store.wait_for_slot(&format!("gpu.{host}"))?;
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let mut taken = Vec::new();
        for device in free {
            if taken.len() == count {
                break;
            }
            // The lock is named after the machine's number of the device, which all processes share.
            let id = cuda_visible_device(device, visible.as_deref()).unwrap_or(device);
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
    fn runs_of_one_store_share_slots_and_devices() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [0, 1].map(|_| Store::open(&folder.path().join("cache")).unwrap());
        let (mut mine, mut theirs) = (SharedSlots::new(&one), SharedSlots::new(&other));
        let licence = SlotRequest::Pool { name: "a licence/..", size: 2 };
        assert_eq!(mine.take(InstanceId(0), &licence).unwrap(), Some(vec![]));
        assert_eq!(theirs.take(InstanceId(0), &licence).unwrap(), Some(vec![]));
        assert_eq!(theirs.take(InstanceId(1), &licence).unwrap(), None);
        mine.release(InstanceId(0));
        assert_eq!(theirs.take(InstanceId(1), &licence).unwrap(), Some(vec![]));
        assert_eq!(mine.take(InstanceId(0), &SlotRequest::None).unwrap(), Some(vec![]));

        let free: BTreeSet<String> = ["cuda:90", "cuda:91", "cuda:GPU-5ebe"].map(String::from).into();
        let devices = |count| SlotRequest::Devices { free: &free, count };
        let named = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(mine.take(InstanceId(2), &devices(2)).unwrap(), named(&["cuda:90", "cuda:91"]));
        assert_eq!(theirs.take(InstanceId(2), &devices(2)).unwrap(), None);
        // A request that fails keeps no device.
        assert_eq!(mine.take(InstanceId(3), &devices(1)).unwrap(), named(&["cuda:GPU-5ebe"]));
        mine.release(InstanceId(2));
        assert_eq!(theirs.take(InstanceId(2), &devices(2)).unwrap(), named(&["cuda:90", "cuda:91"]));
        drop((mine, theirs));
        let left = std::fs::read_dir(folder.path().join("cache/locks")).unwrap();
        assert_eq!(left.count(), 0, "a free lock leaves no file");
    }
}
