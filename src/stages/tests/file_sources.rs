//! Files that `items`, `mix` and `pairs` read in layouts of other libraries.

use serde_json::json;

use super::support::{Runner, manifest_line, mistakes, parse};
use ablate_core::base::files;
use ablate_data::images::ImagePacks;
use ablate_data::records::{Item, Pair, Row};

const PNG: &str = "tests/golden/layouts/pictures/a.png";
const GIF: &str = "tests/golden/formats/animated.gif";

fn repository(name: &str) -> Vec<u8> {
    files::read_bytes(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn with_pictures() -> Runner {
    let runner = Runner::new();
    files::write_atomic(&runner.path("pictures/0.png"), &repository(PNG)).unwrap();
    files::write_atomic(&runner.path("pictures/1.gif"), &repository(GIF)).unwrap();
    runner
}

#[test]
fn rows_that_are_lists_are_items() {
    let mut runner = with_pictures();
    runner
        .write("questions.json", r#"[["What is red?", "a", 0], ["What is blue?", "b", 0], ["What is red?", "a", 0]]"#);
    let columns = json!({ "question": "0", "answer": "{1}", "image": "{2}.png" });
    let table = json!({ "path": "questions.json", "images": "pictures", "columns": columns });
    let summary = runner.run("items", "items", &table).unwrap();
    let items: Vec<Item> = runner.read("items/items.jsonl");
    assert_eq!((&*items[1].question, &*items[1].answers[0], &*items[1].dataset), ("What is blue?", "b", "questions"));
    assert_eq!(items[2].id, format!("{}#2", items[0].id));
    assert_eq!(
        (&summary.0["images"], &summary.0["files"]),
        (&json!(1), &json!(["`questions.json`: columns of a JSON array, 3 rows"]))
    );
    let packs = ImagePacks::open(&runner.images).unwrap();
    assert_eq!(packs.encoded(&items[0].images.keys()[0]).unwrap(), repository(PNG));
}

#[test]
fn animated_images_are_counted() {
    let mut runner = with_pictures();
    runner.write("rows.csv", "question,answer,image\nWhat?,a,1.gif\nWhy?,b,0.png\n");
    let summary = runner.run("items", "items", &json!({ "path": "rows.csv", "images": "pictures" })).unwrap();
    let warnings: Vec<&str> = summary.warnings().collect();
    assert_eq!(warnings, ["1 of 2 images are animated: their first frame is used"]);
}

#[test]
fn a_mix_reads_files() {
    let mut runner = with_pictures();
    runner.write("chat/train.jsonl", &(json!({ "messages": [
        { "role": "user", "content": "<image>What?" }, { "role": "assistant", "content": "red" }], "images": ["0.png"] }).to_string() + "\n"));
    runner.write("chat/test.jsonl", "{}\n");
    runner.write("chat/0.png", "");
    files::write_atomic(&runner.path("chat/0.png"), &repository(PNG)).unwrap();
    runner.write("facts.tsv", "q\ta\nWhat is 1 + 1?\t2\nWhat is 2 + 2?\t4\n");
    let table = json!({ "sources": {
        "chat": { "path": "chat", "split": "train" },
        "facts": { "path": "facts.tsv", "columns": { "question": "q", "answer": "a" }, "dataset": "sums" },
    } });
    let summary = runner.run("mix", "mix", &table).unwrap();
    let mut rows: Vec<Row> = runner.read("mix/rows.jsonl");
    rows.sort_by_key(|row| row.response.clone());
    let texts: Vec<_> = rows.iter().map(|row| (&*row.source, &*row.dataset, &*row.prompt, &*row.response)).collect();
    let expected = [
        ("facts", "sums", "What is 1 + 1?", "2"),
        ("facts", "sums", "What is 2 + 2?", "4"),
        ("chat", "chat", "What?", "red"),
    ];
    assert_eq!(texts, expected);
    let packs = ImagePacks::open(&runner.images).unwrap();
    let key = &rows[2].images.keys()[0];
    assert!(key.contains("/chat/"), "{key}");
    assert_eq!(packs.encoded(key).unwrap(), repository(PNG));
    assert_eq!((&summary.0["images"], summary.0["files"].as_array().unwrap().len()), (&json!(1), 2));
    // The mix of another stage has no pack.
    assert!(parse("mix", &json!({ "sources": { "a": { "from": "items" } } })).outputs().is_none());

    let table = json!({ "sources": { "facts": { "path": "facts.tsv", "columns": { "question": "question", "answer": "a" } } } });
    assert_eq!(
        runner.fail("wrong", "mix", &table),
        "source `facts`: facts.tsv: `columns.question`: the file has no column `question`; its columns are `q`, `a`"
    );
}

#[test]
fn pairs_of_trl_are_read() {
    let mut runner = with_pictures();
    runner.write("rows.jsonl", &(json!({ "prompt": [{ "role": "user", "content": "<image>What?" }], "images": ["0.png"],
        "chosen": [{ "role": "assistant", "content": "red" }], "rejected": [{ "role": "assistant", "content": "blue" }] }).to_string() + "\n"));
    runner.run("pairs", "pairs", &json!({ "path": "rows.jsonl", "images": "pictures", "dev": 0.0 })).unwrap();
    let pairs: Vec<Pair> = runner.read("pairs/pairs.jsonl");
    assert_eq!((&*pairs[0].prompt, &*pairs[0].chosen, &*pairs[0].rejected), ("What?", "red", "blue"));
    assert!(!pairs[0].images.is_empty());
}

#[test]
fn mistakes_in_tables_have_their_keys() {
    let columns = json!({ "question": "{0", "answer": [], "image": "{}" });
    let lines = [
        mistakes("items", &json!({ "path": "x", "columns": columns })),
        mistakes("items", &json!({ "path": "x", "columns": { "question": "", "answer": { "text": " " } } })),
        mistakes("items", &json!({ "path": "x", "columns": { "question": "a", "anwser": "b" } })),
        mistakes("items", &json!({ "path": "x", "columns": { "question": "a", "answer": { "txt": "b" } } })),
        mistakes("items", &json!({ "path": "x", "header": false })),
        mistakes(
            "items",
            &json!({ "synthetic": { "datasets": ["math"], "split": "dev", "count": 1 }, "split": "train" }),
        ),
        mistakes("mix", &json!({ "sources": { "a": {} } })),
        mistakes("mix", &json!({ "sources": { "a": { "from": "x", "path": "y" } } })),
        mistakes("mix", &json!({ "sources": { "a": { "from": "x", "split": "train", "images": "y" } } })),
        mistakes("mix", &json!({ "sources": { "a": { "path": "x", "as": "cot", "prompt": "cot" } } })),
        mistakes(
            "mix",
            &json!({ "sources": { "a": { "path": "x", "columns": { "question": "a", "answer": "b", "options": "c" } } } }),
        ),
        mistakes("pairs", &json!({ "judged": "x", "split": "train" })),
    ];
    expect_test::expect![[r#"
        columns.answer: the list of columns is empty
        columns.question: `{0`: a column is written as `{name}`, a brace as `{{` or `}}`
        columns.image: `{}`: a column is written as `{name}`, a brace as `{{` or `}}`
        columns.question: the name of a column is empty
        columns.answer: the text is empty
        columns.anwser: unknown key `anwser`
        columns.answer: expected a column, a text with columns in braces, { text = "..." }, or a list of them
        header: without a header the columns have no names
        split: `split` is for rows of files only, but `synthetic` generates the rows
        sources.a: `from` and `path` are missing: the source needs one of them
        sources.a.path: `from` and `path` are both given: write one of them
        sources.a.images: `images` is for `path` only
        sources.a.split: `split` is for `path` only
        sources.a.as: `as = "cot"` is for stages; the rows of files are used as they are
        sources.a.prompt: `prompt` is for items; the rows of files have their prompts
        sources.a.columns.options: `options` is for questions, which a stage of kind `items` reads
        split: `split` is for `path` only"#]]
    .assert_eq(&lines.concat().join("\n"));
}

#[test]
fn keys_of_files_are_part_of_the_identity() {
    let items = |more: serde_json::Value| {
        let mut table = json!({ "path": "rows.csv" });
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        manifest_line("items", &table)
    };
    let lines = [
        items(json!({})),
        items(json!({ "header": true })),
        items(json!({ "columns": { "question": "a", "answer": "b" } })),
        items(json!({ "split": "train" })),
    ];
    assert_eq!(lines[0], lines[1]);
    assert!(lines[2].contains("columns") && lines[3].contains("split"), "{lines:?}");
}
