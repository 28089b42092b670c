//! Published files as items, and models that an endpoint serves.

use serde_json::{Value, json};

use super::support::{Runner, choice, endpoint, manifest, mistakes, parse};
use ablate_core::base::files;
use ablate_core::stage::Pool;
use ablate_data::records::{AnswerType, FinishReason, Item, Score};

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

fn remote(url: &str) -> Value {
    json!({ "api": "openai", "url": url, "model": "m", "system": "Be strict.", "concurrency": 1, "retries": 0 })
}

#[test]
fn interrupted_remote_evaluation_resumes() {
    let mut runner = Runner::new();
    let table = json!({ "synthetic": { "datasets": ["count"], "split": "test", "count": 6 } });
    runner.run("items", "items", &table).unwrap();
    let table = |url: &str| json!({ "model": remote(url), "benchmark": "items", "prompt": "cot", "max_tokens": 99 });
    let (url, thread) = endpoint(vec![json!([choice("Two. \n### Answer: 2 ", "stop")]); 2]);
    let error = runner.fail("eval", "eval", &table(&url));
    assert!(error.contains("the request failed after 1 attempt"), "{error}");
    let requests = thread.join().unwrap();
    assert_eq!((&requests[0]["temperature"], &requests[0]["max_tokens"]), (&json!(0.0), &json!(99)));
    assert_eq!(requests[0]["messages"][0]["content"], json!("Be strict."));
    let content = &requests[0]["messages"][1]["content"];
    assert!(content[0]["image_url"]["url"].as_str().unwrap().starts_with("data:image/png;base64,"));
    assert!(content[1]["text"].as_str().unwrap().ends_with("\nExplain first, then answer."));

    let (url, thread) = endpoint(vec![json!([choice("Two. \n### Answer: 2", "stop")]); 4]);
    let summary = runner.run("eval", "eval", &table(&url)).unwrap();
    assert_eq!(thread.join().unwrap().len(), 4);
    let (scores, items): (Vec<Score>, Vec<Item>) = (runner.read("eval/scores.jsonl"), runner.read("items/items.jsonl"));
    assert_eq!(scores.len(), 6);
    for (score, item) in scores.iter().zip(&items) {
        assert_eq!((&score.id, score.finish, score.compliant, score.seen), (&item.id, FinishReason::Stop, true, None));
        assert_eq!(score.score > 0.5, item.answers[0] == "2");
    }
    assert_eq!((&summary.0["items"], &summary.0["model"]), (&json!(6), &json!("m")));
    let metrics: Value = files::read_json(&runner.path("eval/metrics.json")).unwrap();
    assert_eq!(metrics.get("contaminated"), None);
}

#[test]
fn manifest_has_sampling_but_not_speed() {
    let table = |change: Value, more: Value| {
        let mut model = remote("http://x");
        model.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut table = json!({ "model": model, "benchmark": "b" });
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        table
    };
    let fingerprint = |change: Value, more: Value| manifest("eval", &table(change, more)).fingerprint();
    let default = fingerprint(json!({}), json!({}));
    assert_eq!(fingerprint(json!({ "name": "n", "key_env": "KEY", "retries": 9 }), json!({})), default);
    assert_ne!(fingerprint(json!({ "system": "Be lax." }), json!({})), default);
    assert_ne!(fingerprint(json!({}), json!({ "temperature": 0.5 })), default);
    // The keys of the model's own table have precedence.
    assert_eq!(fingerprint(json!({ "temperature": 0 }), json!({ "temperature": 0.5 })), default);
    let stage = parse("eval", &table(json!({}), json!({})));
    assert_eq!(stage.pool(), Some(Pool::Teacher));
    assert_eq!(stage.inputs().into_iter().map(|input| input.role).collect::<Vec<_>>(), ["benchmark"]);
    let lines = [
        mistakes("eval", &json!({ "model": { "api": "openai", "url": "x" }, "benchmark": "b", "top_k": 5 })),
        mistakes("eval", &json!({ "model": { "api": "oracle" }, "benchmark": "b" })),
        mistakes("eval", &json!({ "model": { "api": "openai", "samples": 2 }, "benchmark": "b" })),
        mistakes("eval", &json!({ "model": 3, "benchmark": "b" })),
    ];
    expect_test::expect![[r#"
        model.model: the api `openai` needs a `model`
        model.url: the URL must begin with `http://` or `https://`
        top_k: `top_k` is for a checkpoint only; an endpoint has the key `temperature`
        model.api: unknown value `oracle`
        model.samples: unknown key `samples`
        model: wrong type: integer `3`, expected a reference or the table of an endpoint"#]]
    .assert_eq(&lines.concat().join("\n"));
}
