//! The quarantine: damaged objects, and files that were added to the folder of a tree, are moved there for
//! inspection.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::object::{Tree, object_key};
use super::{Lock, Store};
use ablate_core::base::{files, modes};
use ablate_core::stage::Artifact;

impl Store {
    /// Moves a damaged object to the quarantine, so that nothing reads it.
    pub fn quarantine(&self, artifact: &Artifact) -> Result<()> {
        let name = artifact.hash.to_string();
        let key = object_key(artifact.hash);
        for (from, to) in [(format!("{key}.tree"), format!("{name}.tree")), (key, name)] {
            let from = self.root().join(from);
            if from.symlink_metadata().is_ok() {
                self.move_to_quarantine(&from, &to)?;
            }
        }
        Ok(())
    }

    /// Moves a file, a folder or a link (not its target) and replaces an earlier one of that name.
    fn move_to_quarantine(&self, path: &Path, name: &str) -> Result<()> {
        let place = self.root().join("quarantine").join(name);
        files::remove_dir(&place).or_else(|_| files::remove_file(&place))?;
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            modes::make_folder_writable(path)?;
        }
        files::rename(path, &place)
    }

    /// Files and folders in the folder of a tree that the tree does not list. Empty for a file.
    pub fn extra_files(&self, artifact: &Artifact) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        if artifact.tree && self.artifact_path(artifact).is_dir() {
            let tree = self.tree(artifact.hash)?;
            find_extra_files(&tree, &self.artifact_path(artifact), "", &mut found)?;
        }
        found.sort();
        Ok(found)
    }

    /// Moves the extra files of a tree to the quarantine and returns their old paths.
    pub fn quarantine_extra_files(&self, artifact: &Artifact) -> Result<Vec<PathBuf>> {
        if self.extra_files(artifact)?.is_empty() {
            return Ok(Vec::new());
        }
        // Several stages may find the extra files at the same time.
        let _alone = Lock::take(&self.root().join(format!("locks/{}.put", artifact.hash)))?;
        let found = self.extra_files(artifact)?;
        for (number, path) in found.iter().enumerate() {
            path.parent().map_or(Ok(()), modes::make_folder_writable)?;
            let name = format!("{}.extra_files/{number}-{}", artifact.hash, files::name_of(path));
            self.move_to_quarantine(path, &name)?;
        }
        modes::seal_folders(&self.artifact_path(artifact))?;
        Ok(found)
    }
}

fn find_extra_files(tree: &Tree, folder: &Path, prefix: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for (path, kind) in files::children(folder)? {
        // A tree has no names that are not UTF-8.
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            found.push(path);
            continue;
        };
        let below = format!("{prefix}{name}/");
        if kind.is_dir() && tree.files.range(below.clone()..).next().is_some_and(|(file, _)| file.starts_with(&below)) {
            find_extra_files(tree, &path, &below, found)?;
        } else if kind.is_dir() || !tree.files.contains_key(&below[..below.len() - 1]) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectState;
    use crate::tests::support::temp_store;
    use ablate_core::stage::ArtifactKind;

    #[test]
    fn files_added_to_a_tree_are_quarantined() {
        let (_folder, store) = temp_store();
        let output = store.root().join("work/code");
        for name in ["main.py", "deep/util.py"] {
            files::write_unsynced(&output.join(name), name.as_bytes()).unwrap();
        }
        let artifact = store.put(&output, ArtifactKind::File).unwrap();
        assert_eq!(store.extra_files(&artifact).unwrap(), Vec::<PathBuf>::new());
        let tree = store.artifact_path(&artifact);
        let added = ["__pycache__", "deep/main.py", "deep/util.pyc", "other"].map(|name| tree.join(name));
        modes::make_folders_writable(&tree).unwrap();
        for path in ["__pycache__/a.pyc", "deep/main.py/x", "deep/util.pyc"] {
            files::write_unsynced(&tree.join(path), b"").unwrap();
        }
        files::symlink(Path::new("main.py"), &tree.join("other")).unwrap();
        assert_eq!(store.extra_files(&artifact).unwrap(), added);
        assert_eq!(store.quarantine_extra_files(&artifact).unwrap(), added);
        assert_eq!(store.quarantine_extra_files(&artifact).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(store.check(&artifact, true).unwrap(), ObjectState::Present);
        assert_eq!(files::walk(&store.root().join("quarantine")).unwrap().len(), 4);
        // The same file again, as Python writes it with every run.
        modes::make_folders_writable(&tree).unwrap();
        files::write_unsynced(&tree.join("__pycache__/a.pyc"), b"").unwrap();
        assert_eq!(store.quarantine_extra_files(&artifact).unwrap(), [tree.join("__pycache__")]);
    }

    #[test]
    fn executable_bit_counts_for_files_only() {
        let (_folder, store) = temp_store();
        let put = |executable: bool, kind: ArtifactKind| {
            let path = store.root().join("work/out");
            files::write_unsynced(&path, b"#!/bin/sh\n").unwrap();
            modes::set_default(&path, executable).unwrap();
            store.put(&path, kind).unwrap()
        };
        let (plain, executable) = (put(false, ArtifactKind::File), put(true, ArtifactKind::File));
        assert_ne!(plain.hash, executable.hash);
        for (artifact, wanted) in [(&plain, false), (&executable, true)] {
            let metadata = store.artifact_path(artifact).metadata().unwrap();
            assert_eq!(modes::is_executable(&metadata), wanted);
            assert_eq!(store.check(artifact, true).unwrap(), ObjectState::Present);
        }
        assert_eq!(put(true, ArtifactKind::Rows).hash, plain.hash);
    }

    #[test]
    fn empty_folders_are_not_part_of_a_tree() {
        let (_folder, store) = temp_store();
        let output = store.root().join("work/out");
        let put = |empty: bool| {
            files::write_unsynced(&output.join("deep/file"), b"").unwrap();
            if empty {
                files::create_dir(&output.join("deep/a/b")).unwrap();
            }
            store.put(&output, ArtifactKind::File).unwrap()
        };
        let artifact = put(true);
        assert_eq!(put(false), artifact);
        assert!(!store.artifact_path(&artifact).join("deep/a").exists());
        assert_eq!(store.extra_files(&artifact).unwrap(), Vec::<PathBuf>::new());
    }
}
