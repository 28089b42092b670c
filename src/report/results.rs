//! All scores of experiments as one table with a column per axis, for other programs: one row per evaluation and data
//! set, or one per item.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::input::{Evaluation, ScoreSource};
use ablate_data::jsonl;
use ablate_data::records::Score;
use ablate_data::tables::parquet_writer::{self, Column, ColumnValues};

/// The evaluations of one experiment.
pub struct ExperimentResults {
    pub experiment: String,
    pub evaluations: Vec<Evaluation>,
}

/// A table whose columns have one type each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultTable {
    pub columns: Vec<Column>,
}

/// The scores as a table. An axis whose name is that of another column has the column `axis.NAME`.
///
/// One row per evaluation and data set: the number of items, mean score, and shares of compliant and readable responses.
/// With `items`, one row per item.
pub fn table(experiments: &[ExperimentResults], items: bool) -> Result<ResultTable> {
    let mut builder = Builder::new(experiments, items);
    for ExperimentResults { experiment, evaluations } in experiments {
        for evaluation in evaluations {
            let place = Place { experiment, evaluation };
            let context = || format!("cannot read the scores of `{}`", evaluation.instance);
            if items {
                each_score(evaluation, &mut |score| builder.add_item(&place, &score)).with_context(context)?;
            } else {
                let mut datasets: BTreeMap<String, Sums> = BTreeMap::new();
                each_score(evaluation, &mut |score| datasets.entry(score.dataset.clone()).or_default().add(&score))
                    .with_context(context)?;
                for (dataset, sums) in &datasets {
                    builder.add_cell(&place, dataset, sums);
                }
            }
        }
    }
    Ok(builder.finish())
}

fn each_score(evaluation: &Evaluation, visit: &mut dyn FnMut(Score)) -> Result<()> {
    match &evaluation.scores {
        None => Ok(()),
        Some(ScoreSource::Memory(scores)) => {
            scores.iter().cloned().for_each(visit);
            Ok(())
        }
        Some(ScoreSource::File(path)) => jsonl::for_each(path, |_, score| visit(score)),
    }
}

/// Sums over the scores of one data set.
#[derive(Default)]
struct Sums {
    items: usize,
    score: f64,
    /// Responses whose form was checked.
    checked: usize,
    compliant: usize,
    readable: usize,
    compliant_score: f64,
}

impl Sums {
    fn add(&mut self, score: &Score) {
        self.items += 1;
        self.score += score.score;
        if let Some(compliant) = score.compliant {
            self.checked += 1;
            self.readable += usize::from(!score.unreadable);
            if compliant {
                self.compliant += 1;
                self.compliant_score += score.score;
            }
        }
    }
}

struct Place<'a> {
    experiment: &'a str,
    evaluation: &'a Evaluation,
}

/// The columns after those of the axes.
const CELL_COLUMNS: [&str; 6] = ["dataset", "items", "accuracy", "compliance", "readable", "accuracy_given_compliance"];
const ITEM_COLUMNS: [&str; 12] = [
    "dataset",
    "id",
    "score",
    "compliant",
    "unreadable",
    "finish",
    "failure",
    "seen",
    "answer",
    "gold",
    "prompt",
    "response",
];
/// The columns before those of the axes.
const EVALUATION_COLUMNS: [&str; 3] = ["experiment", "stage", "instance"];

struct Builder {
    /// The names of all axes in order, and of their columns.
    axes: Vec<(String, String)>,
    /// Columns in order, each with its values so far.
    columns: Vec<(String, Vec<Value>)>,
}

impl Builder {
    fn new(experiments: &[ExperimentResults], items: bool) -> Builder {
        let points = experiments.iter().flat_map(|one| &one.evaluations).flat_map(|one| one.point.keys());
        let names: BTreeSet<&String> = points.collect();
        let others: &[&str] = if items { &ITEM_COLUMNS } else { &CELL_COLUMNS };
        let is_reserved = |name: &str| EVALUATION_COLUMNS.contains(&name) || others.contains(&name);
        let column = |name: &String| if is_reserved(name) { format!("axis.{name}") } else { name.clone() };
        let axes: Vec<(String, String)> = names.into_iter().map(|name| (name.clone(), column(name))).collect();
        let names = EVALUATION_COLUMNS.iter().map(ToString::to_string);
        let names =
            names.chain(axes.iter().map(|(_, column)| column.clone())).chain(others.iter().map(ToString::to_string));
        Builder { columns: names.map(|name| (name, Vec::new())).collect(), axes }
    }

    /// Adds a row: `values` are those of the columns after the axes.
    fn push(&mut self, place: &Place<'_>, values: impl IntoIterator<Item = Value>) {
        let Place { experiment, evaluation } = place;
        let first = [json!(experiment), json!(evaluation.stage), json!(evaluation.instance)];
        let axes: Vec<Value> = self.axes.iter().map(|(axis, _)| json!(evaluation.point.get(axis))).collect();
        let row = first.into_iter().chain(axes).chain(values);
        self.columns.iter_mut().zip(row).for_each(|((_, column), value)| column.push(value));
    }

    fn add_cell(&mut self, place: &Place<'_>, dataset: &str, sums: &Sums) {
        let Sums { items, score, checked, compliant, readable, compliant_score } = sums;
        let share = |part: f64, of: usize| (of > 0).then(|| part / of as f64);
        let values: [Value; CELL_COLUMNS.len()] = [
            json!(dataset),
            json!(items),
            json!(share(*score, *items)),
            json!(share(*compliant as f64, *checked)),
            json!(share(*readable as f64, *checked)),
            json!(share(*compliant_score, *compliant)),
        ];
        self.push(place, values);
    }

    fn add_item(&mut self, place: &Place<'_>, score: &Score) {
        let values: [Value; ITEM_COLUMNS.len()] = [
            json!(score.dataset),
            json!(score.id),
            json!(score.score),
            json!(score.compliant),
            json!(score.compliant.map(|_| score.unreadable)),
            json!(score.finish),
            json!(score.failure),
            json!(score.seen),
            json!(score.answer),
            json!((!score.gold.is_empty()).then(|| score.gold.join(" | "))),
            json!(score.prompt),
            json!(score.response),
        ];
        self.push(place, values);
    }

    fn finish(self) -> ResultTable {
        let axes: BTreeSet<&String> = self.axes.iter().map(|(_, column)| column).collect();
        let columns = self.columns.iter().map(|(name, values)| Column {
            name: name.clone(),
            values: if axes.contains(name) { labels(values) } else { values_of(name, values) },
        });
        ResultTable { columns: columns.collect() }
    }
}

/// The labels of an axis: numbers if all of them are.
fn labels(values: &[Value]) -> ColumnValues {
    let texts = || values.iter().map(|value| value.as_str());
    let whole: Option<Vec<Option<i64>>> =
        texts().map(|text| text.map(|text| canonical(text).ok_or(())).transpose().ok()).collect();
    if let Some(whole) = whole {
        return ColumnValues::Whole(whole);
    }
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    let numbers: Option<Vec<Option<f64>>> =
        texts().map(|text| text.map(|text| number(text).ok_or(())).transpose().ok()).collect();
    match numbers {
        Some(numbers) => ColumnValues::Number(numbers),
        None => ColumnValues::Text(texts().map(|text| text.map(str::to_string)).collect()),
    }
}

/// A whole number that is written as such: `007` and `+7` are texts.
fn canonical(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

/// The values of a column that is not an axis.
fn values_of(name: &str, values: &[Value]) -> ColumnValues {
    match name {
        "items" => ColumnValues::Whole(values.iter().map(Value::as_i64).collect()),
        "accuracy" | "compliance" | "readable" | "accuracy_given_compliance" | "score" => {
            ColumnValues::Number(values.iter().map(Value::as_f64).collect())
        }
        "compliant" | "unreadable" => ColumnValues::Boolean(values.iter().map(Value::as_bool).collect()),
        _ => ColumnValues::Text(values.iter().map(|value| value.as_str().map(str::to_string)).collect()),
    }
}

/// One value; null if it is missing.
fn value(values: &ColumnValues, row: usize) -> Value {
    match values {
        ColumnValues::Text(values) => json!(values[row]),
        ColumnValues::Number(values) => json!(values[row]),
        ColumnValues::Whole(values) => json!(values[row]),
        ColumnValues::Boolean(values) => json!(values[row]),
    }
}

impl ResultTable {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |column| column.values.len())
    }

    /// The table with a header. A missing value is an empty cell.
    pub fn csv(&self) -> String {
        let line = |cells: Vec<String>| cells.join(",") + "\n";
        let mut text = line(self.columns.iter().map(|column| quote(&column.name)).collect());
        for row in 0..self.rows() {
            let cell = |column: &Column| match value(&column.values, row) {
                Value::Null => String::new(),
                Value::String(text) => quote(&text),
                value => value.to_string(),
            };
            text.push_str(&line(self.columns.iter().map(cell).collect()));
        }
        text
    }

    /// The table as a Parquet file. A missing value is null.
    pub fn parquet(&self) -> Result<Vec<u8>> {
        parquet_writer::write(&self.columns)
    }

    /// A list of one object per row. A missing value is null.
    pub fn json(&self) -> Value {
        let object = |row: usize| {
            let fields = self.columns.iter().map(|column| (column.name.clone(), value(&column.values, row)));
            Value::Object(fields.collect::<Map<String, Value>>())
        };
        Value::Array((0..self.rows()).map(object).collect())
    }
}

/// Quotes a cell if it needs quotes. The text stays exactly as it is: programs read it.
fn quote(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_numbers_if_all_are() {
        let column = |labels: &[&str]| super::labels(&labels.iter().map(|label| json!(label)).collect::<Vec<_>>());
        assert_eq!(column(&["1", "-2"]), ColumnValues::Whole(vec![Some(1), Some(-2)]));
        assert_eq!(column(&["1e-5", "2"]), ColumnValues::Number(vec![Some(1e-5), Some(2.0)]));
        for labels in [["07", "off"], ["inf", "1"], ["", "1"]] {
            assert!(matches!(column(&labels), ColumnValues::Text(_)), "{labels:?}");
        }
        let missing = [json!("1"), Value::Null];
        assert_eq!(super::labels(&missing), ColumnValues::Whole(vec![Some(1), None]));
    }
}
