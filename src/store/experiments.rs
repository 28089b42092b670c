//! Experiments that have used a store: where the file of each is, and which instances it has by now. Knows no stage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Store;
use ablate_core::base::{Hash, files};

/// An experiment by its name and its file: two files in two folders may have one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExperimentId {
    #[serde(rename = "experiment")]
    pub name: String,
    /// Relative to the folder of the store where it lies below that, so that both can move together; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
}

impl From<&str> for ExperimentId {
    /// An experiment without a file.
    fn from(name: &str) -> ExperimentId {
        ExperimentId { name: name.to_string(), file: String::new() }
    }
}

/// How an experiment was when it ran last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownExperiment {
    #[serde(flatten)]
    pub id: ExperimentId,
    /// The machine on which it ran.
    pub host: String,
    /// The folder of its links.
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

    /// Where the file of an experiment is.
    pub fn experiment_file(&self, id: &ExperimentId) -> PathBuf {
        self.root().parent().unwrap_or(Path::new("/")).join(&id.file)
    }

    /// Notes how an experiment is now. Writes nothing where that is known.
    pub fn note_experiment(&self, known: &KnownExperiment) -> Result<()> {
        let path = self.experiment_path(&known.id);
        let before = files::read_json::<KnownExperiment>(&path).ok();
        if before.as_ref() == Some(known) { Ok(()) } else { files::write_json(&path, known) }
    }

    /// How an experiment was when it ran last.
    pub fn known_experiment(&self, id: &ExperimentId) -> Option<KnownExperiment> {
        files::read_json(&self.experiment_path(id)).ok()
    }

    /// Every experiment that ran. One that cannot be read is left out: nothing of it is forgotten then.
    pub fn experiments(&self) -> Result<Vec<KnownExperiment>> {
        self.read_experiments(&|name| !name.starts_with('.'))
    }

    fn read_experiments(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<KnownExperiment>> {
        let paths = files::paths_if_there(&self.root().join("experiments"))?;
        let paths = paths.iter().filter(|path| wanted(&files::name_of(path)));
        Ok(paths.filter_map(|path| files::read_json(path).ok()).collect())
    }

    /// Whether the file of an experiment was removed: its folder is there, and it is not. A folder that is not there may
    /// be a disk that is not mounted, and a file outside of the store's folder may be on another machine.
    pub fn is_gone(&self, known: &KnownExperiment) -> bool {
        let file = self.experiment_file(&known.id);
        let here = Path::new(&known.id.file).is_relative() || known.host == host();
        !known.id.file.is_empty() && here && !file.exists() && file.parent().is_some_and(Path::is_dir)
    }

    /// The other experiment of this name, in another file that is still there, whose links are in the same folder.
    pub fn with_the_same_links(&self, id: &ExperimentId, out: &Path) -> Option<PathBuf> {
        let out = std::path::absolute(out).ok();
        let same = |known: &KnownExperiment| known.id.name == id.name && known.id.file != id.file && known.out == out;
        // An idle run asks this too: it must not read ten thousand names of its own instances.
        let own = files::name_of(&self.experiment_path(id));
        let known = self.read_experiments(&|name| name != own && name.get(..10) == own.get(..10)).ok()?;
        let files = known.iter().filter(|known| same(known)).map(|known| self.experiment_file(&known.id));
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

/// Name of this machine.
pub fn host() -> String {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let read = || files::read_text(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default().trim().to_string();
    NAME.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_is_known_by_name_and_file_and_gone_when_its_file_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let [one, other] = ["a/study.toml", "b/study.toml"].map(|name| {
            let file = folder.path().join(name);
            files::write_soft(&file, b"").unwrap();
            let id = store.experiment_id("study", &file);
            assert_eq!(id.file, name);
            let out = Some(folder.path().join("out"));
            KnownExperiment { id, host: "elsewhere".to_string(), out, instances: BTreeSet::new() }
        });
        store.note_experiment(&one).unwrap();
        let out = folder.path().join("out");
        assert_eq!(store.with_the_same_links(&other.id, &out), Some(folder.path().join("a/study.toml")));
        assert_eq!(store.with_the_same_links(&one.id, &out), None);
        assert_eq!(store.with_the_same_links(&other.id, &folder.path().join("elsewhere")), None);
        assert!(!store.is_gone(&one));
        files::remove_file(&folder.path().join("a/study.toml")).unwrap();
        assert!(store.is_gone(&one));
        assert_eq!(store.with_the_same_links(&other.id, &out), None);
        files::remove_dir(&folder.path().join("a")).unwrap();
        assert!(!store.is_gone(&one), "its disk may not be mounted");
        store.forget_experiment(&one.id).unwrap();
        assert_eq!(store.known_experiment(&one.id), None);
    }
}
