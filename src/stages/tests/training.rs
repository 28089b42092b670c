//! Training and its inputs: preference losses, published pairs, selected data sets, exported and imported checkpoints.

use std::collections::BTreeSet;
use std::path::Path;

use expect_test::expect;
use serde_json::{Value, json};

use super::support::{EchoData, Runner, manifest, mistakes, parse, read};
use crate::stages::kinds::{base, dpo, eval, export, rollout, sft};
use ablate_core::base::{Hash, files};
use ablate_core::stage::ManifestEntry;
use ablate_data::images::ImageLoader;
use ablate_data::images::ImagePacks;
use ablate_data::images::ImageProcessor;
use ablate_data::records::{CurvePoint, Pair, Rollout, Score};
use ablate_nn::Checkpoint;

#[test]
fn preference_losses_give_different_models() {
    let data = EchoData::trained();
    let mut trained = BTreeSet::new();
    let variants = [
        json!({ "loss": "sigmoid" }),
        json!({ "label_smoothing": 0.2 }),
        json!({ "loss": "hinge" }),
        json!({ "loss": "ipo", "sft_weight": 0.1 }),
        json!({ "token_weights": { "cosine": 1 } }),
    ];
    for (index, variant) in variants.into_iter().enumerate() {
        let mut table = json!({ "policy": "sft", "pairs": "pairs", "batch": 4, "lr": 1e-3, "epochs": 3 });
        table.as_object_mut().unwrap().extend(variant.as_object().unwrap().clone());
        let name = format!("dpo{index}");
        data.run(&name, &dpo::KIND, &table, &[("policy", "sft/model"), ("pairs", "pairs.jsonl")]);
        let curve: Vec<CurvePoint> = read(&data.path(&name).join("curve.jsonl"));
        let (first, last) = (&curve[0], &curve[curve.len() - 1]);
        assert!(last.reward_margin > Some(0.0) && last.loss < first.loss, "{variant}: {first:?} {last:?}");
        trained.insert(files::read_bytes(&data.path(&name).join("model/model.safetensors")).unwrap());
    }
    assert_eq!(trained.len(), 5);
}

#[test]
fn published_pairs_are_packed_and_truncated() {
    let mut runner = Runner::new();
    let made = json!({ "synthetic": { "datasets": ["chart"], "split": "train", "count": 2 } });
    runner.run("made", "items", &made).unwrap();
    let packs = ImagePacks::open(&runner.images).unwrap();
    let keys: Vec<&str> = packs.keys().collect();
    for (name, key) in ["a.png", "b.png"].iter().zip(keys) {
        files::write_atomic(&runner.path("photos").join(name), &packs.encoded(key).unwrap()).unwrap();
    }
    let row = |id: usize, image: &str, chosen: &str| {
        let row = json!({ "idx": id, "ds_name": "hub", "image": image, "question": "<image>\nWhat?", "chosen": chosen,
            "rejected": "nothing at all", "origin_split": "train" });
        row.to_string() + "\n"
    };
    let rows = [row(1, "a.png", "one two three four"), row(2, "b.png", "one"), row(3, "a.png", "nothing  at all")];
    runner.write("rlaif.jsonl", &rows.concat());
    let table = json!({ "path": "rlaif.jsonl", "images": "photos", "truncate": { "words": 3 }, "dev": 0.0 });
    let outputs = parse("pairs", &table).outputs();
    let outputs: Vec<String> = outputs.unwrap().into_iter().map(|output| output.name.into_owned()).collect();
    assert_eq!(outputs, ["pairs.jsonl", "dev.jsonl", "pairs.json", "images.tar"]);
    assert_eq!(parse("pairs", &json!({ "judged": "j" })).outputs(), None);
    let summary = runner.run("pairs", "pairs", &table).unwrap();
    assert_eq!((&summary.0["pairs"], &summary.0["images"]), (&json!(2), &json!(2)));
    let pairs: Vec<Pair> = runner.read("pairs/pairs.jsonl");
    let actual: Vec<(&str, &str, &str, bool)> = pairs
        .iter()
        .map(|pair| (pair.id.as_str(), pair.dataset.as_str(), pair.chosen.as_str(), pair.chosen_truncated))
        .collect();
    assert_eq!(actual, [("1#0", "hub", "one two three", true), ("2#0", "hub", "one", false)]);
    assert!(pairs.iter().all(|pair| pair.prompt == "What?" && pair.rejected == "nothing at all"));
    let images = ImageLoader::open(&runner.images, ImageProcessor::Square { size: 32 }).unwrap();
    for pair in &pairs {
        images.load(&pair.images.keys()[0]).unwrap();
    }
    assert!(runner.read::<Pair>("pairs/dev.jsonl").is_empty());

    runner.write("photos/b.png", "half");
    let error = runner.fail("broken", "pairs", &table);
    assert!(error.contains("rlaif.jsonl:2: the image `b.png`: is not a PNG, JPEG, WebP, GIF or BMP"), "{error}");
    let error = runner.fail("no-images", "pairs", &json!({ "path": "rlaif.jsonl" }));
    assert!(
        error.contains("rlaif.jsonl:1: the row has the image `a.png`, but the stage has no image folder"),
        "{error}"
    );
}

#[test]
fn datasets_selects_items_and_pairs() {
    let data = EchoData::trained();
    let table =
        json!({ "model": "sft", "benchmark": "items", "max_tokens": 2, "datasets": ["more"], "take": { "first": 1 } });
    data.run("eval", &eval::KIND, &table, &[("model", "sft/model"), ("benchmark", "items.jsonl")]);
    let scores: Vec<Score> = read(&data.path("eval/scores.jsonl"));
    assert_eq!(scores.iter().map(|score| score.id.as_str()).collect::<Vec<_>>(), ["item 4"]);
    let inputs = [("model", "sft/model"), ("items", "items.jsonl")];
    let sample = |datasets: Value| {
        let table = json!({ "model": "sft", "items": "items", "prompt": "direct", "samples": 4, "max_tokens": 2,
            "datasets": datasets });
        data.try_run("rollout", &rollout::KIND, &table, &inputs)
    };
    sample(json!(["more", "echo"])).unwrap();
    assert_eq!(read::<Rollout>(&data.path("rollout/rollouts.jsonl")).len(), 6);
    let error = format!("{:#}", sample(json!(["more", "chart"])).unwrap_err());
    assert_eq!(error, "`datasets`: no item of the data set `chart`; the data sets are `echo`, `more`");

    let mut runner = Runner::new();
    let judged: Vec<Value> = ["echo", "more"]
        .map(|dataset| {
            let verdict = |text: &str, right: bool| {
                json!({ "text": text, "finish": "stop", "answer": text, "compliant": true, "score": 0.0, "correct": right })
            };
            let item = json!({ "id": "1", "dataset": dataset, "question": "?", "answer_type": "text", "answers": ["x"] });
            json!({ "item": item, "prompt": "?", "verdicts": [verdict("x", true), verdict("y", false)] })
        })
        .into();
    ablate_data::jsonl::write(&runner.path("judged/judged.jsonl"), &judged).unwrap();
    let table = |datasets: Value| json!({ "judged": "judged", "dev": 0.0, "datasets": datasets });
    runner.run("pairs", "pairs", &table(json!(["more"]))).unwrap();
    let pairs: Vec<Pair> = runner.read("pairs/pairs.jsonl");
    assert_eq!(pairs.iter().map(|pair| pair.dataset.as_str()).collect::<Vec<_>>(), ["more"]);
    let error = runner.fail("none", "pairs", &table(json!(["chart"])));
    assert_eq!(error, "`datasets`: no question of the data set `chart`; the data sets are `echo`, `more`");
}

#[test]
fn exported_checkpoint_imports_unchanged() {
    let data = EchoData::trained();
    let summary = data.run("out", &export::KIND, &json!({ "model": "sft" }), &[("model", "sft/model")]);
    let names: Vec<String> =
        files::walk(&data.path("out/checkpoint")).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["card.json", "config.json", "model.safetensors", "seen.txt", "tokenizer.json"]);
    data.run("back", &base::KIND, &json!({ "path": "out/checkpoint" }), &[("path", "out/checkpoint")]);
    for name in ["config.json", "model.safetensors", "seen.txt", "tokenizer.json"] {
        let of = |folder: &str| Hash::of_file(&data.path(folder).join(name)).unwrap();
        assert_eq!(of("sft/model"), of("out/checkpoint"));
        assert_eq!(of("sft/model"), of("back/model"));
    }
    let card: Value = files::read_json(&data.path("out/checkpoint/card.json")).unwrap();
    let checkpoint = Checkpoint::read(&data.path("sft/model")).unwrap();
    let parts = card["parameters_by_part"].as_object().unwrap().values().map(|part| part.as_u64().unwrap());
    assert_eq!(parts.sum::<u64>(), checkpoint.parameters() as u64);
    assert_eq!((&card["parameters"], &card["format"]), (&summary.0["parameters"], &json!(1)));
    assert_eq!(card["model"], serde_json::to_value(checkpoint.own_sizes()).unwrap());
    // The imported checkpoint can be trained.
    let table = json!({ "model": "back", "data": "rows" });
    data.run("again", &sft::KIND, &table, &[("model", "back/model"), ("data", "rows.jsonl")]);
}

#[test]
fn inconsistent_checkpoint_folder_is_refused() {
    let data = EchoData::trained();
    let import = |damage: &dyn Fn(&Path)| {
        data.run("out", &export::KIND, &json!({ "model": "sft" }), &[("model", "sft/model")]);
        damage(&data.path("out/checkpoint"));
        let error =
            data.try_run("back", &base::KIND, &json!({ "path": "x" }), &[("path", "out/checkpoint")]).unwrap_err();
        format!("{error:#}").replace(&data.path("out/checkpoint").display().to_string(), "DIR") + "\n"
    };
    let write = |folder: &Path, name: &str, text: &str| {
        files::write_atomic(&folder.join(name), text.as_bytes()).unwrap();
    };
    let llava = r#"{"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}"#;
    let text = [
        import(&|folder| write(folder, "config.json", llava)),
        import(&|folder| {
            let config = files::read_text(&folder.join("config.json")).unwrap();
            write(folder, "config.json", &config.replace("\"ff\": 48", "\"ff\": 40"));
        }),
        import(&|folder| write(folder, "tokenizer.json", "{}")),
        import(&|folder| {
            let other = ablate_data::tokenizer::Tokenizer::train_word(["one two"], 50).unwrap();
            other.write(&folder.join("tokenizer.json")).unwrap();
        }),
        import(&|folder| files::remove_file(&folder.join("config.json")).unwrap()),
    ];
    expect![[r#"
        `path`: `DIR/config.json`: `image_token_index` is 32000, outside the vocabulary of 32000 tokens
        `path`: `DIR/model.safetensors`: array `model.layers.0.mlp.gate_proj.weight` has the shape [48, 32], not [40, 32]
        `path`: `DIR/tokenizer.json` is not a tokenizer: Model missing. at line 1 column 2
        `path`: the tokenizer has 7 tokens, the model 19
        `path`: cannot read `DIR/config.json`: No such file or directory (os error 2)
    "#]].assert_eq(&text.concat());
}

#[test]
fn mistakes_have_their_keys() {
    let text = [
        mistakes("dpo", &json!({ "policy": "m", "pairs": "p", "loss": "hing" })),
        mistakes("dpo", &json!({ "policy": "m", "pairs": "p", "loss": "hinge", "label_smoothing": 0.1 })),
        mistakes(
            "dpo",
            &json!({ "policy": "m", "pairs": "p", "label_smoothing": 0.5, "token_weights": { "linear": 0 } }),
        ),
        mistakes("dpo", &json!({ "policy": "m", "pairs": "p", "loss": "ipo", "beta": 0, "sft_weight": 1 })),
        mistakes("dpo", &json!({ "policy": "m", "pairs": "p", "token_weights": "cosine" })),
        mistakes("pairs", &json!({})),
        mistakes("pairs", &json!({ "judged": "j", "path": "p.jsonl" })),
        mistakes("pairs", &json!({ "judged": "j", "images": "i", "datasets": [] })),
        mistakes(
            "pairs",
            &json!({ "path": "p.jsonl", "band": [0, 1], "per_question": 1, "unreadable": "skip", "datasets": ["a"] }),
        ),
        mistakes("rollout", &json!({ "model": "m", "items": "i", "datasets": [] })),
        mistakes("base", &json!({})),
        mistakes("base", &json!({ "path": "p", "tokenizer": "t", "model": {} })),
    ];
    expect![[r#"
        loss: unknown value `hing`
        label_smoothing: `label_smoothing` is for `loss = "sigmoid"` only
        label_smoothing: `label_smoothing` must be at least 0 and below 0.5, not 0.5
        token_weights: all weights would be 0: the number of tokens must be at least 1
        beta: `beta` must be above 0 with `loss = "ipo"`, whose target is 1 / (2 beta)
        token_weights.cosine: `cosine` needs a value: write `{ cosine = ... }`
        : `judged` and `path` are missing: the stage needs one of them
        path: `judged` and `path` are both given: write one of them
        images: `images` is for `path` only; judged samples have their images
        datasets: the list of data sets is empty
        band: `band` is for `judged` only; published pairs are not filtered
        per_question: `per_question` is for `judged` only; published pairs are not filtered
        unreadable: `unreadable` is for `judged` only; published pairs are not filtered
        datasets: `datasets` is for `judged` only; published pairs are not filtered
        datasets: the list of data sets is empty
        : `tokenizer` and `path` are missing: the stage needs one of them
        tokenizer: `tokenizer` is for a new model only, but `path` imports one
        model: `model` is for a new model only, but `path` imports one
    "#]]
    .assert_eq(&(text.concat().join("\n") + "\n"));
}

/// A difference means that all stored results of the kind are computed again: undo it, or raise `version`.
#[test]
fn manifests_are_unchanged() {
    let line = |(name, table): (&str, Value)| {
        let manifest = manifest(name, &table);
        let values = manifest.entries.iter().filter_map(|entry| match entry {
            ManifestEntry::Value { key, value } if !["lr", "betas", "eps"].contains(&key.as_str()) => {
                Some(format!("{key}={value}"))
            }
            _ => None,
        });
        let head = format!("{name} {}", manifest.fingerprint().short());
        std::iter::once(head).chain(values).collect::<Vec<_>>().join(" ") + "\n"
    };
    let lines = [
        ("dpo", json!({ "policy": "m", "pairs": "p", "loss": "ipo", "token_weights": { "cosine": 90 } })),
        ("dpo", json!({ "policy": "m", "pairs": "p", "loss": "sigmoid", "label_smoothing": 0.1 })),
        ("pairs", json!({ "path": "a/rlaif.jsonl", "images": "i" })),
        ("pairs", json!({ "judged": "j", "datasets": ["b", "a"] })),
        ("base", json!({ "path": "p" })),
        ("export", json!({ "model": "m" })),
        ("export", json!({ "model": "m", "dtype": "bf16" })),
        ("sft", json!({ "model": "m", "data": "d", "micro_batch": 8, "lora": { "targets": ["v_proj", "q_proj"] } })),
        ("sft", json!({ "model": "m", "data": "d", "freeze": ["model.layers.0.*"], "micro_batch": 32 })),
        ("sft", json!({ "model": "m", "data": "d", "micro_batch": "auto" })),
        ("rollout", json!({ "model": "m", "items": "i", "stop": ["b", "a", "b"] })),
    ];
    expect![[r#"
        dpo 1c7a22d696 epochs=1 batch=32 length_window=32 beta=0.1 sft_weight=0.0 weight_decay=0.0 clip=1.0 schedule="cosine" warmup=0.03 final_lr=0.0 freeze=["vision","projector"] loss="ipo" token_weights.cosine=90
        dpo 1232918018 epochs=1 batch=32 length_window=32 beta=0.1 sft_weight=0.0 weight_decay=0.0 clip=1.0 schedule="cosine" warmup=0.03 final_lr=0.0 freeze=["vision","projector"] label_smoothing=0.1
        pairs d99d3df723 dataset="rlaif" dev=0.02 truncate.words=90
        pairs 091f6ea0d7 band=[0.25,0.85] per_question=3 dev=0.02 truncate.words=90 unreadable="skip" datasets=["a","b"]
        base 1b7d456307
        export 10787769cc
        export a7e8184187 dtype="bf16"
        sft 9abe562611 epochs=1 batch=32 length_window=32 weight_decay=0.0 clip=1.0 schedule="cosine" warmup=0.03 final_lr=0.0 freeze=[] micro_batch=8 lora.rank=8 lora.alpha=8.0 lora.dropout=0.0 lora.targets=["q_proj","v_proj"]
        sft f94be6ab4b epochs=1 batch=32 length_window=32 weight_decay=0.0 clip=1.0 schedule="cosine" warmup=0.03 final_lr=0.0 freeze=["model.layers.0.*"]
        sft 9b2c129569 epochs=1 batch=32 length_window=32 weight_decay=0.0 clip=1.0 schedule="cosine" warmup=0.03 final_lr=0.0 freeze=[] micro_batch="auto"
        rollout 4ea2eee608 prompt.text="Explain first, then answer." prompt.letter="Explain first, then answer with the letter." samples=32 temperature=1.0 top_k=0 top_p=1.0 max_tokens=256 stop=["a","b"]
    "#]].assert_eq(&lines.map(line).concat());
    // A key with its default value equals a missing key.
    let default = line(("dpo", json!({ "policy": "m", "pairs": "p" })));
    let explicit = json!({ "policy": "m", "pairs": "p", "loss": "sigmoid", "label_smoothing": 0 });
    assert_eq!(line(("dpo", explicit)), default);
}
