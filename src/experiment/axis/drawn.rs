//! Axes whose points are drawn: random search. A point's draws depend on the axis, the key and its own number, so more
//! points keep those that were there.

use std::collections::BTreeSet;

use rand::{Rng, RngExt};
use serde_json::Value;

use super::simplex::set;
use super::{AxisPoint, Change, Patch, Reading, change};
use crate::join::MAX_POINTS;
use crate::problems::Problems;
use crate::tables::Draw;
use crate::tree::{Data, Node};
use ablate_core::base::{Seed, Span};

/// The points of `random`.
pub(super) fn points(name: &str, reading: &Reading<'_>, problems: &mut Problems) -> Option<Vec<AxisPoint>> {
    let section = &reading.section;
    let draws = reading.table.random.as_ref()?;
    let Some(count) = reading.table.points.filter(|count| (1..=MAX_POINTS).contains(count)) else {
        section.wrong(&["points"], "`random` needs `points`: how many are drawn", None, problems);
        return None;
    };
    if draws.is_empty() {
        section.wrong(&["random"], "nothing is drawn", None, problems);
        return None;
    }
    let seed = Seed(reading.table.seed.unwrap_or(0)).derive(&format!("axis/{name}"));
    let mut points: Vec<AxisPoint> =
        (1..=count).map(|number| AxisPoint { label: number.to_string().into(), patches: Vec::new() }).collect();
    let mut drawn: BTreeSet<(String, Vec<String>)> = BTreeSet::new();
    let Some(Data::List(nodes)) = section.table.get("random").map(|node| &node.data) else { return None };
    for (at, (draw, node)) in draws.iter().zip(nodes).enumerate() {
        let names: Vec<&str> = draw.key.iter().chain(draw.keys.iter().flatten()).map(String::as_str).collect();
        let one = draw.key.is_some() && draw.keys.is_none();
        if draw.key.is_some() && draw.keys.is_some() {
            section.wrong(&["random", &at.to_string()], "`key` and `keys` are both given", None, problems);
            return None;
        }
        if let Some(message) = draw.problem(one, names.len()) {
            section.wrong(&["random", &at.to_string()], message, None, problems);
            return None;
        }
        let targets = names.iter().map(|key| reading.target(key, &node.origin, problems));
        let targets: Vec<(String, Vec<String>)> = targets.collect::<Option<_>>()?;
        for (target, name) in targets.iter().zip(&names) {
            if !drawn.insert(target.clone()) {
                section.wrong(&["random", &at.to_string()], format!("`{name}` is drawn twice"), None, problems);
                return None;
            }
        }
        for (number, point) in points.iter_mut().enumerate() {
            let mut stream = seed.stream(&format!("{}/{number}", names.join(",")));
            let changes = draw.changes(targets.len(), node, &mut stream);
            point.patches.extend(targets.iter().zip(changes).map(|((stage, path), change)| Patch {
                stage: stage.clone(),
                path: path.clone(),
                change,
                key: node.origin.clone(),
            }));
        }
    }
    Some(points)
}

impl Draw {
    fn problem(&self, one: bool, keys: usize) -> Option<String> {
        let ways = [self.uniform.is_some(), self.log_uniform.is_some(), self.choice.is_some(), self.dirichlet];
        if ways.iter().filter(|way| **way).count() != 1 {
            return Some("write one of `uniform`, `log_uniform`, `choice` and `dirichlet = true`".to_string());
        }
        if self.dirichlet {
            return (one || !(2..=6).contains(&keys)).then(|| "`dirichlet` needs `keys`, 2 to 6 of them".to_string());
        }
        if !one {
            return Some("write `key`: only `dirichlet` draws several keys together".to_string());
        }
        if let Some([low, high]) = &self.uniform {
            let empty = match (low.as_i64(), high.as_i64()) {
                (Some(low), Some(high)) => low > high,
                _ => low.as_f64() > high.as_f64(),
            };
            return empty.then(|| format!("nothing lies between {low} and {high}"));
        }
        if let Some([low, high]) = self.log_uniform {
            return (!(low > 0.0 && low <= high))
                .then(|| "the bounds of `log_uniform` are above 0, the lower one first".to_string());
        }
        self.choice.as_ref().filter(|choice| choice.is_empty()).map(|_| "there is nothing to choose from".to_string())
    }

    /// One value for each key.
    fn changes(&self, keys: usize, node: &Node, stream: &mut impl Rng) -> Vec<Change> {
        let place = &node.origin;
        if self.dirichlet {
            // Exponential draws over their sum are uniform on the simplex.
            let draws: Vec<f64> = (0..keys).map(|_| -(1.0 - stream.random::<f64>()).ln()).collect();
            let sum: f64 = draws.iter().sum();
            return draws.iter().map(|draw| set(short(draw / sum), place)).collect();
        }
        let value = match (&self.uniform, self.log_uniform) {
            (Some([low, high]), _) => {
                if let (Some(low), Some(high)) = (low.as_i64(), high.as_i64()) {
                    return vec![whole(stream.random_range(low..=high), place)];
                }
                let (low, high) = (low.as_f64().unwrap_or(0.0), high.as_f64().unwrap_or(0.0));
                short(between(low, high, stream)).clamp(low, high)
            }
            (None, Some([low, high])) => short(between(low.ln(), high.ln(), stream).exp()).clamp(low, high),
            (None, None) => {
                let Some(Data::List(choice)) =
                    node.as_table().and_then(|table| table.get("choice")).map(|node| &node.data)
                else {
                    return Vec::new();
                };
                return vec![change(&choice[stream.random_range(0..choice.len())])];
            }
        };
        vec![set(value, place)]
    }
}

fn between(low: f64, high: f64, stream: &mut impl Rng) -> f64 {
    low + (high - low) * stream.random::<f64>()
}

/// Four significant digits: enough for a search, short enough to read, and the same on every machine's logarithm.
fn short(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn whole(value: i64, place: &Span) -> Change {
    match Value::from(value) {
        Value::Number(number) => Change::Set(Node { data: Data::Number(number), origin: place.clone() }),
        _ => set(value as f64, place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short() {
        assert_eq!(short(0.000_012_345_678).to_string(), "0.00001235");
        assert_eq!(short(0.5).to_string(), "0.5");
    }
}
