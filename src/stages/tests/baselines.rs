//! Baselines of `eval` that need no model.

use serde_json::{Value, json};

use super::support::{Runner, manifest_line, mistakes, parse};
use ablate_core::stage::{ModelOrigin, Pool};
use ablate_data::records::Score;

fn items(rows: &[(&str, &str)]) -> String {
    let item = |(number, (question, answer)): (usize, &(&str, &str))| {
        let item = json!({
            "id": number.to_string(), "dataset": "d", "question": question, "answer_type": "text", "answers": [answer],
            "facts": ["red6"],
        });
        format!("{item}\n")
    };
    rows.iter().enumerate().map(item).collect()
}

#[test]
fn most_frequent_answer_has_the_score_of_its_share() {
    let mut runner = Runner::new();
    runner.write(
        "train/items.jsonl",
        &items(&[("Red?", "yes"), ("Red?", "yes"), ("Red?", "no"), ("Why?", "no"), ("Who?", "no")]),
    );
    runner.write(
        "test/items.jsonl",
        &items(&[("red?", "yes"), ("Red?", "no"), ("Blue?", "no"), ("Green?", "yes"), ("Grey?", "no")]),
    );
    for style in ["direct", "cot"] {
        let table =
            json!({ "model": { "baseline": "most-frequent", "items": "train" }, "benchmark": "test", "prompt": style });
        let summary = runner.run(style, "eval", &table).unwrap();
        assert_eq!((&summary.0["accuracy"], &summary.0["compliance"]), (&json!(0.6), &json!(1.0)));
        assert_eq!((&summary.0["same_question"], &summary.0["model"]), (&json!(2), &json!("most-frequent")));
        let scores: Vec<Score> = runner.read(&format!("{style}/scores.jsonl"));
        let answers: Vec<&str> = scores.iter().map(|score| score.answer.as_deref().unwrap()).collect();
        assert_eq!(answers, ["yes", "yes", "no", "no", "no"]);
        // A baseline has no rationale, so its failures have no class.
        assert!(scores.iter().all(|score| score.failure.is_none() && score.facts.is_empty()));
    }
}

#[test]
fn table_of_a_baseline_has_no_sampling() {
    let table = |more: Value| {
        let mut table =
            json!({ "model": { "baseline": "most-frequent", "items": "train", "name": "n" }, "benchmark": "test" });
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        table
    };
    let stage = parse("eval", &table(json!({ "temperature": 0, "max_tokens": 9 })));
    assert_eq!(stage.pool(), Some(Pool::Light));
    assert_eq!(stage.model_origin(), Some(ModelOrigin::Elsewhere("a baseline without a model")));
    assert_eq!(stage.inputs().into_iter().map(|input| input.role).collect::<Vec<_>>(), ["model.items", "benchmark"]);
    assert_eq!(manifest_line("eval", &table(json!({ "max_tokens": 9 }))), manifest_line("eval", &table(json!({}))));
    let errors = [
        mistakes("eval", &table(json!({ "image": "none", "temperature": 0.5, "top_k": 3, "precision": "bf16" }))),
        mistakes("eval", &table(json!({ "model": { "baseline": "mean", "items": "train" } }))),
        mistakes("eval", &table(json!({ "model": { "baseline": "most-frequent" } }))),
        mistakes(
            "eval",
            &table(json!({ "model": { "baseline": "most-frequent", "items": "train", "api": "openai" } })),
        ),
    ];
    expect_test::expect![[r#"
        image: `image` has no effect on a baseline: remove it, or give the baseline its own stage
        temperature: `temperature` has no effect on a baseline: remove it, or give the baseline its own stage
        top_k: `top_k` has no effect on a baseline: remove it, or give the baseline its own stage
        precision: `precision` has no effect on a baseline: remove it, or give the baseline its own stage
        model.baseline: unknown value `mean`
        model: the key `items` is missing
        model.api: unknown key `api`"#]]
    .assert_eq(&errors.concat().join("\n"));
}
