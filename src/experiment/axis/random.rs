//! Axes with random points, for random search. The values of a point depend on the seed, the name of the axis, the key
//! and the number of the point. So a larger number of points keeps the existing ones.

use std::collections::BTreeSet;

use rand::{Rng, RngExt};
use serde_json::Value;

use super::patch::{AxisPoint, Change, Patch, Target};
use super::reader::AxisReader;
use super::simplex::set_number;
use crate::diagnostics::Diagnostics;
use crate::join::MAX_POINTS;
use crate::spanned_toml::{Data, Node};
use crate::tables::Distribution;
use ablate_core::base::{Seed, Span};

/// The points of `random`.
pub(super) fn points(name: &str, reader: &AxisReader<'_>, diagnostics: &mut Diagnostics) -> Option<Vec<AxisPoint>> {
    let section = &reader.section;
    let distributions = reader.table.random.as_ref()?;
    let Some(count) = reader.table.points.filter(|count| (1..=MAX_POINTS).contains(count)) else {
        return section.refuse(&["points"], "`random` needs the number of `points`", None, diagnostics);
    };
    if distributions.is_empty() {
        return section.refuse(&["random"], "the list is empty", None, diagnostics);
    }
    let seed = Seed(reader.table.seed.unwrap_or(0)).derive(&format!("axis/{name}"));
    let mut points: Vec<AxisPoint> =
        (1..=count).map(|number| AxisPoint::new(number.to_string(), section.header)).collect();
    let mut sampled: BTreeSet<(Target, Vec<String>)> = BTreeSet::new();
    let Some(Data::List(nodes)) = section.table.get("random").map(|node| &node.data) else { return None };
    for (at, (distribution, node)) in distributions.iter().zip(nodes).enumerate() {
        let at = at.to_string();
        let path = ["random", at.as_str()];
        let names: Vec<&str> =
            distribution.key.iter().chain(distribution.keys.iter().flatten()).map(String::as_str).collect();
        let single = distribution.key.is_some() && distribution.keys.is_none();
        if distribution.key.is_some() && distribution.keys.is_some() {
            return section.refuse(&path, "`key` and `keys` cannot be used together", None, diagnostics);
        }
        if let Some(message) = distribution.error(single, names.len()) {
            return section.refuse(&path, message, None, diagnostics);
        }
        let targets = names.iter().map(|key| reader.target(key, &node.span, diagnostics));
        let targets: Vec<(Target, Vec<String>)> = targets.collect::<Option<_>>()?;
        for (target, name) in targets.iter().zip(&names) {
            if !sampled.insert(target.clone()) {
                return section.refuse(&path, format!("`{name}` is sampled twice"), None, diagnostics);
            }
        }
        for (number, point) in points.iter_mut().enumerate() {
            let mut stream = seed.stream(&format!("{}/{number}", names.join(",")));
            let changes = distribution.changes(targets.len(), node, &mut stream);
            point.patches.extend(targets.iter().zip(changes).map(|((target, path), change)| Patch {
                target: target.clone(),
                path: path.clone(),
                change,
                key: node.span.clone(),
            }));
        }
    }
    Some(points)
}

impl Distribution {
    fn error(&self, single: bool, keys: usize) -> Option<String> {
        let given = [self.uniform.is_some(), self.log_uniform.is_some(), self.choice.is_some(), self.dirichlet];
        if given.iter().filter(|given| **given).count() != 1 {
            return Some("write one of `uniform`, `log_uniform`, `choice` and `dirichlet = true`".to_string());
        }
        if self.dirichlet {
            return (single || !(2..=6).contains(&keys))
                .then(|| "`dirichlet` needs `keys`, 2 to 6 of them".to_string());
        }
        if !single {
            return Some("write `key`: only `dirichlet` samples several keys together".to_string());
        }
        if let Some([low, high]) = &self.uniform {
            let empty = match (low.as_i64(), high.as_i64()) {
                (Some(low), Some(high)) => low > high,
                _ => low.as_f64() > high.as_f64(),
            };
            return empty.then(|| format!("the range is empty: {low} is more than {high}"));
        }
        if let Some([low, high]) = self.log_uniform {
            return (!(low > 0.0 && low <= high))
                .then(|| "`log_uniform` needs bounds above 0, the lower one first".to_string());
        }
        self.choice.as_ref().filter(|choice| choice.is_empty()).map(|_| "`choice` is empty".to_string())
    }

    /// Samples one value per key.
    fn changes(&self, keys: usize, node: &Node, stream: &mut impl Rng) -> Vec<Change> {
        let span = &node.span;
        if self.dirichlet {
            // Exponential samples divided by their sum are uniform on the simplex.
            let draws: Vec<f64> = (0..keys).map(|_| -(1.0 - stream.random::<f64>()).ln()).collect();
            let sum: f64 = draws.iter().sum();
            return draws.iter().map(|draw| set_number(round(draw / sum), span)).collect();
        }
        let value = match (&self.uniform, self.log_uniform) {
            (Some([low, high]), _) => {
                if let (Some(low), Some(high)) = (low.as_i64(), high.as_i64()) {
                    return vec![set_integer(stream.random_range(low..=high), span)];
                }
                let (low, high) = (low.as_f64().unwrap_or(0.0), high.as_f64().unwrap_or(0.0));
                round(interpolate(low, high, stream)).clamp(low, high)
            }
            (None, Some([low, high])) => round(interpolate(low.ln(), high.ln(), stream).exp()).clamp(low, high),
            (None, None) => {
                let Some(Data::List(choice)) =
                    node.as_table().and_then(|table| table.get("choice")).map(|node| &node.data)
                else {
                    return Vec::new();
                };
                return vec![Change::to(&choice[stream.random_range(0..choice.len())])];
            }
        };
        vec![set_number(value, span)]
    }
}

fn interpolate(low: f64, high: f64, stream: &mut impl Rng) -> f64 {
    low + (high - low) * stream.random::<f64>()
}

/// Rounds to four significant digits. This hides differences in the last bits of `ln` and `exp` between machines.
fn round(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn set_integer(value: i64, span: &Span) -> Change {
    match Value::from(value) {
        Value::Number(number) => Change::Set(Node { data: Data::Number(number), span: span.clone() }),
        _ => set_number(value as f64, span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_four_digits() {
        assert_eq!(round(0.000_012_345_678).to_string(), "0.00001235");
        assert_eq!(round(0.5).to_string(), "0.5");
    }
}
