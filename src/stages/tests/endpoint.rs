//! Stages that use an endpoint: what they request, and what they make of the replies.

use serde_json::{Value, json};

use super::support::{Runner, choice, endpoint, manifest, manifest_line, mistakes, parse};
use ablate_core::base::{ErrorChain, files};
use ablate_core::stage::Pool;
use ablate_data::records::{FinishReason, Item, JudgedItem, Rollout, Score};

fn good(answer: &str) -> Value {
    choice(&format!("Seen.\n### Answer: {answer}"), "stop")
}

/// A completion without a text.
fn empty() -> Value {
    json!([{ "message": { "content": null }, "finish_reason": "stop" }])
}

/// The table of a distillation with one request at a time.
fn table(url: &str, samples: usize) -> Value {
    json!({ "items": "items", "teacher": {
        "api": "openai", "url": url, "model": "m", "samples": samples, "concurrency": 1, "patience_seconds": 0,
    } })
}

/// An endpoint that nothing listens on.
const NOWHERE: &str = "http://127.0.0.1:9";

#[test]
fn bad_replies_are_requested_again_on_demand() {
    let mut runner = Runner::with_items(1);
    let mut run = |replies: Vec<Value>, key: Value, retry: &[&str]| {
        let (url, thread) = endpoint(replies);
        let mut table = table(&url, 1);
        table["teacher"]["retry"] = key;
        runner.retry = retry.iter().map(ToString::to_string).collect();
        let outcome = runner.run("kept", "distill", &table);
        thread.join().unwrap();
        outcome.is_ok()
    };
    assert!(!run(vec![empty()], Value::Null, &[]));
    // The reply is stored, so nothing is sent.
    assert!(!run(vec![], Value::Null, &[]));
    assert!(!run(vec![], json!(["refused", "cut"]), &[]));
    // A reply of this kind is replaced once.
    assert!(!run(vec![empty()], json!(["empty"]), &[]));
    assert!(!run(vec![], json!(["empty"]), &[]));
    // `ablate retry` replaces it however often it was requested.
    assert!(!run(vec![json!([choice("It is two.", "stop")])], Value::Null, &["empty"]));
    assert!(run(vec![json!([good("2")])], Value::Null, &["form"]));
    assert!(run(vec![], json!(["form", "empty"]), &["form", "empty"]));
}

#[test]
fn only_missing_samples_are_requested() {
    let mut runner = Runner::with_items(1);
    let (url, thread) = endpoint(vec![json!([good("3"), choice("It is", "length")])]);
    runner.run("kept", "distill", &table(&url, 2)).unwrap_err();
    thread.join().unwrap();
    let (url, thread) = endpoint(vec![json!([good("2")])]);
    let summary = runner.run("kept", "distill", &table(&url, 3)).unwrap();
    assert_eq!(thread.join().unwrap()[0].get("n"), None);
    assert_eq!((summary.0["samples"].clone(), summary.0["kept"].clone()), (json!(3), json!(1)));
}

#[test]
fn mismatches_alone_are_a_user_error() {
    let mut runner = Runner::with_items(1);
    let (url, thread) = endpoint(vec![json!([good("3")])]);
    let error = runner.run("kept", "distill", &table(&url, 1)).unwrap_err();
    thread.join().unwrap();
    let expected = "no response of the teacher was kept: 1 with another answer than the reference";
    assert_eq!((error.to_string().as_str(), ErrorChain::of(&error).input), (expected, true));
}

#[test]
fn unanswered_items_are_counted() {
    let mut runner = Runner::with_items(3);
    let cut = json!([choice("It is", "length")]);
    let (url, thread) = endpoint(vec![empty(), cut, json!([choice("2", "stop")])]);
    let model = json!({ "api": "openai", "url": url, "model": "m", "concurrency": 1, "patience_seconds": 0 });
    let summary =
        runner.run("score", "eval", &json!({ "model": model, "benchmark": "items", "prompt": "direct" })).unwrap();
    thread.join().unwrap();
    assert_eq!(summary.0["unanswered"], 1);
    let scores: Vec<Score> = runner.read("score/scores.jsonl");
    let actual: Vec<(&str, FinishReason, f64)> =
        scores.iter().map(|score| (score.response.as_str(), score.finish.unwrap(), score.score)).collect();
    assert_eq!(
        actual,
        [("", FinishReason::Stop, 0.0), ("It is", FinishReason::Length, 0.0), ("2", FinishReason::Stop, 1.0)]
    );
}

#[test]
fn url_with_credentials_or_query_is_refused() {
    let wrong = |url: &str| mistakes("distill", &table(url, 1)).join("\n");
    assert_eq!(
        wrong("https://me:secret@host/v1"),
        "teacher.url: the URL contains a user or a password: name an environment variable with the API key in `key_env`"
    );
    assert_eq!(
        wrong("https://host/v1?key=secret"),
        "teacher.url: the URL contains `?` or `#`: write the base URL, to which `/chat/completions` is appended"
    );
    assert_eq!(wrong("host/v1"), "teacher.url: the URL must begin with `http://` or `https://`");
}

/// The `model` table of an evaluation with one request at a time.
fn remote(url: &str) -> Value {
    json!({ "api": "openai", "url": url, "model": "m", "system": "Be strict.", "concurrency": 1, "patience_seconds": 0 })
}

#[test]
fn interrupted_remote_evaluation_resumes() {
    let mut runner = Runner::new();
    let table = json!({ "synthetic": { "datasets": ["count"], "split": "test", "count": 6 } });
    runner.run("items", "items", &table).unwrap();
    let table = |url: &str| json!({ "model": remote(url), "benchmark": "items", "prompt": "cot", "max_tokens": 99 });
    let (url, thread) = endpoint(vec![json!([choice("Two. \n### Answer: 2 ", "stop")]); 2]);
    let error = runner.fail("eval", "eval", &table(&url));
    assert!(error.contains("no reply after 1 attempt"), "{error}");
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
        assert_eq!(
            (&score.id, score.finish, score.compliant, score.seen),
            (&item.id, Some(FinishReason::Stop), Some(true), None)
        );
        assert_eq!(score.score > 0.5, item.answers[0] == "2");
    }
    assert_eq!((&summary.0["items"], &summary.0["model"]), (&json!(6), &json!("m")));
    let metrics: Value = files::read_json(&runner.path("eval/metrics.json")).unwrap();
    assert_eq!(metrics.get("contaminated"), None);
}

#[test]
fn rollouts_of_an_endpoint_have_all_samples() {
    let mut runner = Runner::with_items(2);
    let table = |url: &str| json!({ "model": remote(url), "items": "items", "samples": 3, "top_p": 0.9, "stop": ["b", "a", "b"] });
    let samples = |texts: [&str; 3]| texts.map(|text| choice(text, "stop")).into_iter().collect::<Value>();
    let estimate = runner.estimate("rollout", &table(NOWHERE)).unwrap();
    assert_eq!((estimate.requests, estimate.stored), (6, 0));
    let (url, thread) = endpoint(vec![samples(["One. ", "Two.\n### Answer: 2", ""]), samples(["1", "2", "3"])]);
    let summary = runner.run("rollout", "rollout", &table(&url)).unwrap();
    let requests = thread.join().unwrap();
    assert_eq!(
        (&requests[0]["n"], &requests[0]["temperature"], &requests[0]["top_p"], &requests[0]["stop"]),
        (&json!(3), &json!(1.0), &json!(0.9), &json!(["a", "b"]))
    );
    let rollouts: Vec<Rollout> = runner.read("rollout/rollouts.jsonl");
    let texts: Vec<&str> = rollouts.iter().flat_map(|rollout| &rollout.samples).map(|sample| &*sample.text).collect();
    assert_eq!(texts, ["One.", "Two.\n### Answer: 2", "", "1", "2", "3"]);
    assert!(rollouts[0].prompt.ends_with("\nExplain first, then answer."));
    assert_eq!(
        (&summary.0["samples"], &summary.0["unanswered"], &summary.0["model"]),
        (&json!(6), &json!(1), &json!("m"))
    );
    let warnings: Vec<&str> = summary.warnings().collect();
    assert_eq!(warnings, ["1 of 6 samples have no response and are empty: 1 empty"]);
    runner.run("judged", "judge", &json!({ "rollouts": "rollout" })).unwrap();
    let judged: Vec<JudgedItem> = runner.read("judged/judged.jsonl");
    let right: Vec<(bool, bool)> =
        judged[0].verdicts.iter().map(|verdict| (verdict.compliant, verdict.correct)).collect();
    assert_eq!(right, [(false, false), (true, true), (false, false)]);
    let estimate = runner.estimate("rollout", &table(NOWHERE)).unwrap();
    assert_eq!((estimate.requests, estimate.stored, estimate.tokens), (0, 6, None));

    let stage = parse("rollout", &table(NOWHERE));
    assert_eq!(stage.pool(), Some(Pool::Teacher));
    assert_eq!(stage.inputs().into_iter().map(|input| input.role).collect::<Vec<_>>(), ["items"]);
    let errors = mistakes(
        "rollout",
        &json!({ "model": { "api": "openai", "url": "http://x", "model": "m", "samples": 2 }, "items": "i" }),
    );
    assert_eq!(errors, ["model.samples: unknown key `samples`"]);
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
    assert_eq!(fingerprint(json!({ "name": "n", "key_env": "KEY", "patience_seconds": 9 }), json!({})), default);
    assert_ne!(fingerprint(json!({ "system": "Be lax." }), json!({})), default);
    assert_ne!(fingerprint(json!({}), json!({ "temperature": 0.5 })), default);
    // The keys of the model's own table have precedence.
    assert_eq!(fingerprint(json!({ "temperature": 0 }), json!({ "temperature": 0.5 })), default);
    let stage = parse("eval", &table(json!({}), json!({})));
    assert_eq!(stage.pool(), Some(Pool::Teacher));
    assert_eq!(stage.inputs().into_iter().map(|input| input.role).collect::<Vec<_>>(), ["benchmark"]);
    // These keys are fields of the requests, if they are given.
    let keys = |more: Value| manifest_line("eval", &table(json!({}), more)).matches("model.parameters").count();
    assert_eq!((keys(json!({})), keys(json!({ "top_p": 0.9 })), keys(json!({ "stop": ["x"] }))), (0, 1, 1));
    let lines = [
        mistakes(
            "eval",
            &table(json!({ "parameters": { "stop": "x" } }), json!({ "stop": ["x"], "precision": "bf16" })),
        ),
        mistakes("eval", &json!({ "model": { "api": "openai", "url": "x" }, "benchmark": "b", "top_k": 5 })),
        mistakes("eval", &json!({ "model": { "api": "oracle" }, "benchmark": "b" })),
        mistakes("eval", &json!({ "model": { "api": "openai", "samples": 2 }, "benchmark": "b" })),
        mistakes("eval", &json!({ "model": 3, "benchmark": "b" })),
    ];
    expect_test::expect![[r#"
        precision: `precision` is for a checkpoint only
        model.parameters.stop: `stop` is given twice: here and as a key of the stage; remove one of them
        model.model: the api `openai` needs a `model`
        model.url: the URL must begin with `http://` or `https://`
        top_k: `top_k` is not a field of OpenAI's API; if the server has such a field, write it in `model.parameters`
        model.api: unknown value `oracle`
        model.samples: unknown key `samples`
        model: wrong type: integer `3`, expected a reference or the table of an endpoint"#]]
    .assert_eq(&lines.concat().join("\n"));
}
