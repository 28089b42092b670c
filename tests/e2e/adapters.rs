//! Models of stages with `lora`: an adapter in the store, and its base, from which whole models are made where they are needed.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::models::{copy, parse, with_study};
use crate::support::{Project, assert_contains, corrupt_file, files_below};

/// The data of all studies of this file.
const DATA: &str = r#"name = "study"

[stage]
items    = { kind = "items", path = "rows.jsonl", images = "images" }
mix      = { kind = "mix", sources.direct = { from = "items", as = "direct" } }
"#;

/// An imported model with BF16 weights, and an adapter on it.
const LORA: &str = r#"base     = { kind = "base", path = "hub" }
lora     = { kind = "sft", model = "base", data = "mix", batch = 3, lr = 1e-2, lora = { rank = 4, targets = ["*"] } }
"#;

/// What reads models with adapters.
const BELOW: &str = r#"pairs    = { kind = "pairs", path = "pairs.jsonl", images = "images", dev = 0 }
rollouts = { kind = "rollout", model = "lora", items = "items", samples = 2, max_tokens = 8 }
eval     = { kind = "eval", model = "lora", benchmark = "items", max_tokens = 8 }
full     = { kind = "sft", model = "lora", data = "mix", batch = 3, lr = 1e-3 }
second   = { kind = "sft", model = "lora", data = "mix", batch = 3, lr = 1e-2, lora = { rank = 2, alpha = 3.7 } }
dpo      = { kind = "dpo", policy = "second", reference = "lora", pairs = "pairs", batch = 3, lr = 1e-2, lora = {} }
last     = { kind = "eval", model = "dpo", benchmark = "items", max_tokens = 8 }
of_lora  = { kind = "export", model = "lora" }
of_full  = { kind = "export", model = "full" }
of_dpo   = { kind = "export", model = "dpo" }
program  = { kind = "command", inputs = { model = "dpo" }, outputs = ["all"], run = "cp -r model all && touch model/mine" }
"#;

fn project(stages: &[&str]) -> Project {
    let project = with_study("llava", "");
    let pair = |at: usize, image: &str| {
        let [chosen, rejected] = [format!("There are {at}."), "No idea.".to_string()];
        let question = format!("What is on the left of picture {at}?");
        json!({ "id": at, "image": format!("{image}.png"), "question": question, "chosen": chosen, "rejected": rejected })
    };
    let pairs = ["wide", "tall", "square", "tiny", "grey"].into_iter().enumerate();
    let lines: Vec<String> = pairs.map(|(at, image)| pair(at, image).to_string() + "\n").collect();
    project.write("pairs.jsonl", lines.concat());
    project.write("study.toml", DATA.to_string() + &stages.concat());
    project
}

fn size_of_objects(project: &Project) -> u64 {
    files_below(&project.path("cache/objects")).iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

/// The model output in the record of an instance.
fn model(project: &Project, instance: &str) -> Value {
    project.json(&["show", "study.toml", instance])["record"]["outputs"]["model"].clone()
}

#[test]
fn results_below_an_adapter_equal_those_below_its_merged_copy() {
    let project = project(&[LORA, BELOW]);
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.ran_instances(&["study.toml"]), Vec::<String>::new());
    project.ok(&["export", "study.toml", "lora", "merged"]);
    assert_eq!(parse(project.read("merged/config.json"))["dtype"], json!("float32"));
    let imported = "lora     = { kind = \"base\", path = \"merged\" }\n";
    project.write("merged.toml", DATA.replace("study", "merged") + imported + BELOW);
    project.ok(&["run", "merged.toml"]);
    let below = |study: &str| {
        let mut outputs = project.outputs(study);
        // These name the base by content. The other study imports `lora`, so its export has no adapter.
        outputs.retain(|name, _| {
            !name.starts_with("base/")
                && !name.starts_with("lora/")
                && !name.starts_with("of_lora/checkpoint/adapter/")
                && !name.ends_with("/bases.json")
        });
        outputs
    };
    let (adapters, merged) = (below("study"), below("merged"));
    assert!(adapters.keys().eq(merged.keys()), "{:?} {:?}", adapters.keys(), merged.keys());
    for (name, bytes) in &adapters {
        assert!(*bytes == merged[name], "{name} differs");
    }
    for name in [
        "full/model/model.safetensors",
        "second/model/adapter/adapter_model.safetensors",
        "of_dpo/checkpoint/adapter/adapter_config.json",
        "program/all/model.safetensors",
        "program/all/seen.txt",
        "last/scores.jsonl",
    ] {
        assert!(adapters.contains_key(name), "no {name}: {:?}", adapters.keys());
    }
    let bases = |name: &str| parse(project.read(&format!("out/study/{name}/model/bases.json")))["bases"].clone();
    let hash = |name: &str| model(&project, name)["hash"].clone();
    assert_eq!(bases("second"), json!([hash("base"), hash("lora")]));
    assert_eq!(bases("dpo"), json!([hash("base"), hash("lora"), hash("second")]));
    assert!(!project.path("out/study/full/model/bases.json").exists());
    project.assert_store_is_valid();
}

#[test]
fn adapters_of_a_sweep_share_their_base() {
    let project = project(&[LORA]);
    project.ok(&["run", "study.toml", "base", "mix"]);
    let before = size_of_objects(&project);
    project.append("study.toml", "\n[axis.rank]\nkey = \"stage.lora.lora.rank\"\nvalues = [1, 2, 4, 8]\n");
    project.ok(&["run", "study.toml"]);
    let base = model(&project, "base");
    let mut adapters = 0;
    for rank in [1, 2, 4, 8] {
        let name = format!("lora@rank={rank}");
        let output = model(&project, &name);
        assert_eq!(output["bases"], json!([{ "hash": base["hash"], "size": base["size"] }]));
        let folder = project.path(&format!("out/study/{name}/model"));
        let bytes = fs::read(folder.join("adapter/adapter_model.safetensors")).unwrap();
        let header = parse(&bytes[8..8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize]);
        let arrays = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
        // One of the two sides of an array is the rank.
        let values: u64 =
            arrays.map(|(_, array)| array["shape"].as_array().unwrap().iter().map(size).product::<u64>()).sum();
        let json = [header.to_string().len(), 4000].into_iter().sum::<usize>() as u64;
        let index = fs::metadata(folder.join("seen.txt")).unwrap().len();
        let stored = size(&output["size"]);
        assert!(values.is_multiple_of(rank) && stored >= 4 * values, "rank {rank}: {stored} bytes, {values} values");
        assert!(stored < 4 * values + json + index, "rank {rank}: {stored} bytes for {values} values");
        adapters += stored;
    }
    let grown = size_of_objects(&project) - before;
    // Curves and the lists of the files of four folders.
    assert!(grown < adapters + 4 * 4000, "{grown} bytes for adapters of {adapters}");
    // The first size that users see is that of the adapter.
    let listed = project.json(&["ls", "study.toml"]);
    let listed = listed.as_array().unwrap_or_else(|| panic!("{listed}"));
    let small = listed.iter().find(|row| row["name"] == "lora@rank=1").unwrap();
    assert!(size(&small["size"]) < size(&base["size"]), "{small}");
}

fn size(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a size"))
}

#[test]
fn gc_keeps_the_base_of_an_adapter_as_long_as_the_adapter() {
    let project = project(&[LORA]);
    project.ok(&["run", "study.toml"]);
    let (base, lora) = (project.object("base/model"), project.object("lora/model"));
    project.ok(&["pin", "study.toml", "lora", "--name", "kept"]);
    // Only the adapter's record stays.
    let shown = project.json(&["show", "study.toml", "lora"]);
    let pin = project.path("cache/pins/kept.json");
    let mut pinned = parse(fs::read(&pin).unwrap());
    pinned["fingerprints"] = json!([shown["record"]["fingerprint"]]);
    fs::write(&pin, pinned.to_string()).unwrap();
    fs::remove_file(project.path("study.toml")).unwrap();
    let gc = || project.json(&["gc", "--keep-runs", "0"]);
    assert!(gc()["records"].as_u64().unwrap() > 0);
    assert!(base.is_dir() && lora.is_dir());
    project.assert_store_is_valid();
    corrupt_file(&base.join("model.safetensors"), &|bytes| *bytes.last_mut().unwrap() ^= 1, true);
    assert_contains(&project.fails(2, &["verify"]).stdout, &["the object's bytes do not match its name"]);
    project.ok(&["unpin", "kept"]);
    gc();
    assert!(!base.exists() && !lora.exists());
}

#[test]
fn a_damaged_base_is_made_again() {
    let project = project(&[LORA]);
    project
        .append("study.toml", "eval = { kind = \"eval\", model = \"lora\", benchmark = \"items\", max_tokens = 8 }\n");
    project.ok(&["run", "study.toml"]);
    let scores = project.read("out/study/eval/scores.jsonl");
    let weights = project.object("base/model").join("model.safetensors");
    for keep_time in [true, false] {
        corrupt_file(&weights, &|bytes| *bytes.last_mut().unwrap() ^= 1, keep_time);
        project.edit("study.toml", "max_tokens = 8 }", "max_tokens = 9 }");
        assert_eq!(project.ran_instances(&["study.toml"]), ["base", "eval"]);
        project.edit("study.toml", "max_tokens = 9 }", "max_tokens = 8 }");
        assert_eq!(project.ran_instances(&["study.toml"]), Vec::<String>::new());
        assert_eq!(project.read("out/study/eval/scores.jsonl"), scores);
        project.assert_store_is_valid();
        project.ok(&["gc", "--keep-runs", "0"]);
    }
}

#[test]
fn an_adapter_is_shared_with_its_base() {
    let share = tempfile::tempdir().unwrap();
    let address = share.path().join("results").display().to_string();
    let (a, b) = (project(&[LORA]), project(&[LORA]));
    a.ok(&["run", "study.toml"]);
    a.ok(&["push", "study.toml", "lora", "--remote", &address]);
    b.ok(&["pull", "study.toml", "lora", "--remote", &address]);
    b.assert_store_is_valid();
    let eval = "eval = { kind = \"eval\", model = \"lora\", benchmark = \"items\", max_tokens = 8 }\n";
    assert_eq!(b.append("study.toml", eval).ran_instances(&["study.toml"]), ["eval"]);
    a.append("study.toml", eval).ok(&["run", "study.toml"]);
    assert_eq!(a.read("out/study/eval/scores.jsonl"), b.read("out/study/eval/scores.jsonl"));
}

#[test]
fn a_folder_with_an_adapter_is_used_in_its_store_only() {
    let project = project(&[LORA]);
    project.ok(&["run", "study.toml"]);
    project.ok(&["export", "study.toml", "lora", "merged"]);
    let generate =
        |model: &str| project.ablate(&["generate", "--model", model, "--max-tokens", "12", "What is on the left?"]);
    let adapter = generate("out/study/lora/model").exited(0).stdout;
    assert_eq!(adapter, generate("merged").exited(0).stdout);
    assert_ne!(adapter, generate("hub").exited(0).stdout);
    project.ok(&["doctor", "cpu", "--model", "out/study/lora/model"]);

    copy(&project.path("out/study/lora/model/adapter"), &project.path("copied/adapter"));
    fs::copy(project.path("out/study/lora/model/bases.json"), project.path("copied/bases.json")).unwrap();
    let refused = generate("copied").exited(2).stderr;
    assert_contains(&refused, &["`copied` holds an adapter without the weights of its model", "help: `ablate export`"]);
    project.write("import.toml", "[stage]\nbase = { kind = \"base\", path = \"copied\" }\n");
    project.fails(2, &["check", "import.toml"]).stderr_has(&["`lora`: an adapter without the weights of its model"]);
}

#[test]
fn an_adapter_is_exported_alone() {
    let project = project(&[LORA, BELOW]);
    project.append(
        "study.toml",
        r#"alone  = { kind = "export", model = "lora", weights = "adapter", base_model = "org/model" }
half   = { kind = "export", model = "second", weights = "adapter", dtype = "bf16" }
none   = { kind = "export", model = "base", weights = "adapter" }
"#,
    );
    project.ok(&["run", "study.toml", "alone"]);
    let names = |folder: &str| -> Vec<String> {
        let mut names: Vec<PathBuf> = files_below(&project.path(folder));
        names.sort();
        names.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names("out/study/alone/checkpoint"), ["adapter_config.json", "adapter_model.safetensors"]);
    let config = parse(project.read("out/study/alone/checkpoint/adapter_config.json"));
    assert_eq!((&config["base_model_name_or_path"], &config["r"]), (&json!("org/model"), &json!(4)));
    let weights = |folder: &str| fs::read(project.path(folder).join("adapter_model.safetensors")).unwrap();
    assert!(weights("out/study/alone/checkpoint") == weights("out/study/lora/model/adapter"));
    // The base with this adapter is the merged model.
    project.ok(&["run", "study.toml", "of_lora"]);
    let again = r#"[stage]
base = { kind = "base", path = "hub", adapter = "out/study/alone/checkpoint" }
again = { kind = "export", model = "base" }
"#;
    project.write("again.toml", format!("name = \"again\"\n{again}")).ok(&["run", "again.toml"]);
    let whole = |folder: &str| fs::read(project.path(folder).join("checkpoint/model.safetensors")).unwrap();
    assert!(whole("out/again/again") == whole("out/study/of_lora"));

    let printed = project.ok(&["run", "study.toml", "half"]).stderr;
    assert_contains(&printed, &["was trained on the base model with another adapter merged into it"]);
    let refused = project.fails(2, &["run", "study.toml", "none"]).stderr;
    assert_contains(&refused, &["the model has no adapter, because its last training was without `lora`"]);
    project.edit("study.toml", "weights = \"adapter\", base_model", "base_model");
    project.fails(2, &["check", "study.toml"]).stderr_has(&["it needs `weights = \"adapter\"`"]);
}

/// The default experiment in miniature has models in ablate's own layout.
#[test]
fn adapters_of_models_in_own_layout() {
    let project = Project::smoke();
    project.append("smoke.toml", "\n[stage.sft.lora]\nrank = 2\ntargets = [\"*\"]\n");
    // A training, an evaluation, and a full training below the adapter.
    project.ok(&["run", "smoke.toml", "sft", "eval@model=sft", "longer"]);
    let models: Vec<PathBuf> =
        files_below(&project.path("out/smoke")).into_iter().filter(|path| path.ends_with("bases.json")).collect();
    let model = models.first().and_then(|path| path.parent()).unwrap();
    let instance = model.parent().unwrap().file_name().unwrap().to_str().unwrap();
    project.ok(&["export", "smoke.toml", instance, "merged"]);
    assert!(!project.path("merged/adapter").exists(), "PEFT has no class for these models");
    let generate = |model: &str| project.ok(&["generate", "--model", model, "--max-tokens", "8", "How many?"]).stdout;
    assert_eq!(generate(model.to_str().unwrap()), generate("merged"));
    project.append("smoke.toml", "\n[stage.alone]\nkind = \"export\"\nmodel = \"sft\"\nweights = \"adapter\"\n");
    let refused = project.fails(2, &["run", "smoke.toml", "alone"]).stderr;
    assert_contains(&refused, &["PEFT cannot load a model in ablate's own layout"]);
    project.assert_store_is_valid();
}
