//! What a report is made from, as plain values. Knows no store, no experiment file, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::credits::Credits;
use super::scores::Scored;
use ablate_data::records::{CurvePoint, Score};

/// Everything a report shows. Instances that have not run are listed without scores, and shown as missing.
pub struct ReportInput<'a> {
    /// Name of the experiment.
    pub experiment: String,
    pub about: String,
    pub tables: Vec<TableRequest>,
    pub evaluations: Vec<Evaluation>,
    pub curves: Vec<Curve>,
    pub credits: Vec<Credits>,
    pub graph: Vec<GraphNode>,
    pub costs: Vec<Cost>,
    /// Facts about the run for the foot of the page: versions, device, dates.
    pub provenance: Vec<(String, String)>,
    /// What a reader must know beyond the tables' own notes.
    pub notes: Vec<String>,
    /// The encoded bytes (PNG or JPEG) of an image by its key in [`Score::image`].
    pub images: Images<'a>,
    /// Resamples of the bootstrap; [`RESAMPLES`] unless told.
    pub resamples: usize,
}

/// Finds the bytes of an image by its key.
pub type Images<'a> = Box<dyn Fn(&str) -> Option<Vec<u8>> + 'a>;

/// Stands for the data set of the items where an axis may stand: no axis, as one instance scores all data sets.
pub const DATASET: &str = "dataset";

/// Enough for two digits of an interval's ends.
pub const RESAMPLES: usize = 2_000;

/// One table: cells of evaluations, and the contrasts asked of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableRequest {
    pub name: String,
    pub title: String,
    /// The stage whose instances are the cells.
    pub stage: String,
    /// Axes whose values span the rows (`model`), or selectors of one row each (`model=sft,mix=1`).
    pub rows: Vec<String>,
    /// As `rows`; [`DATASET`] may be one of the axes.
    pub columns: Vec<String>,
    /// Selector of what the other cells are compared with; axes that it leaves open follow the column.
    pub baseline: Option<String>,
    pub metric: Metric,
    pub contrasts: Vec<ContrastRequest>,
    /// Selectors to the words that stand for what they choose: of a row, of a column, or of one value.
    pub labels: BTreeMap<String, String>,
    /// Where numbers were published, and which: selectors of cells to shares of 1.
    pub published: Option<(String, BTreeMap<String, f64>)>,
    pub select: Option<Select>,
}

/// The value of an axis is picked that does best on some scores; the table shows it on the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    pub axis: String,
    /// Selector of the scores that decide.
    pub on: String,
}

/// A claim: the average of `plus` lies above the average of `minus`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContrastRequest {
    pub name: String,
    pub about: String,
    pub plus: Vec<String>,
    pub minus: Vec<String>,
}

/// Which number of a score a table shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The score by the item's answer type.
    #[default]
    Accuracy,
    /// Share of responses that follow the prompt's form.
    Compliance,
    /// Share of responses from which an answer of the item's type could be read.
    Readable,
}

impl Metric {
    pub fn words(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::Compliance => "format compliance",
            Metric::Readable => "readable answers",
        }
    }

    /// The metric of one item.
    pub(super) fn of(self, score: &Scored) -> f64 {
        match self {
            Metric::Accuracy => score.score,
            Metric::Compliance => f64::from(u8::from(score.compliant)),
            Metric::Readable => f64::from(u8::from(!score.unreadable)),
        }
    }
}

/// One instance of an evaluation stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Its name, for example `eval@model=sft,prompt=cot,seed=0`.
    pub instance: String,
    pub stage: String,
    /// Axis (or fan-out key, or `seed`) to the label of its value.
    pub point: BTreeMap<String, String>,
    /// None when it has not run.
    pub scores: Option<ScoreRows>,
}

/// Where the scores of one evaluation are.
#[derive(Clone, Debug, PartialEq)]
pub enum ScoreRows {
    Listed(Vec<Score>),
    /// A file of one [`Score`] per line that does not change: texts are read from it when they are shown.
    File(PathBuf),
}

/// The training curve of one instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    pub instance: String,
    /// Curves of one stage share a plot.
    pub stage: String,
    pub points: Vec<CurvePoint>,
}

/// One instance in the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GraphNode {
    pub instance: String,
    pub stage: String,
    pub kind: String,
    pub state: NodeState,
    /// Names of the instances it reads.
    pub reads: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    Done,
    /// Has not run, or its result is out of date.
    Missing,
}

/// What one instance cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    pub instance: String,
    pub stage: String,
    pub kind: String,
    pub seconds: f64,
    pub tokens: Option<u64>,
    pub flops: Option<f64>,
    pub device: Option<String>,
    /// Taken from the store by the run that the report is about.
    pub reused: bool,
}

/// Which evaluations belong together: values that axes must have, and axes that must be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    pub pins: BTreeMap<String, String>,
    pub absent: BTreeSet<String>,
}

impl Selector {
    /// Reads `axis=value,axis=value`. The error is a message.
    pub fn parse(text: &str) -> Result<Selector, String> {
        let mut selector = Selector::default();
        for pin in text.split(',').map(str::trim).filter(|pin| !pin.is_empty()) {
            let (axis, value) = pin
                .split_once('=')
                .ok_or_else(|| format!("`{text}` is not a selector: write `axis=value,other=value`"))?;
            selector.pins.insert(axis.trim().to_string(), value.trim().to_string());
        }
        Ok(selector)
    }

    pub fn matches(&self, point: &BTreeMap<String, String>) -> bool {
        self.pins.iter().all(|(axis, value)| axis == DATASET || point.get(axis) == Some(value))
            && self.absent.iter().all(|axis| !point.contains_key(axis))
    }

    /// The data set that it insists on.
    pub fn dataset(&self) -> Option<&str> {
        self.pins.get(DATASET).map(String::as_str)
    }

    /// Both selectors at once; where they pin the same axis, `self` wins.
    #[must_use]
    pub fn and(&self, other: &Selector) -> Selector {
        let mut both = self.clone();
        for (axis, value) in &other.pins {
            both.pins.entry(axis.clone()).or_insert_with(|| value.clone());
        }
        both.absent.extend(other.absent.iter().filter(|axis| !self.pins.contains_key(*axis)).cloned());
        both
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pins: Vec<String> = self.pins.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
        f.write_str(&pins.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(text: &str) -> BTreeMap<String, String> {
        Selector::parse(text).unwrap().pins
    }

    #[test]
    fn a_selector_matches_points_that_have_its_values() {
        let selector = Selector::parse(" prompt=cot, mix=1 ").unwrap();
        assert_eq!(selector.to_string(), "mix=1,prompt=cot");
        assert!(selector.matches(&point("prompt=cot,mix=1,seed=0")));
        assert!(!selector.matches(&point("prompt=direct,mix=1")) && !selector.matches(&point("prompt=cot")));
        let absent = Selector { absent: ["mix".to_string()].into(), ..Selector::default() };
        assert!(absent.matches(&point("model=dpo")) && !absent.matches(&point("mix=1")));
    }

    #[test]
    fn the_own_pins_win_over_the_other_s() {
        let baseline = Selector::parse("mix=1,prompt=direct").unwrap();
        let column = Selector::parse("prompt=cot,benchmark=chart").unwrap();
        assert_eq!(baseline.and(&column).to_string(), "benchmark=chart,mix=1,prompt=direct");
    }

    #[test]
    fn what_is_no_selector_is_said() {
        let error = Selector::parse("cot").unwrap_err();
        assert_eq!(error, "`cot` is not a selector: write `axis=value,other=value`");
    }
}
