//! `[report.NAME]`: which table to make of which stage's scores. Reads no score.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::beside::{Published, Select};
use super::declaration::Declaration;
use super::fields::Section;
use super::instance::Expansion;
use super::label::name_problem;
use super::problems::Problems;
use super::selector::{Selector, unknown_axis};
use super::text::list;
use super::tree::Entry;
use ablate_core::base::Diagnostic;
use ablate_core::base::diagnostic::nearest;
use ablate_core::stage::ArtifactKind;

/// Stands for the data set of the items where an axis may stand: no axis, as one instance scores all data sets.
pub(super) const DATASET: &str = "dataset";

/// One table of results. Seeds are pooled in every cell.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportSpec {
    pub name: String,
    pub title: String,
    /// The stage whose scores are shown.
    pub stage: String,
    /// Axes whose values make the rows (`dataset` may be one), or selectors of one row each.
    pub rows: Vec<String>,
    /// As `rows`.
    pub columns: Vec<String>,
    /// Selector of the row that others are compared with.
    pub baseline: Option<String>,
    pub metric: Metric,
    pub contrasts: Vec<Contrast>,
    /// Selectors to the words that stand for what they choose: a row, a column, or one value.
    pub labels: BTreeMap<String, String>,
    /// Numbers that others published for cells, in percent, with where.
    pub published: Option<Published>,
    /// A point that is picked by other scores than those shown.
    pub select: Option<Select>,
}

/// What a cell averages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The score of the extracted answer.
    #[default]
    Accuracy,
    /// Whether the response has the form that its prompt asks for.
    Compliance,
    /// Whether an answer of the item's type could be read from the response.
    Readable,
}

/// A question put to the cells: the mean of `plus` less the mean of `minus`, each a list of selectors of equal weight.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contrast {
    pub name: String,
    pub plus: Vec<String>,
    pub minus: Vec<String>,
    #[serde(default)]
    pub about: String,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportTable {
    title: Option<String>,
    /// The stage whose scores are shown; the only one that gives scores when not said.
    stage: Option<String>,
    /// Axes whose values make the rows, or selectors of one row each.
    rows: Option<Vec<String>>,
    #[serde(default)]
    columns: Vec<String>,
    /// Selector of what the other cells are compared with.
    baseline: Option<String>,
    #[serde(default)]
    metric: Metric,
    /// Claims to test.
    #[serde(default)]
    contrasts: Vec<Contrast>,
    /// Selectors to the words shown for what they choose.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    published: Option<Published>,
    select: Option<Select>,
}

/// Reads a report and checks its names against the points of its stage.
pub(crate) fn read(
    name: &str,
    entry: &Entry,
    declaration: &Declaration<'_>,
    expansion: &Expansion,
    problems: &mut Problems,
) -> Option<ReportSpec> {
    let path = format!("report.{name}");
    let Some(table) = entry.node.as_table() else {
        let message = format!("`{path}`: wrong type: {}, expected a table", entry.node.type_name());
        problems.push(Diagnostic::error(message).at(entry.node.origin.clone(), ""));
        return None;
    };
    let section = Section { path: &path, table, header: &entry.node.origin };
    if let Some(message) = name_problem(name) {
        section.wrong(&[], message, None, problems);
    }
    let report: ReportTable = section.read(problems)?;
    let stage = stage_of(&section, report.stage.as_deref(), declaration, expansion, problems)?;
    let found = expansion.points_of(&stage);
    let points: Vec<&BTreeMap<String, String>> = found.iter().map(|(point, _)| point).collect();
    if points.is_empty() {
        if problems.is_empty() {
            let message = format!("`{stage}` is not among the `targets` of the experiment, nor read by one");
            section.wrong(&["stage"], message, None, problems);
        }
        // Otherwise the stage could not be expanded, which was said.
        return None;
    }
    let mut checks = Checks { section, stage: &stage, points: &points, problems };
    let columns = checks.lines("columns", &report.columns);
    let rows = match &report.rows {
        Some(rows) => checks.lines("rows", rows),
        None => checks.remaining(&columns),
    };
    for axis in rows.iter().filter(|axis| columns.contains(axis)) {
        checks.wrong(&["columns"], format!("`{axis}` cannot make both rows and columns"), None);
    }
    let baseline = report.baseline.map(|text| checks.selector(&["baseline"], &text));
    let mut contrasts = report.contrasts;
    for (index, contrast) in contrasts.iter_mut().enumerate() {
        let index = index.to_string();
        for (side, selectors) in [("plus", &mut contrast.plus), ("minus", &mut contrast.minus)] {
            if selectors.is_empty() {
                checks.wrong(&["contrasts", &index, side], "a contrast needs cells on both sides".to_string(), None);
            }
            for (place, text) in selectors.iter_mut().enumerate() {
                *text = checks.selector(&["contrasts", &index, side, &place.to_string()], text);
            }
        }
    }
    let labels = report.labels.into_iter().map(|(text, label)| (checks.label(&text), label)).collect();
    let published = report.published.map(|published| checks.published(published));
    let select = report.select.map(|select| checks.select(&select, &found, expansion));
    // Which rows a table has that picks a point is known only after a run.
    if let (Some(baseline), None) = (&baseline, &select) {
        checks.baseline(baseline, &rows, &columns);
    }
    let title = report.title.unwrap_or_else(|| name.to_string());
    Some(ReportSpec {
        name: name.to_string(),
        title,
        stage,
        rows,
        columns,
        baseline,
        metric: report.metric,
        contrasts,
        labels,
        published,
        select,
    })
}

/// The stage that a report names, or the only one that gives scores.
fn stage_of(
    section: &Section<'_>,
    named: Option<&str>,
    declaration: &Declaration<'_>,
    expansion: &Expansion,
    problems: &mut Problems,
) -> Option<String> {
    let scoring: Vec<&str> = declaration
        .stages
        .iter()
        .filter(|stage| {
            // What a command gives is its own.
            let own = expansion.instances.iter().filter(|instance| *instance.stage == *stage.name);
            let own = own.flat_map(|instance| instance.outputs.iter());
            stage.kind.outputs.iter().chain(own).any(|spec| spec.kind == ArtifactKind::Scores)
        })
        .map(|stage| &*stage.name)
        .collect();
    let Some(name) = named else {
        // Of the stages that are not wanted none is meant.
        let wanted: BTreeSet<&str> = expansion.instances.iter().map(|instance| instance.stage.as_str()).collect();
        let mut scoring = scoring;
        if declaration.targets.is_some() {
            scoring.retain(|stage| wanted.contains(stage));
        }
        if let [only] = scoring.as_slice() {
            return Some((*only).to_string());
        }
        // Without a stage that is wanted, what is wrong was said at `targets`.
        if declaration.unusable.is_empty() && !wanted.is_empty() {
            let help = match scoring.as_slice() {
                [] => "no stage gives scores".to_string(),
                several => format!("the stages that give scores are {}", list(several)),
            };
            section.wrong(&[], "the key `stage` is missing", Some(help), problems);
        }
        return None;
    };
    if declaration.unusable.contains(name) {
        return None;
    }
    if scoring.contains(&name) {
        return Some(name.to_string());
    }
    let exists = declaration.stages.iter().any(|stage| &*stage.name == name);
    let message = if exists { format!("`{name}` gives no scores") } else { format!("stage `{name}` is not defined") };
    let help = match nearest(name, scoring.iter().copied()) {
        Some(near) => Some(format!("a stage of a similar name exists: `{near}`")),
        None if scoring.is_empty() => None,
        None => Some(format!("the stages that give scores are {}", list(scoring))),
    };
    section.wrong(&["stage"], message, help, problems);
    None
}

/// The checks of one report's names.
pub(super) struct Checks<'a> {
    pub(super) section: Section<'a>,
    stage: &'a str,
    pub(super) points: &'a [&'a BTreeMap<String, String>],
    pub(super) problems: &'a mut Problems,
}

impl Checks<'_> {
    pub(super) fn wrong(&mut self, path: &[&str], message: String, help: Option<String>) {
        self.section.wrong(path, message, help, self.problems);
    }

    /// `eval.model` is the axis `model` of the stage `eval`.
    fn bare(&self, axis: &str) -> String {
        let known = self.points.iter().any(|point| point.contains_key(axis));
        let bare = axis.strip_prefix(self.stage).and_then(|rest| rest.strip_prefix('.'));
        bare.filter(|_| !known).unwrap_or(axis).to_string()
    }

    /// What makes the rows or the columns: axes, or selectors of one line each.
    fn lines(&mut self, key: &str, lines: &[String]) -> Vec<String> {
        let selectors = lines.iter().any(|line| line.contains('='));
        let mut named: Vec<String> = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            let index = index.to_string();
            let place = [key, index.as_str()];
            let line = if selectors { self.selector(&place, line) } else { self.axis(&place, line) };
            if named.contains(&line) {
                self.wrong(&place, format!("`{line}` is named twice"), None);
            }
            named.push(line);
        }
        named
    }

    pub(super) fn axis(&mut self, path: &[&str], axis: &str) -> String {
        let axis = self.bare(axis);
        if axis == "seed" {
            let help = "leave it out: the interval of a cell comes from its seeds".to_string();
            self.wrong(path, "seeds are pooled in every cell".to_string(), Some(help));
        } else if axis != DATASET && !self.points.iter().any(|point| point.contains_key(&axis)) {
            let (message, help) = unknown_axis(self.stage, &axis, self.points);
            self.wrong(path, message, Some(help));
        }
        axis
    }

    /// The axes that make the rows when none are named: all that are not columns, in alphabetical order.
    fn remaining(&self, columns: &[String]) -> Vec<String> {
        let axes: BTreeSet<&String> = self.points.iter().flat_map(|point| point.keys()).collect();
        axes.into_iter().filter(|axis| *axis != "seed" && !columns.contains(axis)).cloned().collect()
    }

    /// A selector in its plain form, checked.
    pub(super) fn selector(&mut self, path: &[&str], text: &str) -> String {
        match self.plain(text) {
            Ok(plain) => plain,
            Err((message, help)) => {
                self.wrong(path, message, help);
                text.to_string()
            }
        }
    }

    /// A key of `labels`, in its plain form.
    fn label(&mut self, text: &str) -> String {
        match self.plain(text) {
            Ok(plain) => plain,
            Err((message, help)) => {
                let message = format!("`{}.labels`: {message}", self.section.path);
                self.section.wrong_key(&["labels", text], message, help, self.problems);
                text.to_string()
            }
        }
    }

    pub(super) fn plain(&self, text: &str) -> Result<String, (String, Option<String>)> {
        let mut pairs = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((axis, value)) => pairs.push(format!("{}={value}", self.bare(axis.trim()))),
                None => pairs.push(format!("{}={part}", self.axis_of(part)?)),
            }
        }
        let selector = Selector::parse(&pairs.join(",")).map_err(|message| (message, None))?;
        // Which data sets there are is known only after a run.
        let mut known = selector.clone();
        known.0.remove(DATASET);
        known.check(self.stage, self.points).map_err(|(message, help)| (message, Some(help)))?;
        Ok(selector.to_string())
    }

    /// The only axis that has a value of that name.
    fn axis_of(&self, value: &str) -> Result<&str, (String, Option<String>)> {
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
