//! Checkpoints in Hugging Face's layout: import, training, export and `generate`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Outcome, Project, assert_contains, entries, repository};

/// A project with a model made by transformers, copied to `hub`.
pub(crate) fn with_model(case: &str) -> Project {
    let project = Project::new();
    copy(&golden(case), &project.path("hub"));
    project
}

pub(crate) fn golden(name: &str) -> PathBuf {
    repository("tests/golden/hub").join(name)
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in entries(from) {
        let name = path.file_name().unwrap();
        // Expected values are not part of the model.
        if !name.to_string_lossy().starts_with("expected") {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// A study that imports the model in `hub`, with more keys.
fn import_study(keys: &str) -> String {
    format!("name = \"study\"\n\n[stage]\nbase = {{ kind = \"base\", path = \"hub\"{keys} }}\n")
}

pub(crate) fn parse(text: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(text.as_ref()).unwrap()
}

/// A study that trains, samples and evaluates the model in `hub` on rows with images.
pub(crate) fn with_study(case: &str, sft: &str) -> Project {
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
fn evaluation_without_the_image_is_another_result() {
    let project = with_study("llava", "");
    project.append(
        "study.toml",
        r#"
[axis.image]
key = "stage.eval.image"
values = ["given", "none", "blank"]
"#,
    );
    let evaluations = |names: [&str; 3]| names.map(|name| format!("eval@image={name},model=sft"));
    let ran = project.ran_instances(&["study.toml", "eval@model=sft"]);
    for name in evaluations(["given", "none", "blank"]) {
        assert!(ran.contains(&name), "{name} did not run: {ran:?}");
    }
    let fingerprint = |name: &str| {
        let shown = project.json(&["show", "study.toml", name]);
        shown["record"]["fingerprint"].as_str().unwrap().to_string()
    };
    let scores = |name: &str| -> Vec<Value> {
        project.read(&format!("out/study/{name}/scores.jsonl")).lines().map(parse).collect()
    };
    let [given, none, blank] = evaluations(["given", "none", "blank"]);
    let mut prints = vec![fingerprint(&given), fingerprint(&none), fingerprint(&blank)];
    prints.dedup();
    assert_eq!(prints.len(), 3, "{prints:?}");
    let responses =
        |name: &str| -> Vec<Value> { scores(name).into_iter().map(|score| score["response"].clone()).collect() };
    assert!(responses(&given) != responses(&none) || responses(&given) != responses(&blank));
    // Items keep their image and their overlap with the training data.
    let known = |name: &str| -> Vec<(Value, Value)> {
        scores(name).into_iter().map(|score| (score["image"].clone(), score["seen"].clone())).collect()
    };
    assert_eq!((known(&given), known(&given)), (known(&none), known(&blank)));
    assert_eq!(known(&blank)[0].1, "question");
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
    let config = parse(bytes("out/study/folder/checkpoint/config.json"));
    assert_eq!(config["architectures"], json!(["LlavaForConditionalGeneration"]));
    assert!(bytes("hub/model.safetensors") != bytes("out/study/folder/checkpoint/model.safetensors"));
    let scores = project.read("out/study/eval@model=sft/scores.jsonl");
    assert_eq!(scores.lines().count(), 6);
    // A second run is fresh. Another store gets the same bytes with another number of threads.
    project.ok(&["run", "study.toml"]).stderr_has(&["fresh"]);
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
    let config = parse(fs::read(adapter.join("adapter_config.json")).unwrap());
    assert_eq!((&config["peft_type"], &config["r"]), (&json!("LORA"), &json!(4)));
    // The same adapter merged into the base model gives the trained model.
    let merged = import_study(", adapter = \"given\"").replace("study", "merged");
    project.write("merged.toml", merged + "folder = { kind = \"export\", model = \"base\", dtype = \"bf16\" }\n");
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
        let header = parse(&bytes[8..8 + length]);
        let arrays = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
        arrays.map(|(name, array)| format!("{name} {}", array["dtype"])).collect()
    };
    let imported = types("hub/model.safetensors");
    assert!(imported.iter().all(|array| array.ends_with("\"BF16\"")), "{imported:?}");
    // The store keeps full precision; the export has the imported types.
    let trained = types("out/study/sft/model/model.safetensors");
    assert!(trained.iter().any(|array| array.ends_with("\"F32\"")), "{trained:?}");
    assert_eq!(types("out/study/asked/checkpoint/model.safetensors"), imported);
    let config = |path: &str| parse(project.read(path));
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
    project.write("study.toml", import_study(", chat_template = \"mine.jinja\""));
    project.ok(&["run", "study.toml"]);
    let model = "out/study/base/model";
    assert!(!project.path(&format!("{model}/chat_template.json")).exists());
    let mine = project.ok(&["generate", "--model", model, "--json", "--max-tokens", "1", "What?"]);
    let length = |outcome: &Outcome| parse(&outcome.stdout)["prompt_tokens"].as_u64().unwrap();
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
    let plain = generate(&project, Some("wide"), &short).exited(0);
    let printed = parse(generate(&project, Some("wide"), &[&["--json"], &short[..]].concat()).stdout);
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
fn generate_takes_several_images() {
    let project = with_model("llava-next");
    let image = |name: &str| golden("images").join(format!("{name}.png")).display().to_string();
    let (wide, tall) = (image("wide"), image("tall"));
    let ask = |images: &[&str], question: &str| {
        let images = images.iter().flat_map(|path| ["--image", path]);
        let options = ["generate", "--model", "hub", "--json", "--max-tokens", "4"];
        let arguments: Vec<&str> = options.into_iter().chain(images).chain([question]).collect();
        project.ablate(&arguments)
    };
    let tokens = |images: &[&str], question: &str| {
        parse(ask(images, question).exited(0).stdout)["prompt_tokens"].as_u64().unwrap()
    };
    let (of_wide, of_tall) = (tokens(&[&wide], "Same?"), tokens(&[&tall], "Same?"));
    let (both, same) = (tokens(&[&wide, &tall], "Same?"), tokens(&[&wide, &wide], "Same?"));
    assert_eq!(both + of_wide, same + of_tall);
    assert!(both > of_wide && both > of_tall);
    assert_eq!(tokens(&[&tall, &wide], "<image> Same? <image>"), tokens(&[&wide, &tall], "<image> Same? <image>"));
    assert_eq!(
        ask(&[&wide, &tall], "<image>?").exited(2).stderr,
        "error: the question has 1 `<image>` for 2 images: write one where each image stands, or none to put all images \
         before the text\n"
    );
}

#[test]
fn invalid_questions_are_refused() {
    let project = with_model("qwen3");
    let blind = generate(&project, Some("wide"), &["What?"]).exited(2).stderr;
    assert_eq!(blind, "error: `hub` is a language model and takes no image\n");
    let cold = generate(&project, None, &["--temperature", "-1", "What?"]).exited(2).stderr;
    assert_eq!(cold, "error: `--temperature` must be at least 0, not -1\n");
    let missing = project.fails(2, &["generate", "--model", "missing", "What?"]).stderr;
    assert_eq!(missing, "error: `missing` is not a folder; a checkpoint is a folder\n");
    fs::remove_file(project.path("hub/chat_template.jinja")).unwrap();
    let mute = generate(&project, None, &["What?"]).exited(2).stderr;
    assert!(mute.starts_with("error: `hub` has no chat template"), "{mute}");
}

#[test]
fn truncated_jpeg_is_refused() {
    let project = with_model("llava");
    let whole = fs::read(repository("tests/golden/jpeg/progressive.jpg")).unwrap();
    project.write("half.jpg", &whole[..whole.len() / 2]);
    assert_eq!(
        generate(&project, None, &["--image", "half.jpg", "What?"]).exited(2).stderr,
        "error: prompt 0 (`question`)\n  because the image `half.jpg`\n  because cannot be decoded: the JPEG is truncated: \
         its data end at line 21 of 29\n"
    );
    assert_eq!(
        generate(&project, None, &["<image>What?"]).exited(2).stderr,
        "error: the question has `<image>`, but the row has no `image`; for the literal text write `\\<image>` \
         (in JSON `\\\\<image>`)\n"
    );
}

/// The error of `run` for an import of `hub` after `damage`.
fn import(case: &str, damage: &dyn Fn(&Project)) -> String {
    let project = with_model(case);
    damage(&project);
    project.write("study.toml", import_study(""));
    let outcome = project.fails(2, &["run", "study.toml"]);
    assert!(!project.path("out/study/base").exists());
    outcome.error_text()
}

/// Changes a field of a JSON file in `hub`; `field` is a JSON pointer.
fn set(project: &Project, file: &str, field: &str, value: Value) {
    let path = format!("hub/{file}");
    let mut config = parse(project.read(&path));
    let (table, key) = field.rsplit_once('/').unwrap();
    config.pointer_mut(table).unwrap()[key] = value;
    project.write(&path, config.to_string());
}

/// Changes the bytes of the weights in `hub`.
fn set_weights(project: &Project, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(project.path("hub/model.safetensors")).unwrap();
    change(&mut bytes);
    project.write("hub/model.safetensors", bytes);
}

#[test]
fn wrong_model_folder_is_reported_by_file_and_field() {
    let refused = |case: &str, damage: &dyn Fn(&Project), parts: &[&str]| assert_contains(&import(case, damage), parts);
    let remove_shard = |project: &Project| {
        let mut shards: Vec<PathBuf> = entries(project.path("hub")).collect();
        shards.retain(|path| path.to_string_lossy().contains("-of-"));
        shards.sort();
        fs::remove_file(&shards[1]).unwrap();
    };
    refused("qwen2", &remove_shard, &["model-00002-of-"]);
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    refused("llama2", &|project| set_weights(project, cut), &["model.safetensors", "bytes"]);
    let lie = |bytes: &mut Vec<u8>| bytes[..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    refused("llama2", &|project| set_weights(project, lie), &["1099511627776"]);
    let nan = |bytes: &mut Vec<u8>| bytes.iter_mut().rev().take(2).for_each(|byte| *byte = 0xff);
    refused("llama3", &|project| set_weights(project, nan), &["NaN"]);
    let config = |case: &str, field: &str, value: Value, parts: &[&str]| {
        refused(case, &|project| set(project, "config.json", field, value.clone()), parts);
    };
    config("llama2", "/intermediate_size", json!(40), &["has the shape"]);
    config("llama2", "/model_type", json!("mamba"), &["`model_type`", "mamba"]);
    config("llava", "/quantization_config", json!({ "bits": 4 }), &["`quantization_config`"]);
    let other_tokenizer = |project: &Project| {
        fs::copy(golden("tokenizer-qwen2.json"), project.path("hub/tokenizer.json")).unwrap();
    };
    refused("llama2", &other_tokenizer, &["tokenizer"]);
    let crop = json!({ "height": 7, "width": 7 });
    let set_crop =
        |project: &Project| set(project, "processor_config.json", "/image_processor/crop_size", crop.clone());
    refused("llava", &set_crop, &["7 x 7"]);
}

/// The exit code and the messages of a command for an import of `hub`.
fn import_messages(project: &Project, command: &str, keys: &str) -> (Option<i32>, String) {
    project.write("study.toml", import_study(keys));
    let outcome = project.ablate(&[command, "study.toml"]);
    (outcome.code, outcome.stderr.replace("[ROOT]/hub", "HUB"))
}

#[test]
fn check_and_plan_report_wrong_checkpoints() {
    let project = with_model("llama2");
    set(&project, "config.json", "/residual_multiplier", json!(0.5));
    set(&project, "config.json", "/sliding_window", json!(8));
    let wrong = "error: `stage.base.path`: `HUB/config.json`: `sliding_window` is 8: a window below \
                 `max_position_embeddings` (512) is not supported; `residual_multiplier` is 0.5: only 1.0 is supported\n\
                 \u{20}--> study.toml:4:32\n  |\n4 | base = { kind = \"base\", path = \"hub\" }\n  |                                ^^^^^\n";
    for command in ["check", "plan"] {
        assert_eq!(import_messages(&project, command, ""), (Some(2), wrong.to_string()));
    }
    project.fails(2, &["run", "study.toml"]).stderr_has(&["`residual_multiplier` is 0.5: only 1.0 is supported"]);

    let project = with_model("llama2");
    set(&project, "config.json", "/a_note", json!("mine"));
    set(&project, "generation_config.json", "/another", json!(3));
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
    set(&project, "generation_config.json", "/no_repeat_ngram_size", json!(3));
    let reason = "`no_repeat_ngram_size` changes the answers and is not supported: it is 3";
    project.write("study.toml", import_study("")).fails(2, &["check", "study.toml"]).stderr_has(&[reason]);

    let project = with_model("llama2");
    project.write("hub/chat_template.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    let reason =
        "ignores `add_generation_prompt`: it writes \"assistant:\" before an answer, but a prompt ends without it";
    project.write("study.toml", import_study("")).fails(2, &["check", "study.toml"]).stderr_has(&[reason]);
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
        let printed = import("llama2", &|project| {
            project.write("hub/chat_template.jinja", format!("{double}{end}"));
        });
        assert_contains(&printed, &["the chat template of", reason]);
    }
    let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
    let normalizer = json!({ "type": "Sequence", "normalizers": vec![double; 40] });
    let printed = import("llama2", &|project| set(project, "tokenizer.json", "/normalizer", normalizer.clone()));
    assert_contains(&printed, &["`normalizer` and `pre_tokenizer` can make a text more than 1000 times longer"]);
}

#[test]
fn families_whose_processors_split_images_are_trained_and_exported() {
    for case in ["gemma3", "gemma3-scan", "smolvlm", "idefics3", "internvl", "qwen2-vl", "qwen2.5-vl", "qwen3-vl"] {
        let project = with_study(case, "steps = 2, lora = { rank = 2, targets = [\"*\"] }");
        project.ok(&["run", "study.toml"]);
        let bytes = |name: &str| fs::read(project.path(name)).unwrap();
        assert!(bytes("hub/model.safetensors") == bytes("out/study/same/checkpoint/model.safetensors"), "{case}");
        assert_eq!(project.read("out/study/eval@model=sft/scores.jsonl").lines().count(), 6, "{case}");
        let outputs = project.outputs("study");
        project.remove("cache");
        fs::remove_dir_all(project.path("out")).unwrap();
        project.ok(&["run", "study.toml", "--threads", "1", "--jobs", "1"]);
        assert!(project.outputs("study") == outputs, "{case}");
    }
}

#[test]
fn processor_that_does_not_fit_the_model_is_refused() {
    let project = with_model("smolvlm");
    set(&project, "processor_config.json", "/image_seq_len", json!(9));
    let reason = "`image_seq_len` of `processor_config.json` is 9 tokens for each tile, but the model has ";
    project.write("study.toml", import_study("")).fails(2, &["run", "study.toml"]).stderr_has(&[reason]);
    let project = with_model("internvl");
    set(&project, "processor_config.json", "/image_processor/size", json!({ "height": 15, "width": 15 }));
    let reason = "the image processor produces crops of 15 x 15 pixels, but the vision tower takes 20 x 20";
    project.write("study.toml", import_study("")).fails(2, &["run", "study.toml"]).stderr_has(&[reason]);
}

#[test]
fn model_that_does_not_fit_into_memory_is_reported_before_it_is_read() {
    let project = with_model("smolvlm");
    let sizes = [("hidden_size", 16_384), ("num_hidden_layers", 60), ("num_attention_heads", 128)];
    for (field, size) in sizes.into_iter().chain([("intermediate_size", 49_152), ("num_key_value_heads", 128)]) {
        set(&project, "config.json", &format!("/text_config/{field}"), json!(size));
    }
    set(&project, "config.json", "/text_config/head_dim", json!(128));
    let (code, warned) = import_messages(&project, "check", "");
    assert_eq!(code, Some(0));
    let reason = "GiB in F32: this machine has ";
    assert_contains(&warned, &["warning: `stage.base.path`: `HUB`: the model has 2", reason]);
    let (code, refused) = import_messages(&project, "run", "");
    assert_eq!(code, Some(2));
    assert_contains(&refused, &[reason]);
}
