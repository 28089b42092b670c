//! Axes whose points are shares of a whole, such as the weights of a mix.

use serde_json::Number;

use super::{AxisPoint, Change, Patch, Reading, Simplex};
use crate::join::MAX_POINTS;
use crate::label::clean;
use crate::problems::Problems;
use crate::tree::{Data, Node};
use ablate_core::base::Span;

/// Shares that are listed must add up to one, this near.
const TOLERANCE: f64 = 1e-6;

/// The points of `simplex`: every way to share a whole in steps, or the listed ones.
pub(super) fn points(reading: &Reading<'_>, problems: &mut Problems) -> Option<(Vec<AxisPoint>, Simplex)> {
    let section = &reading.section;
    let keys = reading.table.simplex.as_ref()?;
    let wrong = |path: &[&str], message: String, problems: &mut Problems| {
        section.wrong(path, message, None, problems);
        None
    };
    if !(2..=6).contains(&keys.len()) {
        return wrong(&["simplex"], format!("a whole is shared among 2 to 6 keys, not {}", keys.len()), problems);
    }
    let Some(Data::List(nodes)) = section.table.get("simplex").map(|node| &node.data) else { return None };
    let targets = keys.iter().zip(nodes).map(|(key, node)| reading.target(key, &node.origin, problems));
    let targets: Vec<(String, Vec<String>)> = targets.collect::<Option<_>>()?;
    if targets.iter().enumerate().any(|(index, target)| targets[..index].contains(target)) {
        return wrong(&["simplex"], "a key is named twice".to_string(), problems);
    }
    let (shares, places) = match (reading.table.step, section.table.get("values")) {
        (Some(step), None) => {
            let parts = (1.0 / step).round();
            if !(step > 0.0 && step <= 1.0) || (parts * step - 1.0).abs() > TOLERANCE {
                return wrong(&["step"], format!("a whole cannot be shared in steps of {step}"), problems);
            }
            let shares = (parts <= MAX_POINTS as f64).then(|| steps(keys.len(), parts as usize)).flatten();
            let Some(shares) = shares else {
                return wrong(&["step"], format!("steps of {step} make more than {MAX_POINTS} points"), problems);
            };
            let place = section.table.get("step").map(|node| node.origin.clone())?;
            let places = vec![place; shares.len()];
            (shares, places)
        }
        (None, Some(Node { data: Data::List(values), .. })) => listed(reading, keys.len(), values, problems)?,
        (Some(_), Some(_)) => {
            return wrong(&["step"], "`step` and `values` are two ways to tell the shares".to_string(), problems);
        }
        _ => return wrong(&["simplex"], "`simplex` needs `step` or the list `values`".to_string(), problems),
    };
    reading.check_labels(shares.len(), problems)?;
    let own = |shares: &[f64]| clean(&shares.iter().map(f64::to_string).collect::<Vec<_>>().join("-"));
    let points = shares.iter().zip(&places).enumerate().map(|(index, (shares, place))| {
        let patches = targets.iter().zip(shares).map(|((stage, path), share)| Patch {
            stage: stage.clone(),
            path: path.clone(),
            change: set(*share, place),
            key: place.clone(),
        });
        AxisPoint { label: reading.label(index, || own(shares)).into(), patches: patches.collect() }
    });
    let points: Vec<AxisPoint> = points.collect();
    Some((points, Simplex { parts: parts(&targets), shares }))
}

pub(super) fn set(value: f64, place: &Span) -> Change {
    // A share is finite: it was counted or checked.
    let number = Number::from_f64(value).unwrap_or_else(|| Number::from(0));
    Change::Set(Node { data: Data::Number(number), origin: place.clone() })
}

/// All ways to share `parts` equal parts among `keys`, the first key's largest shares first.
fn steps(keys: usize, parts: usize) -> Option<Vec<Vec<f64>>> {
    let mut found: Vec<Vec<usize>> = vec![Vec::new()];
    for key in 0..keys {
        let mut next = Vec::new();
        for taken in &found {
            let left = parts - taken.iter().sum::<usize>();
            let choices = if key + 1 == keys { left..=left } else { 0..=left };
            next.extend(choices.rev().map(|share| [&taken[..], &[share]].concat()));
            if next.len() > MAX_POINTS {
                return None;
            }
        }
        found = next;
    }
    Some(found.iter().map(|taken| taken.iter().map(|share| *share as f64 / parts as f64).collect()).collect())
}

/// The shares that are listed, each with its place.
fn listed(
    reading: &Reading<'_>,
    keys: usize,
    values: &[Node],
    problems: &mut Problems,
) -> Option<(Vec<Vec<f64>>, Vec<Span>)> {
    let mut all = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let Data::List(nodes) = &value.data else {
            reading.section.wrong(&["values", &index.to_string()], "a point is a list of shares", None, problems);
            return None;
        };
        let shares = nodes.iter().map(|node| match &node.data {
            Data::Number(number) => number.as_f64(),
            _ => None,
        });
        let shares: Option<Vec<f64>> = shares.collect();
        let sum: f64 = shares.iter().flatten().sum();
        match shares {
            Some(shares)
                if shares.len() == keys
                    && shares.iter().all(|share| *share >= 0.0)
                    && (sum - 1.0).abs() < TOLERANCE =>
            {
                all.push(shares);
            }
            _ => {
                let message = format!("a point is {keys} numbers from 0 up that add up to 1");
                reading.section.wrong(&["values", &index.to_string()], message, None, problems);
                return None;
            }
        }
    }
    if all.is_empty() {
        reading.section.wrong(&["values"], "there is no value", None, problems);
        return None;
    }
    Some((all, values.iter().map(|value| value.origin.clone()).collect()))
}

/// The part of each path that tells it from the others: `cot` of `sources.cot.weight`.
fn parts(targets: &[(String, Vec<String>)]) -> Vec<String> {
    let paths: Vec<Vec<&str>> = targets
        .iter()
        .map(|(stage, path)| [stage.as_str()].into_iter().chain(path.iter().map(String::as_str)).collect())
        .collect();
    let differs = |at: usize| paths.iter().any(|path| path.get(at) != paths[0].get(at));
    paths
        .iter()
        .map(|path| {
            path.iter().enumerate().filter(|(at, _)| differs(*at)).map(|(_, part)| *part).collect::<Vec<_>>().join(".")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_is_shared_in_every_way() {
        assert_eq!(steps(2, 2).unwrap(), [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]);
        assert_eq!(steps(3, 4).unwrap().len(), 15, "C(4 + 2, 2)");
        assert!(steps(6, 100).is_none());
    }

    #[test]
    fn parts_are_what_differs() {
        let target =
            |name: &str| ("mix".to_string(), vec!["sources".to_string(), name.to_string(), "weight".to_string()]);
        assert_eq!(parts(&[target("cot"), target("direct")]), ["cot", "direct"]);
    }
}
