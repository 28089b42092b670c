//! The parsed specification of one report: every selector is parsed and every axis name is checked.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::selector::Selector;
use ablate_core::base::Span;

/// One table of results. Seeds are pooled in every cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportSpec {
    pub name: String,
    pub title: String,
    /// The stage whose scores are shown.
    pub stage: String,
    pub rows: GroupBy,
    pub columns: GroupBy,
    /// The evaluations that the other cells are compared with. Axes that it does not name follow the column.
    pub baseline: Option<Selector>,
    pub metric: Metric,
    pub contrasts: Vec<Contrast>,
    /// Labels for rows, columns and single values, in alphabetical order of the selectors' text.
    pub labels: Vec<(Selector, String)>,
    pub published: Option<Published>,
    pub select: Option<Select>,
    /// The places in the files of `baseline` and of the names of the contrasts: `contrasts.0`, ...
    pub spans: BTreeMap<String, Span>,
}

/// How evaluations are grouped into the rows or the columns of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// One line per combination of the values of these axes. [`DATASET`](crate::DATASET) may be one of them.
    Axes(Vec<String>),
    /// One line per selector.
    Selectors(Vec<Selector>),
}

/// The number that is averaged in a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The score of the extracted answer.
    #[default]
    Accuracy,
    /// Whether the response has the form that its prompt requires.
    Compliance,
    /// Whether an answer of the item's type could be read from the response.
    Readable,
    /// The accuracy over the responses that have the form which their prompt requires. Other responses are absent.
    AccuracyGivenCompliance,
    /// Among responses to items with facts: whether a fact is stated wrongly or not at all, and the response is wrong.
    ReadingErrors,
    /// Among responses to items with facts: whether all facts are stated, and the response is wrong.
    ArithmeticErrors,
    /// Among responses to items with facts: whether the response has no readable answer or not the required form.
    FormErrors,
}

/// The difference of two means: the mean of `plus` minus the mean of `minus`. Selectors of one side have equal weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contrast {
    pub name: String,
    pub about: String,
    pub plus: Vec<Selector>,
    pub minus: Vec<Selector>,
    /// Sums of the selectors of each side instead of their means: with two on each side the whole interaction.
    pub sum: bool,
    /// The smallest difference that matters, as a share of 1.
    pub margin: Option<f64>,
}

/// Numbers from a publication, shown next to the measured ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    pub source: String,
    /// Cells with their numbers as shares of 1, in alphabetical order of the selectors' text.
    pub cells: Vec<(Selector, f64)>,
}

/// Selects one value of an axis by scores that the table does not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    pub axis: String,
    /// The evaluations whose scores decide. The table shows the other evaluations.
    pub on: Selector,
}

impl Default for GroupBy {
    fn default() -> GroupBy {
        GroupBy::Axes(Vec::new())
    }
}

impl GroupBy {
    /// Whether `axis` is one of the axes that are grouped by.
    pub fn has_axis(&self, axis: &str) -> bool {
        matches!(self, GroupBy::Axes(axes) if axes.iter().any(|known| known == axis))
    }
}

impl Metric {
    /// Whether a smaller value is better.
    pub fn is_error(self) -> bool {
        matches!(self, Metric::ReadingErrors | Metric::ArithmeticErrors | Metric::FormErrors)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Metric::Accuracy => "accuracy",
            Metric::Compliance => "format compliance",
            Metric::Readable => "readable answers",
            Metric::AccuracyGivenCompliance => "accuracy given compliance",
            Metric::ReadingErrors => "reading errors",
            Metric::ArithmeticErrors => "arithmetic errors",
            Metric::FormErrors => "form errors",
        })
    }
}
