//! Sorts stages topologically: each stage comes after the stages that it reads.

use std::collections::BTreeMap;

use ablate_core::base::{Diagnostic, Span};

/// Per stage: the stages that it reads, each with the place of the reference.
pub(crate) type Reads = Vec<BTreeMap<usize, Span>>;

/// The state of a stage in the depth-first search.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    /// On the current path.
    Open,
    Done,
}

/// The topological order of all stages, stable in their given order, and the members of each cycle with a diagnostic.
pub(crate) fn toposort(names: &[&str], reads: &Reads) -> (Vec<usize>, Vec<(Vec<usize>, Diagnostic)>) {
    let mut marks = vec![Mark::New; reads.len()];
    let mut order = Vec::with_capacity(reads.len());
    let mut cycles = Vec::new();
    for start in 0..reads.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        // An explicit stack: a file may hold a chain of stages that is too long for recursion.
        let mut path = vec![(start, reads[start].keys())];
        while let Some((stage, rest)) = path.last_mut() {
            let stage = *stage;
            let Some(next) = rest.next().copied() else {
                marks[stage] = Mark::Done;
                order.push(stage);
                path.pop();
                continue;
            };
            match marks[next] {
                Mark::Done => {}
                Mark::New => {
                    marks[next] = Mark::Open;
                    path.push((next, reads[next].keys()));
                }
                Mark::Open => {
                    let from = path.iter().position(|(open, _)| *open == next).unwrap_or(0);
                    let cycle: Vec<usize> = path[from..].iter().map(|(open, _)| *open).collect();
                    let diagnostic = describe(&cycle, names, reads);
                    cycles.push((cycle, diagnostic));
                }
            }
        }
    }
    (order, cycles)
}

fn describe(cycle: &[usize], names: &[&str], reads: &Reads) -> Diagnostic {
    let path: Vec<&str> = cycle.iter().chain(cycle.first()).map(|stage| names[*stage]).collect();
    let mut diagnostic = Diagnostic::error(format!("stages read each other in a circle: `{}`", path.join(" -> ")));
    // The first eight places are enough: a longer cycle comes from a generated file.
    for (index, stage) in cycle.iter().enumerate().take(8) {
        let next = cycle[(index + 1) % cycle.len()];
        if let Some(span) = reads[*stage].get(&next) {
            diagnostic = diagnostic.at(span.clone(), format!("`{}` reads `{}`", names[*stage], names[next]));
        }
    }
    diagnostic
}
