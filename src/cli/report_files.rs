//! The files of a report: the tables in several formats, and the event files of TensorBoard.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use ablate_core::base::files;
use ablate_report::{EVENT_FILE, Report};
use ablate_store::file_name;

/// The folder of the event files, one subfolder per training instance: `tensorboard --logdir` shows each as a run.
const TENSORBOARD: &str = "tensorboard";

/// Writes all files of a report into a folder.
pub(super) fn write(report: &Report, folder: &Path) -> Result<()> {
    let texts = [
        ("report.html", report.html()),
        ("report.md", report.markdown()),
        ("report.json", report.json()),
        ("report.csv", report.csv()),
        ("contrasts.csv", report.contrasts_csv()),
        ("report.tex", report.latex()),
    ];
    for (name, text) in texts {
        files::write_atomic(&folder.join(name), text.as_bytes())?;
    }
    write_event_files(report, &folder.join(TENSORBOARD))
}

/// Writes the event files that changed, and removes those of instances that the report does not have: TensorBoard would show
/// them.
fn write_event_files(report: &Report, folder: &Path) -> Result<()> {
    let mut runs = BTreeSet::new();
    for (instance, bytes) in report.event_files() {
        let run = file_name(instance);
        let path = folder.join(&run).join(EVENT_FILE);
        if std::fs::read(&path).map_or(true, |known| known != bytes) {
            files::write_unsynced(&path, &bytes)?;
        }
        runs.insert(run);
    }
    let outdated: Vec<_> = files::list_names(folder)?.into_iter().filter(|name| !runs.contains(name)).collect();
    for file in outdated.iter().map(|name| folder.join(name).join(EVENT_FILE)).filter(|file| file.is_file()) {
        files::remove_file(&file)?;
        files::remove_empty_dirs(folder)?;
    }
    Ok(())
}
