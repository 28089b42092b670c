//! Results by name: the note of an instance's last outcome, and links to its outputs. Knows no schedule.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::run::Outcome;
use crate::base::files;
use crate::experiment::Instance;
use crate::store::{Committed, LatestNote, Store, file_name};

/// What is to be noted of an instance's outcome; `None` where that is known already.
pub(super) fn note(
    store: &Store,
    experiment: &str,
    instance: &Instance,
    record: Option<&Committed>,
    outcome: &Outcome,
    log: &Path,
) -> Option<LatestNote> {
    let known = store.latest(experiment, &instance.name);
    let inside = log.strip_prefix(store.root()).unwrap_or(log).to_string_lossy().into_owned();
    let note = match (record, outcome) {
        (Some(record), Outcome::Ran | Outcome::Fresh) => LatestNote {
            fingerprint: Some(record.fingerprint),
            log: Some(record.provenance.log.clone()),
            failed: false,
        },
        (_, Outcome::Failed(failure)) if failure.log.is_some() => {
            LatestNote { log: Some(inside), failed: true, ..known.clone() }
        }
        (_, Outcome::Interrupted) if log.exists() => LatestNote { log: Some(inside), ..known.clone() },
        _ => return None,
    };
    (note != known).then_some(note)
}

/// Links an instance's outputs as `<out>/<experiment>/<instance>/<output>`, so that nobody has to read hashes. Writes
/// only what is not so already.
pub(super) fn link(store: &Store, experiment: &str, instance: &Instance, record: &Committed, out: &Path) -> Result<()> {
    let folder = out.join(file_name(experiment)).join(file_name(&instance.name));
    for (name, artifact) in &record.outputs {
        let target: PathBuf = store.artifact_path(artifact);
        let link = folder.join(name);
        if std::fs::read_link(&link).ok().as_ref() != Some(&target) {
            files::relink(&target, &link)?;
        }
    }
    Ok(())
}
