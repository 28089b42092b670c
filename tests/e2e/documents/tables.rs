//! Whole Markdown tables of saved results.

use serde_json::Value;

use super::values::{Values, list, thousands};

/// Rows and columns of a report. A cell is a mean with its interval.
pub(super) fn cells(table: &Value) -> Result<String, String> {
    let name = table["name"].as_str().unwrap_or_default();
    let columns: Vec<&str> = list(&table["columns"]).iter().filter_map(Value::as_str).collect();
    let rows = list(&table["rows"]).iter().map(|row| {
        let cells = list(&row["cells"]).iter().map(|cell| match cell["estimate"] {
            Value::Null => Ok("–".to_string()),
            _ => Values::cell(cell, name),
        });
        let label = row["label"].as_str().unwrap_or_default().to_string();
        Ok([label].into_iter().chain(cells.collect::<Result<Vec<_>, String>>()?).collect())
    });
    Ok(markdown(&[&[""], &columns[..]].concat(), &rows.collect::<Result<Vec<_>, String>>()?))
}

/// Names of contrasts with their difference, p-value and verdict.
pub(super) fn contrasts(rows: &[(&str, [String; 3])]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|(name, cells)| [&[(*name).to_string()], &cells[..]].concat()).collect();
    markdown(&["contrast", "difference", "p", "verdict"], &rows)
}

/// The counts of `ablate plan` for every study, and for all together.
pub(super) fn plan(plan: &Value) -> String {
    let count = |value: &Value| value.as_u64().map_or_else(|| "?".to_string(), thousands);
    let counts = |one: &Value| ["points", "instances_alone", "instances", "trainings"].map(|key| count(&one[key]));
    let studies = plan["studies"].as_object().into_iter().flatten();
    let mut rows: Vec<Vec<String>> = studies
        .map(|(name, one)| {
            let source = one["source"].as_str().unwrap_or_default().to_string();
            [format!("`{name}`"), source].into_iter().chain(counts(one)).collect()
        })
        .collect();
    let [points, alone, shared, trainings] = counts(&plan["together"]);
    let different = count(&plan["together"]["different_trainings"]);
    rows.push(vec![
        "together".to_string(),
        String::new(),
        points,
        alone,
        shared,
        format!("{different} different of {trainings}"),
    ]);
    markdown(&["study", "source", "points", "unshared", "shared", "trainings"], &rows)
}

fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("|{}\n", cells.iter().map(|cell| format!(" {cell} |")).collect::<String>());
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    // Columns of plain numbers are aligned on the right.
    let is_number = |cell: &String| cell.chars().all(|letter| letter.is_ascii_digit() || letter == ',');
    let first = rows.first().map_or(&[][..], Vec::as_slice);
    let rule = first.iter().map(|cell| if is_number(cell) { "---:|" } else { "---|" }).collect::<String>();
    let rule = format!("|{rule}\n");
    [line(&header), rule].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}
