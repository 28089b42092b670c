//! `score` and `rerank`: outputs, manifests and mistakes.

use std::collections::BTreeSet;

use expect_test::expect;
use serde_json::{Value, json};

use super::support::{EchoData, item, manifest_line, mistakes, read, word};
use crate::stages::kinds::{base, dpo, rerank, score};
use ablate_core::base::files;
use ablate_data::jsonl;
use ablate_data::records::{CreditedItem, CreditedResponse, FinishReason, JudgedItem, Score, Verdict};

const INPUTS: [(&str, &str); 3] = [("policy", "dpo/model"), ("reference", "sft/model"), ("judged", "judged.jsonl")];

/// Writes judged samples of six items: a wrong one, a right one, the right one again, and a truncated one.
fn write_judged(data: &EchoData) {
    let verdict = |text: &str, right: bool, finish: FinishReason| Verdict {
        text: text.to_string(),
        finish,
        answer: Some(text.to_string()),
        compliant: finish == FinishReason::Stop,
        score: f64::from(u8::from(right)),
        correct: right,
        unreadable: false,
    };
    let judged: Vec<JudgedItem> = (0..6)
        .map(|i| JudgedItem {
            item: item(i),
            prompt: format!("say {} .\nAnswer briefly.", word(i)),
            verdicts: vec![
                verdict(word(i + 1), false, FinishReason::Stop),
                verdict(word(i), true, FinishReason::Stop),
                verdict(word(i), true, FinishReason::Stop),
                verdict(word(i), false, FinishReason::Length),
            ],
        })
        .collect();
    jsonl::write(&data.path("judged.jsonl"), &judged).unwrap();
}

/// Data with judged samples, and with a model before and after DPO on right answers.
fn after_dpo() -> EchoData {
    let data = EchoData::trained();
    let table = json!({ "policy": "sft", "pairs": "pairs", "batch": 4, "lr": 1e-3, "epochs": 3 });
    data.run("dpo", &dpo::KIND, &table, &[("policy", "sft/model"), ("pairs", "pairs.jsonl")]);
    write_judged(&data);
    data
}

#[test]
fn dpo_model_verifies_and_reranks() {
    let data = after_dpo();
    let table = json!({ "policy": "dpo", "reference": "sft", "judged": "judged" });
    let summary = data.run("score", &score::KIND, &table, &INPUTS);
    // Equal samples are scored once: three different ones of each question.
    assert_eq!((&summary.0["responses"], &summary.0["scored"]), (&json!(24), &json!(18)));
    let credits: Vec<CreditedItem> = read(&data.path("score/credits.jsonl"));
    for (i, one) in credits.iter().enumerate() {
        let [wrong, right, again, cut] = &one.responses[..] else { panic!("{one:?}") };
        assert!(right.log_ratio > wrong.log_ratio, "{right:?} {wrong:?}");
        assert_eq!(right, again);
        let texts = |credit: &CreditedResponse| -> Vec<String> {
            credit.tokens.iter().map(|(piece, _)| piece.clone()).collect()
        };
        // A truncated response has no end token; its other tokens are the same.
        assert_eq!(
            (texts(right), texts(cut)),
            (vec![word(i).to_string(), "<|end|>".to_string()], vec![word(i).to_string()])
        );
        assert_eq!(right.tokens[0], cut.tokens[0]);
        let sum: f64 = right.tokens.iter().map(|(_, ratio)| f64::from(*ratio)).sum();
        assert!((right.log_ratio - sum).abs() < 1e-5, "{right:?}");
    }
    let facts: Value = files::read_json(&data.path("score/credits.json")).unwrap();
    // 12 of 24 samples are right.
    assert_eq!((&facts["questions"], &facts["right"]), (&json!(6), &json!(12)));
    assert!(facts["auc_within_questions"].as_f64() >= Some(0.5));

    // `normalise = "tokens"` divides the sum by the 2 tokens.
    let table = json!({ "policy": "dpo", "reference": "sft", "judged": "judged", "normalise": "tokens" });
    data.run("mean", &score::KIND, &table, &INPUTS);
    let means: Vec<CreditedItem> = read(&data.path("mean/credits.jsonl"));
    assert!((2.0 * means[0].responses[1].log_ratio - credits[0].responses[1].log_ratio).abs() < 1e-12);
    let table = json!({ "policy": "dpo", "reference": "sft", "judged": "judged", "truncate": { "tokens": 1 } });
    data.run("short", &score::KIND, &table, &INPUTS);
    let short: Vec<CreditedItem> = read(&data.path("short/credits.jsonl"));
    // The text has one token, so nothing is truncated.
    assert_eq!(short[0].responses[1], credits[0].responses[1]);

    // With `n = 1` every strategy selects the first sample, which is wrong.
    let rerank = |strategy: &str, n: usize| {
        let table = json!({ "credits": "score", "strategy": strategy, "n": n });
        let name = format!("{strategy}-{n}");
        let summary = data.run(&name, &rerank::KIND, &table, &[("credits", "score/credits.jsonl")]);
        let scores: Vec<Score> = read(&data.path(&name).join("scores.jsonl"));
        assert_eq!(scores.len(), 6);
        summary.0["accuracy"].clone()
    };
    for strategy in ["first", "majority", "best", "weighted", "oracle"] {
        assert_eq!(rerank(strategy, 1), json!(0.0));
    }
    assert_eq!(
        ["first", "majority", "best", "weighted", "oracle"].map(|one| rerank(one, 2)),
        [0.0, 0.0, 1.0, 1.0, 1.0].map(|score| json!(score))
    );
    assert_eq!(["first", "majority"].map(|one| rerank(one, 3)), [json!(0.0), json!(1.0)]);
    let metrics: Value = files::read_json(&data.path("best-2/metrics.json")).unwrap();
    assert_eq!(
        metrics["datasets"]["more"],
        json!({ "items": 2, "accuracy": 1.0, "compliance": 1.0, "readable": 1.0, "cut": 0.0 })
    );
}

#[test]
fn impossible_rerank_and_score_are_refused() {
    let data = after_dpo();
    let table = json!({ "policy": "dpo", "reference": "sft", "judged": "judged" });
    data.run("score", &score::KIND, &table, &INPUTS);
    let many = json!({ "credits": "score", "strategy": "best", "n": 5 });
    let error = data.try_run("many", &rerank::KIND, &many, &[("credits", "score/credits.jsonl")]).unwrap_err();
    expect!["`n` = 5 is more than the number of samples: 6 of 6 items have fewer, `item 0` of `echo` has 4"]
        .assert_eq(&error.to_string());
    let sizes = json!({
        "image_size": 16,
        "vision": { "dim": 8, "layers": 0, "heads": 2, "ff": 8 },
        "projector": { "hidden": 8 },
        "decoder": { "dim": 32, "layers": 1, "heads": 2, "kv_heads": 2, "ff": 48, "max_positions": 32 },
    });
    data.run("other", &base::KIND, &json!({ "tokenizer": "t", "model": sizes }), &[("tokenizer", "tokenizer")]);
    let inputs = [("policy", "dpo/model"), ("reference", "other/model"), ("judged", "judged.jsonl")];
    let error = data.try_run("unlike", &score::KIND, &table, &inputs).unwrap_err().to_string();
    assert!(error.starts_with("`reference` and `policy` take different tokens: the reference has"), "{error}");
}

#[test]
fn mistakes_have_their_keys() {
    let wrong = |kind: &str, table: Value| mistakes(kind, &table);
    expect![[r#"
        : the key `reference` is missing
        truncate: the limit is 0, which leaves no text: write `"none"` to keep all of it
        normalise: unknown value `words`
        n: `n` must be at least 1
        strategy: unknown value `bets`"#]]
    .assert_eq(
        &[
            wrong("score", json!({ "policy": "a", "judged": "j" })),
            wrong("score", json!({ "policy": "a", "reference": "b", "judged": "j", "truncate": { "words": 0 } })),
            wrong("score", json!({ "policy": "a", "reference": "b", "judged": "j", "normalise": "words" })),
            wrong("rerank", json!({ "credits": "c", "strategy": "best", "n": 0 })),
            wrong("rerank", json!({ "credits": "c", "strategy": "bets", "n": 4 })),
        ]
        .concat()
        .join("\n"),
    );
}

/// A difference means that all stored results of the kind are computed again: undo it, or raise `version`.
#[test]
fn manifests_are_unchanged() {
    let line = |kind: &str, table: Value| manifest_line(kind, &table);
    let rerank = |strategy: &str, weight: &str| {
        line("rerank", json!({ "credits": "c", "strategy": strategy, "n": 8, "weight": weight }))
    };
    // `weight` is in the manifest for the strategy `weighted` only.
    let lines: BTreeSet<String> = [rerank("best", "exp"), rerank("best", "sigmoid")].into();
    assert_eq!(lines.len(), 1);
    let text = [
        line("score", json!({ "policy": "a", "reference": "b", "judged": "j" })),
        rerank("best", "exp"),
        rerank("weighted", "exp"),
    ];
    expect![[r#"
        score b1f14b7ca1 truncate normalise
        rerank fce8bbbd71 strategy n
        rerank 30abdff695 strategy n weight
    "#]]
    .assert_eq(&text.concat());
}
