//! Syncs objects to disk, so that they survive a power cut.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Store;
use ablate_core::base::files;
use ablate_core::stage::Artifact;

/// Up to this many files are synced one by one.
const MAX_SINGLE_SYNCS: usize = 4;

impl Store {
    /// Syncs the objects of artifacts: their bytes, then the folder entries that lead to them.
    pub(super) fn fsync_objects(&self, artifacts: impl Iterator<Item = Artifact>) -> Result<()> {
        let mut found: BTreeSet<PathBuf> = BTreeSet::new();
        // Shard folders are created on demand, so the entries of `objects` are synced too.
        let mut folders = BTreeSet::from([self.root().join("objects")]);
        for artifact in artifacts {
            let path = self.object_path(artifact.hash);
            folders.extend(path.parent().map(Path::to_path_buf));
            found.insert(path);
            if artifact.tree {
                let tree = self.artifact_path(&artifact);
                for (_, file) in files::walk(&tree)? {
                    let above = file.ancestors().skip(1).take_while(|above| above.starts_with(&tree));
                    folders.extend(above.map(Path::to_path_buf));
                    found.insert(file);
                }
            }
        }
        // Each single sync waits for the disk once. Syncing the whole file system waits once, but may also write
        // other programs' data. One slow stage produces few files, a batch of fast stages many.
        if found.len() > MAX_SINGLE_SYNCS && files::sync_file_system(self.root())? {
            return Ok(());
        }
        found.iter().try_for_each(|file| files::sync_file(file))?;
        folders.iter().try_for_each(|folder| files::sync_dir(folder))
    }
}
