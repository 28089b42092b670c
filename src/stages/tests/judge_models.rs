//! A model that judges answers in `judge` and `eval`.

use serde_json::{Value, json};

use super::support::{Runner, choice, endpoint, manifest_line, mistakes, parse};
use ablate_core::base::files;
use ablate_core::stage::Pool;
use ablate_data::records::{FinishReason, JudgedItem, Rollout, Sample, Score, Verdict};

const GOLD: &str = "United States";

/// A runner with rollouts of a text question and of a letter question. The samples of the first are equal to the gold answer, equal
/// in meaning, wrong, and without a marker.
fn runner() -> Runner {
    let runner = Runner::new();
    let texts = ["United States", "USA", "Canada"].map(|answer| format!("Seen.\n### Answer: {answer}"));
    let sample = |text: &str| Sample { text: text.to_string(), finish: FinishReason::Stop, tokens: 1, thinking: 0 };
    let item = |id: &str, answer_type: &str, gold: &str| {
        serde_json::from_value(json!({
            "id": id, "dataset": "d", "question": "Which {answer}?", "answer_type": answer_type, "answers": [gold],
            "options": if answer_type == "letter" { vec!["red", "blue"] } else { Vec::new() },
        }))
        .unwrap()
    };
    let samples = texts.iter().map(String::as_str).chain(["USA"]).map(sample).collect();
    let rollouts = [
        Rollout { item: item("1", "text", GOLD), prompt: "Which?".into(), samples },
        Rollout { item: item("2", "letter", "A"), prompt: "Which?".into(), samples: vec![sample("### Answer: A")] },
    ];
    let lines: String = rollouts.iter().map(|rollout| serde_json::to_string(rollout).unwrap() + "\n").collect();
    runner.write("rollouts/rollouts.jsonl", &lines);
    runner
}

fn model(url: &str, more: &Value) -> Value {
    let mut model = json!({ "api": "openai", "url": url, "model": "j", "concurrency": 1, "patience_seconds": 0 });
    model.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    model
}

fn replies(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| json!([choice(text, "stop")])).collect()
}

fn right(verdicts: &[Verdict]) -> Vec<(bool, f64)> {
    verdicts.iter().map(|verdict| (verdict.correct, verdict.score)).collect()
}

#[test]
fn model_judges_compliant_answers_of_its_types() {
    let mut runner = runner();
    let table = |url: &str| json!({ "rollouts": "rollouts", "model": model(url, &json!({})) });
    assert_eq!(runner.estimate("judge", &table("http://127.0.0.1:9")).unwrap().requests, 3);
    let (url, thread) = endpoint(replies(&["Equal.\nVerdict: correct", "**Verdict: correct**", "No.\nVerdict: wrong"]));
    let summary = runner.run("judged", "judge", &table(&url)).unwrap();
    let requests = thread.join().unwrap();
    let prompt = requests[1]["messages"][1]["content"].as_str().unwrap();
    assert!(prompt.starts_with("Which {answer}?\n\nReference answer: United States\n\nResponse: USA\n\n"), "{prompt}");
    let judged: Vec<JudgedItem> = runner.read("judged/judged.jsonl");
    assert_eq!(right(&judged[0].verdicts), [(true, 1.0), (true, 1.0), (false, 0.0), (false, 0.0)]);
    assert_eq!(right(&judged[1].verdicts), [(true, 1.0)]);
    let of_dataset = json!({ "judged": 3, "agreement": 2.0 / 3.0, "kappa": summary.0["judge"]["kappa"], "both_right": 1,
        "both_wrong": 1, "only_rule": 0, "only_model": 1 });
    let mut facts = json!({ "model": "j", "unjudged": 0, "datasets": { "d": of_dataset } });
    facts.as_object_mut().unwrap().extend(of_dataset.as_object().unwrap().clone());
    assert_eq!(summary.0["judge"], facts);
    assert!((summary.0["judge"]["kappa"].as_f64().unwrap() - 0.4).abs() < 1e-12);
    assert_eq!((&summary.0["requests"]["sent"], &summary.0["accuracy"]), (&json!(3), &json!(0.6)));
    assert_eq!(runner.estimate("judge", &table("http://127.0.0.1:9")).unwrap().stored, 3);
}

#[test]
fn samples_without_a_verdict_are_counted() {
    let mut runner = runner();
    let table = |url: &str, more: Value| json!({ "rollouts": "rollouts", "model": model(url, &more) });
    let (url, thread) = endpoint(replies(&["Verdict: wrong", "Verdict: maybe", "Verdict: wrong"]));
    let error = runner.fail("judged", "judge", &table(&url, json!({})));
    thread.join().unwrap();
    expect_test::expect![[r#"
        1 of 3 samples have no verdict of the judge model: 1 form
        the share is 0.333, above `model.max_lost` = 0.01
        help: ask again with `ablate retry FILE STAGE --bad` or `model.retry`, or keep the verdict of the rule for these samples with `model.max_lost = 0.334`"#]]
    .assert_eq(&error);
    let summary = runner.run("judged", "judge", &table("http://127.0.0.1:9", json!({ "max_lost": 0.5 }))).unwrap();
    let judged: Vec<JudgedItem> = runner.read("judged/judged.jsonl");
    assert_eq!(right(&judged[0].verdicts), [(false, 0.0), (false, 0.0), (false, 0.0), (false, 0.0)]);
    assert_eq!(summary.0["judge"]["unjudged"], json!(1));
    let warnings: Vec<&str> = summary.warnings().collect();
    assert_eq!(warnings, ["1 of 3 samples have no verdict of the judge model and keep that of the rule: 1 form"]);
}

#[test]
fn table_of_a_judge_chooses_what_is_sent() {
    let mut runner = runner();
    let more = json!({ "response": "full", "answer_types": ["letter"], "instruction": "{response} or {answer}?", "system": "" });
    let (url, thread) = endpoint(replies(&["Verdict: wrong"]));
    runner.run("judged", "judge", &json!({ "rollouts": "rollouts", "model": model(&url, &more) })).unwrap();
    assert_eq!(thread.join().unwrap()[0]["messages"], json!([{ "role": "user", "content": "### Answer: A or A?" }]));
    let none = json!({ "rollouts": "rollouts", "model": model(&url, &json!({ "answer_types": ["docvqa"] })) });
    let error = runner.fail("judged", "judge", &none);
    assert!(error.starts_with("no item has an answer type that the judge model judges: list"), "{error}");

    let stage = parse("judge", &none);
    assert_eq!(stage.pool(), Some(Pool::Teacher));
    let table = |more: Value| json!({ "rollouts": "r", "model": model("http://x", &more) });
    let lines = [
        manifest_line("judge", &table(json!({}))),
        manifest_line("judge", &table(json!({ "image": "none", "response": "full", "max_lost": 0.2, "name": "n" }))),
    ];
    expect_test::expect![[r#"
        judge b061796ce4 style threshold model.api model.url model.model model.temperature model.samples model.max_tokens model.system model.instruction model.answer_types
        judge 1ab33a11eb style threshold model.api model.url model.model model.temperature model.samples model.max_tokens model.system model.instruction model.answer_types model.image model.response model.max_lost
    "#]]
    .assert_eq(&lines.concat());
    let wrong = json!({ "instruction": "{answer}?", "answer_types": [], "max_lost": 2, "samples": 3 });
    let errors = [
        mistakes("judge", &table(wrong)),
        mistakes("judge", &table(json!({ "instruction": "{answer}?", "answer_types": [], "max_lost": 2 }))),
    ];
    expect_test::expect![[r#"
        model.samples: unknown key `samples`
        model.instruction: the instruction needs the placeholder `{response}`, which is replaced by the response
        model.answer_types: the list of answer types is empty
        model.max_lost: `2` is out of range: write a number from 0 to 1"#]]
    .assert_eq(&errors.concat().join("\n"));
}

#[test]
fn eval_has_a_judge_too() {
    let mut runner = Runner::new();
    let item = json!({ "id": "1", "dataset": "d", "question": "Where?", "answer_type": "text", "answers": [GOLD] });
    runner.write("items/items.jsonl", &format!("{item}\n"));
    let (url, thread) = endpoint(replies(&["USA", "Equal.\nVerdict: correct"]));
    let table = json!({ "model": model(&url, &json!({})), "benchmark": "items", "judge": model(&url, &json!({})) });
    let estimate = runner.estimate("eval", &table).unwrap();
    assert_eq!(estimate.requests, 2);
    let summary = runner.run("eval", "eval", &table).unwrap();
    thread.join().unwrap();
    let scores: Vec<Score> = runner.read("eval/scores.jsonl");
    assert_eq!((scores[0].response.as_str(), scores[0].score), ("USA", 1.0));
    let metrics: Value = files::read_json(&runner.path("eval/metrics.json")).unwrap();
    assert_eq!((&metrics["accuracy"], &metrics["judge"]["only_model"]), (&json!(1.0), &json!(1)));
    assert_eq!((&summary.0["judge_requests"]["sent"], &summary.0["requests"]["sent"]), (&json!(1), &json!(1)));
}
