//! What `gc` leaves alone: the present results of experiments, pinned ones, those of recent runs, and work that was
//! interrupted a short time ago. Removes nothing but what it is told to forget.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{ExperimentId, KnownExperiment, Store};
use ablate_core::base::{Hash, files};

/// How much `gc` leaves.
#[derive(Clone, Copy, Debug)]
pub struct GcRules {
    /// Results of so many of the latest runs stay.
    pub runs: usize,
    /// Interrupted work stays until nothing was written to it for so long.
    pub interrupted: Duration,
    /// Results that were neither made nor asked for within this time go.
    pub age: Option<Duration>,
    /// The oldest results go until all that stay take no more bytes.
    pub size: Option<u64>,
}

impl Default for GcRules {
    fn default() -> GcRules {
        GcRules { runs: 10, interrupted: Duration::from_secs(14 * 24 * 3600), age: None, size: None }
    }
}

/// What must stay: these records with the objects that they name, and the work of these stages.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub records: BTreeSet<Hash>,
    pub interrupted: BTreeSet<Hash>,
    /// Instances that their experiment has no more, by its present file: their names go too.
    pub forgotten: BTreeSet<(ExperimentId, String)>,
    /// Experiments whose file was removed.
    pub gone: BTreeSet<ExperimentId>,
}

/// What was forgotten at somebody's wish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    pub instances: Vec<String>,
    /// Results that count as never made from now on.
    pub records: usize,
    /// Results that stay, because a pin or another instance needs them.
    pub kept: usize,
}

/// The part of a run's record that matters here.
#[derive(Deserialize)]
pub(super) struct RunFile {
    /// RFC 3339, UTC.
    #[serde(default)]
    pub(super) started: String,
    pub(super) instances: Vec<RunLine>,
}

#[derive(Deserialize)]
pub(super) struct RunLine {
    pub(super) fingerprint: Option<Hash>,
}

impl Store {
    /// The records of experiments as they are now, those that are pinned, and those of the last runs, within the limits.
    pub fn kept(&self, rules: &GcRules) -> Result<Kept> {
        let mut kept = Kept::default();
        let known: BTreeMap<ExperimentId, KnownExperiment> =
            self.experiments()?.into_iter().map(|known| (known.id.clone(), known)).collect();
        kept.gone = known.values().filter(|known| self.is_gone(known)).map(|known| known.id.clone()).collect();
        for (id, instance, fingerprint) in self.noted()? {
            // An experiment that nobody has noted may have every instance.
            let has = known.get(&id).is_none_or(|known| known.instances.contains(&instance));
            if has && !kept.gone.contains(&id) {
                kept.records.extend(fingerprint);
            } else {
                kept.forgotten.insert((id, instance));
            }
        }
        for run in self.latest_runs(rules.runs)? {
            kept.records.extend(run.instances.iter().filter_map(|line| line.fingerprint));
        }
        let pinned: BTreeSet<Hash> = self.pins()?.into_iter().flat_map(|pin| pin.fingerprints).collect();
        self.limit(&mut kept.records, &pinned, rules)?;
        kept.records.extend(pinned);
        let recent = self.interrupted()?.into_iter().filter(|one| one.age < rules.interrupted.as_secs());
        kept.interrupted = recent.map(|one| one.fingerprint).collect();
        Ok(kept)
    }

    /// Forgets instances and their results. What a pin or another instance needs stays; objects stay until `gc`.
    pub fn forget_results(&self, chosen: &dyn Fn(&ExperimentId, &str) -> bool) -> Result<Forgotten> {
        let _alone = self.take_alone()?;
        let mut forgotten = Forgotten::default();
        let (mut dropped, mut needed) = (BTreeSet::new(), BTreeSet::new());
        needed.extend(self.pins()?.into_iter().flat_map(|pin| pin.fingerprints));
        for (id, instance, fingerprint) in self.noted()? {
            if chosen(&id, &instance) {
                dropped.extend(fingerprint);
                forgotten.instances.push(instance);
            } else {
                needed.extend(fingerprint);
            }
        }
        forgotten.kept = dropped.intersection(&needed).count();
        forgotten.records = dropped.len() - forgotten.kept;
        let records: BTreeSet<Hash> = self.fingerprints()?.into_iter().collect();
        self.keep_records(&records.into_iter().filter(|one| needed.contains(one) || !dropped.contains(one)).collect())?;
        self.keep_notes(&|id, instance| !chosen(id, instance))?;
        Ok(forgotten)
    }

    /// The records of the latest runs, the latest first; all of them where `count` is beyond their number.
    pub(super) fn latest_runs(&self, count: usize) -> Result<Vec<RunFile>> {
        let names = files::list_if_there(&self.runs_path())?;
        let runs = names.iter().rev().take(count);
        Ok(runs.filter_map(|run| files::read_json(&self.runs_path().join(run).join("run.json")).ok()).collect())
    }
}
