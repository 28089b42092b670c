//! The stages that execute a model, run one after the other on a closed little world.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use expect_test::expect;
use serde_json::{Value, json};

use crate::stages::kinds::{base, dpo, eval, rollout, sft};
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Hash, Seed, files};
use ablate_core::stage::{InputPath, Kind, Manifest, ManifestEntry, StageContext, Summary};
use ablate_data::jsonl;
use ablate_data::records::{AnswerType, CurvePoint, Item, Pair, Rollout, Row, Score};
use ablate_data::tokenizer::{FILE, Tokenizer};
use ablate_nn::Checkpoint;

/// A folder with a subfolder per stage.
pub(super) struct World {
    folder: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> World {
        let world = World { folder: tempfile::tempdir().unwrap() };
        let rows: Vec<Row> = (0..24)
            .map(|i| Row {
                id: i.to_string(),
                dataset: "echo".into(),
                source: String::new(),
                image: None,
                prompt: prompt(i),
                response: word(i).into(),
                question: Some(question(i)),
            })
            .collect();
        jsonl::write(&world.path("rows.jsonl"), &rows).unwrap();
        let items: Vec<Item> = (0..6).map(item).collect();
        jsonl::write(&world.path("items.jsonl"), &items).unwrap();
        let pairs: Vec<Pair> = (0..8)
            .map(|i| Pair {
                id: format!("{i}#0"),
                dataset: "echo".into(),
                image: None,
                prompt: prompt(i),
                chosen: word(i).into(),
                rejected: word(i + 1).into(),
                chosen_truncated: false,
                rejected_truncated: false,
                question: None,
            })
            .collect();
        jsonl::write(&world.path("pairs.jsonl"), &pairs).unwrap();
        let texts: Vec<String> = rows.iter().flat_map(|row| [row.prompt.clone(), row.response.clone()]).collect();
        let tokenizer = Tokenizer::train_word(texts.iter().map(String::as_str), 100).unwrap();
        tokenizer.write(&world.path("tokenizer").join(FILE)).unwrap();
        world
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a kind in a folder of its own, with inputs by role.
    pub(super) fn run(&self, name: &str, kind: &Kind, table: &Value, inputs: &[(&str, &str)]) -> Summary {
        self.try_run(name, kind, table, inputs).unwrap()
    }

    pub(super) fn try_run(&self, name: &str, kind: &Kind, table: &Value, inputs: &[(&str, &str)]) -> Result<Summary> {
        let stage = (kind.parse)(table).unwrap_or_else(|errors| panic!("{errors:?}"));
        let roles: Vec<String> = stage.inputs().into_iter().map(|input| input.role).collect();
        assert_eq!(roles, inputs.iter().map(|(role, _)| *role).collect::<Vec<_>>());
        let input = |path: &str| InputPath { path: self.path(path), hash: Hash::of_bytes(b""), kind: None };
        let ctx = StageContext {
            inputs: inputs.iter().map(|(role, path)| ((*role).to_string(), input(path))).collect(),
            images: BTreeMap::new(),
            out: self.path(name),
            scratch: self.path(&format!("{name}.scratch")),
            seed: Seed(1),
            threads: 1,
            device: "cpu".into(),
            variables: BTreeMap::new(),
            progress: &NoProgress,
        };
        stage.run(&ctx)
    }

    /// A base model that has learned to echo.
    pub(super) fn learn(&self) -> Summary {
        let sizes = json!({
            "vision": { "dim": 8, "layers": 0, "heads": 2, "ff": 8 },
            "projector": { "hidden": 8 },
            "decoder": { "dim": 32, "layers": 1, "heads": 2, "kv_heads": 2, "ff": 48, "max_positions": 32 },
        });
        let base = json!({ "tokenizer": "tokenizer", "model": sizes });
        self.run("base", &base::KIND, &base, &[("tokenizer", "tokenizer")]);
        let table = json!({ "model": "base", "data": "rows", "epochs": 25, "batch": 8, "lr": 1e-2 });
        self.run("sft", &sft::KIND, &table, &[("model", "base/model"), ("data", "rows.jsonl")])
    }
}

pub(super) fn word(i: usize) -> &'static str {
    ["red", "green", "blue", "white"][i % 4]
}

fn question(i: usize) -> String {
    format!("say {} .", word(i))
}

fn prompt(i: usize) -> String {
    question(i) + "\nAnswer briefly."
}

pub(super) fn item(i: usize) -> Item {
    serde_json::from_value(json!({
        "id": format!("item {i}"),
        "dataset": if i < 4 { "echo" } else { "more" },
        "question": question(i),
        "answer_type": AnswerType::Text,
        "answers": [word(i)],
    }))
    .unwrap()
}

pub(super) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    jsonl::read(path).unwrap()
}

#[test]
fn a_base_model_learns_answers_and_is_pushed_by_preferences() {
    let world = World::new();
    let summary = world.learn();
    // 24 rows, 25 epochs, batches of 8.
    assert_eq!(
        (&summary.0["steps"], &summary.0["rows"], &summary.0["device"]),
        (&json!(75), &json!(24), &json!("cpu"))
    );
    let curve: Vec<CurvePoint> = read(&world.path("sft/curve.jsonl"));
    assert!(curve[curve.len() - 1].loss < 0.2, "{:?}", curve[curve.len() - 1]);
    assert_eq!(
        files::read_bytes(&world.path("sft/model").join(FILE)).unwrap(),
        files::read_bytes(&world.path("tokenizer").join(FILE)).unwrap()
    );

    let table = json!({ "model": "sft", "benchmark": "items", "max_tokens": 4 });
    let inputs = [("model", "sft/model"), ("benchmark", "items.jsonl")];
    let summary = world.run("eval", &eval::KIND, &table, &inputs);
    assert_eq!((&summary.0["accuracy"], &summary.0["compliance"]), (&json!(1.0), &json!(1.0)));
    let scores: Vec<Score> = read(&world.path("eval/scores.jsonl"));
    let ids: Vec<&str> = scores.iter().map(|score| score.id.as_str()).collect();
    assert_eq!(ids, ["item 0", "item 1", "item 2", "item 3", "item 4", "item 5"]);
    let metrics: Value = files::read_json(&world.path("eval/metrics.json")).unwrap();
    let contaminated = json!({ "image": 0, "question": 2 });
    let more = json!({ "items": 2, "accuracy": 1.0, "compliance": 1.0, "readable": 1.0, "cut": 0.0, "contaminated": contaminated });
    assert_eq!((&metrics["items"], &metrics["datasets"]["more"]), (&json!(6), &more));

    let table = json!({ "policy": "sft", "pairs": "pairs", "batch": 4, "lr": 1e-3, "epochs": 3 });
    let summary = world.run("dpo", &dpo::KIND, &table, &[("policy", "sft/model"), ("pairs", "pairs.jsonl")]);
    assert_eq!(summary.0["reward_accuracy"], json!(1.0));
    assert!(summary.0["reward_margin"].as_f64() > Some(0.0));
    let (before, after) = (world.path("sft/model"), world.path("dpo/model"));
    let (before, after) = (Checkpoint::read(&before).unwrap(), Checkpoint::read(&after).unwrap());
    // Encoder and projector are frozen without being told: patches and positions are the first two arrays.
    assert!(before.weights[..2] == after.weights[..2] && before.weights != after.weights);
}

#[test]
fn a_model_remembers_what_it_was_trained_on() {
    let world = World::new();
    world.learn();
    let rows: Vec<Row> = read(&world.path("rows.jsonl"));
    // Questions about red and green.
    jsonl::write(&world.path("some.jsonl"), &rows[..2]).unwrap();
    let table = json!({ "model": "base", "data": "rows" });
    world.run("some", &sft::KIND, &table, &[("model", "base/model"), ("data", "some.jsonl")]);
    let seen = |name: &str| files::read_text(&world.path(name).join("model/seen.txt")).unwrap();
    assert_eq!(seen("some").lines().count(), 2);
    let table = json!({ "model": "some", "benchmark": "items", "max_tokens": 2 });
    let inputs = [("model", "some/model"), ("benchmark", "items.jsonl")];
    let summary = world.run("eval", &eval::KIND, &table, &inputs);
    // Items 0, 1, 4 and 5 are about red and green.
    assert_eq!(summary.0["contaminated"], json!({ "image": 0, "question": 4 }));
    let scores: Vec<Score> = read(&world.path("eval/scores.jsonl"));
    let new: Vec<&Score> = scores.iter().filter(|score| score.seen.is_none()).collect();
    assert_eq!(new.iter().map(|score| score.id.as_str()).collect::<Vec<_>>(), ["item 2", "item 3"]);
    let clean = new.iter().map(|score| score.score).sum::<f64>() / 2.0;
    assert_eq!(summary.0["accuracy_clean"], json!(clean));
    // The pairs do not know their questions: their four whole prompts are added.
    let table = json!({ "policy": "some", "pairs": "pairs" });
    world.run("dpo", &dpo::KIND, &table, &[("policy", "some/model"), ("pairs", "pairs.jsonl")]);
    let (before, after) = (seen("some"), seen("dpo"));
    assert_eq!(after.lines().count(), 6);
    assert!(before.lines().all(|line| after.contains(line)));
    // Of a base model nothing is known.
    let table = json!({ "model": "base", "benchmark": "items", "max_tokens": 2 });
    let inputs = [("model", "base/model"), ("benchmark", "items.jsonl")];
    assert_eq!(world.run("none", &eval::KIND, &table, &inputs).0.get("contaminated"), None);
}

#[test]
fn an_interrupted_rollout_goes_on_where_it_was_and_ends_the_same() {
    let world = World::new();
    world.learn();
    let table = json!({ "model": "sft", "items": "items", "prompt": "direct", "samples": 3, "max_tokens": 4 });
    let inputs = [("model", "sft/model"), ("items", "items.jsonl")];
    world.run("whole", &rollout::KIND, &table, &inputs);
    let whole = files::read_text(&world.path("whole/rollouts.jsonl")).unwrap();
    let rollouts: Vec<Rollout> = read(&world.path("whole/rollouts.jsonl"));
    assert_eq!(rollouts.iter().map(|rollout| rollout.samples.len()).collect::<Vec<_>>(), [3; 6]);
    // Two items were done and the third was being written when the power was cut.
    let kept = files::read_text(&world.path("whole.scratch/rollouts.jsonl")).unwrap();
    let lines: Vec<&str> = kept.split_inclusive('\n').collect();
    let torn = [lines[0], lines[1], &lines[2][..20]].concat();
    files::write_atomic(&world.path("resumed.scratch/rollouts.jsonl"), torn.as_bytes()).unwrap();
    world.run("resumed", &rollout::KIND, &table, &inputs);
    assert_eq!(files::read_text(&world.path("resumed/rollouts.jsonl")).unwrap(), whole);
    assert_eq!(files::read_text(&world.path("resumed.scratch/rollouts.jsonl")).unwrap().lines().count(), 6);
}

#[test]
fn a_larger_draw_of_items_keeps_those_of_a_smaller_one() {
    let world = World::new();
    world.learn();
    let ids = |name: &str, take: Value| {
        let table = json!({ "model": "sft", "benchmark": "items", "max_tokens": 2, "take": take });
        world.run(name, &eval::KIND, &table, &[("model", "sft/model"), ("benchmark", "items.jsonl")]);
        let scores: Vec<Score> = read(&world.path(name).join("scores.jsonl"));
        scores.into_iter().map(|score| score.id).collect::<Vec<_>>()
    };
    assert_eq!(ids("first", json!({ "first": 2 })), ["item 0", "item 1"]);
    let (three, five) = (ids("three", json!({ "random": 3 })), ids("five", json!({ "random": 5 })));
    assert_eq!((three.len(), five.len()), (3, 5));
    assert!(three.iter().all(|id| five.contains(id)));
}

/// A difference here means that every user's results of the kind are computed again: undo it or raise `version`.
#[test]
fn the_identity_of_a_fixed_config_stays() {
    let line = |kind: &Kind, table: Value| {
        let mut manifest = Manifest::new(kind.name, kind.version);
        (kind.parse)(&table).unwrap_or_else(|errors| panic!("{errors:?}")).identify(&mut manifest);
        let keys: Vec<&str> = manifest.entries.iter().map(ManifestEntry::key).collect();
        format!("{} {} {}\n", kind.name, manifest.fingerprint().short(), keys.join(" "))
    };
    let text = [
        line(&base::KIND, json!({ "tokenizer": "t" })),
        line(&sft::KIND, json!({ "model": "m", "data": "d", "keep_steps": 7 })),
        line(&sft::KIND, json!({ "model": "m", "data": "d", "lr_parts": { "vision": 1e-6 }, "freeze": ["projector"] })),
        line(&dpo::KIND, json!({ "policy": "m", "pairs": "p" })),
        line(&rollout::KIND, json!({ "model": "m", "items": "i" })),
        line(&eval::KIND, json!({ "model": "m", "benchmark": "b", "take": { "first": 10 } })),
    ];
    expect![[r#"
        base 340c76e5f8 model.image_size model.patch_size model.vision.dim model.vision.layers model.vision.heads model.vision.ff model.projector.hidden model.decoder.dim model.decoder.layers model.decoder.heads model.decoder.kv_heads model.decoder.ff model.decoder.rope_theta model.decoder.norm_eps model.decoder.tied_head model.decoder.max_positions
        sft 4e040c23ef epochs batch length_window lr betas eps weight_decay clip schedule warmup final_lr freeze
        sft a522033060 epochs batch length_window lr lr_parts.vision betas eps weight_decay clip schedule warmup final_lr freeze
        dpo 6dd32af7d9 epochs batch length_window beta sft_weight lr betas eps weight_decay clip schedule warmup final_lr freeze
        rollout 492d29fd80 prompt.text prompt.letter samples temperature top_k top_p max_tokens
        eval 3684ea433d prompt.text prompt.letter samples temperature top_k top_p max_tokens prompt.style take.first
    "#]]
    .assert_eq(&text.concat());
}

#[test]
fn mistakes_in_a_table_are_told_with_their_keys() {
    let told = |kind: &Kind, table: Value| -> Vec<String> {
        let errors = (kind.parse)(&table).map(|_| ()).unwrap_err();
        errors.into_iter().map(|error| format!("{}: {}", error.path.join("."), error.message)).collect()
    };
    let table = json!({ "model": "base", "data": "rows", "epochs": 0, "lr": -1.0, "schedule": "cosin" });
    assert_eq!(told(&sft::KIND, table), ["schedule: unknown value `cosin`"]);
    let table = json!({ "model": "base", "data": "rows", "epochs": 0, "lr": -1.0, "freeze": ["vision"] });
    assert_eq!(
        told(&sft::KIND, table),
        ["lr: `lr` must be above 0, not -1", "epochs: `epochs` must be at least 1, not 0"]
    );
    let table = json!({ "policy": "sft", "pairs": "pairs", "beta": 0.0 });
    assert_eq!(told(&dpo::KIND, table), ["beta: with `beta` and `sft_weight` both 0 there is nothing to learn"]);
    let table = json!({ "model": "sft", "items": "items", "samples": 0, "top_p": 1.5, "take": { "first": 0 } });
    assert_eq!(
        told(&rollout::KIND, table),
        [
            "samples: `samples` must be at least 1, not 0",
            "top_p: `top_p` must be above 0 and at most 1, not 1.5",
            "take: `take` must be at least 1 item",
        ]
    );
    let table = json!({ "tokenizer": "t", "model": { "decoder": { "heads": 3 } } });
    assert_eq!(
        told(&base::KIND, table),
        [
            "model.decoder.heads: `decoder.heads` must divide `decoder.dim` (64), which 3 does not",
            "model.decoder.kv_heads: `decoder.kv_heads` must divide `decoder.heads` (3), which 4 does not",
        ]
    );
}
