//! Links that make outputs reachable by name: `<out>/<experiment>/<instance>/<output>` leads into the store, to the
//! result of the last run. Also names the folder of the report, which is another one with `--set`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use ablate_core::base::{Hash, files};
use ablate_experiment::Instance;
use ablate_store::{FolderHandle, SlimRecord, Stamp, Store, file_name};

/// The longest name of a folder for overrides in bytes.
const MAX_NAME: usize = 200;

/// The folder with the report of an experiment: `<out>/<experiment>`, and with the overrides of `--set`
/// `<out>/<experiment>/set-<overrides>`, so that the report of a changed run does not replace that of the plain one. Different
/// overrides have different folders. Links to outputs are in the folder without overrides.
pub fn output_folder(out: &Path, experiment: &str, overrides: &[String]) -> PathBuf {
    let folder = out.join(file_name(experiment));
    if overrides.is_empty() {
        return folder;
    }
    let names: Vec<String> = overrides.iter().map(|text| file_name(text).replace('+', "%2b")).collect();
    let mut name = format!("set-{}", names.join("+"));
    if name.len() > MAX_NAME {
        let hash = Hash::of_bytes(overrides.join("\0").as_bytes()).short();
        // The name is ASCII.
        name.truncate(MAX_NAME - hash.len() - 1);
        name = format!("{name}~{hash}");
    }
    folder.join(name)
}

/// The links of one experiment.
pub(super) struct OutputLinks {
    folder: PathBuf,
    /// An open handle of the folder: reading the stamps of ten thousand links does not resolve the path each time.
    handle: Option<FolderHandle>,
}

impl OutputLinks {
    /// The links in a folder, see [`output_folder`].
    pub(super) fn new(folder: &Path) -> OutputLinks {
        OutputLinks { folder: folder.to_path_buf(), handle: FolderHandle::open(folder).ok() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_have_folders_of_their_own() {
        let folder = |overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
            output_folder(Path::new("out"), "study", &overrides).display().to_string()
        };
        assert_eq!(folder(&[]), "out/study");
        assert_eq!(folder(&["stage.dpo.beta=0.2"]), "out/study/set-stage.dpo.beta=0.2");
        assert_eq!(folder(&["a.b=1,2", "c.d=\"x/y\""]), "out/study/set-a.b=1,2+c.d=%22x%2fy%22");
        let long = "x".repeat(300);
        let pairs = [
            (vec!["a=1+b=2"], vec!["a=1", "b=2"]),
            (vec!["a=1%2bb=2"], vec!["a=1+b=2"]),
            (vec![&*long, "a=1"], vec![&*long, "a=2"]),
        ];
        for (one, other) in pairs {
            assert_ne!(folder(&one), folder(&other));
            assert!(folder(&one).len() <= "out/study/".len() + MAX_NAME);
        }
    }
}
