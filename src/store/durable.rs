//! What makes objects outlive a power cut. Knows no record.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Store;
use ablate_core::base::files;
use ablate_core::stage::Artifact;

/// So many files are synced one by one.
const FEW: usize = 4;

impl Store {
    /// Brings the objects of artifacts to the disk: their bytes, then the entries that lead to them.
    pub(super) fn make_durable<'a>(&self, artifacts: impl Iterator<Item = &'a Artifact>) -> Result<()> {
        let mut found: BTreeSet<PathBuf> = BTreeSet::new();
        // Shards are made as they are needed: their own entries too.
        let mut folders = BTreeSet::from([self.root().join("objects")]);
        for artifact in artifacts {
            let path = self.object_path(artifact.hash);
            folders.extend(path.parent().map(Path::to_path_buf));
            found.insert(path);
            if artifact.tree {
                let tree = self.artifact_path(artifact);
                for (_, file) in files::walk(&tree)? {
                    let above = file.ancestors().skip(1).take_while(|above| above.starts_with(&tree));
                    folders.extend(above.map(Path::to_path_buf));
                    found.insert(file);
                }
            }
        }
        // Many files one by one cost a turn of the disk each; all at once may cost what others have written. Few are
        // what a slow stage gives, many what a row of fast ones does.
        if found.len() > FEW && files::sync_file_system(self.root())? {
            return Ok(());
        }
        found.iter().try_for_each(|file| files::sync_file(file))?;
        folders.iter().try_for_each(|folder| files::sync_dir(folder))
    }
}
