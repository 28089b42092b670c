//! `gc`: removes records and objects that nothing refers to any more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::{GcRoots, InterruptedStage, Lock, Replies, ReplyTotals, Store};
use ablate_core::base::files;

/// What was removed, or would be removed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GcReport {
    pub records: usize,
    /// Instances that their experiment does not contain any more.
    pub forgotten: usize,
    pub objects: usize,
    /// Abandoned work folders and transfers, quarantined objects, cached plans and temporary files.
    pub leftovers: usize,
    pub bytes: u64,
    /// Interrupted stages that were removed.
    pub interrupted: Vec<InterruptedStage>,
    /// Interrupted stages that were kept.
    pub resumable: Vec<InterruptedStage>,
    pub paths: Vec<PathBuf>,
}

impl Store {
    /// Removes every record that is not a root, then every object and leftover that no kept record needs. With `dry_run`,
    /// removes nothing and reports what would be removed. Fails while a run uses the store, because a run stores
    /// objects before the record that names them.
    pub fn gc(&self, roots: &GcRoots, dry_run: bool) -> Result<GcReport> {
        let _lock = if dry_run { None } else { Some(self.lock_exclusive()?) };
        let mut report = GcReport { forgotten: roots.forgotten.len(), ..GcReport::default() };
        // Objects of kept records, and objects of removed records.
        let (mut needed, mut named) = (BTreeSet::new(), BTreeSet::new());
        for fingerprint in self.fingerprints()? {
            let record = self.slim_record(fingerprint);
            let stays = record.is_some() && roots.records.contains(&fingerprint);
            report.records += usize::from(!stays);
            let list: &mut BTreeSet<String> = if stays { &mut needed } else { &mut named };
            for artifact in record.iter().flat_map(|record| record.outputs.values()) {
                list.extend(artifact.needed_objects().map(|hash| hash.to_string()));
            }
        }
        let interrupted = self.interrupted()?.into_iter();
        (report.resumable, report.interrupted) =
            interrupted.partition(|one| roots.interrupted.contains(&one.fingerprint));
        // Objects without a record are removed before anything is written, which frees space on a full disk. Other
        // objects are removed after their records, because a record without its objects would look damaged.
        let (mut before_records, mut after_records) = (Vec::new(), Vec::new());
        for folder in ["quarantine", "work", "derived", "transfers"] {
            let mut found = files::list_paths(&self.root().join(folder))?;
            found.retain(|path| report.resumable.iter().all(|one| one.path != *path));
            // Interrupted stages that are removed have a list of their own.
            report.leftovers += found.len() - report.interrupted.iter().filter(|one| found.contains(&one.path)).count();
            before_records.extend(found);
        }
        let mut submissions = files::list_paths(&self.jobs_path())?;
        submissions.retain(|path| path.is_dir() && !roots.jobs.contains(&*files::name_of(path)));
        report.leftovers += submissions.len();
        before_records.extend(submissions);
        for shard in files::list_paths(&self.root().join("objects"))? {
            if !shard.is_dir() {
                // Not written by this program.
                report.leftovers += 1;
                before_records.push(shard);
                continue;
            }
            for path in files::list_paths(&shard)? {
                let name = files::name_of(&path);
                let object = format!("{}{}", files::name_of(&shard), name.trim_end_matches(".tree"));
                if needed.contains(&object) {
                    continue;
                }
                if name.starts_with('.') {
                    report.leftovers += 1;
                } else if !name.contains('.') {
                    report.objects += 1;
                }
                let list = if named.contains(&object) { &mut after_records } else { &mut before_records };
                list.push(path);
            }
        }
        report.bytes = before_records.iter().chain(&after_records).map(|path| size(path)).sum();
        if !dry_run {
            let mut failures = remove(&before_records);
            if let Err(error) = self.keep_records(&roots.records) {
                if !files::is_disk_full(self.root()) {
                    return Err(error);
                }
                // The disk is too full even for that: remove the results first. Their records count as missing until
                // they are removed too.
                failures.extend(remove(&after_records));
                self.keep_records(&roots.records)?;
            }
            failures.extend(remove(&after_records));
            self.keep_notes(&|id, instance| !roots.forgotten.contains(&(id.clone(), instance.to_string())))?;
            self.keep_jobs(&roots.jobs)?;
            roots.removed_experiments.iter().try_for_each(|id| self.forget_experiment(id))?;
            let root = self.root().to_path_buf();
            self.memo().retain(|key| root.join(key).exists());
            self.save_memo();
            if let Some(failure) = failures.into_iter().next() {
                return Err(failure.context("not everything could be removed"));
            }
        }
        report.paths = before_records.into_iter().chain(after_records).collect();
        Ok(report)
    }

    /// Deletes replies of endpoints that are older than `age`, or all, and returns what was deleted. With `dry_run`, deletes
    /// nothing and returns what would be deleted. Fails while a run uses the store, because a run may be about to read them.
    pub fn delete_replies(&self, age: Option<Duration>, dry_run: bool) -> Result<Vec<ReplyTotals>> {
        let _lock = if dry_run { None } else { Some(self.lock_exclusive()?) };
        Replies::open(&self.replies_path()).delete(age, dry_run)
    }

    pub(super) fn lock_exclusive(&self) -> Result<Lock> {
        match Lock::try_exclusive(&self.root().join("locks/store"))? {
            Some(lock) => Ok(lock),
            None => bail!("a run uses the store `{}`\nhelp: try again when the run has ended", self.root().display()),
        }
    }
}

/// Removes files and folders and returns the errors. A missing path is not an error.
fn remove(paths: &[PathBuf]) -> Vec<anyhow::Error> {
    let remove = |path: &PathBuf| match path.symlink_metadata() {
        Ok(found) if found.is_dir() => files::remove_dir(path),
        Ok(_) => files::remove_file(path),
        Err(_) => Ok(()),
    };
    paths.iter().filter_map(|path| remove(path).err()).collect()
}

/// Size of a file, or of the readable files in a folder. Does not follow links.
fn size(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => files::list_paths(path).unwrap_or_default().iter().map(|path| size(path)).sum(),
        Ok(found) => found.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::temp_store;
    use ablate_core::base::Hash;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn replies_are_not_deleted_while_a_run_uses_the_store() {
        let (_folder, store) = temp_store();
        let run = store.lock_shared().unwrap();
        assert_eq!(store.delete_replies(None, true).unwrap(), []);
        let error = store.delete_replies(None, false).unwrap_err().to_string();
        assert!(error.starts_with("a run uses the store"), "{error}");
        drop(run);
        assert_eq!(store.delete_replies(None, false).unwrap(), []);
    }

    #[test]
    fn interrupted_stages_are_no_leftovers() {
        let (_folder, store) = temp_store();
        let [saved, empty] = ["saved", "empty"].map(|name| Hash::of_bytes(name.as_bytes()));
        files::write_unsynced(&store.work_path(saved).join("scratch/state"), b"12345").unwrap();
        files::write_unsynced(&store.work_path(empty).join("job.json"), b"{}").unwrap();
        let keeps = GcRoots { interrupted: BTreeSet::from([saved]), ..GcRoots::default() };
        for dry_run in [true, false] {
            let kept = store.gc(&keeps, dry_run).unwrap();
            assert_eq!((kept.leftovers, kept.resumable.len(), kept.interrupted.len()), (1, 1, 0));
        }
        let removed = store.gc(&GcRoots::default(), false).unwrap();
        assert_eq!((removed.leftovers, removed.resumable.len(), removed.interrupted.len()), (0, 0, 1));
        assert!(!store.work_path(saved).exists());
    }

    #[test]
    fn folders_of_ended_jobs_are_removed() {
        let (_folder, store) = temp_store();
        let now = jiff::Timestamp::now().as_second();
        let note = |name: &str, days: i64, ended| {
            let (name, instance, run) = (name.to_string(), "sft".to_string(), "run".to_string());
            let submitted = now - days * 24 * 3600;
            crate::JobNote { name, index: 0, id: None, instance, run, submitted, resumes: 0, ended }
        };
        let notes =
            [note("old", 20, true), note("recent", 2, true), note("waits", 20, false), note("lost", 100, false)];
        for note in notes {
            files::write_unsynced(&store.jobs_path().join(&note.name).join("0.json"), b"{}").unwrap();
            store.note_jobs(&[(Hash::of_bytes(note.name.as_bytes()), note)]).unwrap();
        }
        let report = store.gc(&store.gc_roots(&crate::GcRules::default()).unwrap(), false).unwrap();
        assert_eq!(report.leftovers, 2);
        assert_eq!(files::list_names(&store.jobs_path()).unwrap(), ["log", "recent", "waits"]);
        let names: Vec<String> = store.all_jobs().unwrap().into_iter().map(|(_, note)| note.name).collect();
        assert_eq!(names, ["recent", "waits"]);
    }

    #[test]
    fn unknown_files_are_removed() {
        let (_folder, store) = temp_store();
        let strange = OsStr::from_bytes(b"\xff\n");
        for place in ["objects", "objects/ab", "work/half", "quarantine"] {
            files::write_unsynced(&store.root().join(place).join(strange), b"four").unwrap();
        }
        files::symlink(Path::new("nowhere"), &store.root().join("objects/link")).unwrap();
        let dry = store.gc(&GcRoots::default(), true).unwrap();
        let report = store.gc(&GcRoots::default(), false).unwrap();
        assert_eq!((&dry, report.bytes), (&report, 16 + 7));
        assert!(report.paths.iter().all(|path| path.symlink_metadata().is_err()));
    }
}
