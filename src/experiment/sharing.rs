//! What sharing saves: instances as they are, against every result made by itself. Runs nothing.

use std::collections::BTreeSet;

use super::instance::{Expansion, InstanceId, Upstream};
use ablate_core::base::Hash;

/// Walking further than this to count would take longer than people wait for a plan.
const MAX_STEPS: usize = 50_000_000;

/// How many instances there are, and would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Points of stages that no other stage reads: the results.
    pub points: usize,
    /// Instances if each of these points were made by itself, with everything above it. `None` when they are too many
    /// to count.
    pub alone: Option<usize>,
    /// Instances with equal ones made once.
    pub shared: usize,
}

impl Expansion {
    /// Counts what the selected instances share.
    pub fn sharing(&self, selected: &BTreeSet<InstanceId>) -> Sharing {
        let mut read = vec![false; self.instances.len()];
        for id in selected {
            for above in self.above(*id) {
                read[above.0] = true;
            }
        }
        let mut names = vec![1; self.instances.len()];
        for id in self.aliases.values() {
            names[id.0] += 1;
        }
        let mut seen = vec![usize::MAX; self.instances.len()];
        let (mut points, mut alone, mut steps) = (0, Some(0), 0);
        for id in selected.iter().filter(|id| !read[id.0]) {
            points += names[id.0];
            let (mut open, mut size) = (vec![*id], 0);
            while let Some(next) = open.pop().filter(|_| steps < MAX_STEPS) {
                if seen[next.0] == id.0 {
                    continue;
                }
                seen[next.0] = id.0;
                (size, steps) = (size + 1, steps + 1);
                open.extend(self.above(next).filter(|above| selected.contains(above)));
            }
            alone = alone.filter(|_| steps < MAX_STEPS).map(|alone| alone + size * names[id.0]);
        }
        Sharing { points, alone, shared: selected.len() }
    }

    /// What tells instances apart before anything has run, also those of other files: kind, values, seed, and the
    /// same of what they read; of files and variables from outside, their names.
    pub fn shapes(&self) -> Vec<Hash> {
        let mut shapes: Vec<Hash> = Vec::with_capacity(self.instances.len());
        for instance in &self.instances {
            let mut text = format!("{}\n", &*instance.identity);
            if instance.kind.seeded {
                text.push_str(&format!("seed {}\n", instance.seed));
            }
            for input in &instance.inputs {
                let upstream = match &input.upstream {
                    // An instance comes after what it reads.
                    Upstream::Output { instance, output, .. } => format!("{} {output}", shapes[instance.0]),
                    Upstream::Outside { path } => path.display().to_string(),
                    Upstream::Environment { name } => format!("${name}"),
                };
                text.push_str(&format!("{} {upstream}\n", input.role));
            }
            shapes.push(Hash::of_bytes(text.as_bytes()));
        }
        shapes
    }

    fn above(&self, id: InstanceId) -> impl Iterator<Item = InstanceId> {
        self.get(id).inputs.iter().filter_map(|input| match input.upstream {
            Upstream::Output { instance, .. } => Some(instance),
            Upstream::Outside { .. } | Upstream::Environment { .. } => None,
        })
    }
}
