//! Objects on their way between this store and a remote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::file_hasher::file_identity;
use super::object::sealed_time;
use super::{Lock, Store, Tree};
use ablate_core::base::{Hash, files, modes};
use ablate_core::stage::{Artifact, ArtifactKind};

/// A file that is part of an artifact, under the name that it has as an object: a file, the manifest of a tree, or a file of a
/// tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectFile {
    pub hash: Hash,
    pub size: u64,
    pub path: PathBuf,
}

/// What is known of a received file whose content matches its name.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedFile {
    /// Hash of the bytes.
    bytes: Hash,
    executable: bool,
}

/// A received file outside of the store's objects.
#[derive(Clone, Debug)]
pub struct ReceivedFile {
    pub path: PathBuf,
    pub verified: VerifiedFile,
    /// The number of files that it becomes. All but the last are copies.
    pub uses: usize,
}

impl ReceivedFile {
    /// Moves the file to a path, or copies it if it is used again.
    fn take(&mut self, path: &Path) -> Result<()> {
        self.uses = self.uses.saturating_sub(1);
        if self.uses == 0 { files::rename_unsynced(&self.path, path) } else { files::copy(&self.path, path) }
    }
}

/// Reads a received file. `None` if its content does not have the hash that its name states.
pub fn verify_received(path: &Path, hash: Hash) -> Result<Option<VerifiedFile>> {
    let bytes = Hash::of_file(path)?;
    let executable = file_identity(bytes, true) == hash;
    Ok((executable || bytes == hash).then_some(VerifiedFile { bytes, executable }))
}

impl Tree {
    /// Parses the manifest of a tree that was received. Names that lead out of the tree's folder are an error.
    pub fn parse(manifest: &[u8]) -> Result<Tree> {
        let tree: Tree = serde_json::from_slice(manifest).context("it is not the manifest of a folder")?;
        let is_plain = |name: &str| {
            !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
        };
        if let Some(name) = tree.files.keys().find(|name| !is_plain(name)) {
            bail!("it names the file `{name}`, which is outside of the folder");
        }
        Ok(tree)
    }
}

impl Store {
    /// The folder of interrupted transfers.
    pub fn transfers_path(&self) -> PathBuf {
        self.root().join("transfers")
    }

    /// Takes the lock of a transfer; `None` while another process holds it.
    pub fn lock_transfer(&self, name: &str) -> Result<Option<Lock>> {
        Lock::try_take(&self.root().join("locks").join(format!("{name}.transfer")))
    }

    /// The files of an artifact as objects, each once. The artifact must be in the store.
    pub fn object_files(&self, artifact: &Artifact) -> Result<BTreeSet<ObjectFile>> {
        let path = self.object_path(artifact.hash);
        let size = fs::metadata(&path).with_context(|| format!("cannot read `{}`", path.display()))?.len();
        let mut found = BTreeSet::from([ObjectFile { hash: artifact.hash, size, path }]);
        if artifact.tree {
            let folder = self.artifact_path(artifact);
            let mut named = BTreeSet::new();
            for (name, file) in self.tree(artifact.hash)?.files {
                if named.insert(file.hash) {
                    found.insert(ObjectFile { hash: file.hash, size: file.size, path: folder.join(name) });
                }
            }
        }
        Ok(found)
    }

    /// The image pack of a hash, which rows of an artifact name.
    pub fn image_pack(hash: Hash, size: u64) -> Artifact {
        Artifact { kind: ArtifactKind::Images, hash, tree: false, size, images: Vec::new(), bases: Vec::new() }
    }

    /// Moves a received file into the store. It is durable when [`Store::commit`] has returned for a record that names it.
    pub fn receive_file(&self, file: &mut ReceivedFile, artifact: &Artifact) -> Result<()> {
        let path = self.transfers_path().join(format!("{}.file", artifact.hash));
        file.take(&path)?;
        modes::seal(&path, sealed_time(), file.verified.executable)?;
        self.place_file(&path, artifact, file.verified.bytes, file.verified.executable)
    }

    /// Moves the received files of a tree into the store, as [`Store::receive_file`]. `received` has each file by its object.
    pub fn receive_tree(
        &self,
        tree: &Tree,
        received: &mut BTreeMap<Hash, ReceivedFile>,
        artifact: &Artifact,
    ) -> Result<()> {
        let manifest = tree.canonical_json();
        if Hash::of_bytes(&manifest) != artifact.hash || tree.size() != artifact.size {
            bail!("the manifest of the folder does not match its name");
        }
        let folder = self.transfers_path().join(format!("{}.tree", artifact.hash));
        files::remove_dir(&folder)?;
        files::create_dir(&folder)?;
        let mut read = Vec::new();
        for (name, file) in &tree.files {
            let found = received.get_mut(&file.hash).context("BUG: a file of the folder was not received")?;
            let place = folder.join(name);
            found.take(&place)?;
            modes::seal(&place, sealed_time(), found.verified.executable)?;
            read.push((name.clone(), found.verified.bytes));
        }
        self.place_tree(&folder, artifact, &manifest, &read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectState;
    use crate::tests::support::temp_store;

    /// Copies the files of an artifact, as a transfer does, into the other store.
    fn send(from: &Store, to: &Store, artifact: &Artifact) {
        let tree = if artifact.tree { from.tree(artifact.hash).unwrap() } else { Tree::default() };
        let mut received = BTreeMap::new();
        for file in from.object_files(artifact).unwrap() {
            let path = to.transfers_path().join(file.hash.to_string());
            files::write_unsynced(&path, &files::read_bytes(&file.path).unwrap()).unwrap();
            let verified = verify_received(&path, file.hash).unwrap().unwrap();
            let uses = tree.files.values().filter(|one| one.hash == file.hash).count().max(1);
            received.insert(file.hash, ReceivedFile { path, verified, uses });
        }
        if artifact.tree {
            let tree = Tree::parse(&files::read_bytes(&received[&artifact.hash].path).unwrap()).unwrap();
            to.receive_tree(&tree, &mut received, artifact).unwrap();
        } else {
            to.receive_file(received.get_mut(&artifact.hash).unwrap(), artifact).unwrap();
        }
    }

    #[test]
    fn received_artifacts_equal_those_that_were_sent() {
        let ((_a, from), (_b, to)) = (temp_store(), temp_store());
        let output = from.root().join("work/out");
        for (name, executable) in [("run.sh", true), ("deep/data", false), ("deep/copy", false)] {
            files::write_unsynced(&output.join(name), if executable { b"#!" } else { b"12" }).unwrap();
            modes::set_default(&output.join(name), executable).unwrap();
        }
        let tree = from.put(&output, ArtifactKind::File).unwrap();
        assert_eq!(from.object_files(&tree).unwrap().len(), 3, "manifest, program, and the data once");
        files::write_unsynced(&output, b"#!").unwrap();
        modes::set_default(&output, true).unwrap();
        let file = from.put(&output, ArtifactKind::File).unwrap();
        for artifact in [tree, file] {
            send(&from, &to, &artifact);
            assert_eq!(to.check(&artifact, true).unwrap(), ObjectState::Present);
            send(&from, &to, &artifact);
            assert_eq!(to.check(&artifact, true).unwrap(), ObjectState::Present);
        }
    }

    #[test]
    fn other_content_is_not_received() {
        let (_folder, store) = temp_store();
        let path = store.transfers_path().join("a");
        files::write_unsynced(&path, b"1").unwrap();
        assert!(verify_received(&path, Hash::of_bytes(b"1")).unwrap().is_some());
        assert!(verify_received(&path, Hash::of_bytes(b"2")).unwrap().is_none());
        for name in ["/etc/passwd", "../x", "a/../../x", ""] {
            let manifest = format!(r#"{{"files":{{"{name}":{{"hash":"{}","size":1}}}}}}"#, Hash::of_bytes(b""));
            let error = Tree::parse(manifest.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("outside of the folder"), "{error}");
        }
    }
}
