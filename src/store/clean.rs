//! `gc`: takes away what nothing points at any more. Knows only records; what counts is what was last looked at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::Serialize;

use super::{Interrupted, Kept, Lock, Store};
use ablate_core::base::{Hash, files};

/// What went, or would go.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Freed {
    pub records: usize,
    /// Instances that their experiment has no more.
    pub forgotten: usize,
    pub objects: usize,
    /// Abandoned work folders, quarantined objects, derived data and leftovers of interrupted writes.
    pub leftovers: usize,
    pub bytes: u64,
    /// Interrupted work among what went.
    pub interrupted: Vec<Interrupted>,
    /// Interrupted work that stays.
    pub resumable: Vec<Interrupted>,
    pub paths: Vec<PathBuf>,
}

impl Store {
    /// Removes every other record, then every object and leftover that no kept record needs. With `dry`, only says
    /// what would go. Fails while a run uses the store: it makes objects before it writes the record that names them.
    pub fn clean(&self, kept: &Kept, dry: bool) -> Result<Freed> {
        let _alone = if dry { None } else { Some(self.take_alone()?) };
        let mut freed = Freed { forgotten: kept.forgotten.len(), ..Freed::default() };
        // What kept records need, and what the others had.
        let (mut needed, mut named) = (BTreeSet::new(), BTreeSet::new());
        for fingerprint in self.fingerprints()? {
            let record = self.committed(fingerprint);
            let stays = record.is_some() && kept.records.contains(&fingerprint);
            freed.records += usize::from(!stays);
            let list: &mut BTreeSet<String> = if stays { &mut needed } else { &mut named };
            for artifact in record.iter().flat_map(|record| record.outputs.values()) {
                list.insert(artifact.hash.to_string());
                list.extend(artifact.images.iter().map(Hash::to_string));
            }
        }
        for one in self.interrupted()? {
            let list =
                if kept.interrupted.contains(&one.fingerprint) { &mut freed.resumable } else { &mut freed.interrupted };
            list.push(one);
        }
        // What no record names goes before anything is written: where the disk is full, that makes room. Results go
        // after the records that name them: one without its objects would look damaged.
        let (mut first, mut then) = (Vec::new(), Vec::new());
        for folder in ["quarantine", "work", "derived"] {
            let mut found = files::paths_if_there(&self.root().join(folder))?;
            found.retain(|path| freed.resumable.iter().all(|one| one.path != *path));
            freed.leftovers += found.len();
            first.extend(found);
        }
        for shard in files::paths_if_there(&self.root().join("objects"))? {
            if !shard.is_dir() {
                // Nothing of ours: whatever it is, it has no record.
                freed.leftovers += 1;
                first.push(shard);
                continue;
            }
            for path in files::paths_if_there(&shard)? {
                let name = files::name_of(&path);
                let object = format!("{}{}", files::name_of(&shard), name.trim_end_matches(".tree"));
                if needed.contains(&object) {
                    continue;
                }
                if name.starts_with('.') {
                    freed.leftovers += 1;
                } else if !name.contains('.') {
                    freed.objects += 1;
                }
                let list = if named.contains(&object) { &mut then } else { &mut first };
                list.push(path);
            }
        }
        freed.bytes = first.iter().chain(&then).map(|path| size(path)).sum();
        if !dry {
            let mut failures = remove(&first);
            if let Err(error) = self.keep_records(&kept.records) {
                if !files::is_full(self.root()) {
                    return Err(error);
                }
                // No room even for that: the results give it, and their records count as missing until they go too.
                failures.extend(remove(&then));
                self.keep_records(&kept.records)?;
            }
            failures.extend(remove(&then));
            self.keep_notes(&|id, instance| !kept.forgotten.contains(&(id.clone(), instance.to_string())))?;
            kept.gone.iter().try_for_each(|id| self.forget_experiment(id))?;
            let root = self.root().to_path_buf();
            self.memo().retain(|key| root.join(key).exists());
            self.remember();
            if let Some(failure) = failures.into_iter().next() {
                return Err(failure.context("not everything could be removed"));
            }
        }
        freed.paths = first.into_iter().chain(then).collect();
        Ok(freed)
    }

    pub(super) fn take_alone(&self) -> Result<Lock> {
        match Lock::try_alone(&self.root().join("locks/store"))? {
            Some(lock) => Ok(lock),
            None => bail!("a run uses the store `{}`\nhelp: try again when it has ended", self.root().display()),
        }
    }
}

/// Removes files and folders, and tells what could not be removed. What is gone already is no failure.
fn remove(paths: &[PathBuf]) -> Vec<anyhow::Error> {
    let remove = |path: &PathBuf| match path.symlink_metadata() {
        Ok(found) if found.is_dir() => files::remove_dir(path),
        Ok(_) => files::remove_file(path),
        Err(_) => Ok(()),
    };
    paths.iter().filter_map(|path| remove(path).err()).collect()
}

/// Bytes of a file, or of the files in a folder, as far as they can be seen. Follows no links.
fn size(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => {
            files::paths_if_there(path).unwrap_or_default().iter().map(|path| size(path)).sum()
        }
        Ok(found) => found.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_is_not_of_the_store_goes_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let strange = OsStr::from_bytes(b"\xff\n");
        for place in ["objects", "objects/ab", "work/half", "quarantine"] {
            files::write_soft(&store.root().join(place).join(strange), b"four").unwrap();
        }
        files::relink(Path::new("nowhere"), &store.root().join("objects/link")).unwrap();
        let dry = store.clean(&Kept::default(), true).unwrap();
        let freed = store.clean(&Kept::default(), false).unwrap();
        assert_eq!((&dry, freed.bytes), (&freed, 16 + 7));
        assert!(freed.paths.iter().all(|path| path.symlink_metadata().is_err()));
    }
}
