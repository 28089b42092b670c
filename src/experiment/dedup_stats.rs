//! How many stage runs are saved because equal instances run once.

use std::collections::BTreeSet;

use super::instance::{Expansion, InstanceId, Upstream};
use ablate_core::base::Hash;

/// Bound on the graph walk. A longer walk would delay the output of `plan`.
const MAX_STEPS: usize = 50_000_000;

/// Counts of instances with and without deduplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupStats {
    /// Points of stages that no selected stage reads: the results.
    pub results: usize,
    /// Instances if every result ran separately with everything that it reads. `None` if the count exceeds
    /// [`MAX_STEPS`].
    pub without_dedup: Option<usize>,
    /// Instances when equal ones run once.
    pub with_dedup: usize,
}

impl Expansion {
    /// The statistics of the selected instances.
    pub fn dedup_stats(&self, selected: &BTreeSet<InstanceId>) -> DedupStats {
        let mut is_read = vec![false; self.instances.len()];
        for id in selected {
            for upstream in self.upstream_of(*id) {
                is_read[upstream.0] = true;
            }
        }
        let mut points = vec![1; self.instances.len()];
        for alias in self.aliases.values() {
            points[alias.instance.0] += 1;
        }
        let mut visited_from = vec![usize::MAX; self.instances.len()];
        let (mut results, mut without_dedup, mut steps) = (0, Some(0), 0);
        for id in selected.iter().filter(|id| !is_read[id.0]) {
            results += points[id.0];
            let (mut pending, mut size) = (vec![*id], 0);
            while let Some(next) = pending.pop().filter(|_| steps < MAX_STEPS) {
                if visited_from[next.0] == id.0 {
                    continue;
                }
                visited_from[next.0] = id.0;
                (size, steps) = (size + 1, steps + 1);
                pending.extend(self.upstream_of(next).filter(|upstream| selected.contains(upstream)));
            }
            without_dedup = without_dedup.filter(|_| steps < MAX_STEPS).map(|count| count + size * points[id.0]);
        }
        DedupStats { results, without_dedup, with_dedup: selected.len() }
    }

    /// A hash per instance that is equal for equal instances, also of different files, and that needs no run: of the
    /// identity, the seed, and the hashes of the instances that it reads. External inputs enter by name.
    pub fn static_hashes(&self) -> Vec<Hash> {
        let mut hashes: Vec<Hash> = Vec::with_capacity(self.instances.len());
        for instance in &self.instances {
            let mut text = format!("{}\n", &*instance.identity);
            if instance.kind.seeded {
                text.push_str(&format!("seed {}\n", instance.seed));
            }
            for input in &instance.inputs {
                let upstream = match &input.upstream {
                    // `instances` is in topological order, so the hash of an upstream instance is there.
                    Upstream::Output { instance, output, .. } => format!("{} {output}", hashes[instance.0]),
                    Upstream::External { path } => path.display().to_string(),
                    Upstream::Environment { name } => format!("${name}"),
                };
                text.push_str(&format!("{} {upstream}\n", input.role));
            }
            hashes.push(Hash::of_bytes(text.as_bytes()));
        }
        hashes
    }

    fn upstream_of(&self, id: InstanceId) -> impl Iterator<Item = InstanceId> {
        self.get(id).inputs.iter().filter_map(|input| match input.upstream {
            Upstream::Output { instance, .. } => Some(instance),
            Upstream::External { .. } | Upstream::Environment { .. } => None,
        })
    }
}
