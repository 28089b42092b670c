//! Checkpoints in Hugging Face's layout, from the import to the export, and questions to them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::space::{Outcome, Space};

/// A model that transformers made, copied to `hub` here.
fn with_model(case: &str) -> Space {
    let space = Space::new();
    copy(&golden(case), &space.path("hub"));
    space
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hub").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // What transformers computed is no part of a model.
        if !entry.file_name().to_string_lossy().starts_with("expected") {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Rows with pictures, in the model `hub`'s path through the stages that train, sample and score it.
fn with_study(case: &str, sft: &str) -> Space {
    let space = with_model(case);
    let mut rows = String::new();
    for (at, image) in ["wide", "tall", "square", "tiny", "grey", "wide"].into_iter().enumerate() {
        let answer = format!("On the left there {}.", if at % 2 == 0 { "is one" } else { "are two of them" });
        let turns = json!([
            { "from": "human", "value": format!("<image>\nWhat is on the left of picture {at}?") },
            { "from": "gpt", "value": answer },
        ]);
        rows += &format!("{}\n", json!({ "id": at, "image": format!("{image}.png"), "conversations": turns }));
    }
    space.write("rows.jsonl", rows);
    copy(&golden("images"), &space.path("images"));
    space.write(
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
    space
}

#[test]
fn a_hub_checkpoint_is_trained_sampled_evaluated_and_handed_back() {
    let space = with_study("llava", r#"micro_batch = 2, lr_parts = { vision = 1e-5 }, freeze = ["model.layers.0.*"]"#);
    space.ok(&["run", "study.toml"]);
    // Nothing that was not trained has changed a byte.
    let bytes = |name: &str| fs::read(space.path(name)).unwrap();
    assert!(bytes("hub/model.safetensors") == bytes("out/study/same/checkpoint/model.safetensors"));
    for name in ["tokenizer.json", "chat_template.jinja", "processor_config.json", "generation_config.json"] {
        for folder in ["same", "folder"] {
            assert!(bytes(&format!("hub/{name}")) == bytes(&format!("out/study/{folder}/checkpoint/{name}")), "{name}");
        }
    }
    let config: Value = serde_json::from_slice(&bytes("out/study/folder/checkpoint/config.json")).unwrap();
    assert_eq!(config["architectures"], json!(["LlavaForConditionalGeneration"]));
    assert!(bytes("hub/model.safetensors") != bytes("out/study/folder/checkpoint/model.safetensors"));
    let scores = space.read("out/study/eval@model=sft/scores.jsonl");
    assert_eq!(scores.lines().count(), 6);
    // A second run finds everything; another store comes to the same bytes with other threads.
    let again = space.ok(&["run", "study.toml"]);
    assert!(again.stderr.contains("fresh"), "{}", again.stderr);
    let outputs = space.outputs("study");
    space.remove("cache");
    fs::remove_dir_all(space.path("out")).unwrap();
    space.ok(&["run", "study.toml", "--threads", "1", "--jobs", "1"]);
    assert!(space.outputs("study") == outputs);
}

#[test]
fn an_adapter_is_trained_and_its_model_goes_on_as_any_other() {
    let space = with_study("llava-next", r#"lora = { rank = 4, dropout = 0.1, targets = ["model.layers.*"] }"#);
    space.ok(&["run", "study.toml"]);
    let adapter = space.path("out/study/folder/checkpoint/adapter");
    let config: Value = serde_json::from_slice(&fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["peft_type"], &config["r"]), (&json!("LORA"), &json!(4)));
    // The same adapter, merged into the model that it was trained on, is the model that came out.
    space.write(
        "merged.toml",
        "name = \"merged\"\n\n[stage]\nbase = { kind = \"base\", path = \"hub\", adapter = \"given\" }\n\
         folder = { kind = \"export\", model = \"base\", dtype = \"bf16\" }\n",
    );
    copy(&adapter, &space.path("given"));
    space.ok(&["run", "merged.toml"]);
    let weights = |name: &str| fs::read(space.path("out").join(name).join("folder/checkpoint/model.safetensors"));
    assert!(weights("merged").unwrap() == weights("study").unwrap());
}

#[test]
fn an_export_has_the_number_types_that_were_imported_unless_others_are_asked_for() {
    let space = with_study("llava", "");
    space.append("study.toml", "asked  = { kind = \"export\", model = \"sft\" }\n");
    space.ok(&["run", "study.toml"]);
    let types = |path: &str| -> Vec<String> {
        let bytes = fs::read(space.path(path)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let arrays = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
        arrays.map(|(name, array)| format!("{name} {}", array["dtype"])).collect()
    };
    let imported = types("hub/model.safetensors");
    assert!(imported.iter().all(|array| array.ends_with("\"BF16\"")), "{imported:?}");
    // In the store training has lost nothing; handed out, a model is as it came in.
    let trained = types("out/study/sft/model/model.safetensors");
    assert!(trained.iter().any(|array| array.ends_with("\"F32\"")), "{trained:?}");
    assert_eq!(types("out/study/asked/checkpoint/model.safetensors"), imported);
    let config = |path: &str| -> Value { serde_json::from_str(&space.read(path)).unwrap() };
    assert_eq!(config("out/study/sft/model/config.json")["dtype"], json!("float32"));
    assert_eq!(config("out/study/asked/checkpoint/config.json"), config("hub/config.json"));
}

#[test]
fn a_given_chat_template_takes_the_place_of_the_folders_own() {
    let space = with_model("llava-old");
    let own = generate(&space, None, &["--json", "--max-tokens", "1", "What?"]);
    assert!(space.path("hub/chat_template.json").exists());
    space.write(
        "mine.jinja",
        "{% for m in messages %}{% if m.role == 'user' %}ASK {% endif %}\
             {% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
    );
    space.write(
        "study.toml",
        "name = \"study\"\n\n[stage]\nbase = { kind = \"base\", path = \"hub\", chat_template = \"mine.jinja\" }\n",
    );
    space.ok(&["run", "study.toml"]);
    let model = "out/study/base/model";
    assert!(!space.path(&format!("{model}/chat_template.json")).exists());
    let mine = space.ok(&["generate", "--model", model, "--json", "--max-tokens", "1", "What?"]);
    let length = |outcome: &Outcome| -> u64 {
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()["prompt_tokens"].as_u64().unwrap()
    };
    assert!(length(&mine) < length(&own), "{} {}", mine.stdout, own.stdout);
}

/// A question to a model here about an image of the golden ones.
fn generate(space: &Space, image: Option<&str>, more: &[&str]) -> Outcome {
    let image = image.map(|name| golden("images").join(format!("{name}.png")).display().to_string());
    let image: Vec<&str> = image.iter().flat_map(|path| ["--image", path]).collect();
    space.ablate(&[&["generate", "--model", "hub"], &image[..], more].concat())
}

#[test]
fn a_question_is_answered_as_it_is_written() {
    let space = with_model("llava");
    let short = ["--max-tokens", "12", "What is on the left?"];
    let plain = generate(&space, Some("wide"), &short);
    assert_eq!(plain.code, Some(0), "{}", plain.stderr);
    let told = generate(&space, Some("wide"), &[&["--json"], &short[..]].concat());
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(told["text"], plain.stdout.strip_suffix('\n').unwrap());
    assert_eq!((&told["tokens"], &told["finish"]), (&json!(12), &json!("length")));
    // A sample is its seed's.
    let warm = |seed: &str| {
        generate(&space, None, &["--temperature", "1", "--seed", seed, "--max-tokens", "12", "What?"]).stdout
    };
    assert_eq!(warm("1"), warm("1"));
    assert_ne!(warm("1"), warm("2"));
    // A text ends it, and is not told.
    let text = told["text"].as_str().unwrap();
    let end: String = text.chars().skip(3).take(2).collect();
    let cut = generate(&space, Some("wide"), &["--stop", &end, "--max-tokens", "12", "What is on the left?"]);
    assert_eq!(cut.stdout.strip_suffix('\n').unwrap(), &text[..text.find(&end).unwrap()]);
}

#[test]
fn what_cannot_be_asked_is_said() {
    let space = with_model("qwen3");
    let told = |outcome: Outcome| {
        assert_eq!(outcome.code, Some(2), "{}", outcome.stdout);
        outcome.stderr
    };
    let blind = told(generate(&space, Some("wide"), &["What?"]));
    assert_eq!(blind, "error: `hub` is a language model and takes no image\n");
    let cold = told(generate(&space, None, &["--temperature", "-1", "What?"]));
    assert_eq!(cold, "error: `--temperature` must be at least 0, not -1\n");
    let nobody = told(space.ablate(&["generate", "--model", "nobody", "What?"]));
    assert_eq!(nobody, "error: `nobody` is not a folder; a checkpoint is a folder\n");
    fs::remove_file(space.path("hub/chat_template.jinja")).unwrap();
    let mute = told(generate(&space, None, &["What?"]));
    assert!(mute.starts_with("error: `hub` has no chat template"), "{mute}");
}

#[test]
fn a_jpeg_that_is_cut_off_and_a_placeholder_without_an_image_are_no_question() {
    let space = with_model("llava");
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jpeg");
    let whole = fs::read(golden.join("progressive.jpg")).unwrap();
    fs::write(space.path("half.jpg"), &whole[..whole.len() / 2]).unwrap();
    let told = |more: &[&str]| {
        let outcome = space.ablate(&[&["generate", "--model", "hub", "--max-tokens", "1"], more].concat());
        assert_eq!(outcome.code, Some(2), "{}", outcome.stdout);
        outcome.stderr
    };
    assert_eq!(
        told(&["--image", "half.jpg", "What?"]),
        "error: prompt 0 (`question`)\n  because the image `half.jpg`\n  because cannot be decoded: the JPEG is truncated: \
         its data end at line 21 of 29\n"
    );
    assert_eq!(
        told(&["<image>What?"]),
        "error: the question has `<image>`, but the row has no `image`; for the literal text write `\\<image>` \
         (in JSON `\\\\<image>`)\n"
    );
}

/// What `run` says of an import of `hub` after `damage`.
fn import(case: &str, damage: impl Fn(&Space)) -> String {
    let space = with_model(case);
    damage(&space);
    space.write("study.toml", "name = \"study\"\n\n[stage]\nbase = { kind = \"base\", path = \"hub\" }\n");
    let outcome = space.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(!space.path("out/study/base").exists());
    let lines = outcome.stderr.lines().skip_while(|line| !line.starts_with("error"));
    lines.take_while(|line| !line.starts_with("  log:")).collect::<Vec<_>>().join("\n")
}

/// Changes a field of a JSON file in `hub`.
fn set(space: &Space, file: &str, field: &str, value: Value) {
    let path = format!("hub/{file}");
    let mut config: Value = serde_json::from_str(&space.read(&path)).unwrap();
    config[field] = value;
    space.write(&path, config.to_string());
}

#[test]
fn a_wrong_folder_is_told_by_file_and_field_and_leaves_nothing() {
    let shard = import("qwen2", |space| {
        let shards = fs::read_dir(space.path("hub")).unwrap().map(|entry| entry.unwrap().path());
        let mut shards: Vec<PathBuf> = shards.filter(|path| path.to_string_lossy().contains("-of-")).collect();
        shards.sort();
        fs::remove_file(&shards[1]).unwrap();
    });
    assert!(shard.contains("model-00002-of-"), "{shard}");
    let cut = import("llama2", |space| {
        let bytes = fs::read(space.path("hub/model.safetensors")).unwrap();
        space.write("hub/model.safetensors", &bytes[..bytes.len() / 2]);
    });
    assert!(cut.contains("model.safetensors") && cut.contains("bytes"), "{cut}");
    let lie = import("llama2", |space| {
        let mut bytes = fs::read(space.path("hub/model.safetensors")).unwrap();
        bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
        space.write("hub/model.safetensors", bytes);
    });
    assert!(lie.contains("1099511627776"), "{lie}");
    let shape = import("llama2", |space| set(space, "config.json", "intermediate_size", json!(40)));
    assert!(shape.contains("has the shape"), "{shape}");
    let stranger = import("llama2", |space| set(space, "config.json", "model_type", json!("mamba")));
    assert!(stranger.contains("`model_type`") && stranger.contains("mamba"), "{stranger}");
    let vocabulary = import("llama2", |space| {
        fs::copy(golden("tokenizer-qwen2.json"), space.path("hub/tokenizer.json")).unwrap();
    });
    assert!(vocabulary.contains("tokenizer"), "{vocabulary}");
    let nan = import("llama3", |space| {
        let mut bytes = fs::read(space.path("hub/model.safetensors")).unwrap();
        let at = bytes.len() - 2;
        bytes[at..].copy_from_slice(&[0xff, 0xff]);
        space.write("hub/model.safetensors", bytes);
    });
    assert!(nan.contains("NaN"), "{nan}");
    let field = import("llava", |space| set(space, "config.json", "quantization_config", json!({ "bits": 4 })));
    assert!(field.contains("`quantization_config`"), "{field}");
    let eyes = import("llava", |space| {
        let mut config: Value = serde_json::from_str(&space.read("hub/processor_config.json")).unwrap();
        config["image_processor"]["crop_size"] = json!({ "height": 7, "width": 7 });
        space.write("hub/processor_config.json", config.to_string());
    });
    assert!(eyes.contains("7 x 7"), "{eyes}");
}

/// What a command says of an import of `hub`, by its exit code.
fn told(space: &Space, command: &str, keys: &str) -> (Option<i32>, String) {
    let toml = format!("name = \"study\"\n\n[stage]\nbase = {{ kind = \"base\", path = \"hub\"{keys} }}\n");
    space.write("study.toml", toml);
    let outcome = space.ablate(&[command, "study.toml"]);
    (outcome.code, outcome.stderr.replace("[ROOT]/hub", "HUB"))
}

#[test]
fn check_and_plan_say_what_run_would_refuse_of_a_checkpoint_and_where() {
    let space = with_model("llama2");
    set(&space, "config.json", "residual_multiplier", json!(0.5));
    set(&space, "config.json", "sliding_window", json!(8));
    let wrong = "error: `stage.base.path`: `HUB/config.json`: `sliding_window` is 8: a window below \
                 `max_position_embeddings` (512) is not supported; `residual_multiplier` is 0.5: only 1.0 is supported\n\
                 \u{20}--> study.toml:4:32\n  |\n4 | base = { kind = \"base\", path = \"hub\" }\n  |                                ^^^^^\n";
    for command in ["check", "plan"] {
        assert_eq!(told(&space, command, ""), (Some(2), wrong.to_string()));
    }
    let (code, run) = told(&space, "run", "");
    assert!(code == Some(2) && run.contains("`residual_multiplier` is 0.5: only 1.0 is supported"), "{run}");

    let space = with_model("llama2");
    set(&space, "config.json", "a_note", json!("mine"));
    set(&space, "generation_config.json", "another", json!(3));
    let fields = "`HUB/config.json`: `a_note` (\"mine\"); `HUB/generation_config.json`: `another` (3)";
    for command in ["check", "plan"] {
        let (code, warned) = told(&space, command, "");
        let first = format!("warning: `stage.base.path`: unknown fields of the checkpoint are ignored: {fields}");
        assert_eq!((code, warned.lines().next()), (Some(0), Some(first.as_str())));
        let (code, strict) = told(&space, command, ", strict = true");
        let first = format!(
            "error: `stage.base.path`: the checkpoint has unknown fields, which `strict = true` refuses: {fields}"
        );
        assert_eq!((code, strict.lines().next()), (Some(2), Some(first.as_str())));
    }
    assert_eq!(told(&space, "run", "").0, Some(0));
    // Imported with a warning is not imported strictly.
    assert_eq!(told(&space, "run", ", strict = true").0, Some(2));
    // What was imported is not warned of again.
    assert_eq!(told(&space, "plan", ""), (Some(0), String::new()));

    let space = with_model("llama2");
    set(&space, "generation_config.json", "no_repeat_ngram_size", json!(3));
    let (code, refused) = told(&space, "check", "");
    let reason = "`no_repeat_ngram_size` changes the answers and is not supported: it is 3";
    assert!(code == Some(2) && refused.contains(reason), "{refused}");

    let space = with_model("llama2");
    space.write("hub/chat_template.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    let (code, refused) = told(&space, "check", "");
    let reason =
        "ignores `add_generation_prompt`: it writes \"assistant:\" before an answer, but a prompt ends without it";
    assert!(code == Some(2) && refused.contains(reason), "{refused}");
}

#[test]
fn a_template_or_a_tokenizer_that_blows_up_ends_with_an_error() {
    let double = "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(40) %}\
                  {% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}";
    for (end, reason) in [
        ("{{ ns.a | tojson }}", "walks too large a structure"),
        ("{{ ns.a == ns.b }}", "walks too large a structure"),
        ("{% set ns.a = ns %}{{ ns | string }}", "nests too deeply"),
    ] {
        let told = import("llama2", |space| {
            space.write("hub/chat_template.jinja", format!("{double}{end}"));
        });
        assert!(told.contains("the chat template of") && told.contains(reason), "{end}: {told}");
    }
    let told = import("llama2", |space| {
        let mut file: Value = serde_json::from_str(&space.read("hub/tokenizer.json")).unwrap();
        let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
        file["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![double; 40] });
        space.write("hub/tokenizer.json", file.to_string());
    });
    assert!(told.contains("`normalizer` and `pre_tokenizer` can make a text more than 1000 times longer"), "{told}");
}
