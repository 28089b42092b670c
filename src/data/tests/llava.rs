//! Import of rows in LLaVA's layout: items and errors.

use expect_test::expect;

use crate::image_keys::ImageKeys;
use crate::import::llava::EXAMPLE;
use crate::import::options::{ImportOptions, RowFile};
use crate::import::{Located, RowImages, Source, read_items};
use crate::records::{AnswerType, Item};
use ablate_core::base::files;

fn read_text(name: &str, text: &str) -> Result<Vec<Located<Item>>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    files::write_atomic(&path, text.as_bytes()).unwrap();
    files::write_atomic(&folder.path().join("images/a.png"), b"").unwrap();
    let file = RowFile { path, dataset: "toy".into(), overrides_rows: false };
    let root = format!("{}/", folder.path().display());
    let mut images = RowImages::new(Some(&folder.path().join("images")), &folder.path().join("unpacked"));
    let source = Source { columns: None, header: true, split: None };
    match read_items(&[file], source, &ImportOptions::default(), &mut images) {
        Ok((mut located, _)) => {
            for row in &mut located {
                row.location = row.location.replace(&root, "");
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
        images: ImageKeys::Leading("a.png".into()),
        question: "How many?".into(),
        options: vec![],
        answer_type: AnswerType::Text,
        answers: vec!["4".into()],
        rationale: None,
        rationale_answer: None,
        facts: Vec::new(),
    };
    assert_eq!(rows[0], Located { location: "a.jsonl:1".into(), record: expected });
    assert_eq!((rows[1].location.as_str(), rows[1].record.id.as_str()), ("a.jsonl:3", "7#2"));
    assert_eq!(read_text("a.json", &format!("[{PLAIN}]")).unwrap()[0].record, rows[0].record);
}

#[test]
fn optional_fields_are_read() {
    let row = r#"{"id": "1", "dataset": "pick", "question": "Which?", "options": ["red", "blue"], "answers": ["B", "(B)"],
        "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "Red is 1.\n\n### Answer: A"}]}"#;
    let item = read_text("a.json", &format!("[{row}]")).unwrap().remove(0).record;
    assert_eq!((item.dataset.as_str(), item.question.as_str()), ("pick", "Which?"));
    assert_eq!((item.answer_type, item.answers), (AnswerType::Letter, vec!["B".to_string(), "(B)".to_string()]));
    assert_eq!((item.rationale.as_deref(), item.rationale_answer.as_deref()), (Some("Red is 1."), Some("A")));
}

#[test]
fn ids_and_answers_are_kept_as_written() {
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
        rows.map(|mut row| (row.record.id, row.record.answers.remove(0))).collect()
    };
    let expected =
        [("12345678901234567890123", "3.10"), ("1e5", "0.50"), ("7", "1e5"), ("7#3", "1"), ("7#2", "2"), ("7#4", "3")];
    let expected = expected.map(|(id, answer)| (id.to_string(), answer.to_string()));
    assert_eq!(read("a.jsonl", rows.join("\n")), expected);
    assert_eq!(read("a.json", format!("[{}]", rows.join(","))), expected);
}

#[test]
fn invalid_gold_answers_are_reported_by_row() {
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
        a.jsonl:1: the answer `1` is not the letter of an option: for indices set `option_answers = "index-0"` or `"index-1"`
        a.jsonl:2: options A and B are both `red`
        a.jsonl:3: the answer type is a letter, but neither `options` nor the question lists options
        a.jsonl:4: 1 of 2 answers are empty
        a.jsonl:5: the rationale contains `### Answer:`, the marker of the final answer
        a.jsonl:6: `answer` is `x`, which is not one of `answers`
        a.jsonl:7: the key `id` occurs twice
        a.jsonl:8: the answer `C` names option C, but there are 2 options
        a row: {"id": "7", "image": "charts/7.png", "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}]}"#]]
    .assert_eq(&read_text("a.jsonl", &lines.join("\n")).unwrap_err());
}

#[test]
fn an_empty_rationale_is_none() {
    let row = |response: &str, rationale: &str| {
        format!(
            r#"{{"id": 1, {rationale} "conversations": [{{"from": "human", "value": "a?"}}, {{"from": "gpt", "value": "{response}"}}]}}"#
        )
    };
    let rows = [row("### Answer: 4", ""), row("4", r#""rationale": " ","#), row("4", r#""rationale": null,"#)];
    for row in read_text("a.jsonl", &rows.join("\n")).unwrap() {
        assert_eq!((row.record.rationale, row.record.answers), (None, vec!["4".to_string()]));
    }
}

#[test]
fn every_error_names_its_line() {
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
        a.jsonl:1: the row has no answer: `answer`, `answers` and the assistant's turn are empty
        a.jsonl:2: not JSON: key must be a string (column 2)
        a.jsonl:3: `conversations` begins with `gpt`, expected `human`
        a.jsonl:3: the image `b.png` is not in the folder `images` (`images`)
        a.jsonl:4: `conversations` is empty
        a.jsonl:5: `conversations[0]`: missing field `value`
        a.jsonl:6: `conversations`: invalid type: string "hello", expected a list
        a.jsonl:7: `conversations` is empty
        a.jsonl:7: the image `../a.png` is not a relative path below the folder `images`
        a.jsonl:8: a row must be an object with `conversations`
        and 2 more
        a row: {"id": "7", "image": "charts/7.png", "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}]}"#]]
    .assert_eq(&read_text("a.jsonl", &lines.join("\n")).unwrap_err());
}

#[test]
fn errors_name_the_element_of_an_array() {
    let text = format!("[\n{PLAIN},\n{{\"id\": \"x\", \"conversations\": []}},\n3]");
    expect![[r#"
        a.json: element 2 (id `x`): `conversations` is empty
        a.json: element 3: a row must be an object with `conversations`
        a row: {"id": "7", "image": "charts/7.png", "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}]}"#]]
    .assert_eq(&read_text("a.json", &text).unwrap_err());
    let error = read_text("a.json", "[\n{\"id\": 1},\n{]").unwrap_err();
    assert_eq!(error, format!("a.json:3: not JSON: key must be a string (column 2)\n{EXAMPLE}"));
    let error = read_text("a.json", "[\n{\"id\": 1},\n{\"id\": NaN}]").unwrap_err();
    assert_eq!(error, format!("a.json:3: not JSON: `NaN` is not a JSON value (column 8); write null\n{EXAMPLE}"));
    assert_eq!(read_text("a.json", &format!("\u{feff}[{PLAIN}]")).unwrap().len(), 1);
}

#[test]
fn question_key_and_human_turn_are_read_alike() {
    let row = |question: &str, human: &str, image: &str| {
        format!(
            r#"[{{"id": 1, {image} "question": {question}, "answer": "4",
            "conversations": [{{"from": "human", "value": "{human}"}}]}}]"#
        )
    };
    let imported = |question: &str, human: &str, image: &str| {
        let rows = read_text("a.json", &row(question, human, image));
        rows.map(|rows| rows[0].record.question.clone())
            .map_err(|error| error.lines().next().unwrap_or_default().to_string())
    };
    let image = r#""image": "a.png","#;
    assert_eq!(imported(r#""<image>\nHow many? ""#, "<image>", image).unwrap(), "How many?");
    assert_eq!(imported("null", "<image> How many?", image).unwrap(), "How many?");
    assert_eq!(imported(r#""Is \\<image> a tag?""#, "x", "").unwrap(), "Is <image> a tag?");
    let error = "a.json: element 1 (id `1`): `question` is empty: remove the key or write a question";
    assert_eq!(imported(r#"" <image> ""#, "<image>How many?", image).unwrap_err(), error);
    assert_eq!(imported(r#""""#, "How many?", "").unwrap_err(), error);
    let error = "a.json: element 1 (id `1`): the question has `<image>`, but the row has no `image`; for the literal \
                 text write `\\<image>` (in JSON `\\\\<image>`)";
    assert_eq!(imported(r#""<image>How many?""#, "x", "").unwrap_err(), error);
    assert_eq!(imported(r#""How many?""#, "<image>x", r#""image": null,"#).unwrap_err(), error);
    assert_eq!(
        imported(r#""How many?""#, "x", r#""image_2": "a.png","#).unwrap_err(),
        "a.json: element 1 (id `1`): `image_2` is not read: images are in `image` or `images`"
    );
}
