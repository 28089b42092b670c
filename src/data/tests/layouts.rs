//! Layouts of data sets, written by the libraries that people use (`tests/golden/make_layouts.py`): the items that are
//! read, and the messages about files that are not.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::support::golden;
use crate::import::columns::ColumnMap;
use crate::import::options::{ImportOptions, RowFile};
use crate::import::{Located, RowImages, Source, preferences, read_items, read_rows};
use crate::records::{Item, Row};
use ablate_core::base::files;

/// A question as it was written.
#[derive(Debug, PartialEq, Deserialize)]
struct Expected {
    question: String,
    options: Vec<String>,
    answers: Vec<String>,
    /// A file in `pictures/`.
    image: Option<String>,
}

fn map(value: Value) -> ColumnMap {
    serde_json::from_value(value).unwrap()
}

/// The columns, the split and the image folder that a fixture needs.
fn keys(name: &str) -> (Option<ColumnMap>, Option<&'static str>, Option<&'static str>) {
    let columns = json!({ "question": "query", "answer": "label", "options": "choices", "image": "picture" });
    let split = ["hub", "dict", "imagefolder"].contains(&name).then_some("train");
    match name {
        "columns.jsonl" | "columns.csv" => (Some(map(columns)), None, Some("pictures")),
        "letters.tsv" => {
            let letters =
                json!({ "question": "query", "answer": "label", "options": ["A", "B", "C"], "image": "picture" });
            (Some(map(letters)), None, Some("pictures"))
        }
        "hub" | "saved" | "dict" | "pandas.parquet" | "pandas.feather" | "polars.parquet" | "polars.arrow"
        | "large.arrow" => (Some(map(columns)), split, None),
        "classes.parquet" => {
            let columns =
                json!({ "question": "What is animal {count}?", "answer": ["label", "share"], "image": "image" });
            (Some(map(columns)), None, None)
        }
        "arc.parquet" => {
            let columns = json!({ "question": "question", "answer": "answerKey", "options": "choices", "id": "id" });
            (Some(map(columns)), None, None)
        }
        "imagefolder" => (None, split, None),
        "llava.json" | "sharegpt.jsonl" | "swift.jsonl" => (None, None, Some("pictures")),
        _ => (None, None, None),
    }
}

/// Items, the bytes of their images by member, and a line for each file.
type ReadItems = (Vec<Located<Item>>, BTreeMap<String, Vec<u8>>, Vec<String>);

/// Reads a fixture: its items, its images by member, and a line for each file.
fn read(name: &str) -> Result<ReadItems, String> {
    let (columns, split, images) = keys(name);
    let folder = tempfile::tempdir().unwrap();
    let mut images = RowImages::new(images.map(|images| golden("layouts").join(images)).as_deref(), folder.path());
    let file = RowFile { path: golden("layouts").join(name), dataset: "d".into(), overrides_rows: false };
    let source = Source { columns: columns.as_ref(), header: true, split };
    let root = format!("{}/", golden("layouts").display());
    let (items, read) = read_items(&[file], source, &ImportOptions::default(), &mut images)
        .map_err(|error| format!("{error:#}").replace(&root, ""))?;
    let members = items.iter().flat_map(|item| item.record.images.keys().to_vec());
    let bytes = members.map(|member| (member.clone(), files::read_bytes(images.file(&member)).unwrap())).collect();
    Ok((items, bytes, read.iter().map(ToString::to_string).collect()))
}

fn picture(name: &str) -> Vec<u8> {
    files::read_bytes(&golden("layouts/pictures").join(name)).unwrap()
}

#[test]
fn every_layout_gives_the_questions_that_were_written() {
    let expected: BTreeMap<String, Vec<Expected>> = files::read_json(&golden("layouts").join("expected.json")).unwrap();
    let mut lines = Vec::new();
    for (name, expected) in expected {
        let (items, images, read) = read(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
        lines.push(read.join(" | "));
        assert_eq!(items.len(), expected.len(), "{name}");
        for (item, expected) in items.iter().zip(expected) {
            let Located { location, record } = item;
            let Expected { question, options, answers, image } = expected;
            assert_eq!(
                (&record.question, &record.options, &record.answers),
                (&question, &options, &answers),
                "{location}"
            );
            let found = record.images.keys().first().map(|member| &images[member]);
            assert_eq!(found, image.map(|image| picture(&image)).as_ref(), "{location}");
        }
    }
    expect_test::expect![[r#"
        `alpaca.json`: Alpaca's layout of a JSON array, 2 rows
        `arc.parquet`: columns of Parquet, 2 rows
        `classes.parquet`: columns of Parquet, 3 rows
        `columns.csv`: columns of CSV, 6 rows; not read: `topic`
        `columns.jsonl`: columns of JSONL, 6 rows; not read: `topic`
        `completion.jsonl`: prompt and completion of JSONL, 1 row
        `data-00000-of-00001.arrow`: columns of Arrow, 6 rows; not read: `topic`
        `train-00000-of-00002.parquet`: columns of Parquet, 3 rows; not read: `topic` | `train-00001-of-00002.parquet`: columns of Parquet, 3 rows; not read: `topic`
        `metadata.csv`: columns of CSV, 2 rows
        `large.arrow`: columns of Arrow, 6 rows; not read: `topic`
        `letters.tsv`: columns of TSV, 6 rows; not read: `topic`
        `llava.json`: conversations of a JSON array, 4 rows
        `llava.parquet`: conversations of Parquet, 4 rows
        `openai.jsonl`: messages of JSONL, 4 rows
        `pandas.feather`: columns of Arrow, 6 rows; not read: `topic`
        `pandas.parquet`: columns of Parquet, 6 rows; not read: `topic`
        `polars.arrow`: columns of Arrow, 6 rows; not read: `topic`
        `polars.parquet`: columns of Parquet, 6 rows; not read: `topic`
        `data-00000-of-00001.arrow`: columns of Arrow, 6 rows; not read: `topic`
        `sharegpt.jsonl`: conversations of JSONL, 4 rows
        `swift.jsonl`: messages of JSONL, 4 rows
        `trl.parquet`: prompt and completion of Parquet, 4 rows
        `vlmevalkit.tsv`: VLMEvalKit's layout of TSV, 8 rows; not read: `category`, `split`"#]].assert_eq(&lines.join("\n"));
}

/// The items as they are written, without the location.
fn bytes(name: &str) -> Vec<String> {
    let (items, ..) = read(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    items.iter().map(|item| serde_json::to_string(&item.record).unwrap()).collect()
}

#[test]
fn a_data_set_gives_the_same_items_in_every_format() {
    let rows = bytes("columns.jsonl");
    for name in [
        "columns.csv",
        "letters.tsv",
        "hub",
        "saved",
        "dict",
        "pandas.parquet",
        "pandas.feather",
        "polars.parquet",
        "polars.arrow",
        "large.arrow",
    ] {
        assert_eq!(bytes(name), rows, "{name}");
    }
    let rows = bytes("swift.jsonl");
    for name in ["openai.jsonl", "trl.parquet", "sharegpt.jsonl"] {
        assert_eq!(bytes(name), rows, "{name}");
    }
    assert_eq!(bytes("llava.parquet"), bytes("llava.json"));
    expect_test::expect![[r#"
        {"id":"a28d58767b813e5e","dataset":"d","image":"8f9fc0c8fab119f29a2d410bcf64db33.png","question":"How many bars, \"red\" or blue?","answer_type":"text","answers":["3"]}
        {"id":"302cf5fffa0037cd","dataset":"d","image":"9b416f75a242387fc6011ec0366dc740.jpg","question":"Which colour?\nName one.","options":["red","it's blue","green"],"answer_type":"letter","answers":["B"]}
        {"id":"ec3976ec4747def7","dataset":"d","image":"8ee603c848640830f4d8599eb04209ee.webp","question":"Is it a cat?","answer_type":"text","answers":["yes"]}
        {"id":"43ef89e82caf9c89","dataset":"d","image":"d13262085ce3410f5ccad5ad5a4e94ab.gif","question":"Which is larger?","options":["the dog","the cat"],"answer_type":"letter","answers":["A"]}
        {"id":"cff5fcc612e5f418","dataset":"d","image":"119183732b35207a0c86d8f772a85df5.bmp","question":"Wo ist Zürich?","answer_type":"text","answers":["in der Schweiz"]}
        {"id":"af31437e80d2737d","dataset":"d","question":"What is 2 + 3?","answer_type":"text","answers":["5"]}"#]].assert_eq(&bytes("columns.jsonl").join("\n"));
}

#[test]
fn training_rows_and_pairs_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut images = RowImages::new(None, folder.path());
    let source = Source { columns: None, header: true, split: None };
    let file = RowFile { path: golden("layouts/trl.parquet"), dataset: "d".into(), overrides_rows: false };
    let (rows, _) = read_rows(&[file], source, &mut images).unwrap();
    let texts: Vec<(&str, &str, bool)> = rows
        .iter()
        .map(|Located { record: Row { prompt, response, images, .. }, .. }| {
            (&**prompt, &**response, !images.is_empty())
        })
        .collect();
    assert_eq!(texts[0], ("How many bars, \"red\" or blue?", "3", true));
    assert_eq!(texts[3], ("What is 2 + 3?", "5", false));
    let (pairs, read) = preferences::read(&golden("layouts/preferences.parquet"), None, &mut images, "d").unwrap();
    let pair = &pairs[1].record;
    assert_eq!((&*pair.prompt, &*pair.chosen, &*pair.rejected), ("Is it a cat?", "yes", "no idea"));
    assert_eq!(read[0].to_string(), "`preferences.parquet`: preference pairs of Parquet, 4 rows");
}

/// The error of a file with this text, or of a fixture.
fn error(name: &str, text: Option<&str>, columns: Option<Value>, split: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = match text {
        Some(text) => {
            files::write_atomic(&folder.path().join(name), text.as_bytes()).unwrap();
            folder.path().join(name)
        }
        None => golden("layouts").join(name),
    };
    let columns = columns.map(map);
    let mut images = RowImages::new(None, &folder.path().join("unpacked"));
    let source = Source { columns: columns.as_ref(), header: true, split };
    let file = RowFile { path, dataset: "d".into(), overrides_rows: false };
    let error = read_items(&[file], source, &ImportOptions::default(), &mut images).unwrap_err();
    let shown = |path: &Path| format!("{}/", path.display());
    format!("{error:#}").replace(&shown(folder.path()), "").replace(&shown(&golden("layouts")), "")
}

#[test]
fn files_of_other_layouts_say_what_they_look_like() {
    let plain = |name, text| error(name, Some(text), None, None);
    let query = json!({ "question": "query", "answer": "label" });
    let mapped = |text, columns: Value| error("a.jsonl", Some(text), Some(columns), None);
    let errors = [
        plain("a.jsonl", r#"{"query": "?", "label": 3, "img": "a.png"}"#),
        plain("a.jsonl", r#"{"converstions": [], "identifier": 3}"#),
        plain("a.json", r#"[["what?", "red", 0]]"#),
        plain("a.jsonl", r#"{"prompt": "?", "chosen": "a", "rejected": "b"}"#),
        plain("a.csv", "question,anwser\n?,3\n"),
        plain("a.csv", "question,answer,image,image_2\n?,3,a.png,b.png\n"),
        error("gzip.parquet", None, Some(query.clone()), None),
        error("hub", None, Some(query.clone()), None),
        error("saved", None, Some(query.clone()), Some("train")),
        mapped(r#"{"query": "?", "lable": 3}"#, query.clone()),
        mapped(r#"{"query": "?", "label": {"a": 1}}"#, query.clone()),
        mapped(r#"{"query": "?", "label": null}"#, query.clone()),
        mapped(
            r#"{"query": "?", "label": 1, "p": "http://x/a.png"}"#,
            json!({ "question": "query", "answer": "label", "image": "p" }),
        ),
        mapped(
            r#"{"query": "?", "label": 1, "p": {"src": "a"}}"#,
            json!({ "question": "query", "answer": "label", "image": "p" }),
        ),
        plain("a.jsonl", r#"{"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}"#),
        plain("a.jsonl", r#"{"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]}"#),
        plain(
            "a.jsonl",
            r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "b"}]}"#,
        ),
        plain("a.tsv", "index\tquestion\tA\tB\tanswer\timage\n1\t?\tx\ty\tA\t7\n"),
    ];
    expect_test::expect![[r#"
        a.jsonl: the layout of the columns `query`, `label`, `img` is unknown: write which columns to read, as in `columns = { question = "query", answer = "label", image = "img" }`
        layouts are recognized by the columns `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, TRL, LLaMA-Factory, ms-swift), `prompt` and `completion` (TRL), `instruction` and `output` (Alpaca), `index`, `question` and `answer` (VLMEvalKit), or `question` and `answer`
        a.jsonl: the layout of the columns `converstions`, `identifier` is unknown; `converstions` resembles `conversations`: write which columns to read, as in `columns = { question = "…", answer = "…" }`
        layouts are recognized by the columns `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, TRL, LLaMA-Factory, ms-swift), `prompt` and `completion` (TRL), `instruction` and `output` (Alpaca), `index`, `question` and `answer` (VLMEvalKit), or `question` and `answer`
        a.json: the rows are lists of 3 values: write which columns to read, as in `columns = { question = "0", answer = "1" }`
        layouts are recognized by the columns `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, TRL, LLaMA-Factory, ms-swift), `prompt` and `completion` (TRL), `instruction` and `output` (Alpaca), `index`, `question` and `answer` (VLMEvalKit), or `question` and `answer`
        a.jsonl: the rows are preference pairs (columns `prompt`, `chosen`, `rejected`): a stage of kind `pairs` reads them
        layouts are recognized by the columns `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, TRL, LLaMA-Factory, ms-swift), `prompt` and `completion` (TRL), `instruction` and `output` (Alpaca), `index`, `question` and `answer` (VLMEvalKit), or `question` and `answer`
        a.csv: the layout of the columns `question`, `anwser` is unknown: write which columns to read, as in `columns = { question = "question", answer = "anwser" }`
        layouts are recognized by the columns `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, TRL, LLaMA-Factory, ms-swift), `prompt` and `completion` (TRL), `instruction` and `output` (Alpaca), `index`, `question` and `answer` (VLMEvalKit), or `question` and `answer`
        a.csv: the column `image_2` is not read: write which columns to read, as in `columns = { question = "question", answer = "answer", image = "image" }`
        layouts are recognized by the columns `conversations` (LLaVA, ShareGPT), `messages` (OpenAI, TRL, LLaMA-Factory, ms-swift), `prompt` and `completion` (TRL), `instruction` and `output` (Alpaca), `index`, `question` and `answer` (VLMEvalKit), or `question` and `answer`
        gzip.parquet: the column `query` is compressed with GZIP, which is not supported: write the file with snappy or zstd, as in `to_parquet(..., compression="zstd")`
        `hub` has several splits: write `split = "…"` with one of `test`, `train`
        `split` is `train`, but `saved` holds a `Dataset` without splits: remove the key
        a.jsonl: `columns.answer`: the file has no column `label`; its columns are `query`, `lable`; did you mean `lable`?
        a.jsonl:1: `label` is an object, expected a text or a number; its fields are `label.a`
        a.jsonl:1: `label` has no value
        a.jsonl:1: the image `http://x/a.png` is an address: nothing is downloaded; download the images and name them by path
        a.jsonl:1: `p` has the field `src`; an image is a path, or an object with `bytes` and `path`
        a.jsonl:1: `messages` has a message from `tool`, expected `system`, `user` (`human`) or `assistant` (`gpt`)
        a.jsonl:1: `messages` has a part of type `video`, which is not supported: `text`, `image` and `image_url` are
        a.jsonl:1: the messages have 1 parts of type `image`, and the row has 0 images
        a row: {"messages": [{"role": "user", "content": "<image>How many bars?"}, {"role": "assistant", "content": "4"}], "images": ["charts/7.png"]}
        a.tsv:2: `image` is `7`, but no row with this `index` has an image in base64"#]].assert_eq(&errors.join("\n"));
}

/// Records of a file with this text, as they are written; images are those of the fixtures.
fn records(name: &str, text: &str, rows: bool, columns: Option<Value>) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    files::write_atomic(&folder.path().join(name), text.as_bytes()).unwrap();
    let columns = columns.map(map);
    let mut images = RowImages::new(Some(&golden("layouts/pictures")), &folder.path().join("unpacked"));
    let source = Source { columns: columns.as_ref(), header: true, split: None };
    let file = RowFile { path: folder.path().join(name), dataset: "d".into(), overrides_rows: false };
    if rows {
        let (rows, _) = read_rows(&[file], source, &mut images).unwrap();
        return rows.iter().map(|row| serde_json::to_string(&row.record).unwrap()).collect();
    }
    let (items, _) = read_items(&[file], source, &ImportOptions::default(), &mut images).unwrap();
    items.iter().map(|item| serde_json::to_string(&item.record).unwrap()).collect()
}

#[test]
fn conversations_of_several_turns_and_images_are_rows() {
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "<image>How many?" }, { "role": "assistant", "content": "4" },
        { "role": "user", "content": "And in <image>?" }, { "role": "assistant", "content": "5" },
    ]);
    let parts = json!([
        { "role": "user", "content": [{ "type": "text", "text": "What is <image>? " }, { "type": "image" }] },
        { "role": "assistant", "content": "A tag." },
        { "role": "user", "content": "Why?" }, { "role": "assistant", "content": "So." },
    ]);
    let lines = [
        json!({ "id": "1", "messages": messages, "images": ["a.png", "b.jpg"] }),
        json!({ "id": "2", "messages": parts, "images": ["a.png"] }),
        json!({ "id": "3", "messages": parts.as_array().unwrap()[2..], "images": ["a.png", "a.png"] }),
    ];
    let text = lines.map(|line| line.to_string()).join("\n");
    expect_test::expect![[r#"
        {"id":"1","dataset":"d","images":["8f9fc0c8fab119f29a2d410bcf64db33.png","9b416f75a242387fc6011ec0366dc740.jpg"],"system":"Be brief.","history":[{"prompt":"<image>How many?","response":"4"}],"prompt":"And in <image>?","response":"5"}
        {"id":"2","dataset":"d","image":"8f9fc0c8fab119f29a2d410bcf64db33.png","history":[{"prompt":"What is <image>?","response":"A tag."}],"prompt":"Why?","response":"So."}
        {"id":"3","dataset":"d","images":["8f9fc0c8fab119f29a2d410bcf64db33.png","8f9fc0c8fab119f29a2d410bcf64db33.png"],"prompt":"<image><image>Why?","response":"So."}"#]].assert_eq(&records("a.jsonl", &text, true, None).join("\n"));

    let sharegpt = r#"{"id": 1, "system": "Be brief.", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"},
        {"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]}"#;
    let alpaca = r#"[{"id": 1, "system": "Be brief.", "history": [["a", "b"]], "instruction": "c", "input": "", "output": "d"}]"#;
    let expected = r#"{"id":"1","dataset":"d","system":"Be brief.","history":[{"prompt":"a","response":"b"}],"prompt":"c","response":"d"}"#;
    assert_eq!(records("a.jsonl", &sharegpt.replace('\n', " "), true, None), [expected]);
    assert_eq!(records("a.json", alpaca, true, None), [expected]);
}

#[test]
fn questions_about_several_images_are_items() {
    let columns = json!({ "question": "q", "answer": "a", "image": ["one", "two"], "id": "n" });
    let text = "n,q,a,one,two\n1,Same?,no,a.png,b.jpg\n2,Is <image> in <image>?,yes,a.png,b.jpg\n3,What?,x,a.png,\n";
    expect_test::expect![[r#"
        {"id":"1","dataset":"d","images":["8f9fc0c8fab119f29a2d410bcf64db33.png","9b416f75a242387fc6011ec0366dc740.jpg"],"question":"<image><image>Same?","answer_type":"text","answers":["no"]}
        {"id":"2","dataset":"d","images":["8f9fc0c8fab119f29a2d410bcf64db33.png","9b416f75a242387fc6011ec0366dc740.jpg"],"question":"Is <image> in <image>?","answer_type":"text","answers":["yes"]}
        {"id":"3","dataset":"d","image":"8f9fc0c8fab119f29a2d410bcf64db33.png","question":"What?","answer_type":"text","answers":["x"]}"#]].assert_eq(&records("a.csv", text, false, Some(columns)).join("\n"));
    let text = "index\tquestion\tanswer\timage_path\n1\tSame?\tx\t['a.png', 'b.jpg']\n2\tWhat?\ty\ta.png\n";
    expect_test::expect![[r#"
        {"id":"1","dataset":"d","images":["8f9fc0c8fab119f29a2d410bcf64db33.png","9b416f75a242387fc6011ec0366dc740.jpg"],"question":"<image><image>Same?","answer_type":"text","answers":["x"]}
        {"id":"2","dataset":"d","image":"8f9fc0c8fab119f29a2d410bcf64db33.png","question":"What?","answer_type":"text","answers":["y"]}"#]].assert_eq(&records("a.tsv", text, false, None).join("\n"));
    let turns = r#"{"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let several = r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]}"#;
    let errors = [error("a.jsonl", Some(turns), None, None), error("a.jsonl", Some(several), None, None)];
    expect_test::expect![[r#"
        a.jsonl:1: the row has a system message: read conversations by a source of a `mix`
        a.jsonl:1: the conversation has 3 turns: split it into rows with one question and one answer, or read conversations by a source of a `mix`"#]].assert_eq(&errors.join("\n"));
}

#[test]
fn damaged_files_are_errors_and_not_panics() {
    let columns = map(json!({ "question": "query", "answer": "label", "options": "choices", "image": "picture" }));
    let folder = tempfile::tempdir().unwrap();
    let (mut read, mut refused) = (0, 0);
    for name in [
        "polars.parquet",
        "hub/data/test-00000-of-00001.parquet",
        "saved/data-00000-of-00001.arrow",
        "polars.arrow",
        "large.arrow",
    ] {
        let whole = files::read_bytes(&golden("layouts").join(name)).unwrap();
        let damaged = (0..whole.len()).step_by(37).flat_map(|at| {
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            [whole[..at].to_vec(), flipped]
        });
        for bytes in damaged {
            let path = folder.path().join("data");
            files::write_atomic(&path, &bytes).unwrap();
            let mut images = RowImages::new(None, &folder.path().join("unpacked"));
            let source = Source { columns: Some(&columns), header: true, split: None };
            let file = RowFile { path, dataset: "d".into(), overrides_rows: false };
            match read_items(&[file], source, &ImportOptions::default(), &mut images) {
                Ok(_) => read += 1,
                Err(error) => {
                    assert!(error.to_string().contains("data"), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 500, "{read} read, {refused} refused");
}
