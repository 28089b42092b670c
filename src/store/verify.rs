//! `verify`: checks every object against its name and every record against its objects. Changes nothing unless asked
//! to quarantine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use rayon::prelude::*;
use serde::Serialize;

use super::{ObjectState, Replies, StageRecord, Store};
use ablate_core::base::Hash;
use ablate_core::stage::Artifact;

/// The result of a check of the whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    pub records: usize,
    pub objects: usize,
    pub bytes: u64,
    pub problems: Vec<Problem>,
}

/// One problem of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub path: PathBuf,
    pub what: String,
    /// Kind and fingerprint of the stages that must run again.
    pub producers: Vec<(String, Hash)>,
}

/// An artifact with the kinds and fingerprints of the stages that made it.
type Produced = (Artifact, Vec<(String, Hash)>);

impl Store {
    /// Reads every record and every object that a record names, ignoring the memo. With `quarantine`, damaged objects
    /// are moved to the quarantine and damaged records are removed. `step` is called with the number of objects read
    /// so far and the total.
    pub fn verify(&self, quarantine: bool, step: &(dyn Fn(usize, usize) + Sync)) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let mut artifacts: BTreeMap<Hash, Produced> = BTreeMap::new();
        let mut bases: BTreeMap<Hash, Artifact> = BTreeMap::new();
        let scan = self.records.scan()?;
        let damaged = |what: String| Problem { path: self.records.path().to_path_buf(), what, producers: Vec::new() };
        let in_line = |line: &usize| damaged(format!("the record in line {line} is damaged and ignored"));
        report.problems.extend(scan.damaged.iter().map(in_line));
        if quarantine && !scan.damaged.is_empty() {
            self.records.rewrite(&|_, _| true)?;
        }
        let replies = Replies::open(&self.replies_path());
        for line in replies.damaged_lines(quarantine)? {
            let what = format!("the reply in line {line} is damaged: it is requested again when a stage needs it");
            report.problems.push(Problem { path: replies.path().to_path_buf(), what, producers: Vec::new() });
        }
        for (fingerprint, text) in scan.entries {
            let Ok(record) = serde_json::from_str::<StageRecord>(&text) else {
                report.problems.push(damaged(format!("this program cannot read the record {}", fingerprint.short())));
                continue;
            };
            report.records += 1;
            for artifact in record.outputs.values() {
                let entry = artifacts.entry(artifact.hash).or_insert_with(|| (artifact.clone(), Vec::new()));
                entry.1.push((record.manifest.kind.clone(), fingerprint));
                bases.extend(artifact.with_bases().skip(1).map(|base| (base.hash, base)));
            }
        }
        // The record of a base may have been removed while an adapter still needs its object.
        for (hash, base) in bases {
            artifacts.entry(hash).or_insert_with(|| (base, Vec::new()));
        }
        self.memo().retain(|key| !key.starts_with("objects/"));
        let artifacts: Vec<Produced> = artifacts.into_values().collect();
        let (total, done) = (artifacts.len(), AtomicUsize::new(0));
        let check = |(artifact, _): &Produced| {
            let state = self.check(artifact, true)?;
            step(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Ok(state)
        };
        let states = artifacts.par_iter().map(check).collect::<Result<Vec<ObjectState>>>()?;
        for ((artifact, producers), state) in artifacts.into_iter().zip(states) {
            let what = match state {
                ObjectState::Present => {
                    report.objects += 1;
                    report.bytes += artifact.size;
                    let extra_files = if quarantine { Store::quarantine_extra_files } else { Store::extra_files };
                    for path in extra_files(self, &artifact)? {
                        let what = "is not part of the stored folder: it was added later".to_string();
                        report.problems.push(Problem { path, what, producers: Vec::new() });
                    }
                    continue;
                }
                ObjectState::Missing => "the object is missing",
                ObjectState::Corrupt => "the object's bytes do not match its name",
            };
            if quarantine && state == ObjectState::Corrupt {
                self.quarantine(&artifact)?;
            }
            report.problems.push(Problem { path: self.artifact_path(&artifact), what: what.to_string(), producers });
        }
        self.save_memo();
        Ok(report)
    }
}
