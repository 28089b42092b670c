//! `gc`: takes away what nothing points at any more. Knows only records; the caller says which of them count.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::{Lock, Store};
use crate::base::{Hash, files};

/// What must stay: these records, and the objects that they name.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub records: BTreeSet<Hash>,
}

/// What went, or would go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Freed {
    pub records: usize,
    pub objects: usize,
    /// Abandoned work folders and leftovers of interrupted writes.
    pub leftovers: usize,
    pub bytes: u64,
    pub paths: Vec<PathBuf>,
}

impl Store {
    /// The records that `latest` names, of every experiment.
    pub fn kept_by_latest(&self) -> Result<Kept> {
        let mut kept = Kept::default();
        let folder = self.root().join("latest");
        if folder.is_dir() {
            for (_, path) in files::walk(&folder)? {
                let note: super::LatestNote = files::read_json(&path).unwrap_or_default();
                kept.records.extend(note.fingerprint);
            }
        }
        Ok(kept)
    }

    /// Removes every other record, then every object and leftover that no kept record needs. A work folder that a
    /// living run holds stays. With `dry`, only says what would go.
    pub fn clean(&self, kept: &Kept, dry: bool) -> Result<Freed> {
        let mut freed = Freed::default();
        let mut needed: BTreeSet<String> = BTreeSet::new();
        let mut doomed: Vec<PathBuf> = Vec::new();
        for fingerprint in self.fingerprints()? {
            match self.record(fingerprint) {
                Some(record) if kept.records.contains(&fingerprint) => {
                    for artifact in record.outputs.values() {
                        needed.insert(artifact.hash.to_string());
                        needed.extend(artifact.images.iter().map(Hash::to_string));
                    }
                }
                _ => {
                    freed.records += 1;
                    doomed.push(self.record_path(fingerprint));
                }
            }
        }
        let objects = self.root().join("objects");
        for shard in files::list_if_there(&objects)? {
            for name in files::list(&objects.join(&shard))? {
                let hash = format!("{shard}{}", name.trim_end_matches(".tree"));
                if needed.contains(&hash) {
                    continue;
                }
                if name.starts_with('.') {
                    freed.leftovers += 1;
                } else if !name.contains('.') {
                    freed.objects += 1;
                }
                doomed.push(objects.join(&shard).join(name));
            }
        }
        doomed.extend(files::list_if_there(&self.root().join("quarantine"))?.iter().map(|name| {
            freed.leftovers += 1;
            self.root().join("quarantine").join(name)
        }));
        let mut locks: Vec<Lock> = Vec::new();
        for fingerprint in self.unfinished()? {
            if let Some(lock) = self.lock_run(fingerprint)? {
                locks.push(lock);
                freed.leftovers += 1;
                doomed.push(self.work_path(fingerprint));
            }
        }
        for path in &doomed {
            freed.bytes += size(path)?;
            if !dry {
                if path.is_dir() { files::remove_dir(path)? } else { files::remove_file(path)? }
            }
        }
        freed.paths = doomed;
        let root = self.root().to_path_buf();
        if !dry {
            self.memo().retain(|key| if key.starts_with('/') { true } else { root.join(key).exists() });
            self.remember();
        }
        Ok(freed)
    }
}

fn size(path: &std::path::Path) -> Result<u64> {
    if !path.is_dir() {
        return Ok(path.symlink_metadata().map_or(0, |metadata| metadata.len()));
    }
    Ok(files::walk(path)?.iter().filter_map(|(_, file)| file.symlink_metadata().ok()).map(|found| found.len()).sum())
}
