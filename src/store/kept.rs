//! What `gc` leaves alone: results that an experiment came to last, pinned ones, those of recent runs, and work that
//! was interrupted a short time ago. Removes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;

use super::Store;
use crate::base::{Hash, files};

/// How much `gc` leaves.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Results of so many of the latest runs stay.
    pub runs: usize,
    /// Interrupted work stays until nothing was written to it for so long.
    pub interrupted: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { runs: 10, interrupted: Duration::from_secs(14 * 24 * 3600) }
    }
}

/// What must stay: these records with the objects that they name, and the work of these stages.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub records: BTreeSet<Hash>,
    pub interrupted: BTreeSet<Hash>,
}

/// The part of a run's record that matters here.
#[derive(Deserialize)]
struct RunFile {
    instances: Vec<RunLine>,
}

#[derive(Deserialize)]
struct RunLine {
    fingerprint: Option<Hash>,
}

impl Store {
    /// The records that any experiment came to last, those that are pinned, and those of the last runs.
    pub fn kept(&self, rules: &Rules) -> Result<Kept> {
        let mut records = self.noted()?;
        records.extend(self.pins()?.into_iter().flat_map(|pin| pin.fingerprints));
        for run in files::list_if_there(&self.runs_path())?.iter().rev().take(rules.runs) {
            if let Ok(run) = files::read_json::<RunFile>(&self.runs_path().join(run).join("run.json")) {
                records.extend(run.instances.iter().filter_map(|line| line.fingerprint));
            }
        }
        let recent = self.interrupted()?.into_iter().filter(|one| one.age < rules.interrupted.as_secs());
        Ok(Kept { records, interrupted: recent.map(|one| one.fingerprint).collect() })
    }
}
