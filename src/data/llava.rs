//! Data in LLaVA's layout: a JSON array or JSONL of `id`, `image` and `conversations`, with fields of ours beside.
//! Every row becomes an item. Knows no pack: images are still paths here.
//!
//! ```json
//! {"id": "7", "image": "charts/7.png", "dataset": "chart",
//!  "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}],
//!  "answer_type": "number", "answers": ["4", "four"], "rationale": "Counting from the left: 1, 2, 3, 4."}
//! ```
//!
//! All fields beyond LLaVA's are optional: the question is the human's turn without `<image>`, the answer is the
//! assistant's turn. An assistant's turn that holds `### Answer:` gives rationale and answer. Other fields are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::defaults::{Defaults, RowFile};
use super::gold;
use super::jsonl::Mistakes;
use super::outside::{self, maybe_text_or_number, text_or_number, texts_or_numbers};
use super::prompts::MARKER;
use super::records::{AnswerType, Item};

/// A row as it stands in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlavaRow {
    #[serde(deserialize_with = "text_or_number")]
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub conversations: Vec<Turn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_type: Option<AnswerType>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_text_or_number")]
    pub answer: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "texts_or_numbers")]
    pub answers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub from: String,
    pub value: String,
}

impl Turn {
    pub fn human(value: String) -> Turn {
        Turn { from: "human".to_string(), value }
    }

    pub fn gpt(value: String) -> Turn {
        Turn { from: "gpt".to_string(), value }
    }
}

/// An item whose image is still a path, and where in the file it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// `file:line`, or `file: element 3 (id `7`)`.
    pub place: String,
    /// `image` is the path relative to the folder of images.
    pub item: Item,
}

/// Reads files that are JSON arrays or JSONL. `images` is the folder that image paths are relative to; without one no
/// row may name an image. Mistakes are reported together, up to ten. Of rows with the same id and data set the second
/// is called `id#2`, and so on, by the first number that no other row has.
pub fn read(row_files: &[RowFile], images: Option<&Path>, defaults: &Defaults) -> Result<Vec<Located>> {
    let mut mistakes = Mistakes::default();
    let mut located = Vec::new();
    let mut rows = Vec::new();
    for file in row_files {
        rows.extend(outside::values(&file.path, &mut mistakes)?.into_iter().map(|(place, value)| (file, place, value)));
    }
    for (file, place, value) in rows {
        let item = value.map_err(|mistake| vec![mistake]).and_then(|value| item(value, images, file, defaults));
        match item {
            Ok(item) => located.push(Located { place, item }),
            Err(wrong) => wrong.into_iter().for_each(|what| mistakes.add(format!("{place}: {what}"))),
        }
    }
    mistakes.check()?;
    rename_repeated(&mut located);
    Ok(located)
}

/// Gives every row but the first of those with the same id and data set a name of its own.
fn rename_repeated(located: &mut [Located]) {
    let name = |item: &Item| (item.dataset.clone(), item.id.clone());
    let mut names: BTreeSet<(String, String)> = located.iter().map(|row| name(&row.item)).collect();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for Located { item, .. } in located {
        let given = item.id.clone();
        let count = counts.entry(name(item)).or_default();
        *count += 1;
        while *count > 1 {
            item.id = format!("{given}#{count}");
            if names.insert(name(item)) {
                break;
            }
            *count += 1;
        }
    }
}

/// A row's item, or everything that is wrong with the row.
fn item(value: Value, images: Option<&Path>, file: &RowFile, defaults: &Defaults) -> Result<Item, Vec<String>> {
    if !value.is_object() {
        return Err(vec!["a row must be an object with `id` and `conversations`".to_string()]);
    }
    let row: LlavaRow = serde_path_to_error::deserialize(value).map_err(|error| vec![outside::wrong_form(&error)])?;
    let mut wrong = Vec::new();
    let (asked, told) = exchange(&row.conversations).unwrap_or_else(|what| {
        wrong.push(what);
        (String::new(), String::new())
    });
    wrong.extend(row.image.as_deref().and_then(|image| outside::check_image(image, images)));
    let question = row.question.unwrap_or(asked);
    // Where the conversation has no question, that is told already.
    let question = if question.is_empty() { Ok(question) } else { defaults.bare(question) };
    let question = question.unwrap_or_else(|what| {
        wrong.push(what);
        String::new()
    });
    let (reasoned, concluded) = match told.rsplit_once(MARKER) {
        // A turn that begins with the marker gives an answer without reasons.
        Some((rationale, answer)) => {
            (Some(rationale.trim().to_string()).filter(|rationale| !rationale.is_empty()), answer.trim().to_string())
        }
        None => (None, told.trim().to_string()),
    };
    if let Some(answer) = row.answer.as_ref().filter(|answer| !row.answers.is_empty() && !row.answers.contains(answer))
    {
        wrong.push(format!("`answer` is `{answer}`, which is none of `answers`"));
    }
    let mut answers = row.answers;
    if answers.is_empty() {
        answers.extend(row.answer);
    }
    if answers.is_empty() && !concluded.is_empty() {
        answers.push(concluded.clone());
    }
    if wrong.is_empty() && answers.iter().all(|answer| answer.trim().is_empty()) {
        wrong.push("the row has no answer: neither `answer`, `answers` nor the assistant's turn holds one".to_string());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let rationale = row.rationale.filter(|rationale| !rationale.trim().is_empty()).or(reasoned.clone());
    // The assistant's turn and the answer may differ: a data set can come with another's reasoning.
    let differs = reasoned.is_some() && !concluded.is_empty() && Some(&concluded) != answers.first();
    let dataset = row.dataset.filter(|_| !file.of_all).unwrap_or_else(|| file.dataset.clone());
    let answer_type = row.answer_type.unwrap_or_else(|| defaults.answer_type(&dataset, !row.options.is_empty()));
    let mut item = Item {
        id: row.id,
        dataset,
        image: row.image,
        question,
        options: row.options,
        answer_type,
        answers,
        concluded: (differs && rationale == reasoned).then_some(concluded),
        rationale,
    };
    gold::settle(&mut item, defaults.option_answers)?;
    Ok(item)
}

/// The one question and answer of a conversation.
fn exchange(turns: &[Turn]) -> Result<(String, String), String> {
    let [human, rest @ ..] = turns else {
        return Err("`conversations` is empty".to_string());
    };
    if human.from != "human" {
        return Err(format!("`conversations` begins with `{}`, and not with `human`", human.from));
    }
    let told = match rest {
        [] => String::new(),
        [gpt] if gpt.from == "gpt" => gpt.value.clone(),
        [other] => return Err(format!("the second turn of `conversations` is from `{}`, and not `gpt`", other.from)),
        more => {
            let turns = more.len() + 1;
            return Err(format!(
                "`conversations` has {turns} turns: split it into rows of one question and one answer"
            ));
        }
    };
    let asked = outside::question(&human.value)?;
    if asked.is_empty() {
        return Err("the human's turn asks nothing".to_string());
    }
    Ok((asked, told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::files;
    use expect_test::expect;

    fn read_text(name: &str, text: &str) -> Result<Vec<Located>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        files::write_atomic(&path, text.as_bytes()).unwrap();
        files::write_atomic(&folder.path().join("images/a.png"), b"").unwrap();
        let file = RowFile { path, dataset: "toy".into(), of_all: false };
        let root = format!("{}/", folder.path().display());
        match read(&[file], Some(&folder.path().join("images")), &Defaults::default()) {
            Ok(mut located) => {
                for row in &mut located {
                    row.place = row.place.replace(&root, "");
                }
                Ok(located)
            }
            Err(error) => Err(error.to_string().replace(&root, "")),
        }
    }

    const PLAIN: &str = r#"{"id": 7, "image": "a.png", "conversations":
        [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "4"}]}"#;

    #[test]
    fn a_plain_llava_row_is_an_item() {
        let one_line = PLAIN.replace('\n', " ");
        let rows = read_text("a.jsonl", &format!("{one_line}\n\n{one_line}\n")).unwrap();
        let expected = Item {
            id: "7".into(),
            dataset: "toy".into(),
            image: Some("a.png".into()),
            question: "How many?".into(),
            options: vec![],
            answer_type: AnswerType::Text,
            answers: vec!["4".into()],
            rationale: None,
            concluded: None,
        };
        assert_eq!(rows[0], Located { place: "a.jsonl:1".into(), item: expected });
        assert_eq!((rows[1].place.as_str(), rows[1].item.id.as_str()), ("a.jsonl:3", "7#2"));
        assert_eq!(read_text("a.json", &format!("[{PLAIN}]")).unwrap()[0].item, rows[0].item);
    }

    #[test]
    fn our_fields_say_more() {
        let row = r#"{"id": "1", "dataset": "pick", "question": "Which?", "options": ["red", "blue"], "answers": ["B", "(B)"],
            "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "Red is 1.\n\n### Answer: A"}]}"#;
        let item = read_text("a.json", &format!("[{row}]")).unwrap().remove(0).item;
        assert_eq!((item.dataset.as_str(), item.question.as_str()), ("pick", "Which?"));
        assert_eq!((item.answer_type, item.answers), (AnswerType::Letter, vec!["B".to_string(), "(B)".to_string()]));
        assert_eq!((item.rationale.as_deref(), item.concluded.as_deref()), (Some("Red is 1."), Some("A")));
    }

    #[test]
    fn ids_and_answers_are_what_is_written_and_name_one_row() {
        let row = |id: &str, answer: &str| {
            format!(r#"{{"id": {id}, "conversations": [{{"from": "human", "value": "a?"}}], "answer": {answer}}}"#)
        };
        let rows = [
            row("12345678901234567890123", "3.10"),
            row("1e5", "0.50"),
            row("7", "1e5"),
            row("\"7\"", "1"),
            row("\"7#2\"", "2"),
            row("7", "3"),
        ];
        let read = |name, text: String| -> Vec<(String, String)> {
            let rows = read_text(name, &text).unwrap().into_iter();
            rows.map(|mut row| (row.item.id, row.item.answers.remove(0))).collect()
        };
        let expected = [
            ("12345678901234567890123", "3.10"),
            ("1e5", "0.50"),
            ("7", "1e5"),
            ("7#3", "1"),
            ("7#2", "2"),
            ("7#4", "3"),
        ];
        let expected = expected.map(|(id, answer)| (id.to_string(), answer.to_string()));
        assert_eq!(read("a.jsonl", rows.join("\n")), expected);
        assert_eq!(read("a.json", format!("[{}]", rows.join(","))), expected);
    }

    #[test]
    fn gold_answers_that_cannot_be_right_are_told_by_row() {
        let turns = r#""conversations": [{"from": "human", "value": "Which?"}]"#;
        let lines = [
            format!(r#"{{"id": 1, {turns}, "options": ["red", "blue"], "answer": 1}}"#),
            format!(r#"{{"id": 2, {turns}, "options": ["red", "red"], "answer": "A"}}"#),
            format!(r#"{{"id": 3, {turns}, "answer_type": "letter", "answer": "A"}}"#),
            format!(r#"{{"id": 4, {turns}, "answers": ["x", ""]}}"#),
            format!(r#"{{"id": 5, {turns}, "answer": "x", "rationale": "So.\n### Answer: x"}}"#),
            format!(r#"{{"id": 6, {turns}, "answer": "x", "answers": ["y"]}}"#),
            format!(r#"{{"id": 7, {turns}, "id": 8}}"#),
            format!(r#"{{"id": 8, {turns}, "options": ["red", "blue"], "answer": "C"}}"#),
        ];
        expect![[r#"
            a.jsonl:1: the answer `1` is not the letter of an option: a place is read with `option_answers = "index-0"` or `"index-1"`, whichever the first one is
            a.jsonl:2: options A and B are both `red`
            a.jsonl:3: a letter is asked for, and there are no options: neither `options` nor the question lists them
            a.jsonl:4: 1 of 2 answers are empty
            a.jsonl:5: the rationale holds `### Answer:`, which stands before the one final answer
            a.jsonl:6: `answer` is `x`, which is none of `answers`
            a.jsonl:7: the key `id` is given twice
            a.jsonl:8: the answer `C` names option C, and there are 2 options"#]]
        .assert_eq(&read_text("a.jsonl", &lines.join("\n")).unwrap_err());
    }

    #[test]
    fn a_rationale_of_nothing_is_none() {
        let row = |told: &str, rationale: &str| {
            format!(
                r#"{{"id": 1, {rationale} "conversations": [{{"from": "human", "value": "a?"}}, {{"from": "gpt", "value": "{told}"}}]}}"#
            )
        };
        let rows = [row("### Answer: 4", ""), row("4", r#""rationale": " ","#), row("4", r#""rationale": null,"#)];
        for row in read_text("a.jsonl", &rows.join("\n")).unwrap() {
            assert_eq!((row.item.rationale, row.item.answers), (None, vec!["4".to_string()]));
        }
    }

    #[test]
    fn every_mistake_comes_with_its_line() {
        let lines = [
            r#"{"id": 1, "conversations": [{"from": "human", "value": "a?"}]}"#,
            r"{broken",
            r#"{"id": 3, "image": "b.png", "conversations": [{"from": "gpt", "value": "a?"}]}"#,
            r#"{"conversations": []}"#,
            r#"{"id": 5, "conversations": [{"from": "human"}]}"#,
            r#"{"id": 6, "conversations": "hello"}"#,
            r#"{"id": 7, "image": "../a.png", "conversations": []}"#,
            "[1]",
            r#"{"id": [], "conversations": []}"#,
            r#"{"id": 8, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]}"#,
        ];
        expect![[r#"
            a.jsonl:1: the row has no answer: neither `answer`, `answers` nor the assistant's turn holds one
            a.jsonl:2: not JSON: key must be a string (column 2)
            a.jsonl:3: `conversations` begins with `gpt`, and not with `human`
            a.jsonl:3: the image `b.png` is not in `images`
            a.jsonl:4: there is no `id`
            a.jsonl:5: `conversations[0]`: there is no `value`
            a.jsonl:6: `conversations`: invalid type: string "hello", expected a list
            a.jsonl:7: `conversations` is empty
            a.jsonl:7: the image `../a.png` is not a relative path below the folder of images
            a.jsonl:8: a row must be an object with `id` and `conversations`
            and 2 more"#]]
        .assert_eq(&read_text("a.jsonl", &lines.join("\n")).unwrap_err());
    }

    #[test]
    fn the_elements_of_an_array_have_numbers() {
        let text = format!("[\n{PLAIN},\n{{\"id\": \"x\", \"conversations\": []}},\n3]");
        expect![[r#"
            a.json: element 2 (id `x`): `conversations` is empty
            a.json: element 3: a row must be an object with `id` and `conversations`"#]]
        .assert_eq(&read_text("a.json", &text).unwrap_err());
        expect!["a.json:3: not JSON: key must be a string (column 2)"]
            .assert_eq(&read_text("a.json", "[\n{\"id\": 1},\n{]").unwrap_err());
    }
}
