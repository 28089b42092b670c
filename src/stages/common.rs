//! Helpers of several kinds: threads, checks of numbers, inputs by reference, checks of rows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use ablate_core::base::wrong_input;
use ablate_core::stage::{ArtifactKind, ConfigError, Finding, Input, InputPath, InputSource, Reference, StageContext};
use ablate_data::gold_answers;
use ablate_data::import::columns::ColumnMap;
use ablate_data::import::{ReadFile, check_files};
use ablate_data::jsonl::{self, ErrorList};
use ablate_data::pairs::truncate_words;
use ablate_data::records::{Item, Row};
use ablate_data::tokenizer::Tokenizer;

/// The part of a response that is kept, from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Truncate {
    Words(usize),
    Tokens(usize),
    #[default]
    None,
}

impl Truncate {
    /// A limit of 0 is a mistake.
    pub(super) fn check(self) -> Option<ConfigError> {
        matches!(self, Truncate::Words(0) | Truncate::Tokens(0)).then(|| {
            ConfigError::at("truncate", "the limit is 0, which leaves no text: write `\"none\"` to keep all of it")
        })
    }

    /// The kept part of a text, and whether it is shorter than the text. `tokenizer` counts the tokens.
    pub(super) fn truncate(self, text: &str, tokenizer: Option<&Tokenizer>) -> Result<(String, bool)> {
        match (self, tokenizer) {
            (Truncate::Words(words), _) => Ok(truncate_words(text, words)),
            (Truncate::Tokens(tokens), Some(tokenizer)) => tokenizer.truncate(text, tokens),
            (Truncate::Tokens(_), None) => Err(anyhow!("BUG: `truncate` counts tokens without a tokenizer")),
            (Truncate::None, _) => Ok((text.to_string(), false)),
        }
    }
}

/// Lets a table's schema accept the word `"remove"` instead of the table.
pub(super) fn or_remove(schema: &mut Schema) {
    schema.insert("type".to_string(), json!(["object", "string"]));
    schema.insert("pattern".to_string(), json!("^remove$"));
}

/// Runs `work` in a rayon pool with this many threads.
pub(super) fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build().context("cannot start the threads")?;
    Ok(pool.install(work))
}

/// An input from another stage's output.
pub(super) fn stage_input(role: impl Into<String>, reference: &Reference, accepts: &'static [ArtifactKind]) -> Input {
    Input { role: role.into(), source: InputSource::Stage { reference: reference.clone(), accepts } }
}

/// Adds a mistake if `value` is not between `low` and `high`.
pub(super) fn check_range(errors: &mut Vec<ConfigError>, key: &str, value: f64, low: f64, high: f64) {
    if !(low..=high).contains(&value) {
        let range = if high.is_infinite() { format!("at least {low}") } else { format!("from {low} to {high}") };
        errors.push(ConfigError::at(key, format!("`{value}` is out of range: write a number {range}")));
    }
}

/// Largest accepted number of rows, or of tokens of a response. A larger number is a typing error, and without this
/// limit the stage would run out of memory.
pub(super) const MAX_ROWS: usize = 1_000_000_000;

/// Largest accepted number of repetitions.
pub(super) const MAX_COUNT: usize = 1_000_000;

/// Adds a mistake for each count above `max`.
pub(super) fn check_max<'a>(
    errors: &mut Vec<ConfigError>,
    max: usize,
    counts: impl IntoIterator<Item = (&'a str, Option<usize>)>,
) {
    for (key, count) in counts {
        if let Some(count) = count.filter(|count| *count > max) {
            let name = key.rsplit('.').next().unwrap_or(key);
            errors.push(ConfigError::at(key, format!("`{name}` is at most {max}, not {count}")));
        }
    }
}

/// `part / total`; 0 for an empty total.
pub(super) fn ratio(part: usize, total: usize) -> f64 {
    if total == 0 { 0.0 } else { part as f64 / total as f64 }
}

/// Reads items and checks them, since a program may have written them. Reports up to ten mistakes.
pub(super) fn read_items(input: &InputPath) -> Result<Vec<Item>> {
    let items: Vec<Item> = jsonl::read(&input.path)?;
    check_items(items.iter())?;
    Ok(items)
}

/// Checks that the ids of the items are distinct and that their gold answers fit their answer types.
pub(super) fn check_items<'a>(items: impl Iterator<Item = &'a Item> + Clone) -> Result<()> {
    let mut mistakes = ErrorList::default();
    if let Err(mistake) = gold_answers::check_ids(items.clone()) {
        mistakes.add(mistake);
    }
    for item in items {
        for mistake in gold_answers::check(item) {
            mistakes.add(format!("item `{}` of `{}`: {mistake}", item.id, item.dataset));
        }
    }
    mistakes.check().map_err(wrong_input)
}

/// Fails if a response is empty: training on it teaches the model to generate nothing.
pub(super) fn check_responses<'a>(responses: impl Iterator<Item = (&'a String, &'a String, &'a String)>) -> Result<()> {
    let mut mistakes = ErrorList::default();
    for (id, dataset, _) in responses.filter(|(.., response)| response.trim().is_empty()) {
        mistakes.add(format!("row `{id}` of `{dataset}`: the response is empty"));
    }
    mistakes.check().map_err(wrong_input)
}

/// Fails if a response of an earlier turn is empty, for the same reason.
pub(super) fn check_history(rows: &[Row]) -> Result<()> {
    let mut mistakes = ErrorList::default();
    for row in rows {
        for (turn, _) in (1..).zip(&row.history).filter(|(_, exchange)| exchange.response.trim().is_empty()) {
            let Row { id, dataset, .. } = row;
            mistakes.add(format!(
                "row `{id}` of `{dataset}`: the response of turn {turn} is empty; `mask_history = true` trains on the last \
                 response only"
            ));
        }
    }
    mistakes.check().map_err(wrong_input)
}

/// Fails if the input of a role has no rows.
pub(super) fn check_not_empty<T>(rows: &[T], role: &str) -> Result<()> {
    if rows.is_empty() {
        anyhow::bail!("`{role}` has no rows");
    }
    Ok(())
}

/// Adds the mistakes of a map of columns. `path` is the path of the table that holds it.
pub(super) fn check_columns(
    errors: &mut Vec<ConfigError>,
    path: &str,
    columns: Option<&ColumnMap>,
    header: Option<bool>,
) {
    for (key, message) in columns.map(ColumnMap::check).unwrap_or_default() {
        errors.push(ConfigError::at(&format!("{path}columns.{key}"), message));
    }
    if header == Some(false) && columns.is_none() {
        errors.push(
            ConfigError::at(&format!("{path}header"), "without a header the columns have no names")
                .help("name them by position: `columns = { question = \"0\", answer = \"1\" }`"),
        );
    }
}

/// The data set of rows that name none: the last part of a path without its extension and revision.
pub(super) fn stem(path: &str, default: &str) -> String {
    // A repository of the hub may be followed by a revision.
    let path = match path.rsplit_once('@') {
        Some((repository, revision)) if path.starts_with("hf://") && !revision.contains('/') => repository,
        _ => path,
    };
    let stem = Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| default.to_string())
}

/// The findings about paths with rows, by role: files that cannot be chosen.
pub(super) fn inspect_rows<'a>(
    roles: impl IntoIterator<Item = (String, Option<&'a str>)>,
    path: &dyn Fn(&str) -> Option<PathBuf>,
) -> Vec<Finding> {
    let roles = roles.into_iter();
    let findings = roles.filter_map(|(role, split)| {
        let message = check_files(&path(&role)?, split)?;
        Some(Finding { role, message, fatal: true })
    });
    findings.collect()
}

/// Reports what was read from each file, and returns these lines for the summary.
pub(super) fn report_files(files: &[ReadFile], ctx: &StageContext) -> Vec<String> {
    let lines: Vec<String> = files.iter().map(ReadFile::to_string).collect();
    for line in &lines {
        ctx.progress.choice(line.clone());
    }
    lines
}

/// Adds a mistake for an empty list of data sets.
pub(super) fn check_datasets(errors: &mut Vec<ConfigError>, datasets: Option<&BTreeSet<String>>) {
    if datasets.is_some_and(BTreeSet::is_empty) {
        errors.push(ConfigError::at("datasets", "the list of data sets is empty"));
    }
}

/// Keeps the rows of the listed data sets, or all rows without a list. A data set without rows is an error; `what` is
/// the word for a row in its message.
pub(super) fn filter_datasets<T>(
    rows: Vec<T>,
    datasets: Option<&BTreeSet<String>>,
    what: &str,
    dataset: impl Fn(&T) -> &str,
) -> Result<Vec<T>> {
    let Some(wanted) = datasets else { return Ok(rows) };
    let known: BTreeSet<&str> = rows.iter().map(&dataset).collect();
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name.as_str())) {
        let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
        bail!("`datasets`: no {what} of the data set `{unknown}`; the data sets are {}", known.join(", "));
    }
    Ok(rows.into_iter().filter(|row| wanted.contains(dataset(row))).collect())
}
