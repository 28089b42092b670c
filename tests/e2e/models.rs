//! Checkpoints in Hugging Face's layout: import, training, export and `generate`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Outcome, Project};

/// A project with a model made by transformers, copied to `hub`.
fn with_model(case: &str) -> Project {
    let project = Project::new();
    copy(&golden(case), &project.path("hub"));
    project
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hub").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // Expected values are not part of the model.
        if !entry.file_name().to_string_lossy().starts_with("expected") {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A study that trains, samples and evaluates the model in `hub` on rows with images.
fn with_study(case: &str, sft: &str) -> Project {
    let project = with_model(case);
    let mut rows = String::new();
    for (at, image) in ["wide", "tall", "square", "tiny", "grey", "wide"].into_iter().enumerate() {
        let answer = format!("On the left there {}.", if at % 2 == 0 { "is one" } else { "are two of them" });
        let turns = json!([
            { "from": "human", "value": format!("<image>\nWhat is on the left of picture {at}?") },
            { "from": "gpt", "value": answer },
        ]);
        rows += &format!("{}\n", json!({ "id": at, "image": format!("{image}.png"), "conversations": turns }));
    }
    project.write("rows.jsonl", rows);
    copy(&golden("images"), &project.path("images"));
    project.write(
        "study.toml",
        r#"name = "study"

[stage]
base     = { kind = "base", path = "hub" }
items    = { kind = "items", path = "rows.jsonl", images = "images" }
mix      = { kind = "mix", sources.direct = { from = "items", as = "direct" } }
sft      = { kind = "sft", model = "base", data = "mix", batch = 3, lr = 1e-3, SFT }
rollouts = { kind = "rollout", model = "sft", items = "items", samples = 2, max_tokens = 8, stop = ["\n"] }
eval     = { kind = "eval", model = ["base", "sft"], benchmark = "items", max_tokens = 8 }
same     = { kind = "export", model = "base" }
folder   = { kind = "export", model = "sft", dtype = "bf16" }
"#
        .replace("SFT", sft),
    );
    project
}

#[test]
fn hub_checkpoint_is_trained_and_exported() {
    let project =
        with_study("llava", r#"micro_batch = 2, lr_parts = { vision = 1e-5 }, freeze = ["model.layers.0.*"]"#);
    project.ok(&["run", "study.toml"]);
    // Untrained weights are unchanged.
    let bytes = |name: &str| fs::read(project.path(name)).unwrap();
    assert!(bytes("hub/model.safetensors") == bytes("out/study/same/checkpoint/model.safetensors"));
    for name in ["tokenizer.json", "chat_template.jinja", "processor_config.json", "generation_config.json"] {
        for folder in ["same", "folder"] {
            assert!(bytes(&format!("hub/{name}")) == bytes(&format!("out/study/{folder}/checkpoint/{name}")), "{name}");
        }
    }
    let config: Value = serde_json::from_slice(&bytes("out/study/folder/checkpoint/config.json")).unwrap();
    assert_eq!(config["architectures"], json!(["LlavaForConditionalGeneration"]));
    assert!(bytes("hub/model.safetensors") != bytes("out/study/folder/checkpoint/model.safetensors"));
    let scores = project.read("out/study/eval@model=sft/scores.jsonl");
    assert_eq!(scores.lines().count(), 6);
    // A second run is fresh. Another store gets the same bytes with another number of threads.
    let again = project.ok(&["run", "study.toml"]);
    assert!(again.stderr.contains("fresh"), "{}", again.stderr);
    let outputs = project.outputs("study");
    project.remove("cache");
    fs::remove_dir_all(project.path("out")).unwrap();
    project.ok(&["run", "study.toml", "--threads", "1", "--jobs", "1"]);
    assert!(project.outputs("study") == outputs);
}

#[test]
fn adapter_is_trained_and_merged() {
    let project = with_study("llava-next", r#"lora = { rank = 4, dropout = 0.1, targets = ["model.layers.*"] }"#);
    project.ok(&["run", "study.toml"]);
    let adapter = project.path("out/study/folder/checkpoint/adapter");
    let config: Value = serde_json::from_slice(&fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["peft_type"], &config["r"]), (&json!("LORA"), &json!(4)));
    // The same adapter merged into the base model gives the trained model.
    project.write(
        "merged.toml",
        "name = \"merged\"\n\n[stage]\nbase = { kind = \"base\", path = \"hub\", adapter = \"given\" }\n\
         folder = { kind = \"export\", model = \"base\", dtype = \"bf16\" }\n",
    );
    copy(&adapter, &project.path("given"));
    project.ok(&["run", "merged.toml"]);
    let weights = |name: &str| fs::read(project.path("out").join(name).join("folder/checkpoint/model.safetensors"));
    assert!(weights("merged").unwrap() == weights("study").unwrap());
}

#[test]
fn export_keeps_the_imported_dtypes() {
    let project = with_study("llava", "");
    project.append("study.toml", "asked  = { kind = \"export\", model = \"sft\" }\n");
    project.ok(&["run", "study.toml"]);
    let types = |path: &str| -> Vec<String> {
        let bytes = fs::read(project.path(path)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let arrays = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
        arrays.map(|(name, array)| format!("{name} {}", array["dtype"])).collect()
    };
    let imported = types("hub/model.safetensors");
    assert!(imported.iter().all(|array| array.ends_with("\"BF16\"")), "{imported:?}");
    // The store keeps full precision; the export has the imported types.
    let trained = types("out/study/sft/model/model.safetensors");
    assert!(trained.iter().any(|array| array.ends_with("\"F32\"")), "{trained:?}");
    assert_eq!(types("out/study/asked/checkpoint/model.safetensors"), imported);
    let config = |path: &str| -> Value { serde_json::from_str(&project.read(path)).unwrap() };
    assert_eq!(config("out/study/sft/model/config.json")["dtype"], json!("float32"));
    assert_eq!(config("out/study/asked/checkpoint/config.json"), config("hub/config.json"));
}

#[test]
fn chat_template_can_be_replaced() {
    let project = with_model("llava-old");
    let own = generate(&project, None, &["--json", "--max-tokens", "1", "What?"]);
    assert!(project.path("hub/chat_template.json").exists());
    project.write(
        "mine.jinja",
        "{% for m in messages %}{% if m.role == 'user' %}ASK {% endif %}\
             {% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
    );
    project.write(
        "study.toml",
        "name = \"study\"\n\n[stage]\nbase = { kind = \"base\", path = \"hub\", chat_template = \"mine.jinja\" }\n",
    );
    project.ok(&["run", "study.toml"]);
    let model = "out/study/base/model";
    assert!(!project.path(&format!("{model}/chat_template.json")).exists());
    let mine = project.ok(&["generate", "--model", model, "--json", "--max-tokens", "1", "What?"]);
    let length = |outcome: &Outcome| -> u64 {
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()["prompt_tokens"].as_u64().unwrap()
    };
    assert!(length(&mine) < length(&own), "{} {}", mine.stdout, own.stdout);
}

/// Asks the model in `hub` about an image of the golden tests.
fn generate(project: &Project, image: Option<&str>, more: &[&str]) -> Outcome {
    let image = image.map(|name| golden("images").join(format!("{name}.png")).display().to_string());
    let image: Vec<&str> = image.iter().flat_map(|path| ["--image", path]).collect();
    project.ablate(&[&["generate", "--model", "hub"], &image[..], more].concat())
}

#[test]
fn generate_prints_a_response() {
    let project = with_model("llava");
    let short = ["--max-tokens", "12", "What is on the left?"];
    let plain = generate(&project, Some("wide"), &short);
    assert_eq!(plain.code, Some(0), "{}", plain.stderr);
    let printed = generate(&project, Some("wide"), &[&["--json"], &short[..]].concat());
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(printed["text"], plain.stdout.strip_suffix('\n').unwrap());
    assert_eq!((&printed["tokens"], &printed["finish"]), (&json!(12), &json!("length")));
    // A sample depends on its seed only.
    let warm = |seed: &str| {
        generate(&project, None, &["--temperature", "1", "--seed", seed, "--max-tokens", "12", "What?"]).stdout
    };
    assert_eq!(warm("1"), warm("1"));
    assert_ne!(warm("1"), warm("2"));
    // A stop string ends the response and is not part of it.
    let text = printed["text"].as_str().unwrap();
    let end: String = text.chars().skip(3).take(2).collect();
    let cut = generate(&project, Some("wide"), &["--stop", &end, "--max-tokens", "12", "What is on the left?"]);
    assert_eq!(cut.stdout.strip_suffix('\n').unwrap(), &text[..text.find(&end).unwrap()]);
}

#[test]
fn invalid_questions_are_refused() {
    let project = with_model("qwen3");
    let printed = |outcome: Outcome| {
        assert_eq!(outcome.code, Some(2), "{}", outcome.stdout);
        outcome.stderr
    };
    let blind = printed(generate(&project, Some("wide"), &["What?"]));
    assert_eq!(blind, "error: `hub` is a language model and takes no image\n");
    let cold = printed(generate(&project, None, &["--temperature", "-1", "What?"]));
    assert_eq!(cold, "error: `--temperature` must be at least 0, not -1\n");
    let nobody = printed(project.ablate(&["generate", "--model", "nobody", "What?"]));
    assert_eq!(nobody, "error: `nobody` is not a folder; a checkpoint is a folder\n");
    fs::remove_file(project.path("hub/chat_template.jinja")).unwrap();
    let mute = printed(generate(&project, None, &["What?"]));
    assert!(mute.starts_with("error: `hub` has no chat template"), "{mute}");
}

#[test]
fn truncated_jpeg_is_refused() {
    let project = with_model("llava");
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jpeg");
    let whole = fs::read(golden.join("progressive.jpg")).unwrap();
    fs::write(project.path("half.jpg"), &whole[..whole.len() / 2]).unwrap();
    let printed = |more: &[&str]| {
        let outcome = project.ablate(&[&["generate", "--model", "hub", "--max-tokens", "1"], more].concat());
        assert_eq!(outcome.code, Some(2), "{}", outcome.stdout);
        outcome.stderr
    };
    assert_eq!(
        printed(&["--image", "half.jpg", "What?"]),
        "error: prompt 0 (`question`)\n  because the image `half.jpg`\n  because cannot be decoded: the JPEG is truncated: \
         its data end at line 21 of 29\n"
    );
    assert_eq!(
        printed(&["<image>What?"]),
        "error: the question has `<image>`, but the row has no `image`; for the literal text write `\\<image>` \
         (in JSON `\\\\<image>`)\n"
    );
}

/// The error of `run` for an import of `hub` after `damage`.
fn import(case: &str, damage: impl Fn(&Project)) -> String {
    let project = with_model(case);
    damage(&project);
    project.write("study.toml", "name = \"study\"\n\n[stage]\nbase = { kind = \"base\", path = \"hub\" }\n");
    let outcome = project.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(!project.path("out/study/base").exists());
    let lines = outcome.stderr.lines().skip_while(|line| !line.starts_with("error"));
    lines.take_while(|line| !line.starts_with("  log:")).collect::<Vec<_>>().join("\n")
}

/// Changes a field of a JSON file in `hub`.
fn set(project: &Project, file: &str, field: &str, value: Value) {
    let path = format!("hub/{file}");
    let mut config: Value = serde_json::from_str(&project.read(&path)).unwrap();
    config[field] = value;
    project.write(&path, config.to_string());
}

#[test]
fn wrong_model_folder_is_reported_by_file_and_field() {
    let shard = import("qwen2", |project| {
        let shards = fs::read_dir(project.path("hub")).unwrap().map(|entry| entry.unwrap().path());
        let mut shards: Vec<PathBuf> = shards.filter(|path| path.to_string_lossy().contains("-of-")).collect();
        shards.sort();
        fs::remove_file(&shards[1]).unwrap();
    });
    assert!(shard.contains("model-00002-of-"), "{shard}");
    let cut = import("llama2", |project| {
        let bytes = fs::read(project.path("hub/model.safetensors")).unwrap();
        project.write("hub/model.safetensors", &bytes[..bytes.len() / 2]);
    });
    assert!(cut.contains("model.safetensors") && cut.contains("bytes"), "{cut}");
    let lie = import("llama2", |project| {
        let mut bytes = fs::read(project.path("hub/model.safetensors")).unwrap();
        bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
        project.write("hub/model.safetensors", bytes);
    });
    assert!(lie.contains("1099511627776"), "{lie}");
    let shape = import("llama2", |project| set(project, "config.json", "intermediate_size", json!(40)));
    assert!(shape.contains("has the shape"), "{shape}");
    let stranger = import("llama2", |project| set(project, "config.json", "model_type", json!("mamba")));
    assert!(stranger.contains("`model_type`") && stranger.contains("mamba"), "{stranger}");
    let vocabulary = import("llama2", |project| {
        fs::copy(golden("tokenizer-qwen2.json"), project.path("hub/tokenizer.json")).unwrap();
    });
    assert!(vocabulary.contains("tokenizer"), "{vocabulary}");
    let nan = import("llama3", |project| {
        let mut bytes = fs::read(project.path("hub/model.safetensors")).unwrap();
        let at = bytes.len() - 2;
        bytes[at..].copy_from_slice(&[0xff, 0xff]);
        project.write("hub/model.safetensors", bytes);
    });
    assert!(nan.contains("NaN"), "{nan}");
    let field = import("llava", |project| set(project, "config.json", "quantization_config", json!({ "bits": 4 })));
    assert!(field.contains("`quantization_config`"), "{field}");
    let eyes = import("llava", |project| {
        let mut config: Value = serde_json::from_str(&project.read("hub/processor_config.json")).unwrap();
        config["image_processor"]["crop_size"] = json!({ "height": 7, "width": 7 });
        project.write("hub/processor_config.json", config.to_string());
    });
    assert!(eyes.contains("7 x 7"), "{eyes}");
}

/// The exit code and the messages of a command for an import of `hub`.
fn import_messages(project: &Project, command: &str, keys: &str) -> (Option<i32>, String) {
    let toml = format!("name = \"study\"\n\n[stage]\nbase = {{ kind = \"base\", path = \"hub\"{keys} }}\n");
    project.write("study.toml", toml);
    let outcome = project.ablate(&[command, "study.toml"]);
    (outcome.code, outcome.stderr.replace("[ROOT]/hub", "HUB"))
}

#[test]
fn check_and_plan_report_wrong_checkpoints() {
    let project = with_model("llama2");
    set(&project, "config.json", "residual_multiplier", json!(0.5));
    set(&project, "config.json", "sliding_window", json!(8));
    let wrong = "error: `stage.base.path`: `HUB/config.json`: `sliding_window` is 8: a window below \
                 `max_position_embeddings` (512) is not supported; `residual_multiplier` is 0.5: only 1.0 is supported\n\
                 \u{20}--> study.toml:4:32\n  |\n4 | base = { kind = \"base\", path = \"hub\" }\n  |                                ^^^^^\n";
    for command in ["check", "plan"] {
        assert_eq!(import_messages(&project, command, ""), (Some(2), wrong.to_string()));
    }
    let (code, run) = import_messages(&project, "run", "");
    assert!(code == Some(2) && run.contains("`residual_multiplier` is 0.5: only 1.0 is supported"), "{run}");

    let project = with_model("llama2");
    set(&project, "config.json", "a_note", json!("mine"));
    set(&project, "generation_config.json", "another", json!(3));
    let fields = "`HUB/config.json`: `a_note` (\"mine\"); `HUB/generation_config.json`: `another` (3)";
    for command in ["check", "plan"] {
        let (code, warned) = import_messages(&project, command, "");
        let first = format!("warning: `stage.base.path`: unknown fields of the checkpoint are ignored: {fields}");
        assert_eq!((code, warned.lines().next()), (Some(0), Some(first.as_str())));
        let (code, strict) = import_messages(&project, command, ", strict = true");
        let first = format!(
            "error: `stage.base.path`: the checkpoint has unknown fields, which `strict = true` refuses: {fields}"
        );
        assert_eq!((code, strict.lines().next()), (Some(2), Some(first.as_str())));
    }
    assert_eq!(import_messages(&project, "run", "").0, Some(0));
    // A model imported with a warning is not valid for a strict import.
    assert_eq!(import_messages(&project, "run", ", strict = true").0, Some(2));
    // A fresh import prints no warning again.
    assert_eq!(import_messages(&project, "plan", ""), (Some(0), String::new()));

    let project = with_model("llama2");
    set(&project, "generation_config.json", "no_repeat_ngram_size", json!(3));
    let (code, refused) = import_messages(&project, "check", "");
    let reason = "`no_repeat_ngram_size` changes the answers and is not supported: it is 3";
    assert!(code == Some(2) && refused.contains(reason), "{refused}");

    let project = with_model("llama2");
    project.write("hub/chat_template.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    let (code, refused) = import_messages(&project, "check", "");
    let reason =
        "ignores `add_generation_prompt`: it writes \"assistant:\" before an answer, but a prompt ends without it";
    assert!(code == Some(2) && refused.contains(reason), "{refused}");
}

#[test]
fn exploding_template_or_tokenizer_is_an_error() {
    let double = "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(40) %}\
                  {% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}";
    for (end, reason) in [
        ("{{ ns.a | tojson }}", "walks too large a structure"),
        ("{{ ns.a == ns.b }}", "walks too large a structure"),
        ("{% set ns.a = ns %}{{ ns | string }}", "nests too deeply"),
    ] {
        let printed = import("llama2", |project| {
            project.write("hub/chat_template.jinja", format!("{double}{end}"));
        });
        assert!(printed.contains("the chat template of") && printed.contains(reason), "{end}: {printed}");
    }
    let printed = import("llama2", |project| {
        let mut file: Value = serde_json::from_str(&project.read("hub/tokenizer.json")).unwrap();
        let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
        file["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![double; 40] });
        project.write("hub/tokenizer.json", file.to_string());
    });
    assert!(
        printed.contains("`normalizer` and `pre_tokenizer` can make a text more than 1000 times longer"),
        "{printed}"
    );
}
