//! Values of saved results by path, as text.

use std::collections::BTreeMap;

use ablate_core::base::diagnostic::nearest;
use serde_json::Value;

use super::tables;

/// Saved results, and other documents of numbers, by name.
///
/// A path is `experiment/report/row/column` or `experiment/report/contrast`, and names of fields after that. Shares become
/// percent, differences have a sign. `experiment/fit` is what `ablate suggest` says about mix ratios.
pub(super) struct Values(pub(super) BTreeMap<String, Value>);

/// Fields that hold shares.
const SHARES: [&str; 6] = ["mean", "low", "high", "published", "detectable", "rmse"];

/// Short names of fields of a cell.
const OF_CELLS: [(&str, &str); 3] = [("", "estimate"), ("mean", "estimate/mean"), ("interval", "estimate/interval")];

/// Short names of fields of a contrast. The verdict is the one with its scope, as it is printed. Besides these, `finding` is
/// the difference, in bold if the verdict is one of [`FOUND`].
const OF_CONTRASTS: [(&str, &str); 6] = [
    ("", "difference"),
    ("mean", "difference/estimate/mean"),
    ("interval", "difference/estimate/interval"),
    ("p", "difference/p_holm"),
    ("verdict", "shown_as"),
    ("reason", "words"),
];

/// Verdicts that there is an effect, and not in these training runs only.
const FOUND: [&str; 2] = ["shown", "the opposite is shown"];

impl Values {
    /// The text of the value at a path.
    pub(super) fn text(&self, path: &str) -> Result<String, String> {
        let (found, fields, signed) = self.find(path)?;
        let short: &[_] = match (found.get("verdict"), found.get("estimate")) {
            (Some(_), _) => &OF_CONTRASTS,
            (None, Some(_)) => &OF_CELLS,
            (None, None) => &[],
        };
        if fields == ["finding"] && found.get("verdict").is_some() {
            let text = show_field(found, &["difference"], signed, path)?;
            let (mean, interval) = text.split_once(' ').unwrap_or((&text, ""));
            let is_found = FOUND.contains(&found["shown_as"].as_str().unwrap_or_default());
            return Ok(if is_found { format!("**{mean}** {interval}") } else { text });
        }
        show_field(found, &resolve(&fields, short), signed, path)
    }

    /// The Markdown table at a path: the cells of a report, its contrasts, or the plan of the studies.
    pub(super) fn table(&self, path: &str) -> Result<String, String> {
        let parts: Vec<&str> = path.split('/').map(str::trim).collect();
        let result = self.result(path, parts[0])?;
        match parts[1..] {
            [] if result.get("studies").is_some() => Ok(tables::plan(result)),
            [report] => tables::cells(choose_table(result, report, path)?),
            [report, "contrasts"] => {
                let names = named(&choose_table(result, report, path)?["contrasts"], "name").map(|(name, _)| name);
                let row = |name| Ok((name, self.contrast_row(&format!("{}/{report}/{name}", parts[0]))?));
                Ok(tables::contrasts(&names.map(row).collect::<Result<Vec<_>, String>>()?))
            }
            _ => Err(format!("`{path}` is not a table: write EXPERIMENT/REPORT, EXPERIMENT/REPORT/contrasts or plan")),
        }
    }

    /// The text of a cell of a report.
    pub(super) fn cell(cell: &Value, path: &str) -> Result<String, String> {
        show_field(cell, &["estimate"], false, path)
    }

    /// Difference, p-value, verdict, and the training steps of both sides without those that they share.
    fn contrast_row(&self, path: &str) -> Result<[String; 4], String> {
        let [difference, p, verdict] = ["", "/p", "/verdict"].map(|field| self.text(&format!("{path}{field}")));
        let contrast = self.find(path)?.0;
        let mut verdict = verdict?;
        if let Some(dataset) = contrast["carried_by"]["dataset"].as_str() {
            verdict += &format!("; carried by `{dataset}`");
        }
        let steps = |side: &str| Some(Unit::Count.show(contrast["budget"][side]["steps"].as_f64()?));
        let steps = match (steps("plus"), steps("minus")) {
            (Some(plus), Some(minus)) => format!("{plus} and {minus}"),
            _ => String::new(),
        };
        Ok([difference?, p?, verdict, steps])
    }

    fn result(&self, path: &str, name: &str) -> Result<&Value, String> {
        choose(path, "result", name, self.0.iter().map(|(name, value)| (name.as_str(), value)))
    }

    /// The cell, contrast or other object that a path names, the fields after it, and whether its values have a sign.
    fn find<'a, 'p>(&'a self, path: &'p str) -> Result<(&'a Value, Vec<&'p str>, bool), String> {
        let parts: Vec<&str> = path.split('/').map(str::trim).collect();
        let result = self.result(path, parts[0])?;
        if result.get("tables").is_none() {
            return Ok((result, parts[1..].to_vec(), false));
        }
        let [_, report, rest @ ..] = &parts[..] else {
            return Err(format!("`{path}` names no report"));
        };
        if let ("fit", Some(fit)) = (*report, result.get("fit")) {
            return Ok((fit, rest.to_vec(), false));
        }
        let table = choose_table(result, report, path)?;
        let [name, rest @ ..] = rest else {
            return Err(format!("`{path}` names no row and no contrast"));
        };
        let rows = named(&table["rows"], "label");
        let known: Vec<(&str, &Value)> = rows.chain(named(&table["contrasts"], "name")).collect();
        if known.iter().filter(|(known, _)| known == name).count() > 1 {
            return Err(format!("`{path}`: several rows and contrasts are called `{name}`"));
        }
        let found = choose(path, "row or contrast", name, known)?;
        if found.get("cells").is_none() {
            return Ok((found, rest.to_vec(), true));
        }
        let [column, rest @ ..] = rest else {
            return Err(format!("`{path}` names no column"));
        };
        let columns = list(&table["columns"]).iter().filter_map(Value::as_str);
        let cell = choose(path, "column", column, columns.zip(list(&found["cells"])))?;
        Ok((cell, rest.to_vec(), rest.first() == Some(&"difference")))
    }
}

/// The value of a name. Errors: the name is not known.
fn choose<'a>(
    path: &str,
    what: &str,
    name: &str,
    known: impl IntoIterator<Item = (&'a str, &'a Value)>,
) -> Result<&'a Value, String> {
    let known: Vec<(&str, &Value)> = known.into_iter().collect();
    if let Some((_, value)) = known.iter().find(|(known, _)| *known == name) {
        return Ok(value);
    }
    let names = || known.iter().map(|(name, _)| *name);
    let help = match nearest(name, names()) {
        Some(nearest) => format!("the nearest is `{nearest}`"),
        None => format!("known are {}", names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    Err(format!("`{path}`: there is no {what} `{name}`; {help}"))
}

fn choose_table<'a>(result: &'a Value, report: &str, path: &str) -> Result<&'a Value, String> {
    choose(path, "report", report, named(&result["tables"], "name"))
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The elements of a list by the text of a field.
fn named<'a>(values: &'a Value, field: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    list(values).iter().filter_map(move |value| Some((value[field].as_str()?, value)))
}

/// Replaces a short name by the path of its field.
fn resolve<'a>(fields: &[&'a str], names: &[(&'static str, &'static str)]) -> Vec<&'a str> {
    let short = fields.first().copied().unwrap_or_default();
    match names.iter().find(|(name, _)| *name == short && fields.len() <= 1) {
        Some((_, path)) => path.split('/').collect(),
        None => fields.to_vec(),
    }
}

/// The text of a field below a value.
fn show_field(value: &Value, fields: &[&str], signed: bool, path: &str) -> Result<String, String> {
    let (mut value, mut field) = (value, "");
    let mut unit = if signed { Unit::Points } else { Unit::Percent };
    for next in fields {
        if *next == "interval" && value.get("low").is_some() {
            return Ok(interval(value, unit));
        }
        let known = match value {
            Value::Object(known) => known.iter().map(|(name, value)| (name.as_str(), value)).collect(),
            _ => Vec::new(),
        };
        value = choose(path, "field", next, known)?;
        field = next;
        if field == "budget" {
            unit = Unit::Count;
        }
    }
    show(value, field, unit).ok_or_else(|| match value {
        Value::Null => format!("`{path}` has no value"),
        Value::Object(fields) => {
            format!("`{path}` needs a field: {}", fields.keys().cloned().collect::<Vec<_>>().join(", "))
        }
        _ => format!("`{path}` is a list"),
    })
}

/// How a mean and its bounds are written.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Percent,
    /// Percentage points, with a sign.
    Points,
    Count,
}

fn show(value: &Value, field: &str, unit: Unit) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if field == "r2" => Some(format!("{:.2}", number.as_f64()?).replace('-', "−")),
        Value::Number(number) if field == "p_holm" => Some(p_value(number.as_f64()?)),
        Value::Number(number) if SHARES.contains(&field) => Some(unit.show(number.as_f64()?)),
        Value::Number(number) => Some(Unit::Count.show(number.as_f64()?)),
        Value::Object(fields) if unit == Unit::Count && fields.contains_key("low") => {
            Some(unit.show(value["mean"].as_f64()?))
        }
        Value::Object(fields) if fields.contains_key("low") => {
            Some(format!("{} {}", unit.show(value["mean"].as_f64()?), interval(value, unit)))
        }
        Value::Object(fields) if field == "budget" => show(fields.get("words")?, "words", unit),
        Value::Object(fields) => show(fields.get("estimate")?, "estimate", Unit::Points),
        Value::Array(seeds) if field == "by_seed" => {
            let means: Option<Vec<String>> = seeds.iter().map(|seed| show(&seed["mean"], "mean", unit)).collect();
            Some(means?.join(", "))
        }
        _ => None,
    }
}

/// The bounds of an interval. They have a minus, but no plus.
fn interval(value: &Value, unit: Unit) -> String {
    let unit = if unit == Unit::Points { Unit::Percent } else { unit };
    let [low, high] = ["low", "high"].map(|bound| unit.show(value[bound].as_f64().unwrap_or(f64::NAN)));
    format!("[{low}, {high}]")
}

impl Unit {
    /// A share or a count, formatted as in the program's tables.
    fn show(self, number: f64) -> String {
        let text = match self {
            Unit::Percent => format!("{:.1}", 100.0 * number),
            Unit::Points => format!("{:+.1}", 100.0 * number),
            Unit::Count if number.fract() == 0.0 || number >= 100.0 => return thousands(number.round() as u64),
            Unit::Count => format!("{number:.1}"),
        };
        match text.as_str() {
            "-0.0" | "+0.0" => "0.0".to_string(),
            text => text.replace('-', "−"),
        }
    }
}

fn p_value(p: f64) -> String {
    match p {
        p if p < 0.001 => "p < 0.001".to_string(),
        p if p < 0.1 => format!("p = {p:.3}"),
        p => format!("p = {p:.2}"),
    }
}

pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap());
    groups.collect::<Vec<_>>().join(",")
}
