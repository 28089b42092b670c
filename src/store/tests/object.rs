//! Tests of storing, checking and replacing objects.

use std::fs;
use std::path::{Path, PathBuf};

use super::support::temp_store;
use crate::object::sealed_time;
use crate::{ObjectState, Store};
use ablate_core::base::{Hash, files, modes};
use ablate_core::stage::{Artifact, ArtifactKind};

fn put(store: &Store, name: &str, content: &[u8]) -> Artifact {
    let path = store.root().join("work").join(name);
    files::write_atomic(&path, content).unwrap();
    store.put(&path, ArtifactKind::Facts).unwrap()
}

fn put_checkpoint(store: &Store) -> Artifact {
    let folder = store.root().join("work/model");
    files::write_atomic(&folder.join("config.json"), b"{}").unwrap();
    files::write_atomic(&folder.join("deep/model.safetensors"), b"weights").unwrap();
    store.put(&folder, ArtifactKind::Checkpoint).unwrap()
}

/// Overwrites an object as a user could.
fn damage(path: &Path, content: &[u8]) {
    modes::make_folder_writable(path.parent().unwrap()).unwrap();
    files::remove_file(path).unwrap();
    files::write_atomic(path, content).unwrap();
}

#[test]
fn equal_content_is_stored_once() {
    let (_folder, store) = temp_store();
    let artifact = put(&store, "a", b"{}");
    assert_eq!((artifact.hash, artifact.size, artifact.tree), (Hash::of_bytes(b"{}"), 2, false));
    assert_eq!(put(&store, "b", b"{}"), artifact);
    let path = store.artifact_path(&artifact);
    assert!(fs::metadata(&path).unwrap().permissions().readonly());
    assert_eq!(store.check(&artifact, true).unwrap(), ObjectState::Present);
    assert_eq!(files::walk(&store.root().join("work")).unwrap(), []);
}

#[test]
fn tree_is_readable_as_a_folder() {
    let (_folder, store) = temp_store();
    let artifact = put_checkpoint(&store);
    assert!(artifact.tree);
    assert_eq!(artifact.size, 9);
    let folder = store.artifact_path(&artifact);
    assert_eq!(files::read_text(&folder.join("deep/model.safetensors")).unwrap(), "weights");
    assert_eq!(put_checkpoint(&store), artifact);
    assert_eq!(store.check(&artifact, true).unwrap(), ObjectState::Present);
    assert_eq!(store.tree(artifact.hash).unwrap().files.len(), 2);
}

#[test]
fn equal_trees_can_be_stored_concurrently() {
    let (_folder, store) = temp_store();
    for round in 0..20 {
        let content = format!("weights of {round}");
        let folders: Vec<PathBuf> = (0..4).map(|one| store.root().join(format!("work/{round}-{one}"))).collect();
        for folder in &folders {
            files::write_atomic(&folder.join("model.safetensors"), content.as_bytes()).unwrap();
        }
        std::thread::scope(|scope| {
            for folder in &folders {
                scope.spawn(|| {
                    let artifact = store.put(folder, ArtifactKind::Checkpoint).unwrap();
                    let file = store.artifact_path(&artifact).join("model.safetensors");
                    assert_eq!(files::read_text(&file).unwrap(), content);
                });
            }
        });
    }
    assert_eq!(files::walk(&store.root().join("quarantine")).unwrap_or_default(), []);
}

#[test]
fn damaged_object_is_replaced() {
    let (_folder, store) = temp_store();
    let artifact = put(&store, "a", b"good");
    let path = store.artifact_path(&artifact);
    damage(&path, b"evil");
    assert_eq!(store.check(&artifact, false).unwrap(), ObjectState::Corrupt);
    store.quarantine(&artifact).unwrap();
    assert_eq!(store.check(&artifact, false).unwrap(), ObjectState::Corrupt);
    put(&store, "a", b"good");
    assert_eq!(store.check(&artifact, true).unwrap(), ObjectState::Present);
    damage(&path, b"longer");
    put(&store, "a", b"good");
    assert_eq!(store.check(&artifact, true).unwrap(), ObjectState::Present);
    files::remove_file(&path).unwrap();
    let other = put(&store, "b", b"other");
    files::remove_file(&store.artifact_path(&other)).unwrap();
    assert_eq!(store.check(&other, false).unwrap(), ObjectState::Missing);
}

#[test]
fn thorough_check_ignores_time_stamps() {
    let (_folder, store) = temp_store();
    let artifact = put(&store, "a", b"good");
    let path = store.artifact_path(&artifact);
    damage(&path, b"evil");
    modes::seal(&path, sealed_time(), false).unwrap();
    assert_eq!(store.check(&artifact, false).unwrap(), ObjectState::Present);
    store.clear_memo();
    assert_eq!(store.check(&artifact, true).unwrap(), ObjectState::Corrupt);
}

#[test]
fn folders_and_links_at_an_objects_path_are_replaced() {
    let (_folder, store) = temp_store();
    let objects = [put(&store, "a", b"good"), put_checkpoint(&store)];
    let restore = |index: usize| if index == 0 { put(&store, "a", b"good") } else { put_checkpoint(&store) };
    for (index, artifact) in objects.iter().enumerate() {
        for path in [store.object_path(artifact.hash), store.artifact_path(artifact)] {
            for round in 0..4 {
                files::remove_dir(&path).or_else(|_| files::remove_file(&path)).unwrap();
                match round {
                    0 => files::write_atomic(&path.join("deep/file"), b"").unwrap(),
                    1 => files::symlink(&path, &path).unwrap(),
                    2 => files::symlink(Path::new("nowhere"), &path).unwrap(),
                    _ => files::write_atomic(&path, b"a file").unwrap(),
                }
                assert_ne!(store.check(artifact, true).unwrap(), ObjectState::Present);
                assert_eq!(restore(index), *artifact);
                assert_eq!(store.check(artifact, true).unwrap(), ObjectState::Present);
            }
        }
    }
}

#[test]
fn damaged_tree_is_replaced() {
    let (_folder, store) = temp_store();
    let artifact = put_checkpoint(&store);
    let weights = store.artifact_path(&artifact).join("deep/model.safetensors");
    damage(&weights, b"wEights");
    assert_eq!(store.check(&artifact, false).unwrap(), ObjectState::Corrupt);
    assert_eq!(put_checkpoint(&store), artifact);
    assert_eq!(store.check(&artifact, true).unwrap(), ObjectState::Present);
    files::remove_file(&weights).unwrap();
    assert_ne!(store.check(&artifact, false).unwrap(), ObjectState::Present);
}
