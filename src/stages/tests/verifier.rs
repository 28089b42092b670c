//! `score` and `rerank` on a closed little world: what they write, what is identity, what they refuse.

use std::collections::BTreeSet;

use expect_test::expect;
use serde_json::{Value, json};

use super::model_kinds::{World, item, read, word};
use crate::stages::KINDS;
use crate::stages::kinds::{base, dpo, rerank, score};
use ablate_core::base::files;
use ablate_core::stage::{Manifest, ManifestEntry, find_kind};
use ablate_data::jsonl;
use ablate_data::records::{CreditedItem, FinishReason, JudgedItem, Score, Verdict};

const INPUTS: [(&str, &str); 3] = [("policy", "dpo/model"), ("reference", "sft/model"), ("judged", "judged.jsonl")];

/// Six questions with a right sample, a wrong one, the right one again, and a right one that was cut.
fn judge(world: &World) {
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
    jsonl::write(&world.path("judged.jsonl"), &judged).unwrap();
}

/// A world with a model before and after it was taught to prefer right answers.
fn taught() -> World {
    let world = World::new();
    world.learn();
    let table = json!({ "policy": "sft", "pairs": "pairs", "batch": 4, "lr": 1e-3, "epochs": 3 });
    world.run("dpo", &dpo::KIND, &table, &[("policy", "sft/model"), ("pairs", "pairs.jsonl")]);
    judge(&world);
    world
}

#[test]
fn a_taught_model_is_a_verifier_of_its_reference() {
    let world = taught();
    let table = json!({ "policy": "dpo", "reference": "sft", "judged": "judged" });
    let summary = world.run("score", &score::KIND, &table, &INPUTS);
    // Equal samples are scored once: three different ones of each question.
    assert_eq!((&summary.0["responses"], &summary.0["scored"]), (&json!(24), &json!(18)));
    let credits: Vec<CreditedItem> = read(&world.path("score/credits.jsonl"));
    for (i, one) in credits.iter().enumerate() {
        let [wrong, right, again, cut] = &one.responses[..] else { panic!("{one:?}") };
        assert!(right.log_ratio > wrong.log_ratio, "{right:?} {wrong:?}");
        assert_eq!(right, again);
        let texts = |credit: &ablate_data::records::CreditedResponse| -> Vec<String> {
            credit.tokens.iter().map(|(piece, _)| piece.clone()).collect()
        };
        // A response that was cut has no end; the tokens before it are the same.
        assert_eq!(
            (texts(right), texts(cut)),
            (vec![word(i).to_string(), "<|end|>".to_string()], vec![word(i).to_string()])
        );
        assert_eq!(right.tokens[0], cut.tokens[0]);
        let sum: f64 = right.tokens.iter().map(|(_, ratio)| f64::from(*ratio)).sum();
        assert!((right.log_ratio - sum).abs() < 1e-5, "{right:?}");
    }
    let facts: Value = files::read_json(&world.path("score/credits.json")).unwrap();
    // 12 of 24 are right, and within a question each of them is above the wrong one that ended.
    assert_eq!((&facts["questions"], &facts["right"]), (&json!(6), &json!(12)));
    assert!(facts["auc_within_questions"].as_f64() >= Some(0.5));

    // The mean over tokens is the sum divided by their number; cut to a token there is only one.
    let table = json!({ "policy": "dpo", "reference": "sft", "judged": "judged", "normalise": "tokens" });
    world.run("mean", &score::KIND, &table, &INPUTS);
    let means: Vec<CreditedItem> = read(&world.path("mean/credits.jsonl"));
    assert!((2.0 * means[0].responses[1].log_ratio - credits[0].responses[1].log_ratio).abs() < 1e-12);
    let table = json!({ "policy": "dpo", "reference": "sft", "judged": "judged", "truncate": { "tokens": 1 } });
    world.run("short", &score::KIND, &table, &INPUTS);
    let short: Vec<CreditedItem> = read(&world.path("short/credits.jsonl"));
    // One token is the whole text, so nothing is cut.
    assert_eq!(short[0].responses[1], credits[0].responses[1]);

    // Of the first sample alone no strategy can make more: it is wrong.
    let rerank = |strategy: &str, n: usize| {
        let table = json!({ "credits": "score", "strategy": strategy, "n": n });
        let name = format!("{strategy}-{n}");
        let summary = world.run(&name, &rerank::KIND, &table, &[("credits", "score/credits.jsonl")]);
        let scores: Vec<Score> = read(&world.path(&name).join("scores.jsonl"));
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
    let metrics: Value = files::read_json(&world.path("best-2/metrics.json")).unwrap();
    assert_eq!(
        metrics["datasets"]["more"],
        json!({ "items": 2, "accuracy": 1.0, "compliance": 1.0, "readable": 1.0, "cut": 0.0 })
    );
}

#[test]
fn what_cannot_be_scored_or_picked_is_told() {
    let world = taught();
    let table = json!({ "policy": "dpo", "reference": "sft", "judged": "judged" });
    world.run("score", &score::KIND, &table, &INPUTS);
    let many = json!({ "credits": "score", "strategy": "best", "n": 5 });
    let error = world.try_run("many", &rerank::KIND, &many, &[("credits", "score/credits.jsonl")]).unwrap_err();
    expect!["`n` = 5 asks for more samples than there are: 6 of 6 items have fewer, `item 0` of `echo` has 4"]
        .assert_eq(&error.to_string());
    let sizes = json!({
        "image_size": 16,
        "vision": { "dim": 8, "layers": 0, "heads": 2, "ff": 8 },
        "projector": { "hidden": 8 },
        "decoder": { "dim": 32, "layers": 1, "heads": 2, "kv_heads": 2, "ff": 48, "max_positions": 32 },
    });
    world.run("other", &base::KIND, &json!({ "tokenizer": "t", "model": sizes }), &[("tokenizer", "tokenizer")]);
    let inputs = [("policy", "dpo/model"), ("reference", "other/model"), ("judged", "judged.jsonl")];
    let error = world.try_run("unlike", &score::KIND, &table, &inputs).unwrap_err().to_string();
    assert!(error.starts_with("`reference` does not read what `policy` reads: it has"), "{error}");
}

#[test]
fn mistakes_in_a_table_are_told_with_their_keys() {
    let told = |kind: &str, table: Value| -> Vec<String> {
        let errors = (find_kind(KINDS, kind).unwrap().parse)(&table).map(|_| ()).unwrap_err();
        errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message)).collect()
    };
    expect![[r#"
        : the key `reference` is missing
        truncate: nothing would be left: write `"none"` to keep all
        normalise: unknown value `words`
        n: there is nothing to pick from: `n` is at least 1
        strategy: unknown value `bets`"#]]
    .assert_eq(
        &[
            told("score", json!({ "policy": "a", "judged": "j" })),
            told("score", json!({ "policy": "a", "reference": "b", "judged": "j", "truncate": { "words": 0 } })),
            told("score", json!({ "policy": "a", "reference": "b", "judged": "j", "normalise": "words" })),
            told("rerank", json!({ "credits": "c", "strategy": "best", "n": 0 })),
            told("rerank", json!({ "credits": "c", "strategy": "bets", "n": 4 })),
        ]
        .concat()
        .join("\n"),
    );
}

/// A difference here means that results in people's stores are computed again: raise the kind's version, or undo it.
#[test]
fn the_identity_of_a_fixed_config_stays() {
    let line = |kind: &str, table: Value| {
        let kind = find_kind(KINDS, kind).unwrap();
        let mut manifest = Manifest::new(kind.name, kind.version);
        (kind.parse)(&table).unwrap().identify(&mut manifest);
        let keys: Vec<&str> = manifest.entries.iter().map(ManifestEntry::key).collect();
        format!("{} {} {}\n", kind.name, manifest.fingerprint().short(), keys.join(" "))
    };
    let rerank = |strategy: &str, weight: &str| {
        line("rerank", json!({ "credits": "c", "strategy": strategy, "n": 8, "weight": weight }))
    };
    // The weight matters where votes are weighted, and nowhere else.
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
