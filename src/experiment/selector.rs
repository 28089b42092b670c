//! Selectors: `model=sft,mix=both` chooses the points of a stage that have these values. Knows no stage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::text::list;
use ablate_core::base::diagnostic::nearest;

/// Axis values that a point must have; an empty one chooses every point.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector(pub BTreeMap<String, String>);

impl Selector {
    pub fn parse(text: &str) -> Result<Selector, String> {
        let mut pairs = BTreeMap::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((axis, value)) if !axis.trim().is_empty() && !value.trim().is_empty() => {
                    if pairs.insert(axis.trim().to_string(), value.trim().to_string()).is_some() {
                        return Err(format!("`{text}` names `{}` twice", axis.trim()));
                    }
                }
                _ => return Err(format!("`{text}` is not a selector: write `axis=value,other=value`")),
            }
        }
        Ok(Selector(pairs))
    }

    pub fn matches(&self, point: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(axis, value)| point.get(axis) == Some(value))
    }

    /// What is wrong with the selector, and a help, given all points it may choose from.
    pub(crate) fn check(&self, stage: &str, points: &[&BTreeMap<String, String>]) -> Result<(), (String, String)> {
        for (axis, value) in &self.0 {
            let mut known: Vec<&str> = Vec::new();
            for label in points.iter().filter_map(|point| point.get(axis)) {
                if !known.contains(&label.as_str()) {
                    known.push(label);
                }
            }
            if known.is_empty() {
                return Err(unknown_axis(stage, axis, points));
            }
            if !known.contains(&value.as_str()) {
                let help = match nearest(value, known.iter().copied()) {
                    Some(near) => format!("a value of a similar name exists: `{axis}={near}`"),
                    None => format!("the values of `{axis}` are {}", list(known)),
                };
                return Err((format!("`{stage}` has no point `{axis}={value}`"), help));
            }
        }
        if points.iter().any(|point| self.matches(point)) {
            return Ok(());
        }
        let pairs: Vec<String> = self.0.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        Err((
            format!("`{stage}` has no point `{}`", pairs.join(",")),
            "each value exists, but not together".to_string(),
        ))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (axis, value)) in self.0.iter().enumerate() {
            write!(f, "{}{axis}={value}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The message and the help for an axis that no point has.
pub(crate) fn unknown_axis(stage: &str, axis: &str, points: &[&BTreeMap<String, String>]) -> (String, String) {
    let axes: BTreeSet<&str> = points.iter().flat_map(|point| point.keys()).map(String::as_str).collect();
    let help = match nearest(axis, axes.iter().copied()) {
        Some(near) => format!("an axis of a similar name exists: `{near}`"),
        None if axes.is_empty() => format!("`{stage}` is one instance: nothing varies there"),
        None => format!("`{stage}` varies with {}", list(axes)),
    };
    (format!("`{stage}` does not vary with `{axis}`"), help)
}
