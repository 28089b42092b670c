//! Stages that use an endpoint: which responses the next attempt requests again.

use serde_json::{Value, json};

use super::support::{Runner, choice, endpoint, manifest, mistakes, parse};
use ablate_core::base::{ErrorChain, files};
use ablate_core::stage::Pool;
use ablate_data::records::{FinishReason, Item, JudgedItem, Score};

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
        "api": "openai", "url": url, "model": "m", "samples": samples, "concurrency": 1, "retries": 0,
    } })
}

#[test]
fn bad_responses_are_requested_again() {
    let mut runner = Runner::with_items(2);
    // Each attempt has bad responses for another reason. The good response with another answer is requested once.
    let attempts = [
        (vec![empty(), empty(), json!([good("3")])], "1 with another answer than the reference, 1 without a text"),
        (
            vec![json!([choice("It is", "length")])],
            "1 cut at the token limit, 1 with another answer than the reference",
        ),
        (
            vec![json!([choice("It is two.", "stop")])],
            "1 with another answer than the reference, 1 without a final answer",
        ),
        (
            vec![json!([choice("", "content_filter")]), json!([choice("", "content_filter")])],
            "1 held back by a content filter, 1 with another answer than the reference",
        ),
        (
            vec![json!([{ "message": { "refusal": "No." } }]), json!([{ "message": { "refusal": "No." } }])],
            "1 refused by the teacher, 1 with another answer than the reference",
        ),
    ];
    for (answers, expected) in attempts {
        let (url, thread) = endpoint(answers);
        let error = runner.run("kept", "distill", &table(&url, 1)).unwrap_err();
        assert_eq!(error.to_string(), format!("no response of the teacher was kept: {expected}"));
        assert!(!ErrorChain::of(&error).input, "another attempt may succeed");
        thread.join().unwrap();
    }
    let (url, thread) = endpoint(vec![json!([good("2")])]);
    runner.run("kept", "distill", &table(&url, 1)).unwrap();
    thread.join().unwrap();
    assert_eq!(runner.read::<Item>("kept/items.jsonl").len(), 1);
    let rejects: Vec<JudgedItem> = runner.read("kept/rejects.jsonl");
    assert_eq!((rejects.len(), rejects[0].item.id.as_str()), (1, "1"));
}

#[test]
fn only_bad_samples_are_requested_again() {
    let mut runner = Runner::with_items(1);
    let (url, thread) = endpoint(vec![json!([good("3"), choice("It is", "length"), good("4")])]);
    runner.run("kept", "distill", &table(&url, 3)).unwrap_err();
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
    let cut = json!([choice("", "length")]);
    let (url, thread) = endpoint(vec![empty(), empty(), cut, json!([choice("2", "stop")])]);
    let model = json!({ "api": "openai", "url": url, "model": "m", "concurrency": 1, "retries": 0 });
    let summary =
        runner.run("score", "eval", &json!({ "model": model, "benchmark": "items", "prompt": "direct" })).unwrap();
    thread.join().unwrap();
    assert_eq!(summary.0["unanswered"], 1);
    let scores: Vec<Score> = runner.read("score/scores.jsonl");
    let actual: Vec<(&str, FinishReason, f64)> =
        scores.iter().map(|score| (score.response.as_str(), score.finish.unwrap(), score.score)).collect();
    assert_eq!(
        actual,
        [("", FinishReason::Stop, 0.0), ("", FinishReason::Length, 0.0), ("2", FinishReason::Stop, 1.0)]
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
