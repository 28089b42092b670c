//! What several kinds need: threads, checks of numbers, inputs by reference. Knows no kind.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow, bail};
use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use ablate_core::base::wrong_input;
use ablate_core::stage::{ArtifactKind, ConfigError, Input, InputPath, InputSource, Reference};
use ablate_data::gold_answers;
use ablate_data::jsonl::{self, ErrorList};
use ablate_data::pairs::truncate_words;
use ablate_data::records::Item;
use ablate_data::tokenizer::Tokenizer;

/// How much of a response is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Truncate {
    Words(usize),
    Tokens(usize),
    #[default]
    None,
}

impl Truncate {
    /// The mistake of keeping nothing.
    pub(super) fn check(self) -> Option<ConfigError> {
        matches!(self, Truncate::Words(0) | Truncate::Tokens(0))
            .then(|| ConfigError::at("truncate", "nothing would be left: write `\"none\"` to keep all"))
    }

    /// What is kept of a text, and whether anything was cut off. Tokens are those of `tokenizer`.
    pub(super) fn cut(self, text: &str, tokenizer: Option<&Tokenizer>) -> Result<(String, bool)> {
        match (self, tokenizer) {
            (Truncate::Words(words), _) => Ok(truncate_words(text, words)),
            (Truncate::Tokens(tokens), Some(tokenizer)) => tokenizer.truncate(text, tokens),
            (Truncate::Tokens(_), None) => Err(anyhow!("BUG: tokens are to be counted without a tokenizer")),
            (Truncate::None, _) => Ok((text.to_string(), false)),
        }
    }
}

/// Lets the schema of a table take the word `"remove"` instead.
pub(super) fn or_remove(schema: &mut Schema) {
    schema.insert("type".to_string(), json!(["object", "string"]));
    schema.insert("pattern".to_string(), json!("^remove$"));
}

/// Runs `work` with this many threads for parallel iterators.
pub(super) fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build().context("cannot start the threads")?;
    Ok(pool.install(work))
}

/// An input that is another stage's output.
pub(super) fn input(role: impl Into<String>, reference: &Reference, accepts: &'static [ArtifactKind]) -> Input {
    Input { role: role.into(), source: InputSource::Stage { reference: reference.clone(), accepts } }
}

/// Adds a mistake unless `value` is a number from `low` to `high`.
pub(super) fn check_range(errors: &mut Vec<ConfigError>, key: &str, value: f64, low: f64, high: f64) {
    if !(low..=high).contains(&value) {
        let range = if high.is_infinite() { format!("at least {low}") } else { format!("from {low} to {high}") };
        errors.push(ConfigError::at(key, format!("`{value}` is out of range: it is a number {range}")));
    }
}

/// More rows, or tokens of a response, than any stage holds in memory: a larger number is a slip, and would be found out
/// only when memory ends.
pub(super) const MOST_ROWS: usize = 1_000_000_000;

/// More than anybody repeats something.
pub(super) const MOST_TIMES: usize = 1_000_000;

/// Adds a mistake for each count that is larger than `most`.
pub(super) fn check_counts<'a>(
    errors: &mut Vec<ConfigError>,
    most: usize,
    counts: impl IntoIterator<Item = (&'a str, Option<usize>)>,
) {
    for (key, count) in counts {
        if let Some(count) = count.filter(|count| *count > most) {
            let name = key.rsplit('.').next().unwrap_or(key);
            errors.push(ConfigError::at(key, format!("`{name}` is at most {most}, not {count}")));
        }
    }
}

/// A share of a whole as people read it.
pub(super) fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Reads items, which a program may have made, and checks what no stage could be right about: up to ten mistakes.
pub(super) fn read_items(input: &InputPath) -> Result<Vec<Item>> {
    let items: Vec<Item> = jsonl::read(&input.path)?;
    check_items(items.iter())?;
    Ok(items)
}

/// Whether every item has a name of its own and gold answers that could be right.
pub(super) fn check_items<'a>(items: impl Iterator<Item = &'a Item> + Clone) -> Result<()> {
    let mut mistakes = ErrorList::default();
    if let Err(what) = gold_answers::check_ids(items.clone()) {
        mistakes.add(what);
    }
    for item in items {
        for what in gold_answers::check(item) {
            mistakes.add(format!("item `{}` of `{}`: {what}", item.id, item.dataset));
        }
    }
    mistakes.check().map_err(wrong_input)
}

/// Fails a training that would learn to say nothing.
pub(super) fn check_responses<'a>(responses: impl Iterator<Item = (&'a String, &'a String, &'a String)>) -> Result<()> {
    let mut mistakes = ErrorList::default();
    for (id, dataset, _) in responses.filter(|(.., response)| response.trim().is_empty()) {
        mistakes.add(format!("row `{id}` of `{dataset}`: there is no response to learn"));
    }
    mistakes.check().map_err(wrong_input)
}

/// Fails a stage that was given nothing to work on.
pub(super) fn not_empty<T>(rows: &[T], role: &str) -> Result<()> {
    if rows.is_empty() {
        anyhow::bail!("`{role}` holds no rows");
    }
    Ok(())
}

/// The mistake of a list of data sets that holds none.
pub(super) fn check_datasets(errors: &mut Vec<ConfigError>, datasets: Option<&BTreeSet<String>>) {
    if datasets.is_some_and(BTreeSet::is_empty) {
        errors.push(ConfigError::at("datasets", "the list of data sets is empty"));
    }
}

/// Keeps the rows of some data sets, each of which must be there; without a list all of them. `what` are the rows.
pub(super) fn of_datasets<T>(
    rows: Vec<T>,
    datasets: Option<&BTreeSet<String>>,
    what: &str,
    dataset: impl Fn(&T) -> &str,
) -> Result<Vec<T>> {
    let Some(wanted) = datasets else { return Ok(rows) };
    let known: BTreeSet<&str> = rows.iter().map(&dataset).collect();
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name.as_str())) {
        let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
        bail!("`datasets`: no {what} is of the data set `{unknown}`: there are {}", known.join(", "));
    }
    Ok(rows.into_iter().filter(|row| wanted.contains(dataset(row))).collect())
}
