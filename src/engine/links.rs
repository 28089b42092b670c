//! Links that make outputs reachable by name: `<out>/<experiment>/<instance>/<output>` leads into the store.

use std::path::{Path, PathBuf};

use anyhow::Result;

use ablate_core::base::files;
use ablate_core::stage::Artifact;
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
            if self.is_correct(store, instance, name, artifact) {
                continue;
            }
            let link = self.folder.join(relative_path(instance, name));
            // A plain file in this place belongs to the user: it is renamed, not replaced.
            if link.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
                files::rename_unsynced(&link, &backup_path(&link))?;
            }
            files::symlink(&store.artifact_path(artifact), &link)?;
        }
        Ok(())
    }

    /// The stamp of the folder with the links of an instance; `None` if some links are in subfolders, which could
    /// change without changing the stamp.
    pub(super) fn stamp(&self, instance: &Instance) -> Option<Stamp> {
        let nested = instance.outputs.iter().any(|output| output.name.contains('/'));
        if nested { None } else { self.handle.as_ref()?.stat(&file_name(&instance.name)) }
    }

    fn is_correct(&self, store: &Store, instance: &Instance, name: &str, artifact: &Artifact) -> bool {
        let found = std::fs::read_link(self.folder.join(relative_path(instance, name)));
        found.is_ok_and(|found| found == store.artifact_path(artifact))
    }
}

fn relative_path(instance: &Instance, output: &str) -> String {
    let mut path = file_name(&instance.name);
    path.push('/');
    path.push_str(output);
    path
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
