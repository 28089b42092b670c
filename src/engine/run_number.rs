//! Numbers of runs. They are counted in the store and never given twice, so they stay the same when old runs are removed.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Deserialize;

use super::run_folder::report_path;
use ablate_core::base::files;
use ablate_store::Store;

/// The part of `run.json` that has the number.
#[derive(Deserialize)]
struct Numbered {
    #[serde(default)]
    number: Option<u64>,
}

/// The next number. The counter is a file next to the runs; without it, counting goes on after the existing runs.
pub(super) fn take_number(store: &Store) -> Result<u64> {
    let _lock = store.lock_run_number()?;
    let path = store.run_number_path();
    let last = files::read_text(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let last = match last {
        Some(last) => last,
        None => numbers(store)?.into_values().max().unwrap_or(0),
    };
    let next = last.saturating_add(1);
    files::write_private(&path, format!("{next}\n").as_bytes())?;
    Ok(next)
}

/// The runs of the store by name, with their numbers. A run of an earlier version has no number of its own: its place
/// among the runs is used.
pub(super) fn numbers(store: &Store) -> Result<BTreeMap<String, u64>> {
    let names = files::list_names(&store.runs_path())?;
    Ok((1..).zip(names).map(|(place, name)| (name.clone(), stored_number(store, &name).unwrap_or(place))).collect())
}

fn stored_number(store: &Store, run: &str) -> Option<u64> {
    files::read_json::<Numbered>(&report_path(&store.runs_path().join(run))).ok()?.number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_when_runs_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let write = |run: &str, text: &str| {
            files::write_unsynced(&report_path(&store.runs_path().join(run)), text.as_bytes()).unwrap();
        };
        // Two runs of an earlier version.
        write("20250101T000000.000Z-aaaaaa", "{}");
        write("20250102T000000.000Z-bbbbbb", "{}");
        assert_eq!(take_number(&store).unwrap(), 3);
        write("20250103T000000.000Z-cccccc", r#"{"number": 3}"#);
        files::remove_dir(&store.runs_path().join("20250101T000000.000Z-aaaaaa")).unwrap();
        assert_eq!(take_number(&store).unwrap(), 4);
        assert_eq!(numbers(&store).unwrap()["20250103T000000.000Z-cccccc"], 3);
        // The counter was removed.
        files::remove_file(&store.run_number_path()).unwrap();
        write("20250104T000000.000Z-dddddd", r#"{"number": 7}"#);
        assert_eq!(take_number(&store).unwrap(), 8);
    }
}
