//! The table of `ls`: a row per instance with its state, its metrics and the parameters that vary.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::format::human_bytes;
use super::session::Session;
use ablate_core::base::diagnostic::nearest;
use ablate_engine::Plan;
use ablate_engine::query::InstanceSummary;
use ablate_experiment::InstanceId;

/// The metrics that the terminal shows by default.
const HEADLINES: [&str; 3] = ["accuracy", "final_loss", "reward_accuracy"];
/// The columns that every row has.
const FIXED: [&str; 4] = ["name", "state", "size", "seconds"];

pub(super) struct LsTable {
    pub(super) rows: Vec<LsRow>,
    /// Names of all metrics, then of all parameters that vary.
    metrics: Vec<String>,
    parameters: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct LsRow {
    #[serde(flatten)]
    summary: InstanceSummary,
    /// Numbers that the stage reported about its result.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metrics: BTreeMap<String, Value>,
    /// The axes, and the values of its table that differ between the listed instances of its stage.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<String, Value>,
}

impl LsTable {
    pub(super) fn new(session: &Session, plan: &Plan, selected: &[InstanceId]) -> Result<LsTable> {
        let chosen: BTreeSet<InstanceId> = selected.iter().copied().collect();
        let listed = session.query(plan).list().into_iter().filter(|line| chosen.contains(&line.id));
        let mut tables: BTreeMap<InstanceId, BTreeMap<String, Value>> = BTreeMap::new();
        for id in selected {
            let mut flat = BTreeMap::new();
            flatten("", &session.expansion.get(*id).table()?, &mut flat);
            tables.insert(*id, flat);
        }
        let varying = varying_keys(session, &tables);
        let rows = listed.map(|summary| {
            let instance = session.expansion.get(summary.id);
            let record = summary.record.and_then(|fingerprint| session.store.record(fingerprint));
            let facts = record.map(|record| record.summary.0).unwrap_or_default();
            let metrics = facts.into_iter().filter(|(_, value)| value.is_number()).collect();
            let mut parameters: BTreeMap<String, Value> = BTreeMap::new();
            let of_stage = varying.get(instance.stage.as_str());
            let own = tables.remove(&summary.id).unwrap_or_default();
            parameters.extend(own.into_iter().filter(|(key, _)| of_stage.is_some_and(|keys| keys.contains(key))));
            parameters.extend(instance.point.iter().map(|(axis, label)| (axis.clone(), Value::from(label.clone()))));
            LsRow { summary, metrics, parameters }
        });
        let rows: Vec<LsRow> = rows.collect();
        let names = |of: &dyn Fn(&LsRow) -> &BTreeMap<String, Value>| -> Vec<String> {
            rows.iter().flat_map(|row| of(row).keys()).collect::<BTreeSet<_>>().into_iter().cloned().collect()
        };
        let (metrics, parameters) = (names(&|row| &row.metrics), names(&|row| &row.parameters));
        Ok(LsTable { rows, metrics, parameters })
    }

    /// Sorts by a column: numbers first, the largest first; then texts in alphabetical order; then rows without a value.
    pub(super) fn sort(&mut self, column: &str) -> Result<()> {
        self.check(column)?;
        let compare = |one: &LsRow, other: &LsRow| match (one.value(column), other.value(column)) {
            (Some(one), Some(other)) => match (number(&one), number(&other)) {
                (Some(one), Some(other)) => other.total_cmp(&one),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => plain(&one).cmp(&plain(&other)),
            },
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        self.rows.sort_by(compare);
        Ok(())
    }

    /// Fails for a column that no row has.
    fn check(&self, column: &str) -> Result<()> {
        let names = || FIXED.iter().copied().chain(self.metrics.iter().chain(&self.parameters).map(String::as_str));
        if names().any(|name| name == column) {
            return Ok(());
        }
        if let Some(near) = nearest(column, names()) {
            bail!("no instance has the column `{column}`\nhelp: a column of a similar name exists: `{near}`");
        }
        let names: Vec<&str> = names().collect();
        bail!("no instance has the column `{column}`\nhelp: the columns are {}", names.join(", "))
    }

    /// The chosen columns besides the fixed ones.
    fn columns(&self, chosen: &[String], default: Vec<String>) -> Result<Vec<String>> {
        if chosen.is_empty() {
            return Ok(default);
        }
        if chosen.iter().any(|name| name == "all") {
            return Ok(self.all_columns());
        }
        chosen.iter().try_for_each(|name| self.check(name))?;
        Ok(chosen.iter().filter(|name| !FIXED.contains(&name.as_str())).cloned().collect())
    }

    fn all_columns(&self) -> Vec<String> {
        let mut all = self.parameters.clone();
        all.extend(self.metrics.iter().filter(|name| !self.parameters.contains(name)).cloned());
        all
    }

    pub(super) fn text(&self, chosen: &[String]) -> Result<String> {
        let has = |name: &&&str| self.metrics.iter().any(|known| known == **name);
        let columns = self.columns(chosen, HEADLINES.iter().filter(has).map(ToString::to_string).collect())?;
        let mut lines: Vec<Vec<String>> = Vec::new();
        if !columns.is_empty() {
            let head = ["name", "state"]
                .into_iter()
                .chain(columns.iter().map(String::as_str))
                .chain(["size", "time", "record"]);
            lines.push(head.map(ToString::to_string).collect());
        }
        for row in &self.rows {
            let mut line = vec![row.summary.name.clone(), row.summary.state.to_string()];
            line.extend(columns.iter().map(|column| row.value(column).map(|value| short(&value)).unwrap_or_default()));
            line.push(row.summary.size.map(human_bytes).unwrap_or_default());
            line.push(row.summary.seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default());
            line.push(row.summary.record.map(|hash| hash.short()).unwrap_or_default());
            lines.push(line);
        }
        let width =
            |column: usize| lines.iter().map(|line| console::measure_text_width(&line[column])).max().unwrap_or(0);
        let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len)).map(width).collect();
        let mut text = String::new();
        for line in &lines {
            let cell = |(index, cell): (usize, &String)| {
                let space = " ".repeat(widths[index].saturating_sub(console::measure_text_width(cell)));
                // Names, states and records are aligned on the left, numbers on the right.
                if index < 2 || index + 1 == line.len() { format!("{cell}{space}") } else { format!("{space}{cell}") }
            };
            let cells: Vec<String> = line.iter().enumerate().map(cell).collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        Ok(text)
    }

    pub(super) fn csv(&self, chosen: &[String]) -> Result<String> {
        let lines = self.cells(chosen)?;
        let line = |cells: Vec<String>| {
            cells.iter().map(|cell| ablate_report::csv_cell(cell)).collect::<Vec<_>>().join(",") + "\n"
        };
        Ok(lines.into_iter().map(line).collect())
    }

    pub(super) fn markdown(&self, chosen: &[String]) -> Result<String> {
        let lines = self.cells(chosen)?;
        let mut text = String::new();
        for (index, cells) in lines.iter().enumerate() {
            let escaped: Vec<String> = cells.iter().map(|cell| ablate_report::markdown_cell(cell)).collect();
            text.push_str(&format!("| {} |\n", escaped.join(" | ")));
            if index == 0 {
                text.push_str(&format!("|{}\n", "---|".repeat(cells.len())));
            }
        }
        Ok(text)
    }

    /// The header and the rows with exact values.
    fn cells(&self, chosen: &[String]) -> Result<Vec<Vec<String>>> {
        let columns = self.columns(chosen, self.all_columns())?;
        let names = || FIXED.iter().map(ToString::to_string).chain(columns.clone());
        let mut lines = vec![names().collect()];
        for row in &self.rows {
            lines.push(names().map(|name| row.value(&name).map(|value| plain(&value)).unwrap_or_default()).collect());
        }
        Ok(lines)
    }
}

impl LsRow {
    /// The value of a column. A parameter comes before a metric of the same name.
    fn value(&self, column: &str) -> Option<Value> {
        match column {
            "name" => Some(self.summary.name.clone().into()),
            "state" => Some(self.summary.state.into()),
            "size" => self.summary.size.map(Value::from),
            "seconds" => self.summary.seconds.map(Value::from),
            column => self.parameters.get(column).or_else(|| self.metrics.get(column)).cloned(),
        }
    }
}

/// By stage: the keys whose values differ between its instances.
fn varying_keys<'a>(
    session: &'a Session,
    tables: &BTreeMap<InstanceId, BTreeMap<String, Value>>,
) -> BTreeMap<&'a str, BTreeSet<String>> {
    let mut of_stage: BTreeMap<&str, Vec<&BTreeMap<String, Value>>> = BTreeMap::new();
    for (id, table) in tables {
        of_stage.entry(session.expansion.get(*id).stage.as_str()).or_default().push(table);
    }
    let varying = |tables: Vec<&BTreeMap<String, Value>>| {
        let keys: BTreeSet<&String> = tables.iter().flat_map(|table| table.keys()).collect();
        let differs = |key: &&String| tables.iter().any(|table| table.get(*key) != tables[0].get(*key));
        keys.into_iter().filter(differs).cloned().collect()
    };
    of_stage.into_iter().map(|(stage, tables)| (stage, varying(tables))).collect()
}

/// The values of a table by dotted key.
fn flatten(prefix: &str, value: &Value, flat: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, value, flat);
            }
        }
        other => drop(flat.insert(prefix.to_string(), other.clone())),
    }
}

/// The number that a value is, or that its text says: labels of axes are texts.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|number| number.is_finite())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToString::to_string)
}

/// A value for the terminal: numbers with at most four significant digits after the point.
fn short(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or_default()),
        other => plain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_are_flattened_to_dotted_keys() {
        let mut flat = BTreeMap::new();
        flatten("", &json!({ "lr": 0.1, "sources": { "cot": { "share": 2 } }, "freeze": ["vision"] }), &mut flat);
        let keys: Vec<String> = flat.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(keys, ["freeze=[\"vision\"]", "lr=0.1", "sources.cot.share=2"]);
    }

    #[test]
    fn labels_of_axes_are_numbers_if_they_look_like_one() {
        assert_eq!(number(&json!("1e-5")), Some(1e-5));
        assert_eq!(number(&json!("nan")), None);
        assert_eq!(number(&json!("mix-4")), None);
    }
}
