//! Selectors: `model=sft,mix=both` selects the points that have these axis values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::diagnostics::list;
use ablate_core::base::diagnostic::nearest;

/// The name under which reports group and select by the data set of the items. It is not an axis of a point, because one
/// evaluation scores the items of all its data sets.
pub const DATASET: &str = "dataset";

/// A set of points: those that have all of `values` and none of the axes in `absent`. The empty selector selects every
/// point.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// Axis to the label of its value.
    pub values: BTreeMap<String, String>,
    pub absent: BTreeSet<String>,
}

impl Selector {
    /// Parses `axis=value,other=value`. The error is a message for the user.
    pub fn parse(text: &str) -> Result<Selector, String> {
        let mut selector = Selector::default();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((axis, value)) if !axis.trim().is_empty() && !value.trim().is_empty() => {
                    if selector.values.insert(axis.trim().to_string(), value.trim().to_string()).is_some() {
                        return Err(format!("`{text}` names `{}` twice", axis.trim()));
                    }
                }
                _ => return Err(format!("`{text}` is not a selector: write `axis=value,other=value`")),
            }
        }
        Ok(selector)
    }

    /// Whether a point is selected. [`DATASET`] is ignored, because it is not an axis of a point.
    pub fn matches(&self, point: &BTreeMap<String, String>) -> bool {
        self.values.iter().all(|(axis, value)| axis == DATASET || point.get(axis) == Some(value))
            && self.absent.iter().all(|axis| !point.contains_key(axis))
    }

    /// The data set whose items are selected; all data sets when it names none.
    pub fn dataset(&self) -> Option<&str> {
        self.values.get(DATASET).map(String::as_str)
    }

    /// The points that both selectors select. Where both name the same axis, the value of `self` counts.
    #[must_use]
    pub fn and(&self, other: &Selector) -> Selector {
        let mut both = self.clone();
        for (axis, value) in &other.values {
            both.values.entry(axis.clone()).or_insert_with(|| value.clone());
        }
        both.absent.extend(other.absent.iter().filter(|axis| !self.values.contains_key(*axis)).cloned());
        both
    }

    /// Checks that some point of `stage` is selected. The error is a message and a help.
    pub(crate) fn check(&self, stage: &str, points: &[&BTreeMap<String, String>]) -> Result<(), (String, String)> {
        for (axis, value) in self.values.iter().filter(|(axis, _)| *axis != DATASET) {
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
        let mut axes = self.clone();
        axes.values.remove(DATASET);
        Err((format!("`{stage}` has no point `{axes}`"), "each value exists, but not together".to_string()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (axis, value)) in self.values.iter().enumerate() {
            write!(f, "{}{axis}={value}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The message and the help for an axis that no point of the stage has.
pub(crate) fn unknown_axis(stage: &str, axis: &str, points: &[&BTreeMap<String, String>]) -> (String, String) {
    let axes: BTreeSet<&str> = points.iter().flat_map(|point| point.keys()).map(String::as_str).collect();
    let help = match nearest(axis, axes.iter().copied()) {
        Some(near) => format!("an axis of a similar name exists: `{near}`"),
        None if axes.is_empty() => format!("`{stage}` is a single instance and varies with no axis"),
        None => format!("`{stage}` varies with {}", list(axes)),
    };
    (format!("`{stage}` does not vary with `{axis}`"), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(text: &str) -> BTreeMap<String, String> {
        Selector::parse(text).unwrap().values
    }

    #[test]
    fn a_selector_matches_points_with_its_values() {
        let selector = Selector::parse(" prompt=cot, mix=1 ").unwrap();
        assert_eq!(selector.to_string(), "mix=1,prompt=cot");
        assert!(selector.matches(&point("prompt=cot,mix=1,seed=0")));
        assert!(!selector.matches(&point("prompt=direct,mix=1")) && !selector.matches(&point("prompt=cot")));
        let absent = Selector { absent: ["mix".to_string()].into(), ..Selector::default() };
        assert!(absent.matches(&point("model=dpo")) && !absent.matches(&point("mix=1")));
    }

    #[test]
    fn the_first_selector_wins_in_and() {
        let baseline = Selector::parse("mix=1,prompt=direct").unwrap();
        let column = Selector::parse("prompt=cot,benchmark=chart").unwrap();
        assert_eq!(baseline.and(&column).to_string(), "benchmark=chart,mix=1,prompt=direct");
    }

    #[test]
    fn malformed_selectors_are_refused() {
        let error = Selector::parse("cot").unwrap_err();
        assert_eq!(error, "`cot` is not a selector: write `axis=value,other=value`");
        assert_eq!(Selector::parse("a=1,a=2").unwrap_err(), "`a=1,a=2` names `a` twice");
    }
}
