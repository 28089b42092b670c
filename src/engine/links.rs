//! Links that make outputs reachable by name: `<out>/<experiment>/<instance>/<output>` leads into the store.

use std::path::{Path, PathBuf};

use anyhow::Result;

use ablate_core::base::files;
use ablate_experiment::Instance;
use ablate_store::{FolderHandle, SlimRecord, Stamp, Store, file_name};

/// The links of one experiment.
pub(super) struct OutputLinks {
    folder: PathBuf,
    /// An open handle of the folder: reading the stamps of ten thousand links does not resolve the path each time.
    handle: Option<FolderHandle>,
}

impl OutputLinks {
    pub(super) fn new(out: &Path, experiment: &str) -> OutputLinks {
        let folder = out.join(file_name(experiment));
        let handle = FolderHandle::open(&folder).ok();
        OutputLinks { folder, handle }
    }

    /// Links the outputs of an instance. Correct links are not written again.
    pub(super) fn write(&self, store: &Store, instance: &Instance, record: &SlimRecord) -> Result<()> {
        for (name, artifact) in record.outputs.iter() {
            let link = self.folder.join(file_name(&instance.name)).join(name);
            let target = store.artifact_path(artifact);
            if std::fs::read_link(&link).is_ok_and(|found| found == target) {
                continue;
            }
            // A plain file in this place belongs to the user: it is renamed, not replaced.
            if link.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
                files::rename_unsynced(&link, &backup_path(&link))?;
            }
            files::symlink(&target, &link)?;
        }
        Ok(())
    }

    /// The stamp of the folder with the links of an instance; `None` if some links are in subfolders, which could
    /// change without changing the stamp.
    pub(super) fn stamp(&self, instance: &Instance) -> Option<Stamp> {
        let nested = instance.outputs.iter().any(|output| output.name.contains('/'));
        if nested { None } else { self.handle.as_ref()?.stat(&file_name(&instance.name)) }
    }
}

/// A free name for a user's file that is in the place of a link.
fn backup_path(link: &Path) -> PathBuf {
    let named = |number: u32| {
        let mut name = link.as_os_str().to_os_string();
        name.push(if number == 1 { ".edited".to_string() } else { format!(".edited-{number}") });
        PathBuf::from(name)
    };
    (1..1000).map(named).find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| named(1000))
}
