//! What others publish and serve: released files become items, and a model behind an endpoint is evaluated.

use serde_json::{Value, json};

use super::data_kinds::{Bench, endpoint};
use crate::stages::KINDS;
use ablate_core::base::files;
use ablate_core::stage::{ConfigError, Manifest, Pool, find_kind};
use ablate_data::records::{AnswerType, FinishReason, Item, Score};

/// Writes a file of rows without images; `rows` are id, question and answer.
fn release(bench: &Bench, name: &str, rows: &[(&str, &str, &str)]) {
    let line = |(id, question, answer): &(&str, &str, &str)| {
        let turns = json!([{ "from": "human", "value": question }, { "from": "gpt", "value": answer }]);
        json!({ "id": id, "conversations": turns, "dataset": "theirs" }).to_string() + "\n"
    };
    files::write_atomic(&bench.path(name), rows.iter().map(line).collect::<String>().as_bytes()).unwrap();
}

fn wrong(kind: &str, table: &Value) -> Vec<String> {
    let errors = (find_kind(KINDS, kind).unwrap().parse)(table).map(|_| ()).unwrap_err();
    errors.into_iter().map(|ConfigError { path, message, .. }| format!("{}: {message}", path.join("."))).collect()
}

#[test]
fn released_files_are_items_of_the_data_sets_that_the_table_names() {
    let mut bench = Bench::new();
    release(&bench, "a.jsonl", &[("1", "2 + 3?\nAnswer briefly.", "5"), ("2", "1 + 1?\nAnswer briefly. ", "2")]);
    release(&bench, "b.jsonl", &[("1", "3 + 3?\nReason first.", "6.\n### Answer: 6")]);
    release(&bench, "c.jsonl", &[("1", "What is it?\nReason first.", "A cat.\n### Answer: cat")]);
    let table = json!({
        "files": { "math": ["a.jsonl", "b.jsonl"], "aokvqa": "c.jsonl" },
        "answer_type": { "math": "number" },
        "instructions": ["Answer briefly.", "Reason first."],
    });
    bench.run("items", "items", &table).unwrap();
    let items: Vec<Item> = bench.read("items/items.jsonl");
    let told: Vec<_> = items.iter().map(|item| (&*item.dataset, &*item.id, &*item.question)).collect();
    let expected =
        [("aokvqa", "1", "What is it?"), ("math", "1", "2 + 3?"), ("math", "2", "1 + 1?"), ("math", "1#2", "3 + 3?")];
    assert_eq!(told, expected);
    assert_eq!((items[0].answer_type, items[1].answer_type), (AnswerType::Text, AnswerType::Number));
    assert_eq!((items[3].rationale.as_deref(), &*items[3].answers[0]), (Some("6."), "6"));

    let each = |rows: usize| json!({ "files": table["files"], "per_dataset": rows });
    bench.run("one", "items", &each(1)).unwrap();
    let one: Vec<Item> = bench.read("one/items.jsonl");
    assert_eq!(one.iter().map(|item| &*item.dataset).collect::<Vec<_>>(), ["aokvqa", "math"]);
    let error = bench.run("two", "items", &each(2)).unwrap_err().to_string();
    assert_eq!(error, "`per_dataset` = 2 asks for more rows than there are of `aokvqa`: 1");

    let table = json!({ "files": table["files"], "instructions": ["Answer briefly."] });
    let error = bench.run("wrong", "items", &table).unwrap_err().to_string();
    let root = format!("{}/", bench.path("").display()).replace("//", "/");
    assert_eq!(
        error.replace(&root, ""),
        "c.jsonl:1: the question ends with none of `instructions`, but with `Reason first.`: the nearest is \
         `Answer briefly.`\nb.jsonl:1: the question ends with none of `instructions`, but with `Reason first.`: the \
         nearest is `Answer briefly.`"
    );
}

#[test]
fn each_file_is_an_input_of_its_own() {
    let table = json!({ "files": { "math": ["a.jsonl", "b.jsonl"], "aokvqa": "c.jsonl" }, "images": "photos" });
    let stage = (find_kind(KINDS, "items").unwrap().parse)(&table).unwrap();
    let roles: Vec<String> = stage.inputs().into_iter().map(|input| input.role).collect();
    assert_eq!(roles, ["files.aokvqa", "files.math.0", "files.math.1", "images"]);
    let mut manifest = Manifest::new("items", 1);
    stage.identify(&mut manifest);
    assert_eq!(manifest.entries, []);
}

#[test]
fn mistakes_in_tables_of_files_are_told_with_their_keys() {
    let table = json!({
        "files": { "a.b": "x", "math": [] }, "dataset": "d", "answer_type": { "chart": "vqa" }, "instructions": [" "],
        "take": 3, "per_dataset": 0,
    });
    let told = [
        wrong("items", &table),
        wrong("items", &json!({ "files": { "a": 3 } })),
        wrong("items", &json!({ "path": "x", "answer_type": "leter" })),
        wrong("items", &json!({ "path": "x", "files": { "a": "x" }, "answer_type": { "a": "numbr" } })),
    ];
    expect_test::expect![[r#"
        dataset: `dataset` belongs to `path`: in `files` every data set is named
        files: `a.b` is not a name of a data set: it is not empty and has no full stop
        files.math: the list of files is empty
        answer_type.chart: no file is of the data set `chart`
        instructions: an empty instruction is none: leave the key out
        per_dataset: no rows: `per_dataset` is at least 1
        per_dataset: rows are drawn by `take` or by `per_dataset`, and both are given
        files.a: expected a path or a list of paths
        answer_type: unknown value `leter`
        answer_type.a: unknown value `numbr`"#]]
    .assert_eq(&told.concat().join("\n"));
}

fn remote(url: &str) -> Value {
    json!({ "api": "openai", "url": url, "model": "m", "system": "Be strict.", "concurrency": 1, "retries": 0 })
}

#[test]
fn an_interrupted_evaluation_of_an_endpoint_goes_on_where_it_stopped() {
    let mut bench = Bench::new();
    let table = json!({ "synthetic": { "datasets": ["count"], "split": "test", "count": 6 } });
    bench.run("items", "items", &table).unwrap();
    let table = |url: &str| json!({ "model": remote(url), "benchmark": "items", "prompt": "cot", "max_tokens": 99 });
    let (url, thread) = endpoint(2, "Two. \n### Answer: 2 ");
    let error = format!("{:#}", bench.run("eval", "eval", &table(&url)).unwrap_err());
    assert!(error.contains("gave up on the endpoint after 1 try"), "{error}");
    let asked = thread.join().unwrap();
    assert_eq!((&asked[0]["temperature"], &asked[0]["max_tokens"]), (&json!(0.0), &json!(99)));
    assert_eq!(asked[0]["messages"][0]["content"], json!("Be strict."));
    let shown = &asked[0]["messages"][1]["content"];
    assert!(shown[0]["image_url"]["url"].as_str().unwrap().starts_with("data:image/png;base64,"));
    assert!(shown[1]["text"].as_str().unwrap().ends_with("\nExplain first, then answer."));

    let (url, thread) = endpoint(4, "Two. \n### Answer: 2");
    let summary = bench.run("eval", "eval", &table(&url)).unwrap();
    assert_eq!(thread.join().unwrap().len(), 4);
    let (scores, items): (Vec<Score>, Vec<Item>) = (bench.read("eval/scores.jsonl"), bench.read("items/items.jsonl"));
    assert_eq!(scores.len(), 6);
    for (score, item) in scores.iter().zip(&items) {
        assert_eq!((&score.id, score.finish, score.compliant, score.seen), (&item.id, FinishReason::Stop, true, None));
        assert_eq!(score.score > 0.5, item.answers[0] == "2");
    }
    assert_eq!((&summary.0["items"], &summary.0["model"]), (&json!(6), &json!("m")));
    let metrics: Value = files::read_json(&bench.path("eval/metrics.json")).unwrap();
    assert_eq!(metrics.get("contaminated"), None);
}

#[test]
fn what_an_endpoint_is_asked_is_identity_and_how_fast_is_not() {
    let stage = |change: Value, more: Value| {
        let mut model = remote("http://x");
        model.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut table = json!({ "model": model, "benchmark": "b" });
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (find_kind(KINDS, "eval").unwrap().parse)(&table).unwrap()
    };
    let fingerprint = |change: Value, more: Value| {
        let mut manifest = Manifest::new("eval", 2);
        stage(change, more).identify(&mut manifest);
        manifest.fingerprint()
    };
    let plain = fingerprint(json!({}), json!({}));
    assert_eq!(fingerprint(json!({ "name": "n", "key_env": "KEY", "retries": 9 }), json!({})), plain);
    assert_ne!(fingerprint(json!({ "system": "Be lax." }), json!({})), plain);
    assert_ne!(fingerprint(json!({}), json!({ "temperature": 0.5 })), plain);
    // What the model's own table says comes first.
    assert_eq!(fingerprint(json!({ "temperature": 0 }), json!({ "temperature": 0.5 })), plain);
    let stage = stage(json!({}), json!({}));
    assert_eq!(stage.pool(), Some(Pool::Teacher));
    assert_eq!(stage.inputs().into_iter().map(|input| input.role).collect::<Vec<_>>(), ["benchmark"]);
    let told = [
        wrong("eval", &json!({ "model": { "api": "openai", "url": "x" }, "benchmark": "b", "top_k": 5 })),
        wrong("eval", &json!({ "model": { "api": "oracle" }, "benchmark": "b" })),
        wrong("eval", &json!({ "model": { "api": "openai", "samples": 2 }, "benchmark": "b" })),
        wrong("eval", &json!({ "model": 3, "benchmark": "b" })),
    ];
    expect_test::expect![[r#"
        model.model: the api `openai` needs a `model`
        model.url: the address begins with neither `http://` nor `https://`
        top_k: `top_k` is for a checkpoint: an endpoint is asked with a temperature only
        model.api: unknown value `oracle`
        model.samples: unknown key `samples`
        model: wrong type: integer `3`, expected a reference or the table of an endpoint"#]]
    .assert_eq(&told.concat().join("\n"));
}
