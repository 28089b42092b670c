//! The order in which stages can be expanded: each after the stages that it reads. Knows indices and names only.

use std::collections::BTreeMap;

use ablate_core::base::{Diagnostic, Span};

/// What each stage reads: index of the other stage to the place that says so.
pub(crate) type Reads = Vec<BTreeMap<usize, Span>>;

/// A stage's state in the walk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    /// On the path from where the walk began.
    Open,
    Done,
}

/// All stages, each after those it reads, otherwise in their order; and one diagnostic per cycle.
pub(crate) fn order(names: &[&str], reads: &Reads) -> (Vec<usize>, Vec<(Vec<usize>, Diagnostic)>) {
    let mut marks = vec![Mark::New; reads.len()];
    let mut order = Vec::with_capacity(reads.len());
    let mut cycles = Vec::new();
    for start in 0..reads.len() {
        if marks[start] != Mark::New {
            continue;
        }
        marks[start] = Mark::Open;
        // A chain of stages may be as long as the file, so the walk keeps its own stack.
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
    let mut diagnostic = Diagnostic::error(format!("stages need each other: `{}`", path.join(" -> ")));
    // A very long cycle is a generated file: its path says enough.
    for (index, stage) in cycle.iter().enumerate().take(8) {
        let next = cycle[(index + 1) % cycle.len()];
        if let Some(place) = reads[*stage].get(&next) {
            diagnostic = diagnostic.at(place.clone(), format!("`{}` reads `{}`", names[*stage], names[next]));
        }
    }
    diagnostic
}
