//! Whole Markdown tables of saved results.

use serde_json::Value;

use super::values::{Values, list, thousands};

/// Rows and columns of a report, and the training steps of the rows without those that all share. A cell is a mean with its
/// interval.
pub(super) fn cells(table: &Value) -> Result<String, String> {
    let name = table["name"].as_str().unwrap_or_default();
    let columns: Vec<&str> = list(&table["columns"]).iter().filter_map(Value::as_str).collect();
    let steps = |label: &str| {
        let row = list(&table["budget"]["rows"]).iter().find(|row| row["label"] == label)?;
        Some(thousands(row["budget"]["steps"]["mean"].as_f64()?.round() as u64))
    };
    let labels = list(&table["rows"]).iter().map(|row| row["label"].as_str().unwrap_or_default());
    let has_steps = labels.clone().any(|label| steps(label).is_some());
    let rows = list(&table["rows"]).iter().zip(labels).map(|(row, label)| {
        let mut cells = vec![label.to_string()];
        cells.extend(has_steps.then(|| steps(label).unwrap_or_default()));
        for cell in list(&row["cells"]) {
            cells.push(if cell["estimate"].is_null() { "–".to_string() } else { Values::cell(cell, name)? });
        }
        Ok(cells)
    });
    let first: &[&str] = if has_steps { &["", "steps"] } else { &[""] };
    Ok(markdown(&[first, &columns[..]].concat(), &rows.collect::<Result<Vec<_>, String>>()?))
}

/// Names of contrasts with their difference, p-value, verdict and training steps.
pub(super) fn contrasts(rows: &[(&str, [String; 4])]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|(name, cells)| [&[(*name).to_string()], &cells[..]].concat()).collect();
    markdown(&["contrast", "difference", "p", "verdict", "steps"], &rows)
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
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    // Columns of plain numbers are aligned on the right.
    let is_number =
        |cell: &String| !cell.is_empty() && cell.chars().all(|letter| letter.is_ascii_digit() || letter == ',');
    let first = rows.first().map_or(&[][..], Vec::as_slice);
    let rule = first.iter().map(|cell| if is_number(cell) { "---:|" } else { "---|" }).collect::<String>();
    let rule = format!("|{rule}\n");
    [line(&header), rule].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}
