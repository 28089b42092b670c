//! Results by name: the note of an instance's last outcome, and links to its outputs. Knows no schedule.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::run::Outcome;
use ablate_core::base::files;
use ablate_core::stage::Artifact;
use ablate_experiment::Instance;
use ablate_store::{ExperimentId, FolderHandle, LatestNote, SlimRecord, Stamp, Store, file_name};

/// What is to be noted of an instance's outcome; `None` where that is known already.
pub(super) fn note(
    store: &Store,
    experiment: &ExperimentId,
    instance: &Instance,
    record: Option<&SlimRecord>,
    outcome: &Outcome,
    log: &Path,
) -> Option<LatestNote> {
    if record.is_none() && *outcome == Outcome::Fresh {
        return None;
    }
    let known = store.latest(experiment, &instance.name);
    let inside = log.strip_prefix(store.root()).unwrap_or(log).to_string_lossy().into_owned();
    let note = match (record, outcome) {
        (Some(record), Outcome::Ran | Outcome::Fresh) => {
            let (fingerprint, log) = (Some(record.fingerprint), Some(record.log.clone()));
            LatestNote { fingerprint, log, failed: false, causes: Vec::new() }
        }
        (_, Outcome::Failed(failure)) if failure.log.is_some() => {
            let (log, causes) = (Some(inside), failure.causes.chain.clone());
            LatestNote { log, failed: true, causes, ..known.clone() }
        }
        (_, Outcome::Interrupted) if log.exists() => LatestNote { log: Some(inside), ..known.clone() },
        _ => return None,
    };
    (note != known).then_some(note)
}

/// The folder in which the outputs of an experiment can be reached by name, as `<instance>/<output>`, so that nobody
/// has to read hashes.
pub(super) struct Links {
    folder: PathBuf,
    /// Opened once: a look at ten thousand links need not walk the way to the folder each time.
    handle: Option<FolderHandle>,
}

impl Links {
    pub(super) fn new(out: &Path, experiment: &str) -> Links {
        let folder = out.join(file_name(experiment));
        let handle = FolderHandle::open(&folder).ok();
        Links { folder, handle }
    }

    /// Links an instance's outputs. Writes only what is not so already.
    pub(super) fn make(&self, store: &Store, instance: &Instance, record: &SlimRecord) -> Result<()> {
        for (name, artifact) in record.outputs.iter() {
            if self.leads_to(store, instance, name, artifact) {
                continue;
            }
            let link = self.folder.join(place(instance, name));
            // A file of the user's own in the place of the link is not ours to take away.
            if link.symlink_metadata().is_ok_and(|found| !found.is_symlink()) {
                files::rename_unsynced(&link, &aside(&link))?;
            }
            files::symlink(&store.artifact_path(artifact), &link)?;
        }
        Ok(())
    }

    /// What the folder of an instance's links looks like; `None` where links lie deeper, and could change without it.
    pub(super) fn look(&self, instance: &Instance) -> Option<Stamp> {
        let deep = instance.outputs.iter().any(|output| output.name.contains('/'));
        if deep { None } else { self.handle.as_ref()?.stat(&file_name(&instance.name)) }
    }

    /// Whether the link of an output is the one that it should be.
    fn leads_to(&self, store: &Store, instance: &Instance, name: &str, artifact: &Artifact) -> bool {
        let found = std::fs::read_link(self.folder.join(place(instance, name)));
        found.is_ok_and(|found| found == store.artifact_path(artifact))
    }
}

fn place(instance: &Instance, output: &str) -> String {
    let mut place = file_name(&instance.name);
    place.push('/');
    place.push_str(output);
    place
}

/// Where a file that somebody put into the place of a link goes: a name that is free.
fn aside(link: &Path) -> PathBuf {
    let named = |number: u32| {
        let mut name = link.as_os_str().to_os_string();
        name.push(if number == 1 { ".edited".to_string() } else { format!(".edited-{number}") });
        PathBuf::from(name)
    };
    (1..1000).map(named).find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| named(1000))
}
