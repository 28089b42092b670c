//! Checks the names in one report against the points of its stage: axes, selectors, `published` and `select`.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostics::Diagnostics;
use crate::instance::{Expansion, InstanceId, Upstream};
use crate::report_spec::{GroupBy, Published, Select};
use crate::section::Section;
use crate::selector::{DATASET, Selector, unknown_axis};
use crate::tables::{PublishedTable, SelectTable};
use ablate_core::base::diagnostic::nearest;
use ablate_core::stage::ArtifactKind;

/// The message about a name, and a help.
type Refusal = (String, Option<String>);

/// Reports wrong names of one report's table.
pub(super) struct Checker<'a> {
    pub(super) section: Section<'a>,
    pub(super) stage: &'a str,
    pub(super) points: &'a [&'a BTreeMap<String, String>],
    pub(super) diagnostics: &'a mut Diagnostics,
}

impl Checker<'_> {
    pub(super) fn wrong(&mut self, path: &[&str], message: String, help: Option<String>) {
        self.section.wrong(path, message, help, self.diagnostics);
    }

    /// The name of an axis without the stage: `eval.model` is the axis `model` of the stage `eval`.
    fn axis_name(&self, axis: &str) -> String {
        let known = self.points.iter().any(|point| point.contains_key(axis));
        let unqualified = axis.strip_prefix(self.stage).and_then(|rest| rest.strip_prefix('.'));
        unqualified.filter(|_| !known).unwrap_or(axis).to_string()
    }

    /// Reads `rows` or `columns`: axes, or one selector per line. One `=` anywhere makes all of them selectors.
    pub(super) fn group_by(&mut self, key: &str, texts: &[String]) -> GroupBy {
        if texts.iter().any(|text| text.contains('=')) {
            GroupBy::Selectors(self.distinct(key, texts, Self::selector))
        } else {
            GroupBy::Axes(self.distinct(key, texts, Self::axis))
        }
    }

    fn distinct<T: PartialEq + ToString>(
        &mut self,
        key: &str,
        texts: &[String],
        read: fn(&mut Self, &[&str], &str) -> Option<T>,
    ) -> Vec<T> {
        let mut all: Vec<T> = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let index = index.to_string();
            let path = [key, index.as_str()];
            let Some(one) = read(self, &path, text) else { continue };
            if all.contains(&one) {
                self.wrong(&path, format!("`{}` is named twice", one.to_string()), None);
            }
            all.push(one);
        }
        all
    }

    /// The name of the axis at a path. A wrong one is reported.
    #[expect(clippy::unnecessary_wraps, reason = "has the type that `distinct` takes")]
    pub(super) fn axis(&mut self, path: &[&str], axis: &str) -> Option<String> {
        let axis = self.axis_name(axis);
        if axis == "seed" {
            let help = "leave it out: the interval of a cell comes from its seeds".to_string();
            self.wrong(path, "seeds are pooled in every cell".to_string(), Some(help));
        } else if axis != DATASET && !self.points.iter().any(|point| point.contains_key(&axis)) {
            let (message, help) = unknown_axis(self.stage, &axis, self.points);
            self.wrong(path, message, Some(help));
        }
        Some(axis)
    }

    /// The default of `rows`: all axes that are not columns, in alphabetical order.
    pub(super) fn remaining_axes(&self, columns: &GroupBy) -> GroupBy {
        let axes: BTreeSet<&String> = self.points.iter().flat_map(|point| point.keys()).collect();
        GroupBy::Axes(axes.into_iter().filter(|axis| *axis != "seed" && !columns.has_axis(axis)).cloned().collect())
    }

    /// The selector at a path. A wrong one is reported.
    pub(super) fn selector(&mut self, path: &[&str], text: &str) -> Option<Selector> {
        self.parse(text).map_err(|(message, help)| self.wrong(path, message, help)).ok()
    }

    /// The selector that is a key of the table at a path. A wrong one is reported.
    pub(super) fn selector_key(&mut self, path: &[&str], text: &str) -> Option<Selector> {
        match self.parse(text) {
            Ok(selector) => Some(selector),
            Err((message, help)) => {
                let message = format!("`{}.{}`: {message}", self.section.path, path.join("."));
                self.section.wrong_key(&[path, &[text]].concat(), message, help, self.diagnostics);
                None
            }
        }
    }

    /// Reads `published`: per row one number for each column.
    pub(super) fn published(&mut self, published: PublishedTable) -> Published {
        let PublishedTable { source, columns, rows } = published;
        let expected = columns.len();
        let columns = columns.iter().enumerate();
        let columns: Vec<Selector> =
            columns.filter_map(|(at, text)| self.selector(&["published", "columns", &at.to_string()], text)).collect();
        let mut cells: BTreeMap<String, (Selector, f64)> = BTreeMap::new();
        for (text, values) in rows {
            if values.len() != expected {
                let message = format!("{expected} columns need {expected} numbers, not {}", values.len());
                self.wrong(&["published", "rows", &text], message, None);
            }
            let Some(row) = self.selector_key(&["published", "rows"], &text) else { continue };
            for (column, percent) in columns.iter().zip(values) {
                cells.insert(format!("{row},{column}"), (column.and(&row), percent / 100.0));
            }
        }
        Published { source, cells: cells.into_values().collect() }
    }

    /// Reads `select`, and checks that no item is used both for the selection and in the table. `evaluations` are the points of the
    /// report's stage.
    pub(super) fn select(
        &mut self,
        select: &SelectTable,
        evaluations: &[(&BTreeMap<String, String>, InstanceId)],
        expansion: &Expansion,
    ) -> Option<Select> {
        let axis = self.axis(&["select", "axis"], &select.axis);
        let on = self.selector(&["select", "on"], &select.on);
        let (axis, on) = (axis?, on?);
        for (key, is_dataset) in [("axis", axis == DATASET), ("on", on.dataset().is_some())] {
            if is_dataset {
                let message = format!("`{DATASET}` is not an axis: one evaluation scores all data sets");
                let help = "select on a benchmark of its own, which the table does not report".to_string();
                self.wrong(&["select", key], message, Some(help));
                return None;
            }
        }
        let items = |id: InstanceId| {
            let inputs = expansion.get(id).inputs.iter().filter_map(|input| match &input.upstream {
                Upstream::Output { instance, kind: ArtifactKind::Items, .. } => Some(*instance),
                _ => None,
            });
            inputs.collect::<BTreeSet<_>>()
        };
        let (selecting, shown): (Vec<_>, Vec<_>) = evaluations.iter().partition(|(point, _)| on.matches(point));
        let selecting: BTreeSet<InstanceId> = selecting.iter().flat_map(|(_, id)| items(*id)).collect();
        let both = shown.iter().flat_map(|(_, id)| items(*id)).find(|id| selecting.contains(id));
        if let Some(both) = both {
            let items = &expansion.get(both).name;
            let message = format!("`{axis}` would be selected on `{items}`, which the table reports");
            let help = "select on a benchmark of its own, which the table does not report".to_string();
            self.wrong(&["select", "on"], message, Some(help));
        } else if shown.is_empty() {
            let message = "all evaluations are used for the selection, so the table would be empty".to_string();
            self.wrong(&["select", "on"], message, None);
        }
        Some(Select { axis, on })
    }

    /// Parses a selector and checks that it selects a point. A bare value stands for `axis=value`.
    fn parse(&self, text: &str) -> Result<Selector, Refusal> {
        let mut pairs = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((axis, value)) => pairs.push(format!("{}={value}", self.axis_name(axis.trim()))),
                None => pairs.push(format!("{}={part}", self.axis_of(part)?)),
            }
        }
        let selector = Selector::parse(&pairs.join(",")).map_err(|message| (message, None))?;
        selector.check(self.stage, self.points).map_err(|(message, help)| (message, Some(help)))?;
        Ok(selector)
    }

    /// The only axis that has a value of this name.
    fn axis_of(&self, value: &str) -> Result<&str, Refusal> {
        let pairs = self.points.iter().flat_map(|point| point.iter());
        let axes: BTreeSet<&str> = pairs.filter(|(_, known)| *known == value).map(|(axis, _)| axis.as_str()).collect();
        let mut axes = axes.into_iter();
        match (axes.next(), axes.next()) {
            (Some(axis), None) => Ok(axis),
            (Some(one), Some(other)) => {
                let help = format!("write `{one}={value}` or `{other}={value}`");
                Err((format!("`{value}` is a value of several axes"), Some(help)))
            }
            (None, _) => {
                let values = self.points.iter().flat_map(|point| point.values()).map(String::as_str);
                let help = match nearest(value, values) {
                    Some(near) => format!("a value of a similar name exists: `{near}`"),
                    None => "write a selector as `axis=value,other=value`".to_string(),
                };
                Err((format!("`{}` has no point `{value}`", self.stage), Some(help)))
            }
        }
    }
}
