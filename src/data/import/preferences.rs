//! Reads released preference pairs: a pair per row.
//!
//! ```json
//! {"id": "7", "image": "charts/7.png", "question": "How many bars?\nExplain first, then answer.",
//!  "chosen": "1, 2, 3, 4.\n### Answer: 4", "rejected": "1, 2, 3.\n### Answer: 3", "ds_name": "chart"}
//! ```
//!
//! `prompt` may replace `question`, `idx` may replace `id`, and `ds_name` may replace `dataset`. Prompt and responses may be
//! lists of messages, as TRL reads them. Other fields, such as `answer`, are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::example::{contents, derived_id};
use super::images::{MemberNames, RowImages};
use super::messages::{self, Messages, Preference};
use super::placement::{Placement, place};
use super::read::{Located, ReadFile};
use super::rows::{self, maybe_text_or_number};
use crate::jsonl::ErrorList;
use crate::records::{Exchange, Pair};
use crate::tables::{OpenError, ReadOptions, Table, TextKeys, folder};
use ablate_core::base::Seed;

/// An example row that follows the errors of a file.
const EXAMPLE: &str = r#"a row: {"id": "7", "image": "charts/7.png", "question": "How many bars?", "chosen": "1, 2, 3, 4.\n### Answer: 4", "rejected": "1, 2, 3.\n### Answer: 3"}"#;

/// The columns of a row.
const COLUMNS: &[&str] = &["id", "idx", "question", "prompt", "chosen", "rejected", "dataset", "ds_name"];

/// A row of the file.
#[derive(Deserialize)]
struct PreferenceRow {
    #[serde(default, deserialize_with = "maybe_text_or_number")]
    id: Option<String>,
    #[serde(default, deserialize_with = "maybe_text_or_number")]
    idx: Option<String>,
    #[serde(default)]
    image: Value,
    #[serde(default)]
    images: Value,
    /// The user's turn with its instruction.
    question: Option<String>,
    prompt: Option<Messages>,
    chosen: Messages,
    rejected: Messages,
    dataset: Option<String>,
    ds_name: Option<String>,
}

/// A pair and its location; `image` is the name of a member, `id` is the row's own.
pub type LocatedPair = Located<Pair>;

/// Reads a file or the files of a folder. `dataset` is the data set of rows that state none. Up to ten errors are
/// reported together.
pub fn read(
    path: &Path,
    split: Option<&str>,
    images: &mut RowImages,
    dataset: &str,
) -> Result<(Vec<LocatedPair>, Vec<ReadFile>)> {
    let mut errors = ErrorList::default();
    let (mut located, mut read) = (Vec::new(), Vec::new());
    for file in folder::row_files(path, split)? {
        let base = file.parent().filter(|_| file != path);
        match read_file(&file, base, images, dataset, &mut located, &mut errors) {
            Ok(file) => read.push(file),
            Err(OpenError::Io(error)) => return Err(error),
            Err(OpenError::Content(what)) => {
                errors.help(EXAMPLE);
                errors.add(what);
            }
        }
    }
    errors.check()?;
    Ok((located, read))
}

fn read_file(
    path: &Path,
    base: Option<&Path>,
    images: &mut RowImages,
    dataset: &str,
    located: &mut Vec<LocatedPair>,
    errors: &mut ErrorList,
) -> Result<ReadFile, OpenError> {
    let text_keys = TextKeys::Named(&["id", "idx", "answer", "answers", "options"]);
    let table = Table::open(path, ReadOptions { header: true, text_keys })?;
    let reads = |column: &str| COLUMNS.contains(&column) || rows::is_media(column);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let ignored = table.columns.iter().filter(|column| !reads(column)).cloned().collect();
    let mut file = ReadFile { name, what: format!("preference pairs of {}", table.format), rows: 0, ignored };
    let images = std::cell::RefCell::new(images);
    table.for_each(&reads, &mut |bytes| images.borrow_mut().store(bytes), &mut |row| {
        let mut images = images.borrow_mut();
        file.rows += 1;
        let keys = "`question`, `chosen` and `rejected`";
        let parsed = rows::parse_row(row.value, keys, &["image", "images"]).map_err(|what| {
            errors.help(EXAMPLE);
            vec![what]
        });
        match parsed.and_then(|parsed| pair(parsed, base, &mut images, dataset)) {
            Ok(record) => located.push(Located { location: row.location, record }),
            Err(wrong) => wrong.into_iter().for_each(|what| errors.add(format!("{}: {what}", row.location))),
        }
        images.check()
    })?;
    Ok(file)
}

/// Converts a row; returns all errors of the row.
fn pair(row: PreferenceRow, base: Option<&Path>, images: &mut RowImages, dataset: &str) -> Result<Pair, Vec<String>> {
    let mut wrong = Vec::new();
    let prompt = match (row.question, row.prompt) {
        (Some(_), Some(_)) => {
            return Err(vec!["`question` and `prompt` are both given: remove one of them".to_string()]);
        }
        (Some(question), None) => Some(Messages::Text(question)),
        (None, prompt) => prompt,
    };
    let preference = messages::preference(prompt, row.chosen, row.rejected, images).map_err(|what| vec![what])?;
    let Preference { turns, chosen, rejected, images: inline } = preference;
    let mut row_images = inline;
    if rows::is_set(&row.image) && rows::is_set(&row.images) {
        wrong.push("`image` and `images` are both given: remove one of them".to_string());
    }
    for (key, value) in [("image", &row.image), ("images", &row.images)] {
        match images.read(value, key) {
            Ok(found) => row_images.extend(found),
            Err(what) => wrong.push(what),
        }
    }
    let (system, (texts, responses)) = (turns.system, turns.turns.into_iter().unzip::<_, _, Vec<_>, Vec<_>>());
    let (placement, mut texts) = place(row_images.len(), texts.clone()).unwrap_or_else(|what| {
        wrong.push(what);
        (Placement::Leading, texts)
    });
    let prompt = texts.pop().unwrap_or_default().trim().to_string();
    let mut read = |text: &str, name: &str| {
        let text = rows::parse_text(text, name).unwrap_or_else(|what| {
            wrong.push(what);
            text.to_string()
        });
        text.trim().to_string()
    };
    let responses = responses.into_iter().map(|response| read(&response.unwrap_or_default(), "prompt"));
    let history: Vec<Exchange> =
        texts.into_iter().zip(responses).map(|(prompt, response)| Exchange { prompt, response }).collect();
    let (chosen, rejected) = (read(&chosen, "chosen"), read(&rejected, "rejected"));
    for (name, text) in [("question", &prompt), ("chosen", &chosen), ("rejected", &rejected)] {
        if text.is_empty() {
            wrong.push(format!("`{name}` is empty"));
        }
    }
    let names = if rows::is_set(&row.image) { MemberNames::Paths } else { MemberNames::Content };
    let members: Vec<String> = row_images
        .iter()
        .filter_map(|image| images.member(image, names, base).map_err(|what| wrong.push(what)).ok())
        .collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let dataset = row.dataset.or(row.ds_name).unwrap_or_else(|| dataset.to_string());
    let id = match row.id.or(row.idx) {
        Some(id) => id,
        None => derived_id(&json!([dataset, system, history, prompt, contents(&members, images)?])),
    };
    Ok(Pair {
        id,
        dataset,
        images: placement.keys(members),
        system,
        history,
        question: None,
        prompt,
        chosen,
        rejected,
        chosen_truncated: false,
        rejected_truncated: false,
    })
}

/// Statistics of an import.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImportStats {
    pub rows: usize,
    /// Distinct questions: prompt, image and data set.
    pub questions: usize,
    /// Dropped pairs: after truncation both texts are equal, or the pair occurs already.
    #[serde(rename = "alike")]
    pub duplicates: usize,
    pub pairs: usize,
    pub dev_pairs: usize,
    /// Pairs by data set, including held-out pairs.
    pub by_dataset: BTreeMap<String, usize>,
    /// Truncated responses.
    #[serde(rename = "cut")]
    pub truncated: usize,
    /// Mean number of words of a response after truncation.
    pub chosen_words: f64,
    pub rejected_words: f64,
}

/// Training pairs and held-out pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PreparedPairs {
    pub train: Vec<LocatedPair>,
    pub dev: Vec<LocatedPair>,
    pub stats: ImportStats,
}

/// Truncates the responses and holds out a share of the questions; all pairs of a question are on the same side. Pairs
/// keep the order of the file and are named `<row id>#<number>`. `truncate` shortens a response and returns whether it
/// did.
pub fn prepare<E>(
    located: Vec<LocatedPair>,
    dev: f64,
    seed: Seed,
    truncate: impl Fn(&str) -> Result<(String, bool), E>,
) -> Result<PreparedPairs, E> {
    let mut prepared = PreparedPairs::default();
    let stats = &mut prepared.stats;
    stats.rows = located.len();
    let mut made: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    let mut numbers: BTreeMap<(String, String), usize> = BTreeMap::new();
    let (mut chosen_words, mut rejected_words) = (0, 0);
    for Located { location, record: mut pair } in located {
        // Ids do not identify a question: a release may number its rows, or repeat the id of a question.
        let images = pair.images.keys().join("\n");
        let turns = pair.history.iter().flat_map(|Exchange { prompt, response }| [prompt.as_str(), response]);
        let turns: Vec<&str> = pair.system.as_deref().into_iter().chain(turns).chain([pair.prompt.as_str()]).collect();
        let question = format!("pairs/{}/{images}/{}", pair.dataset, turns.join("\n"));
        let held_out = crate::rng::uniform(&mut seed.derive(&question).stream("dev")) < dev;
        (pair.chosen, pair.chosen_truncated) = truncate(&pair.chosen)?;
        (pair.rejected, pair.rejected_truncated) = truncate(&pair.rejected)?;
        let is_new = made.entry(question).or_default().insert((pair.chosen.clone(), pair.rejected.clone()));
        if !is_new || pair.chosen.split_whitespace().eq(pair.rejected.split_whitespace()) {
            stats.duplicates += 1;
            continue;
        }
        let number = numbers.entry((pair.dataset.clone(), pair.id.clone())).or_default();
        pair.id = format!("{}#{number}", pair.id);
        *number += 1;
        stats.truncated += usize::from(pair.chosen_truncated) + usize::from(pair.rejected_truncated);
        chosen_words += pair.chosen.split_whitespace().count();
        rejected_words += pair.rejected.split_whitespace().count();
        *stats.by_dataset.entry(pair.dataset.clone()).or_default() += 1;
        let side = if held_out { &mut prepared.dev } else { &mut prepared.train };
        side.push(Located { location, record: pair });
    }
    stats.questions = made.len();
    (stats.pairs, stats.dev_pairs) = (prepared.train.len(), prepared.dev.len());
    let mean = |words: usize| words as f64 / (stats.pairs + stats.dev_pairs).max(1) as f64;
    (stats.chosen_words, stats.rejected_words) = (mean(chosen_words), mean(rejected_words));
    Ok(prepared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_keys::ImageKeys;
    use crate::pairs::truncate_words;
    use ablate_core::base::files;
    use expect_test::expect;

    fn read_text(name: &str, text: &str) -> Result<Vec<LocatedPair>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        files::write_atomic(&path, text.as_bytes()).unwrap();
        files::write_atomic(&folder.path().join("images/a.png"), b"").unwrap();
        let mut images = RowImages::new(Some(&folder.path().join("images")), &folder.path().join("unpacked"));
        let located = read(&path, None, &mut images, "toy");
        let root = format!("{}/", folder.path().display());
        located.map(|(located, _)| located).map_err(|error| error.to_string().replace(&root, ""))
    }

    #[test]
    fn rows_of_two_releases_are_read() {
        let ours = r#"{"id": 7, "image": "a.png", "question": "How many?\nExplain.", "chosen": "4", "rejected": "3", "answer": "4"}"#;
        let rlaif = r#"{"idx": 0, "ds_name": "RLAIF-V", "image": "a.png", "question": "<image>\nDescribe.", "chosen": " a cat ",
            "rejected": "a dog", "origin_dataset": "OK-VQA", "origin_split": "train"}"#;
        let pair = |id: &str, dataset: &str, prompt: &str, chosen: &str, rejected: &str| Pair {
            id: id.into(),
            dataset: dataset.into(),
            images: ImageKeys::Leading("a.png".into()),
            system: None,
            history: Vec::new(),
            question: None,
            prompt: prompt.into(),
            chosen: chosen.into(),
            rejected: rejected.into(),
            chosen_truncated: false,
            rejected_truncated: false,
        };
        let located = read_text("a.json", &format!("[{ours}, {rlaif}]")).unwrap();
        assert_eq!(located[0].record, pair("7", "toy", "How many?\nExplain.", "4", "3"));
        assert_eq!(located[1].record, pair("0", "RLAIF-V", "Describe.", "a cat", "a dog"));
    }

    #[test]
    fn every_error_names_its_line() {
        let lines = [
            r#"{"id": 1, "question": "a?", "chosen": "x", "rejected": "y"}"#,
            r#"{"id": 2, "question": "a?", "chosen": "x"}"#,
            r#"{"question": "<image>", "image": "a.png", "chosen": "x", "rejected": " "}"#,
            "",
            r#"{"id": 4, "image": "b.png", "question": "<image><image>a?", "chosen": 3, "rejected": "y"}"#,
            r#"{"id": 5, "image": "b.png", "question": "<image><image>a?", "chosen": "x", "rejected": "y"}"#,
            "[]",
            "{",
            r#"{"id": 9, "question": "<image>a?", "chosen": "<image>", "rejected": "y", "id_old": null}"#,
            r#"{"id": 9, "question": "a?", "chosen": "x", "rejected": "y", "images": ["a.png"]}"#,
        ];
        expect![[r#"
            a.jsonl:2: missing field `rejected`
            a.jsonl:3: `question` is empty
            a.jsonl:3: `rejected` is empty
            a.jsonl:5: `chosen`: expected a text or a list of messages
            a.jsonl:6: the question has 2 image placeholders, at most one is allowed
            a.jsonl:6: the image `b.png` is not in the folder `images` (`images`)
            a.jsonl:7: a row must be an object with `question`, `chosen` and `rejected`
            a.jsonl:8: not JSON: EOF while parsing an object (column 1)
            a.jsonl:9: the question has `<image>`, but the row has no `image`; for the literal text write `\<image>` (in JSON `\\<image>`)
            a.jsonl:9: `chosen` has `<image>`, which belongs in the question; for the literal text write `\<image>` (in JSON `\\<image>`)
            a row: {"id": "7", "image": "charts/7.png", "question": "How many bars?", "chosen": "1, 2, 3, 4.\n### Answer: 4", "rejected": "1, 2, 3.\n### Answer: 3"}"#]]
        .assert_eq(&read_text("a.jsonl", &lines.join("\n")).unwrap_err());
    }

    fn row(id: &str, prompt: &str, chosen: &str, rejected: &str) -> String {
        serde_json::json!({ "id": id, "question": prompt, "chosen": chosen, "rejected": rejected }).to_string() + "\n"
    }

    #[test]
    fn pairs_equal_after_truncation_are_dropped() {
        let text = [
            row("1", "a?", "one two three", "one three"),
            row("1", "a?", "one two four", "one three"),
            row("1", "a?", "two", "one"),
            row("2", "b?", "one two three", "one two four"),
        ];
        let located = read_text("a.jsonl", &text.concat()).unwrap();
        let PreparedPairs { train, dev, stats } =
            prepare(located, 0.0, Seed(1), |text| Ok::<_, ()>(truncate_words(text, 2))).unwrap();
        // Truncated to two words, the second pair equals the first, and both texts of the fourth are equal.
        let chosen: Vec<(&str, &str, bool)> = train
            .iter()
            .map(|one| (one.record.id.as_str(), one.record.chosen.as_str(), one.record.chosen_truncated))
            .collect();
        assert_eq!(chosen, [("1#0", "one two", true), ("1#1", "two", false)]);
        let by_dataset = BTreeMap::from([("toy".to_string(), 2)]);
        let (chosen_words, rejected_words) = (1.5, 1.5);
        let expected = ImportStats {
            rows: 4,
            questions: 2,
            duplicates: 2,
            pairs: 2,
            dev_pairs: 0,
            by_dataset,
            truncated: 1,
            chosen_words,
            rejected_words,
        };
        assert_eq!((stats, dev.len()), (expected, 0));
    }

    #[test]
    fn pairs_of_a_question_stay_together_in_the_split() {
        let rows = (0..400).flat_map(|i| {
            let prompt = format!("{i}?");
            [row(&format!("{i}a"), &prompt, "x", "y"), row(&format!("{i}b"), &prompt, "x", "z")]
        });
        let located = read_text("a.jsonl", &rows.collect::<String>()).unwrap();
        let PreparedPairs { train, dev, .. } =
            prepare(located, 0.25, Seed(1), |text| Ok::<_, ()>((text.to_string(), false))).unwrap();
        let questions =
            |side: &[LocatedPair]| side.iter().map(|one| one.record.prompt.clone()).collect::<BTreeSet<_>>();
        assert!(questions(&train).is_disjoint(&questions(&dev)));
        // 100 of 400 expected, standard deviation 9.
        assert!((questions(&dev).len() as i32 - 100).abs() < 40);
        assert_eq!(train.len() + dev.len(), 800);
    }
}
