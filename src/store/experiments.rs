//! The experiments that used a store: their files and their instances at the last run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Store;
use ablate_core::base::{Hash, files};

/// An experiment, identified by its name and its file. Files in different folders may have the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExperimentId {
    #[serde(rename = "experiment")]
    pub name: String,
    /// Relative to the parent folder of the store if the file is below it, so that both can be moved together; empty
    /// for an experiment without a file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
}

impl From<&str> for ExperimentId {
    /// An experiment without a file.
    fn from(name: &str) -> ExperimentId {
        ExperimentId { name: name.to_string(), file: String::new() }
    }
}

/// An experiment at its last run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExperimentEntry {
    #[serde(flatten)]
    pub id: ExperimentId,
    /// The machine of the last run.
    pub host: String,
    /// The folder with links to its outputs.
    pub out: Option<PathBuf>,
    /// Names of its instances.
    pub instances: BTreeSet<String>,
}

impl Store {
    /// The identity of an experiment in a file.
    pub fn experiment_id(&self, name: &str, file: &Path) -> ExperimentId {
        let file = std::fs::canonicalize(file).or_else(|_| std::path::absolute(file));
        let file = file.unwrap_or_default();
        let around = self.root().parent().and_then(|around| std::fs::canonicalize(around).ok());
        let inside = around.and_then(|around| file.strip_prefix(around).ok().map(Path::to_path_buf));
        ExperimentId { name: name.to_string(), file: inside.unwrap_or(file).to_string_lossy().into_owned() }
    }

    /// The path of an experiment's file.
    pub fn experiment_file(&self, id: &ExperimentId) -> PathBuf {
        self.root().parent().unwrap_or(Path::new("/")).join(&id.file)
    }

    /// Stores the current state of an experiment, unless it is unchanged.
    pub fn note_experiment(&self, entry: &ExperimentEntry) -> Result<()> {
        let path = self.experiment_path(&entry.id);
        let before = files::read_json::<ExperimentEntry>(&path).ok();
        if before.as_ref() == Some(entry) { Ok(()) } else { files::write_json(&path, entry) }
    }

    /// The stored entry of an experiment.
    pub fn experiment_entry(&self, id: &ExperimentId) -> Option<ExperimentEntry> {
        files::read_json(&self.experiment_path(id)).ok()
    }

    /// Every experiment that ran. Unreadable entries are left out, and `gc` keeps all results of those experiments.
    pub fn experiments(&self) -> Result<Vec<ExperimentEntry>> {
        self.read_experiments(&|name| !name.starts_with('.'))
    }

    fn read_experiments(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ExperimentEntry>> {
        let paths = files::list_paths(&self.root().join("experiments"))?;
        let paths = paths.iter().filter(|path| wanted(&files::name_of(path)));
        Ok(paths.filter_map(|path| files::read_json(path).ok()).collect())
    }

    /// Whether the file of an experiment was removed: its folder exists, the file does not. A missing folder may be
    /// an unmounted disk, and a file that is not below the store's parent folder may be on another machine.
    pub fn is_file_removed(&self, entry: &ExperimentEntry) -> bool {
        let file = self.experiment_file(&entry.id);
        let here = Path::new(&entry.id.file).is_relative() || entry.host == host();
        !entry.id.file.is_empty() && here && !file.exists() && file.parent().is_some_and(Path::is_dir)
    }

    /// The file of another experiment with the same name and the same folder of links, if that file still exists.
    pub fn experiment_sharing_links(&self, id: &ExperimentId, out: &Path) -> Option<PathBuf> {
        let out = std::path::absolute(out).ok();
        let same = |entry: &ExperimentEntry| entry.id.name == id.name && entry.id.file != id.file && entry.out == out;
        // Runs with nothing to do call this too, so it must not read ten thousand names of this experiment's
        // instances.
        let own = files::name_of(&self.experiment_path(id));
        let others = self.read_experiments(&|name| name != own && name.get(..10) == own.get(..10)).ok()?;
        let files = others.iter().filter(|entry| same(entry)).map(|entry| self.experiment_file(&entry.id));
        files.into_iter().find(|file| file.exists())
    }

    pub(super) fn forget_experiment(&self, id: &ExperimentId) -> Result<()> {
        let path = self.experiment_path(id);
        if path.exists() { files::remove_file(&path) } else { Ok(()) }
    }

    fn experiment_path(&self, id: &ExperimentId) -> PathBuf {
        let [name, file] = [&id.name, &id.file].map(|text| Hash::of_bytes(text.as_bytes()));
        self.root().join("experiments").join(format!("{}-{file}.json", name.short()))
    }
}

/// The host name of this machine.
pub fn host() -> String {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let read = || files::read_text(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default().trim().to_string();
    NAME.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::temp_store;

    #[test]
    fn experiment_is_identified_by_name_and_file() {
        let (folder, store) = temp_store();
        let [one, other] = ["a/study.toml", "b/study.toml"].map(|name| {
            let file = folder.path().join(name);
            files::write_unsynced(&file, b"").unwrap();
            let id = store.experiment_id("study", &file);
            assert_eq!(id.file, name);
            let out = Some(folder.path().join("out"));
            ExperimentEntry { id, host: "elsewhere".to_string(), out, instances: BTreeSet::new() }
        });
        store.note_experiment(&one).unwrap();
        let out = folder.path().join("out");
        assert_eq!(store.experiment_sharing_links(&other.id, &out), Some(folder.path().join("a/study.toml")));
        assert_eq!(store.experiment_sharing_links(&one.id, &out), None);
        assert_eq!(store.experiment_sharing_links(&other.id, &folder.path().join("elsewhere")), None);
        assert!(!store.is_file_removed(&one));
        files::remove_file(&folder.path().join("a/study.toml")).unwrap();
        assert!(store.is_file_removed(&one));
        assert_eq!(store.experiment_sharing_links(&other.id, &out), None);
        files::remove_dir(&folder.path().join("a")).unwrap();
        assert!(!store.is_file_removed(&one), "its disk may not be mounted");
        store.forget_experiment(&one.id).unwrap();
        assert_eq!(store.experiment_entry(&one.id), None);
    }
}
