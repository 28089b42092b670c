//! Imported files: rows in LLaVA's format, and their images.

use std::path::Path;

use serde_json::json;

use super::support::{Runner, manifest, mistakes, parse};
use ablate_core::base::files;
use ablate_data::images::ImagePacks;
use ablate_data::images::decode;
use ablate_data::records::{AnswerType, Item};

/// Writes a file in LLaVA's format. `rows` are id, question and answer.
fn write_llava(runner: &Runner, name: &str, rows: &[(&str, &str, &str)]) {
    let line = |(id, question, answer): &(&str, &str, &str)| {
        let turns = json!([{ "from": "human", "value": question }, { "from": "gpt", "value": answer }]);
        json!({ "id": id, "conversations": turns, "dataset": "other" }).to_string() + "\n"
    };
    runner.write(name, &rows.iter().map(line).collect::<String>());
}

#[test]
fn files_have_the_data_sets_of_the_table() {
    let mut runner = Runner::new();
    write_llava(&runner, "a.jsonl", &[("1", "2 + 3?\nAnswer briefly.", "5"), ("2", "1 + 1?\nAnswer briefly. ", "2")]);
    write_llava(&runner, "b.jsonl", &[("1", "3 + 3?\nReason first.", "6.\n### Answer: 6")]);
    write_llava(&runner, "c.jsonl", &[("1", "What is it?\nReason first.", "A cat.\n### Answer: cat")]);
    let table = json!({
        "files": { "math": ["a.jsonl", "b.jsonl"], "aokvqa": "c.jsonl" },
        "answer_type": { "math": "number" },
        "instructions": ["Answer briefly.", "Reason first."],
    });
    runner.run("items", "items", &table).unwrap();
    let items: Vec<Item> = runner.read("items/items.jsonl");
    let actual: Vec<_> = items.iter().map(|item| (&*item.dataset, &*item.id, &*item.question)).collect();
    let expected =
        [("aokvqa", "1", "What is it?"), ("math", "1", "2 + 3?"), ("math", "2", "1 + 1?"), ("math", "1#2", "3 + 3?")];
    assert_eq!(actual, expected);
    assert_eq!((items[0].answer_type, items[1].answer_type), (AnswerType::Text, AnswerType::Number));
    assert_eq!((items[3].rationale.as_deref(), &*items[3].answers[0]), (Some("6."), "6"));

    let each = |rows: usize| json!({ "files": table["files"], "per_dataset": rows });
    runner.run("one", "items", &each(1)).unwrap();
    let one: Vec<Item> = runner.read("one/items.jsonl");
    assert_eq!(one.iter().map(|item| &*item.dataset).collect::<Vec<_>>(), ["aokvqa", "math"]);
    let error = runner.fail("two", "items", &each(2));
    assert_eq!(error, "`per_dataset` = 2 is more than the number of rows of `aokvqa`, 1");

    let table = json!({ "files": table["files"], "instructions": ["Answer briefly."] });
    assert_eq!(
        runner.fail("wrong", "items", &table),
        "c.jsonl:1: the question ends with `Reason first.`, which is not one of `instructions`; the most similar one is \
         `Answer briefly.`\nb.jsonl:1: the question ends with `Reason first.`, which is not one of `instructions`; the \
         most similar one is `Answer briefly.`"
    );
}

#[test]
fn each_file_is_an_input() {
    let table = json!({ "files": { "math": ["a.jsonl", "b.jsonl"], "aokvqa": "c.jsonl" }, "images": "photos" });
    let roles: Vec<String> = parse("items", &table).inputs().into_iter().map(|input| input.role).collect();
    assert_eq!(roles, ["files.aokvqa", "files.math.0", "files.math.1", "images"]);
    assert_eq!(manifest("items", &table).entries, []);
}

#[test]
fn mistakes_in_files_have_their_keys() {
    let table = json!({
        "files": { "a.b": "x", "math": [] }, "dataset": "d", "answer_type": { "chart": "vqa" }, "instructions": [" "],
        "take": 3, "per_dataset": 0,
    });
    let lines = [
        mistakes("items", &table),
        mistakes("items", &json!({ "files": { "a": 3 } })),
        mistakes("items", &json!({ "path": "x", "answer_type": "leter" })),
        mistakes("items", &json!({ "path": "x", "files": { "a": "x" }, "answer_type": { "a": "numbr" } })),
    ];
    expect_test::expect![[r#"
        dataset: `dataset` is for `path` only; the keys of `files` are the data sets
        files: `a.b` is not a valid name of a data set: a name is not empty and has no `.`
        files.math: the list of files is empty
        answer_type.chart: `files` has no data set `chart`
        instructions: an instruction is empty: write its text, or remove the key
        per_dataset: `per_dataset` must be at least 1
        per_dataset: `take` and `per_dataset` are both given: write one of them
        files.a: expected a path or a list of paths
        answer_type: unknown value `leter`
        answer_type.a: unknown value `numbr`"#]]
    .assert_eq(&lines.concat().join("\n"));
}

fn jpeg(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jpeg");
    files::read_bytes(&folder.join(format!("{name}.jpg"))).unwrap()
}

fn row(id: u32, image: &str) -> String {
    let turns = json!([{ "from": "human", "value": "<image>\nWhat?" }, { "from": "gpt", "value": "a cat" }]);
    json!({ "id": id, "image": image, "conversations": turns }).to_string() + "\n"
}

#[test]
fn broken_images_name_their_first_row() {
    let mut runner = Runner::new();
    let jpeg = jpeg("baseline");
    files::write_atomic(&runner.path("photos/whole.jpg"), &jpeg).unwrap();
    let mut rows = row(0, "whole.jpg");
    for id in 1..13 {
        let name = format!("{id}.jpg");
        files::write_atomic(&runner.path("photos").join(&name), &jpeg[..jpeg.len() / 2]).unwrap();
        rows += &(row(id, &name) + &row(id + 100, &name));
    }
    files::write_atomic(&runner.path("cats.jsonl"), rows.as_bytes()).unwrap();
    let error = runner.fail("cats", "items", &json!({ "path": "cats.jsonl", "images": "photos" }));
    expect_test::expect![[r#"
        cats.jsonl:2: the image `1.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:4: the image `2.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:6: the image `3.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:8: the image `4.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:10: the image `5.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:12: the image `6.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:14: the image `7.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:16: the image `8.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:18: the image `9.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cats.jsonl:20: the image `10.jpg`: cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        and 2 more"#]]
    .assert_eq(&error);
}

#[test]
fn exif_orientation_can_be_ignored() {
    let mut runner = Runner::new();
    files::write_atomic(&runner.path("photos/a.jpg"), &jpeg("turned")).unwrap();
    files::write_atomic(&runner.path("cats.jsonl"), row(1, "a.jpg").as_bytes()).unwrap();
    let row = json!({ "id": 1, "image": "a.jpg", "question": "?", "chosen": "a", "rejected": "b" }).to_string();
    files::write_atomic(&runner.path("pairs.jsonl"), row.as_bytes()).unwrap();
    let mut sizes = Vec::new();
    for (kind, path) in [("items", "cats.jsonl"), ("pairs", "pairs.jsonl")] {
        for (name, flag) in [("turned", true), ("stored", false)] {
            let mut table = json!({ "path": path, "images": "photos", "exif_orientation": flag });
            if kind == "pairs" {
                table["dev"] = json!(0.0);
            }
            runner.images.clear();
            runner.run(&format!("{kind}-{name}"), kind, &table).unwrap();
            let packs = ImagePacks::open(&runner.images).unwrap();
            let bytes = packs.encoded(packs.keys().next().unwrap()).unwrap();
            sizes.push(decode::dimensions(&bytes).unwrap());
        }
    }
    assert_eq!(sizes, [(29, 43), (43, 29), (29, 43), (43, 29)]);
}
