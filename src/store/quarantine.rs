//! What is taken out of the way and kept for a look: damaged objects, and what somebody added to the folder of a tree.
//! Knows no record.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::object::{Tree, object_key};
use super::{Lock, Store};
use ablate_core::base::{files, modes};
use ablate_core::stage::Artifact;

impl Store {
    /// Takes a damaged object out of the way, so that nothing reads it and someone can look at it.
    pub fn quarantine(&self, artifact: &Artifact) -> Result<()> {
        let name = artifact.hash.to_string();
        let key = object_key(artifact.hash);
        for (from, to) in [(format!("{key}.tree"), format!("{name}.tree")), (key, name)] {
            let from = self.root().join(from);
            // A link counts as itself: it is what is in the way.
            if from.symlink_metadata().is_ok() {
                let to = self.root().join("quarantine").join(to);
                files::remove_dir(&to).or_else(|_| files::remove_file(&to))?;
                if from.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                    modes::open_folder(&from)?;
                }
                files::rename(&from, &to)?;
            }
        }
        Ok(())
    }

    /// What does not belong in the folder of a tree; nothing for a file.
    pub fn foreign(&self, artifact: &Artifact) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        if artifact.tree && self.artifact_path(artifact).is_dir() {
            let tree = self.tree(artifact.hash)?;
            search(&tree, &self.artifact_path(artifact), "", &mut found)?;
        }
        found.sort();
        Ok(found)
    }

    /// Takes what does not belong in a tree out of it, into the quarantine, and tells where it was.
    pub fn expel(&self, artifact: &Artifact) -> Result<Vec<PathBuf>> {
        if self.foreign(artifact)?.is_empty() {
            return Ok(Vec::new());
        }
        // Several stages may come upon it at once.
        let _alone = Lock::take(&self.root().join(format!("locks/{}.put", artifact.hash)))?;
        let found = self.foreign(artifact)?;
        for (number, path) in found.iter().enumerate() {
            let name = format!("{}.foreign/{number}-{}", artifact.hash, files::name_of(path));
            let place = self.root().join("quarantine").join(name);
            files::remove_dir(&place).or_else(|_| files::remove_file(&place))?;
            path.parent().map_or(Ok(()), modes::open_folder)?;
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                modes::open_folder(path)?;
            }
            files::rename(path, &place)?;
        }
        modes::seal_folders(&self.artifact_path(artifact))?;
        Ok(found)
    }
}

fn search(tree: &Tree, folder: &Path, prefix: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for (path, kind) in files::children(folder)? {
        // A name that is not UTF-8 is none of a tree's.
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            found.push(path);
            continue;
        };
        let below = format!("{prefix}{name}/");
        if kind.is_dir() && tree.files.range(below.clone()..).next().is_some_and(|(file, _)| file.starts_with(&below)) {
            search(tree, &path, &below, found)?;
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
    use ablate_core::stage::ArtifactKind;

    #[test]
    fn what_was_added_to_a_tree_is_found_and_taken_out_and_the_tree_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let output = store.root().join("work/code");
        for name in ["main.py", "deep/util.py"] {
            files::write_soft(&output.join(name), name.as_bytes()).unwrap();
        }
        let artifact = store.put(&output, ArtifactKind::File).unwrap();
        assert_eq!(store.foreign(&artifact).unwrap(), Vec::<PathBuf>::new());
        let tree = store.artifact_path(&artifact);
        let added = ["__pycache__", "deep/main.py", "deep/util.pyc", "other"].map(|name| tree.join(name));
        modes::open_folders(&tree).unwrap();
        for path in ["__pycache__/a.pyc", "deep/main.py/x", "deep/util.pyc"] {
            files::write_soft(&tree.join(path), b"").unwrap();
        }
        files::relink(Path::new("main.py"), &tree.join("other")).unwrap();
        assert_eq!(store.foreign(&artifact).unwrap(), added);
        assert_eq!(store.expel(&artifact).unwrap(), added);
        assert_eq!(store.expel(&artifact).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(store.check(&artifact, true).unwrap(), ObjectState::Present);
        assert_eq!(files::walk(&store.root().join("quarantine")).unwrap().len(), 4);
        // The same file again, as Python would write it with every run.
        modes::open_folders(&tree).unwrap();
        files::write_soft(&tree.join("__pycache__/a.pyc"), b"").unwrap();
        assert_eq!(store.expel(&artifact).unwrap(), [tree.join("__pycache__")]);
    }

    #[test]
    fn equal_bytes_with_another_mode_are_two_objects_of_a_file_and_one_of_data() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let put = |executable: bool, kind: ArtifactKind| {
            let path = store.root().join("work/out");
            files::write_soft(&path, b"#!/bin/sh\n").unwrap();
            modes::set_plain(&path, executable).unwrap();
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
    fn a_folder_without_files_is_no_part_of_a_tree() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let output = store.root().join("work/out");
        let put = |empty: bool| {
            files::write_soft(&output.join("deep/file"), b"").unwrap();
            if empty {
                files::create_dir(&output.join("deep/a/b")).unwrap();
            }
            store.put(&output, ArtifactKind::File).unwrap()
        };
        let artifact = put(true);
        assert_eq!(put(false), artifact);
        assert!(!store.artifact_path(&artifact).join("deep/a").exists());
        assert_eq!(store.foreign(&artifact).unwrap(), Vec::<PathBuf>::new());
    }
}
