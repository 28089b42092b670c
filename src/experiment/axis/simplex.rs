//! Axes whose points are shares that add up to 1, such as the weights of a mix.

use serde_json::Number;

use super::patch::{AxisPoint, Change, Patch, Simplex, Target};
use super::reader::AxisReader;
use crate::diagnostics::Diagnostics;
use crate::join::MAX_POINTS;
use crate::label::sanitize;
use crate::spanned_toml::{Data, Node};
use ablate_core::base::Span;

/// The largest difference between 1 and the sum of listed shares.
const TOLERANCE: f64 = 1e-6;

/// The points of `simplex`: all shares that are multiples of `step`, or the listed ones.
pub(super) fn points(reader: &AxisReader<'_>, diagnostics: &mut Diagnostics) -> Option<(Vec<AxisPoint>, Simplex)> {
    let section = &reader.section;
    let keys = reader.table.simplex.as_ref()?;
    let wrong = |path: &[&str], message: String, diagnostics: &mut Diagnostics| {
        section.wrong(path, message, None, diagnostics);
        None
    };
    if !(2..=6).contains(&keys.len()) {
        return wrong(&["simplex"], format!("`simplex` needs 2 to 6 keys, not {}", keys.len()), diagnostics);
    }
    let Some(Data::List(nodes)) = section.table.get("simplex").map(|node| &node.data) else { return None };
    let targets = keys.iter().zip(nodes).map(|(key, node)| reader.target(key, &node.span, diagnostics));
    let targets: Vec<(Target, Vec<String>)> = targets.collect::<Option<_>>()?;
    if targets.iter().enumerate().any(|(index, target)| targets[..index].contains(target)) {
        return wrong(&["simplex"], "a key is listed twice".to_string(), diagnostics);
    }
    let (shares, spans) = match (reader.table.step, section.table.get("values")) {
        (Some(step), None) => {
            let parts = (1.0 / step).round();
            if !(step > 0.0 && step <= 1.0) || (parts * step - 1.0).abs() > TOLERANCE {
                return wrong(&["step"], format!("1 is not a multiple of the step {step}"), diagnostics);
            }
            let shares = (parts <= MAX_POINTS as f64).then(|| grid(keys.len(), parts as usize)).flatten();
            let Some(shares) = shares else {
                return wrong(&["step"], format!("the step {step} makes more than {MAX_POINTS} points"), diagnostics);
            };
            let span = section.table.get("step").map(|node| node.span.clone())?;
            let spans = vec![span; shares.len()];
            (shares, spans)
        }
        (None, Some(Node { data: Data::List(values), .. })) => listed(reader, keys.len(), values, diagnostics)?,
        (Some(_), Some(_)) => {
            return wrong(&["step"], "`step` and `values` cannot both define the shares".to_string(), diagnostics);
        }
        _ => return wrong(&["simplex"], "`simplex` needs `step` or the list `values`".to_string(), diagnostics),
    };
    reader.check_labels(shares.len(), diagnostics)?;
    let default_label = |shares: &[f64]| sanitize(&shares.iter().map(f64::to_string).collect::<Vec<_>>().join("-"));
    let points = shares.iter().zip(&spans).enumerate().map(|(index, (shares, span))| {
        let patches = targets.iter().zip(shares).map(|((target, path), share)| Patch {
            target: target.clone(),
            path: path.clone(),
            change: set_number(*share, span),
            key: span.clone(),
        });
        let label = reader.label(index, || default_label(shares));
        AxisPoint { patches: patches.collect(), ..AxisPoint::new(label, span) }
    });
    let points: Vec<AxisPoint> = points.collect();
    Some((points, Simplex { parts: differing_parts(&targets), shares }))
}

pub(super) fn set_number(value: f64, span: &Span) -> Change {
    // `value` is finite: it comes from TOML numbers that were checked.
    let number = Number::from_f64(value).unwrap_or_else(|| Number::from(0));
    Change::Set(Node { data: Data::Number(number), span: span.clone() })
}

/// All ways to distribute `parts` equal parts among `keys`, the largest share of the first key first.
fn grid(keys: usize, parts: usize) -> Option<Vec<Vec<f64>>> {
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

/// The shares of `values`, each with its place.
fn listed(
    reader: &AxisReader<'_>,
    keys: usize,
    values: &[Node],
    diagnostics: &mut Diagnostics,
) -> Option<(Vec<Vec<f64>>, Vec<Span>)> {
    let mut all = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let index = index.to_string();
        let path = ["values", index.as_str()];
        let Data::List(nodes) = &value.data else {
            return reader.section.refuse(&path, "a point must be a list of shares", None, diagnostics);
        };
        let shares = nodes.iter().map(|node| match &node.data {
            Data::Number(number) => number.as_f64(),
            _ => None,
        });
        let shares = shares.collect::<Option<Vec<f64>>>().filter(|shares| {
            let sum: f64 = shares.iter().sum();
            shares.len() == keys && shares.iter().all(|share| *share >= 0.0) && (sum - 1.0).abs() < TOLERANCE
        });
        let Some(shares) = shares else {
            let message = format!("a point must be {keys} numbers of at least 0 that add up to 1");
            return reader.section.refuse(&path, message, None, diagnostics);
        };
        all.push(shares);
    }
    if all.is_empty() {
        return reader.section.refuse(&["values"], "the list is empty", None, diagnostics);
    }
    Some((all, values.iter().map(|value| value.span.clone()).collect()))
}

/// The parts of each path that differ between the paths: `cot` of `sources.cot.weight`.
fn differing_parts(targets: &[(Target, Vec<String>)]) -> Vec<String> {
    let paths: Vec<Vec<&str>> = targets
        .iter()
        .map(|(target, path)| target.path().into_iter().chain(path.iter().map(String::as_str)).collect())
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
    fn the_grid_has_all_shares() {
        assert_eq!(grid(2, 2).unwrap(), [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]);
        assert_eq!(grid(3, 4).unwrap().len(), 15, "C(4 + 2, 2)");
        assert!(grid(6, 100).is_none());
    }

    #[test]
    fn parts_are_the_differing_keys() {
        let target = |name: &str| {
            let path = ["sources", name, "weight"].map(str::to_string).to_vec();
            (Target::Stage("mix".to_string()), path)
        };
        assert_eq!(differing_parts(&[target("cot"), target("direct")]), ["cot", "direct"]);
    }
}
