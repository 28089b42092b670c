//! Notes of experiments in the store, from which `gc` learns what they need.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use ablate_experiment::Expansion;
use ablate_store::{ExperimentEntry, ExperimentId, Store, host};

/// Notes the instances of the experiment for `gc`. With `adds`, the instances noted before stay. Without `out`, the folder noted before
/// stays.
pub(super) fn note_experiment(
    id: &ExperimentId,
    expansion: &Expansion,
    store: &Store,
    adds: bool,
    out: Option<&Path>,
) -> Result<()> {
    let mut instances: BTreeSet<String> = expansion.instances.iter().map(|instance| instance.name.clone()).collect();
    let known = store.experiment_entry(id);
    if adds {
        instances.extend(known.iter().flat_map(|known| known.instances.iter().cloned()));
    }
    let out = out.and_then(|out| std::path::absolute(out).ok()).or_else(|| known.and_then(|known| known.out));
    store.note_experiment(&ExperimentEntry { id: id.clone(), host: host(), out, instances })
}
