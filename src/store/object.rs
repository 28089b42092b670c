//! Objects: files and trees, named by the hash of their content, written once and never edited.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::file_hasher::{file_identity, hash_file, metadata_if_exists};
use super::{FolderHandle, Lock, Stamp, Store};
use ablate_core::base::{Hash, files, modes};
use ablate_core::stage::{Artifact, ArtifactKind};

/// The files of a folder by sorted relative path with `/`. The hash of its canonical JSON is the tree's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    pub files: BTreeMap<String, TreeFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFile {
    /// Hash of the bytes; for an executable file a hash of that hash.
    pub hash: Hash,
    pub size: u64,
}

/// The result of a check of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectState {
    Present,
    Missing,
    /// Its bytes do not have the hash that its name states.
    Corrupt,
}

impl Tree {
    /// The canonical JSON.
    pub(super) fn canonical_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| panic!("BUG: a tree is plain data: {error}"))
    }

    pub(super) fn size(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }
}

impl Store {
    /// The path of a file's object, or of a tree's manifest.
    pub fn object_path(&self, hash: Hash) -> PathBuf {
        self.root().join(object_key(hash))
    }

    /// The path where an artifact can be read: a file, or a folder for a tree.
    pub fn artifact_path(&self, artifact: &Artifact) -> PathBuf {
        let key = object_key(artifact.hash);
        self.root().join(if artifact.tree { format!("{key}.tree") } else { key })
    }

    /// Checks an object. Sizes and time stamps are always compared. Bytes are read if the time stamp is not that of a
    /// sealed object, and with `thorough` whenever the memo does not know their hash.
    pub fn check(&self, artifact: &Artifact, thorough: bool) -> Result<ObjectState> {
        let state = self.check_files(artifact, thorough)?;
        Ok(if state == ObjectState::Missing { self.missing_state(artifact.hash) } else { state })
    }

    /// As [`Store::check`], but an object that was quarantined is missing.
    fn check_files(&self, artifact: &Artifact, thorough: bool) -> Result<ObjectState> {
        let key = object_key(artifact.hash);
        let state = self.check_file(&key, artifact.hash, (!artifact.tree).then_some(artifact.size), thorough)?;
        if !artifact.tree || state != ObjectState::Present {
            return Ok(state);
        }
        let manifest = files::read_bytes(&self.root().join(&key))?;
        let Ok(tree) = serde_json::from_slice::<Tree>(&manifest) else { return Ok(ObjectState::Corrupt) };
        if Hash::of_bytes(&manifest) != artifact.hash || tree.size() != artifact.size {
            return Ok(ObjectState::Corrupt);
        }
        if !self.artifact_path(artifact).is_dir() {
            return Ok(ObjectState::Missing);
        }
        for (name, file) in &tree.files {
            let state = self.check_file(&format!("{key}.tree/{name}"), file.hash, Some(file.size), thorough)?;
            if state != ObjectState::Present {
                return Ok(state);
            }
        }
        Ok(ObjectState::Present)
    }

    /// The stamp of an artifact's object; `None` if it does not exist or changed since it was sealed.
    pub fn object_stamp(&self, artifact: &Artifact) -> Option<Stamp> {
        let objects = self.objects.get_or_init(|| FolderHandle::open(&self.root().join("objects")).ok());
        let mut key = artifact.hash.to_string();
        key.insert(2, '/');
        objects.as_ref()?.stat(&key).filter(|stamp| stamp.matches(artifact.size, sealed_time()))
    }

    /// Whether an object exists and is unchanged by size and time stamp.
    pub fn is_present(&self, artifact: &Artifact) -> bool {
        self.check(artifact, false).is_ok_and(|state| state == ObjectState::Present)
    }

    /// Moves an output from a private folder into the store and seals it. Equal content is stored once. A power cut
    /// may lose it until [`Store::commit`] has returned for a record that names it.
    pub fn put(&self, path: &Path, kind: ArtifactKind) -> Result<Artifact> {
        let output = path.display();
        match fs::symlink_metadata(path).with_context(|| format!("the output `{output}` is not there"))?.file_type() {
            found if found.is_dir() => self.put_tree(path, kind),
            found if found.is_file() => self.put_file(path, kind),
            _ => bail!("the output `{output}` is neither a file nor a folder"),
        }
    }

    /// The tree of a manifest object.
    pub fn tree(&self, hash: Hash) -> Result<Tree> {
        files::read_json(&self.object_path(hash))
    }

    fn check_file(&self, key: &str, hash: Hash, size: Option<u64>, thorough: bool) -> Result<ObjectState> {
        let path = self.root().join(key);
        let metadata = match metadata_if_exists(&path) {
            Ok(Some(metadata)) => metadata,
            Ok(None) => return Ok(ObjectState::Missing),
            Err(error) if files::is_symlink_loop(&error) => return Ok(ObjectState::Corrupt),
            Err(error) => return Err(error),
        };
        if !metadata.is_file() || size.is_some_and(|size| size != metadata.len()) {
            return Ok(ObjectState::Corrupt);
        }
        if !thorough && metadata.modified().ok() == Some(sealed_time()) {
            return Ok(ObjectState::Present);
        }
        match hash_file(&self.memo, key, &path)? {
            // The mode does not decide: some file systems show all files as executable.
            Some(found) if found == hash || file_identity(found, true) == hash => Ok(ObjectState::Present),
            Some(_) => Ok(ObjectState::Corrupt),
            None => Ok(ObjectState::Missing),
        }
    }

    /// Distinguishes an object that was quarantined as damaged from one that was deleted.
    fn missing_state(&self, hash: Hash) -> ObjectState {
        let path = self.root().join("quarantine").join(hash.to_string());
        let quarantined = path.exists() || path.with_extension("tree").exists();
        if quarantined { ObjectState::Corrupt } else { ObjectState::Missing }
    }

    fn put_file(&self, path: &Path, kind: ArtifactKind) -> Result<Artifact> {
        let executable = executable_counts(path, kind)?;
        let size = modes::seal(path, sealed_time(), executable)?;
        let bytes = Hash::of_file(path)?;
        let artifact = Artifact {
            kind,
            hash: file_identity(bytes, executable),
            tree: false,
            size,
            images: Vec::new(),
            bases: Vec::new(),
        };
        self.place_file(path, &artifact, bytes, executable)?;
        Ok(artifact)
    }

    /// Moves a sealed file, whose bytes have the hash `bytes`, to its place.
    pub(super) fn place_file(&self, path: &Path, artifact: &Artifact, bytes: Hash, executable: bool) -> Result<()> {
        let key = object_key(artifact.hash);
        let place = self.root().join(&key);
        if self.check_file(&key, artifact.hash, Some(artifact.size), true)? == ObjectState::Present {
            files::remove_file(path)?;
            // Older versions stored equal bytes once, with the mode of the first.
            if executable_counts(&place, ArtifactKind::File)? != executable {
                modes::seal(&place, sealed_time(), executable)?;
            }
        } else {
            // The rename replaces a damaged file of this name, but not a folder.
            if place.is_dir() {
                self.quarantine(artifact)?;
            }
            files::rename_unsynced(path, &place)?;
        }
        self.remember_hash(&key, bytes)
    }

    fn put_tree(&self, folder: &Path, kind: ArtifactKind) -> Result<Artifact> {
        // A program may have left unreadable folders.
        modes::make_folders_writable(folder)?;
        files::remove_empty_dirs(folder)?;
        let (mut tree, mut read) = (Tree::default(), Vec::new());
        for (name, path) in files::walk(folder)? {
            let found = fs::symlink_metadata(&path).with_context(|| format!("cannot look at `{}`", path.display()))?;
            if !found.is_file() {
                bail!("the output holds `{}`, which is not a plain file", path.display());
            }
            let executable = executable_counts(&path, kind)?;
            let size = modes::seal(&path, sealed_time(), executable)?;
            let bytes = Hash::of_file(&path)?;
            read.push((name.clone(), bytes));
            tree.files.insert(name, TreeFile { hash: file_identity(bytes, executable), size });
        }
        let manifest = tree.canonical_json();
        let hash = Hash::of_bytes(&manifest);
        let artifact = Artifact { kind, hash, tree: true, size: tree.size(), images: Vec::new(), bases: Vec::new() };
        self.place_tree(folder, &artifact, &manifest, &read)?;
        Ok(artifact)
    }

    /// Moves a folder of sealed files to its place. `read` has the hash of the bytes of each file by its name.
    pub(super) fn place_tree(
        &self,
        folder: &Path,
        artifact: &Artifact,
        manifest: &[u8],
        read: &[(String, Hash)],
    ) -> Result<()> {
        let hash = artifact.hash;
        // Another stage may store an equal tree at the same time. The lock keeps check and rename together.
        let _lock = Lock::take(&self.root().join(format!("locks/{hash}.put")))?;
        if self.check(artifact, true)? == ObjectState::Present {
            return files::remove_dir(folder);
        }
        let place = self.artifact_path(artifact);
        // Whatever is at this path is not the tree, and a rename may not replace it.
        self.quarantine(artifact)?;
        files::rename_unsynced(folder, &place)?;
        // Sealed after the move, because a read-only folder cannot be moved.
        modes::seal_folders(&place)?;
        // The manifest is written last: without it the tree does not exist.
        let key = object_key(hash);
        let path = self.root().join(&key);
        files::write_unsynced(&path, manifest)?;
        modes::seal(&path, sealed_time(), false)?;
        self.remember_hash(&key, hash)?;
        read.iter().try_for_each(|(name, bytes)| self.remember_hash(&format!("{key}.tree/{name}"), *bytes))
    }

    /// Adds the hash of an object's bytes to the memo. The sealed time stamp is old, so every later edit changes the
    /// stamp.
    fn remember_hash(&self, key: &str, bytes: Hash) -> Result<()> {
        if let Some(metadata) = metadata_if_exists(&self.root().join(key))? {
            self.memo().put(key.to_string(), Stamp::of(&metadata), bytes);
        }
        Ok(())
    }
}

/// The folder of a tree in the store that holds the folder of another tree. `None` if that folder is in no store, or if its
/// store does not have the tree.
pub fn tree_beside(folder: &Path, hash: Hash) -> Option<PathBuf> {
    let folder = folder.canonicalize().ok()?;
    let objects = folder.parent()?.parent().filter(|objects| objects.ends_with("objects"))?;
    let found = objects.parent()?.join(format!("{}.tree", object_key(hash)));
    found.is_dir().then_some(found)
}

/// Whether the executable bit of an output counts. It counts only for outputs of kind `File`; outputs of other kinds
/// are data.
fn executable_counts(path: &Path, kind: ArtifactKind) -> Result<bool> {
    let metadata = fs::symlink_metadata(path).with_context(|| format!("cannot look at `{}`", path.display()))?;
    Ok(kind == ArtifactKind::File && modes::is_executable(&metadata))
}

/// Path of an object inside the store.
pub(super) fn object_key(hash: Hash) -> String {
    let digits = hash.to_string();
    format!("objects/{}/{}", &digits[..2], &digits[2..])
}

/// The modification time of every sealed object: one second after the epoch. An edit changes it.
pub(super) fn sealed_time() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1)
}
