//! The length of training in epochs, steps or tokens, and the budget that a record states.

use serde_json::{Value, json};

use super::support::{EchoData, mistakes};
use crate::stages::kinds::{dpo, sft};
use ablate_core::base::Hash;
use ablate_core::stage::Summary;
use ablate_data::image_keys::ImageKeys;
use ablate_data::jsonl;
use ablate_data::records::Row;

/// Supervised training of `base/model` on the 24 rows of the 4 questions.
fn fine_tune(data: &EchoData, name: &str, keys: &Value) -> anyhow::Result<Summary> {
    let mut table = json!({ "model": "base", "data": "rows", "batch": 8, "lr": 1e-2 });
    table.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    data.try_run(name, &sft::KIND, &table, &[("model", "base/model"), ("data", "rows.jsonl")])
}

/// Preference optimization on the 8 pairs of the 4 questions.
fn prefer(data: &EchoData, name: &str, keys: &Value) -> anyhow::Result<Summary> {
    let mut table = json!({ "policy": "sft", "pairs": "pairs", "batch": 3, "lr": 1e-3 });
    table.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    data.try_run(name, &dpo::KIND, &table, &[("policy", "sft/model"), ("pairs", "pairs.jsonl")])
}

/// Steps, epochs, examples and questions.
fn budget(summary: &Summary) -> Value {
    ["steps", "epochs", "examples", "questions"].map(|key| summary.0[key].clone()).into_iter().collect()
}

#[test]
fn record_states_the_budget() {
    let data = EchoData::trained();
    let run = |keys: Value| fine_tune(&data, "a", &keys).unwrap();
    assert_eq!(budget(&run(json!({ "epochs": 2 }))), json!([6, 2.0, 48, 4]));
    assert_eq!(budget(&run(json!({ "steps": 2 }))), json!([2, 16.0 / 24.0, 16, 4]));
    assert_eq!(budget(&run(json!({ "steps": 1, "batch": 1 }))), json!([1, 1.0 / 24.0, 1, 1]));
    assert_eq!(budget(&run(json!({ "last_batch": "drop", "batch": 7, "epochs": 2 }))), json!([6, 42.0 / 24.0, 42, 4]));
    let pairs = |keys: Value| budget(&prefer(&data, "b", &keys).unwrap());
    assert_eq!(pairs(json!({})), json!([3, 1.0, 8, 4]));
    assert_eq!(pairs(json!({ "last_batch": "drop" })), json!([2, 0.75, 6, 4]));
    // Another instruction or another response is the same question, another data set is another one.
    let row = |dataset: &str, prompt: &str, response: &str| Row {
        id: "1".into(),
        dataset: dataset.into(),
        source: String::new(),
        images: ImageKeys::None,
        system: None,
        history: Vec::new(),
        prompt: prompt.into(),
        response: response.into(),
        question: Some("say red .".into()),
    };
    let rows = [row("echo", "red", "red"), row("echo", "say red .", "green"), row("more", "red", "red")];
    jsonl::write(&data.path("rows.jsonl"), &rows).unwrap();
    assert_eq!(budget(&run(json!({}))), json!([1, 1.0, 3, 2]));
}

#[test]
fn equal_lengths_in_epochs_steps_and_tokens_give_equal_bytes() {
    let data = EchoData::trained();
    let bytes = |name: &str| {
        ["model/model.safetensors", "model/seen.txt", "curve.jsonl"]
            .map(|file| Hash::of_file(&data.path(name).join(file)).unwrap())
    };
    for run in [fine_tune, prefer] {
        for (last_batch, batch) in [("keep", 5), ("drop", 3)] {
            let train = |name: &str, key: &str, length: &Value| {
                run(&data, name, &json!({ "last_batch": last_batch, "batch": batch, key: length })).unwrap()
            };
            let epochs = train("epochs", "epochs", &json!(2));
            let steps = train("steps", "steps", &epochs.0["steps"]);
            let tokens = train("tokens", "tokens", &epochs.0["tokens"]);
            assert_eq!((&steps, &tokens), (&epochs, &epochs));
            assert!(bytes("steps") == bytes("epochs") && bytes("tokens") == bytes("epochs"));
            // One token more takes one more step.
            let more = train("more", "tokens", &json!(epochs.0["tokens"].as_u64().unwrap() + 1));
            assert_eq!(more.0["steps"], json!(epochs.0["steps"].as_u64().unwrap() + 1));
        }
    }
}

#[test]
fn model_is_recorded_as_trained_on_the_rows_that_were_drawn() {
    let data = EchoData::trained();
    let questions = |keys: Value| {
        fine_tune(&data, "a", &keys).unwrap();
        let seen = ablate_core::base::files::read_text(&data.path("a/model/seen.txt")).unwrap();
        seen.lines().count()
    };
    assert_eq!(questions(json!({ "steps": 1, "batch": 1 })), 1);
    assert_eq!(questions(json!({ "steps": 3 })), 4);
}

#[test]
fn data_smaller_than_a_batch_are_refused_with_drop() {
    let data = EchoData::trained();
    let error = format!("{:#}", fine_tune(&data, "a", &json!({ "last_batch": "drop", "batch": 32 })).unwrap_err());
    expect_test::expect![[r#"`last_batch`: "drop" leaves out all 24 rows without an image in every epoch, because they do not fill a batch of 32 (a batch has only rows with an image, or only rows without): set `batch` to at most 24, or `last_batch = "keep"`"#]].assert_eq(&error);
    let error = format!("{:#}", prefer(&data, "b", &json!({ "last_batch": "drop", "batch": 9 })).unwrap_err());
    expect_test::expect![[r#"`last_batch`: "drop" leaves out all 8 pairs without an image in every epoch, because they do not fill a batch of 9 (a batch has only pairs with an image, or only pairs without): set `batch` to at most 8, or `last_batch = "keep"`"#]].assert_eq(&error);
}

#[test]
fn only_one_length_is_allowed() {
    let sft = |keys: Value| {
        let mut table = json!({ "model": "m", "data": "d" });
        table.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        mistakes("sft", &table)
    };
    let text = [
        sft(json!({ "epochs": 1, "steps": 5 })),
        sft(json!({ "tokens": 5, "epochs": 1, "steps": 5 })),
        sft(json!({ "steps": 0 })),
        sft(json!({ "tokens": 0 })),
        sft(json!({ "steps": 1_u64 << 40 })),
        sft(json!({ "tokens": 1_u64 << 60 })),
        sft(json!({ "last_batch": "dropp" })),
    ];
    expect_test::expect![[r#"
        steps: `epochs` and `steps` are both given: write one of them
        steps: `epochs` and `steps` are both given: write one of them
        tokens: `epochs` and `tokens` are both given: write one of them
        steps: `steps` must be at least 1, not 0
        tokens: `tokens` must be at least 1, not 0
        steps: `steps` is at most 1000000000, not 1099511627776
        tokens: `tokens` is at most 1000000000000000, not 1152921504606846976
        last_batch: unknown value `dropp`
    "#]]
    .assert_eq(&(text.concat().join("\n") + "\n"));
}
