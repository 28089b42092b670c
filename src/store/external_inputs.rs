//! Hashes and lists external inputs: files and folders outside the store.
//!
//! A folder is identified by the relative paths, the bytes and the executable bits of its files, in the form of a
//! store's tree, so a folder and its copy in the store have the same hash. Links are followed and count as their
//! targets, as a stage reads them. Files that [`super::ignore_rules`] excludes and folders without files are left
//! out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::file_hasher::{FileHasher, metadata_if_exists};
use super::ignore_rules::{self, IgnoreRules};
use super::object::{Tree, TreeFile};
use super::{FORMAT_NAME, Store};
use ablate_core::base::hash::OnRead;
use ablate_core::base::{Hash, files};

impl Store {
    /// The content hash of an external file or folder, through the memo; `None` if it does not exist.
    pub fn hash_external(&self, path: &Path, on_read: OnRead) -> Result<Option<Hash>> {
        hash(&FileHasher::new(&self.memo, on_read), &absolute(path)?)
    }

    /// The hash of a file's bytes without its mode, through the memo; `None` if it does not exist.
    pub fn hash_external_bytes(&self, path: &Path) -> Result<Option<Hash>> {
        let path = absolute(path)?;
        let Some(metadata) = metadata_if_exists(&path)? else { return Ok(None) };
        let hasher = FileHasher::new(&self.memo, &|_| ());
        hasher.hash_bytes(&path.to_string_lossy(), &path, &metadata).map(|(hash, _)| Some(hash))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("`{}` is not a valid path", path.display()))
}

pub(super) fn hash(hasher: &FileHasher, path: &Path) -> Result<Option<Hash>> {
    let Some(metadata) = metadata_if_exists(path)? else { return Ok(None) };
    if !metadata.is_dir() {
        return hasher.hash_with_metadata(&path.to_string_lossy(), path, &metadata).map(|(hash, _)| Some(hash));
    }
    let hash = |(name, path): (String, PathBuf)| {
        let found = hasher.hash(&path.to_string_lossy(), &path)?;
        let (hash, size) = found.with_context(|| format!("`{}` was removed while it was read", path.display()))?;
        Ok((name, TreeFile { hash, size }))
    };
    let hashed = list_files(path)?.files.into_par_iter().map(hash).collect::<Result<Vec<_>>>()?;
    Ok(Some(Hash::of_bytes(&Tree { files: hashed.into_iter().collect() }.canonical_json())))
}

/// The files of an external folder.
#[derive(Debug, Default)]
pub struct FolderListing {
    /// Sorted relative paths with `/`, with links followed.
    pub files: Vec<(String, PathBuf)>,
    /// Whether an `.ablateignore` excluded a file.
    pub is_partial: bool,
}

/// Lists the files below a folder. Errors: something that is neither a file nor a folder, a link to nothing, a link
/// to a folder that contains the link, and a store.
pub fn list_files(folder: &Path) -> Result<FolderListing> {
    let mut found = FolderListing::default();
    let input = folder.to_path_buf();
    let mut rules = IgnoreRules::default();
    // Depth first; `ancestors` holds the folders that contain the current one.
    let mut ancestors = Vec::new();
    let mut pending = vec![(0, String::new(), folder.to_path_buf())];
    while let Some((depth, prefix, folder)) = pending.pop() {
        let metadata = fs::metadata(&folder).with_context(|| format!("cannot look at `{}`", folder.display()))?;
        let id = (metadata.dev(), metadata.ino());
        ancestors.truncate(depth);
        if ancestors.contains(&id) {
            bail!("`{}` is a link to a folder that contains it", folder.display());
        }
        ancestors.push(id);
        refuse_store(&folder, &input)?;
        rules.enter(depth, &folder)?;
        for (name, path, kind) in files::entries(&folder)? {
            // An editor's lock file is a dangling link. It is excluded before links are followed.
            let target = if kind.is_symlink() {
                metadata_if_exists(&path)?.map(|target| target.file_type())
            } else {
                Some(kind)
            };
            if rules.ignores(&path, target.is_some_and(|kind| kind.is_dir())) {
                found.is_partial |= rules.has_user_rules();
                continue;
            }
            let kind = target.with_context(|| format!("`{}` is a link to nothing", path.display()))?;
            let relative = format!("{prefix}{name}");
            if kind.is_dir() {
                pending.push((depth + 1, relative + "/", path));
            } else if kind.is_file() {
                found.files.push((relative, path));
            } else {
                bail!("`{}` is neither a file nor a folder", path.display());
            }
        }
    }
    found.files.par_sort_unstable();
    Ok(found)
}

/// A store changes with every run, so a stage that reads its own store would never be fresh.
fn refuse_store(folder: &Path, input: &Path) -> Result<()> {
    let format = fs::read(folder.join(FORMAT_NAME));
    if !format.is_ok_and(|text| text.starts_with(b"ablate store ")) {
        return Ok(());
    }
    let (store, input) = (folder.display(), input.display());
    bail!(
        "`{store}` is a store of ablate inside an input. Every run changes it, so the stage would always run again\nhelp: keep the store elsewhere with `--store`, or leave it out with a line in `{input}/{}`",
        ignore_rules::FILE_NAME
    )
}
