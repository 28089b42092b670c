//! The requests to endpoints that an instance would send if it ran now.

use anyhow::Result;

use super::input_paths::{image_pack_paths, input_artifacts, input_paths};
use super::plan::{Plan, PlanState};
use ablate_core::base::Seed;
use ablate_core::stage::{EstimateContext, RequestEstimate};
use ablate_experiment::{Expansion, InstanceId};
use ablate_store::Store;

/// Estimates the requests of an instance that must run. `None` if it sends none, and if it cannot run yet.
pub fn estimate_requests(
    expansion: &Expansion,
    store: &Store,
    plan: &Plan,
    id: InstanceId,
    threads: usize,
) -> Result<Option<RequestEstimate>> {
    let (instance, entry) = (expansion.get(id), plan.get(id));
    let (PlanState::Dirty(_), Some(identity)) = (&entry.state, &entry.identity) else { return Ok(None) };
    let artifacts = input_artifacts(instance, &|index| plan.entries[index].record.as_ref());
    let context = EstimateContext {
        inputs: input_paths(instance, identity, &artifacts, store)?,
        images: image_pack_paths(&artifacts, store)?,
        seed: Seed(instance.seed),
        replies: store.replies_path(),
        threads,
    };
    instance.parsed()?.estimate_requests(&context)
}
