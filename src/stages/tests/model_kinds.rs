//! The kinds that run a model: `base`, `sft`, `dpo`, `rollout`, `eval`.

use serde_json::{Value, json};

use super::support::{EchoData, item, manifest_line, mistakes, read};
use crate::stages::kinds::{dpo, eval, rollout, sft};
use ablate_core::base::files;
use ablate_data::jsonl;
use ablate_data::records::{CurvePoint, Failure, Item, Rollout, Row, Score};
use ablate_data::tokenizer::FILE;
use ablate_nn::Checkpoint;
use expect_test::expect;

#[test]
fn sft_and_dpo_train_a_model() {
    let data = EchoData::new();
    let summary = data.train();
    // 24 rows, 25 epochs, batches of 8.
    assert_eq!(
        (&summary.0["steps"], &summary.0["rows"], &summary.0["device"]),
        (&json!(75), &json!(24), &json!("cpu"))
    );
    let curve: Vec<CurvePoint> = read(&data.path("sft/curve.jsonl"));
    assert!(curve[curve.len() - 1].loss < 0.2, "{:?}", curve[curve.len() - 1]);
    assert_eq!(
        files::read_bytes(&data.path("sft/model").join(FILE)).unwrap(),
        files::read_bytes(&data.path("tokenizer").join(FILE)).unwrap()
    );

    let table = json!({ "model": "sft", "benchmark": "items", "max_tokens": 4 });
    let inputs = [("model", "sft/model"), ("benchmark", "items.jsonl")];
    let summary = data.run("eval", &eval::KIND, &table, &inputs);
    assert_eq!((&summary.0["accuracy"], &summary.0["compliance"]), (&json!(1.0), &json!(1.0)));
    let scores: Vec<Score> = read(&data.path("eval/scores.jsonl"));
    let ids: Vec<&str> = scores.iter().map(|score| score.id.as_str()).collect();
    assert_eq!(ids, ["item 0", "item 1", "item 2", "item 3", "item 4", "item 5"]);
    let metrics: Value = files::read_json(&data.path("eval/metrics.json")).unwrap();
    let contaminated = json!({ "image": 0, "question": 2 });
    let more = json!({ "items": 2, "accuracy": 1.0, "compliance": 1.0, "readable": 1.0, "cut": 0.0, "contaminated": contaminated });
    assert_eq!((&metrics["items"], &metrics["datasets"]["more"]), (&json!(6), &more));

    let table = json!({ "policy": "sft", "pairs": "pairs", "batch": 4, "lr": 1e-3, "epochs": 3 });
    let summary = data.run("dpo", &dpo::KIND, &table, &[("policy", "sft/model"), ("pairs", "pairs.jsonl")]);
    assert_eq!(summary.0["reward_accuracy"], json!(1.0));
    assert!(summary.0["reward_margin"].as_f64() > Some(0.0));
    let (before, after) = (data.path("sft/model"), data.path("dpo/model"));
    let (before, after) = (Checkpoint::read(&before).unwrap(), Checkpoint::read(&after).unwrap());
    // Vision tower and projector are frozen by default. Patch and position embeddings are the first two arrays.
    assert!(before.weights[..2] == after.weights[..2] && before.weights != after.weights);
}

#[test]
fn training_data_are_recorded_for_contamination() {
    let data = EchoData::trained();
    let rows: Vec<Row> = read(&data.path("rows.jsonl"));
    // Questions about red and green.
    jsonl::write(&data.path("some.jsonl"), &rows[..2]).unwrap();
    let table = json!({ "model": "base", "data": "rows" });
    data.run("some", &sft::KIND, &table, &[("model", "base/model"), ("data", "some.jsonl")]);
    let seen = |name: &str| files::read_text(&data.path(name).join("model/seen.txt")).unwrap();
    assert_eq!(seen("some").lines().count(), 2);
    let table = json!({ "model": "some", "benchmark": "items", "max_tokens": 2 });
    let inputs = [("model", "some/model"), ("benchmark", "items.jsonl")];
    let summary = data.run("eval", &eval::KIND, &table, &inputs);
    // Items 0, 1, 4 and 5 are about red and green.
    assert_eq!(summary.0["contaminated"], json!({ "image": 0, "question": 4 }));
    let scores: Vec<Score> = read(&data.path("eval/scores.jsonl"));
    let new: Vec<&Score> = scores.iter().filter(|score| score.seen.is_none()).collect();
    assert_eq!(new.iter().map(|score| score.id.as_str()).collect::<Vec<_>>(), ["item 2", "item 3"]);
    let clean = new.iter().map(|score| score.score).sum::<f64>() / 2.0;
    assert_eq!(summary.0["accuracy_clean"], json!(clean));
    // The pairs have no `question`, so their four prompts are added.
    let table = json!({ "policy": "some", "pairs": "pairs" });
    data.run("dpo", &dpo::KIND, &table, &[("policy", "some/model"), ("pairs", "pairs.jsonl")]);
    let (before, after) = (seen("some"), seen("dpo"));
    assert_eq!(after.lines().count(), 6);
    assert!(before.lines().all(|line| after.contains(line)));
    // The training data of a base model are unknown.
    let table = json!({ "model": "base", "benchmark": "items", "max_tokens": 2 });
    let inputs = [("model", "base/model"), ("benchmark", "items.jsonl")];
    assert_eq!(data.run("none", &eval::KIND, &table, &inputs).0.get("contaminated"), None);
}

#[test]
fn wrong_responses_to_items_with_facts_have_a_class() {
    let data = EchoData::trained();
    let mut items: Vec<Item> = (0..4).map(item).collect();
    for item in &mut items[..3] {
        item.facts = item.answers.clone();
    }
    jsonl::write(&data.path("facts.jsonl"), &items).unwrap();
    let evaluate = |name: &str, style: &str| {
        let prompt = json!({ "name": name, "style": style, "text": "Answer briefly.", "letter": "Answer briefly." });
        let table = json!({ "model": "sft", "benchmark": "facts", "prompt": prompt, "max_tokens": 4 });
        let summary = data.run(name, &eval::KIND, &table, &[("model", "sft/model"), ("benchmark", "facts.jsonl")]);
        let scores: Vec<Score> = read(&data.path(name).join("scores.jsonl"));
        (summary, scores)
    };
    // The model answers without a rationale.
    let (summary, scores) = evaluate("cot", "cot");
    assert_eq!(summary.0["failures"], json!({ "responses": 3, "reading": 0, "arithmetic": 0, "form": 3 }));
    let classes: Vec<_> = scores.iter().map(|score| score.failure).collect();
    assert_eq!(classes, [Some(Failure::Form), Some(Failure::Form), Some(Failure::Form), None]);
    let metrics: Value = files::read_json(&data.path("cot/metrics.json")).unwrap();
    assert_eq!(
        (&metrics["failures"], &metrics["datasets"]["echo"]["failures"]["form"]),
        (&summary.0["failures"], &json!(3))
    );
    // A direct prompt asks for no rationale.
    let (summary, scores) = evaluate("direct", "direct");
    assert_eq!(summary.0.get("failures"), None);
    assert!(scores.iter().all(|score| score.facts.is_empty() && score.failure.is_none()));
}

#[test]
fn interrupted_rollout_resumes_with_equal_result() {
    let data = EchoData::trained();
    let table = json!({ "model": "sft", "items": "items", "prompt": "direct", "samples": 3, "max_tokens": 4 });
    let inputs = [("model", "sft/model"), ("items", "items.jsonl")];
    data.run("whole", &rollout::KIND, &table, &inputs);
    let whole = files::read_text(&data.path("whole/rollouts.jsonl")).unwrap();
    let rollouts: Vec<Rollout> = read(&data.path("whole/rollouts.jsonl"));
    assert_eq!(rollouts.iter().map(|rollout| rollout.samples.len()).collect::<Vec<_>>(), [3; 6]);
    // Two items were finished; the line of the third is truncated.
    let kept = files::read_text(&data.path("whole-scratch/rollouts.jsonl")).unwrap();
    let lines: Vec<&str> = kept.split_inclusive('\n').collect();
    let torn = [lines[0], lines[1], &lines[2][..20]].concat();
    files::write_atomic(&data.path("resumed-scratch/rollouts.jsonl"), torn.as_bytes()).unwrap();
    data.run("resumed", &rollout::KIND, &table, &inputs);
    assert_eq!(files::read_text(&data.path("resumed/rollouts.jsonl")).unwrap(), whole);
    assert_eq!(files::read_text(&data.path("resumed-scratch/rollouts.jsonl")).unwrap().lines().count(), 6);
}

#[test]
fn larger_sample_contains_smaller_one() {
    let data = EchoData::trained();
    let ids = |name: &str, take: Value| {
        let table = json!({ "model": "sft", "benchmark": "items", "max_tokens": 2, "take": take });
        data.run(name, &eval::KIND, &table, &[("model", "sft/model"), ("benchmark", "items.jsonl")]);
        let scores: Vec<Score> = read(&data.path(name).join("scores.jsonl"));
        scores.into_iter().map(|score| score.id).collect::<Vec<_>>()
    };
    assert_eq!(ids("first", json!({ "first": 2 })), ["item 0", "item 1"]);
    let (three, five) = (ids("three", json!({ "random": 3 })), ids("five", json!({ "random": 5 })));
    assert_eq!((three.len(), five.len()), (3, 5));
    assert!(three.iter().all(|id| five.contains(id)));
}

/// A difference means that all stored results of the kind are computed again: undo it, or raise `version`.
#[test]
fn manifests_are_unchanged() {
    let line = |kind: &str, table: Value| manifest_line(kind, &table);
    let text = [
        line("base", json!({ "tokenizer": "t" })),
        line("sft", json!({ "model": "m", "data": "d", "keep_steps": 7 })),
        line("sft", json!({ "model": "m", "data": "d", "lr_parts": { "vision": 1e-6 }, "freeze": ["projector"] })),
        line("dpo", json!({ "policy": "m", "pairs": "p" })),
        line("rollout", json!({ "model": "m", "items": "i" })),
        line("eval", json!({ "model": "m", "benchmark": "b", "take": { "first": 10 } })),
        line("eval", json!({ "model": "m", "benchmark": "b", "image": "given" })),
        line("eval", json!({ "model": "m", "benchmark": "b", "image": "blank" })),
    ];
    expect![[r#"
        base 340c76e5f8 model.image_size model.patch_size model.vision.dim model.vision.layers model.vision.heads model.vision.ff model.projector.hidden model.decoder.dim model.decoder.layers model.decoder.heads model.decoder.kv_heads model.decoder.ff model.decoder.rope_theta model.decoder.norm_eps model.decoder.tied_head model.decoder.max_positions
        sft 683544560c epochs batch length_window lr betas eps weight_decay clip schedule warmup final_lr freeze
        sft 5e13a9d6f7 epochs batch length_window lr lr_parts.vision betas eps weight_decay clip schedule warmup final_lr freeze
        dpo 329bb834d4 epochs batch length_window beta sft_weight lr betas eps weight_decay clip schedule warmup final_lr freeze
        rollout 492d29fd80 prompt.text prompt.letter samples temperature top_k top_p max_tokens
        eval 4be9e5eb97 prompt.text prompt.letter samples temperature top_k top_p max_tokens prompt.style take.first
        eval a907243d9b prompt.text prompt.letter samples temperature top_k top_p max_tokens prompt.style
        eval 37d2bc4d85 prompt.text prompt.letter samples temperature top_k top_p max_tokens prompt.style image
    "#]]
    .assert_eq(&text.concat());
}

#[test]
fn mistakes_have_their_keys() {
    let table = json!({ "model": "base", "data": "rows", "epochs": 0, "lr": -1.0, "schedule": "cosin" });
    assert_eq!(mistakes("sft", &table), ["schedule: unknown value `cosin`"]);
    let table = json!({ "model": "base", "data": "rows", "epochs": 0, "lr": -1.0, "freeze": ["vision"] });
    assert_eq!(
        mistakes("sft", &table),
        ["lr: `lr` must be above 0, not -1", "epochs: `epochs` must be at least 1, not 0"]
    );
    let table = json!({ "policy": "sft", "pairs": "pairs", "beta": 0.0 });
    assert_eq!(mistakes("dpo", &table), ["beta: `beta` and `sft_weight` are both 0, so the loss is constant"]);
    let table = json!({ "model": "sft", "items": "items", "samples": 0, "top_p": 1.5, "take": { "first": 0 } });
    assert_eq!(
        mistakes("rollout", &table),
        [
            "samples: `samples` must be at least 1, not 0",
            "top_p: `top_p` must be above 0 and at most 1, not 1.5",
            "take: `take` must be at least 1 item",
        ]
    );
    let remote = json!({ "api": "openai", "url": "http://localhost", "model": "m" });
    let table = json!({ "model": remote, "benchmark": "b", "image": "blank" });
    let message = r#"image: `image = "blank"` is for a checkpoint only; an endpoint has `image = "none"`"#;
    assert_eq!(mistakes("eval", &table), [message]);
    let table = json!({ "tokenizer": "t", "model": { "decoder": { "heads": 3 } } });
    assert_eq!(
        mistakes("base", &table),
        [
            "model.decoder.heads: `decoder.heads` must divide `decoder.dim` (64), which 3 does not",
            "model.decoder.kv_heads: `decoder.kv_heads` must divide `decoder.heads` (3), which 4 does not",
        ]
    );
}
