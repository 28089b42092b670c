//! Several images and several turns: through all kinds, with the LLaVA-NeXT checkpoint of the golden tests, and against
//! transformers (`tests/golden/make_conversations.py`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::support::{Runner, chart, choice, endpoint, manifest};
use crate::stages::loaded_model::LoadedModel;
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Seed, files};
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::image_keys::ImageKeys;
use ablate_data::images::ImageLoader;
use ablate_data::jsonl;
use ablate_data::records::{
    CreditedItem, CurvePoint, Exchange, FinishReason, Item, JudgedItem, Overlap, Pair, Rollout, Row, Sample, Score,
};
use ablate_nn::infer::{GenerateConfig, Generated, generate, log_probs};
use ablate_nn::{Device, Precision, Resources};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A runner with the checkpoint `base`, and the items `two` with two images each.
fn runner() -> Runner {
    let mut runner = Runner::new();
    runner.run("base", "base", &json!({ "path": golden("hub/llava-next").to_str().unwrap() })).unwrap();
    runner.run("items", "items", &chart(3)).unwrap();
    let items: Vec<Item> = runner.read("items/items.jsonl");
    let pair = |pair: &[Item]| Item {
        images: ImageKeys::Placed(pair.iter().flat_map(|item| item.images.keys().to_vec()).collect()),
        question: "Is <image> like <image>? Not an \\<image>.".into(),
        options: Vec::new(),
        answer_type: ablate_data::records::AnswerType::Text,
        answers: vec!["yes".into()],
        rationale: Some("Seen.".into()),
        facts: Vec::new(),
        ..pair[0].clone()
    };
    jsonl::write(&runner.path("two/items.jsonl"), &items.chunks_exact(2).map(pair).collect::<Vec<_>>()).unwrap();
    runner
}

fn images(keys: &[String]) -> ImageKeys {
    ImageKeys::Placed(keys.to_vec())
}

/// A conversation about three images.
fn conversation(keys: &[String]) -> Row {
    Row {
        id: "chat".into(),
        dataset: "chat".into(),
        source: String::new(),
        images: images(&[keys, &keys[..1]].concat()),
        system: None,
        history: vec![Exchange { prompt: "Is <image> like <image>?".into(), response: "No.".into() }],
        prompt: "And <image>?".into(),
        response: "It is the first one.".into(),
        question: None,
    }
}

#[test]
fn items_with_several_images_pass_all_kinds() {
    let mut runner = runner();
    let items: Vec<Item> = runner.read("two/items.jsonl");
    let table = json!({ "model": "base", "items": "two", "prompt": "direct", "samples": 2, "max_tokens": 3 });
    runner.run("sampled", "rollout", &table).unwrap();
    let mut rollouts: Vec<Rollout> = runner.read("sampled/rollouts.jsonl");
    assert_eq!(rollouts.len(), items.len());
    for (rollout, item) in rollouts.iter_mut().zip(&items) {
        assert_eq!(&rollout.item, item);
        assert_eq!(rollout.prompt, "Is <image> like <image>? Not an \\<image>.\nAnswer briefly.");
        let sample = |text: &str| Sample { text: text.into(), finish: FinishReason::Stop, tokens: 2, thinking: 0 };
        rollout.samples = vec![sample("yes"), sample("no")];
    }
    jsonl::write(&runner.path("sampled/rollouts.jsonl"), &rollouts).unwrap();
    runner.run("judged", "judge", &json!({ "rollouts": "sampled", "style": "direct" })).unwrap();
    let judged: Vec<JudgedItem> = runner.read("judged/judged.jsonl");
    assert!(judged.iter().all(|judged| judged.verdicts[0].correct && !judged.verdicts[1].correct));

    runner.run("pairs", "pairs", &json!({ "judged": "judged", "dev": 0.0, "truncate": "none" })).unwrap();
    let pairs: Vec<Pair> = runner.read("pairs/pairs.jsonl");
    assert_eq!(pairs[0].images, items[0].images);
    let table = json!({ "policy": "base", "pairs": "pairs", "lr": 1e-3, "batch": 2 });
    let summary = runner.run("dpo", "dpo", &table).unwrap();
    assert_eq!((&summary.0["pairs"], &summary.0["questions"]), (&json!(3), &json!(3)));

    let table = json!({ "judged": "judged", "policy": "dpo", "reference": "base", "truncate": "none" });
    runner.run("credits", "score", &table).unwrap();
    let credited: Vec<CreditedItem> = runner.read("credits/credits.jsonl");
    assert!(credited.iter().all(|credited| credited.responses.iter().all(|response| response.log_ratio.abs() > 0.0)));

    let table = json!({ "sources": { "own": { "from": "judged", "as": "correct" } } });
    runner.run("right", "mix", &table).unwrap();
    runner.run("cot", "mix", &json!({ "sources": { "all": { "from": "two", "as": "cot" } } })).unwrap();
    for name in ["right", "cot"] {
        let rows: Vec<Row> = runner.read(&format!("{name}/rows.jsonl"));
        assert!(rows.len() == 3 && rows.iter().all(|row| row.images.keys().len() == 2), "{name}");
        runner.run(&format!("sft-{name}"), "sft", &json!({ "model": "base", "data": name })).unwrap();
    }
}

#[test]
fn an_evaluation_gives_the_images_none_or_blank_ones() {
    let mut runner = runner();
    let items: Vec<Item> = runner.read("two/items.jsonl");
    // One of the images of the first item was trained on, and the question about both of the second.
    let row = |id: &str, images, prompt: &str| Row {
        id: id.into(),
        images,
        history: Vec::new(),
        prompt: prompt.into(),
        ..conversation(items[0].images.keys())
    };
    let seen = [
        row("1", ImageKeys::Leading(items[0].images.keys()[1].clone()), "What?"),
        row("2", items[1].images.clone(), &items[1].question),
    ];
    jsonl::write(&runner.path("seen/rows.jsonl"), &seen).unwrap();
    runner.run("sft", "sft", &json!({ "model": "base", "data": "seen" })).unwrap();
    let mut evaluate = |image: &str| -> Vec<Score> {
        let table = json!({ "model": "sft", "benchmark": "two", "image": image, "max_tokens": 8 });
        runner.run(image, "eval", &table).unwrap();
        runner.read(&format!("{image}/scores.jsonl"))
    };
    let scores = ["given", "none", "blank"].map(&mut evaluate);
    for scores in &scores {
        let found: Vec<_> = scores.iter().map(|score| (score.images.clone(), score.seen)).collect();
        let overlap = [Some(Overlap::Image), Some(Overlap::Question), None];
        assert_eq!(found, items.iter().map(|item| item.images.clone()).zip(overlap).collect::<Vec<_>>());
        assert!(scores.iter().all(|score| score.prompt.starts_with("Is <image> like <image>?")));
    }
}

#[test]
fn the_loss_covers_every_turn_or_the_last() {
    let mut runner = runner();
    let items: Vec<Item> = runner.read("two/items.jsonl");
    let whole = conversation(items[0].images.keys());
    let first = Row {
        images: items[0].images.clone(),
        history: Vec::new(),
        prompt: whole.history[0].prompt.clone(),
        response: whole.history[0].response.clone(),
        ..whole.clone()
    };
    jsonl::write(&runner.path("whole/rows.jsonl"), &[&whole]).unwrap();
    jsonl::write(&runner.path("first/rows.jsonl"), &[&first]).unwrap();
    let mut loss = |data: &str, mask_history: bool| -> (f64, f64) {
        let name = format!("sft-{data}-{mask_history}");
        let table = json!({ "model": "base", "data": data, "mask_history": mask_history, "lr": 1e-3 });
        let summary = runner.run(&name, "sft", &table).unwrap();
        assert_eq!(summary.0["questions"], json!(if data == "whole" { 2 } else { 1 }));
        let curve: Vec<CurvePoint> = runner.read(&format!("{name}/curve.jsonl"));
        (curve[0].loss, curve[0].tokens as f64)
    };
    // The template ends every response with `</s>`. So the loss of a conversation is that of its turns.
    let ((both, tokens), (last, last_tokens)) = (loss("whole", false), loss("whole", true));
    let (first, first_tokens) = loss("first", false);
    assert!((tokens - first_tokens - last_tokens).abs() < 0.5 && first_tokens > 2.0);
    let expected = (first * first_tokens + last * last_tokens) / tokens;
    assert!((both - expected).abs() < 1e-5, "{both} {expected}");
    assert!((both - last).abs() > 1e-4);
}

#[test]
fn mask_history_is_identity_if_it_is_set() {
    let table = |mask: Value| {
        let mut table = json!({ "model": "m", "data": "d" });
        if !mask.is_null() {
            table["mask_history"] = mask;
        }
        manifest("sft", &table).fingerprint()
    };
    assert_eq!(table(json!(null)), table(json!(false)));
    assert_ne!(table(json!(null)), table(json!(true)));
}

#[test]
fn wrong_conversations_are_refused_with_their_row() {
    let mut runner = runner();
    let items: Vec<Item> = runner.read("two/items.jsonl");
    let row = conversation(items[0].images.keys());
    let mut error = |row: &Row, mask_history: bool| {
        jsonl::write(&runner.path("wrong/rows.jsonl"), &[row]).unwrap();
        runner.fail("sft", "sft", &json!({ "model": "base", "data": "wrong", "mask_history": mask_history }))
    };
    let two = Row { images: items[0].images.clone(), ..row.clone() };
    assert_eq!(
        error(&two, false),
        "row `chat` of `chat`: `images` has 2 image(s), but the text has 3 `<image>`: write one where each image stands \
         (`\\<image>` is the literal text)"
    );
    let mut empty = row.clone();
    empty.history[0].response = " ".into();
    assert_eq!(
        error(&empty, false),
        "row `chat` of `chat`: the response of turn 1 is empty; `mask_history = true` trains on the last response only"
    );
    let missing = Row { images: row.images.clone().map(|_| "0123456789abcdef/a.png".into()), ..row.clone() };
    let message = error(&missing, false);
    assert!(message.starts_with("row `chat` of `chat`: image `0123456789abcdef/a.png`"), "{message}");
    runner.write("bad/items.jsonl", &{
        let item = Item { images: row.images.clone(), ..items[0].clone() };
        serde_json::to_string(&item).unwrap() + "\n"
    });
    let message = runner.fail("eval", "eval", &json!({ "model": "base", "benchmark": "bad" }));
    assert!(message.contains(": `images` has 3 image(s), but the text has 2 `<image>`"), "{message}");
}

#[test]
fn an_endpoint_receives_images_and_texts_in_order() {
    let mut runner = runner();
    let item: Item = runner.read("two/items.jsonl").remove(0);
    jsonl::write(&runner.path("one/items.jsonl"), &[&item]).unwrap();
    let mut ask = |image: &str| {
        let (url, thread) = endpoint(vec![json!([choice("yes", "stop")])]);
        let model = json!({ "api": "openai", "url": url, "model": "m", "system": "Be brief.", "patience_seconds": 0 });
        runner.run(image, "eval", &json!({ "model": model, "benchmark": "one", "image": image })).unwrap();
        let scores: Vec<Score> = runner.read(&format!("{image}/scores.jsonl"));
        assert_eq!((scores[0].score, scores[0].images.keys().len()), (1.0, 2));
        thread.join().unwrap().remove(0)["messages"].clone()
    };
    let given = ask("given");
    assert_eq!(given[0], json!({ "role": "system", "content": "Be brief." }));
    let parts = given[1]["content"].as_array().unwrap();
    let text = |part: &Value| part["text"].as_str().map_or_else(|| "IMAGE".to_string(), str::to_string);
    let shown: Vec<String> = parts.iter().map(text).collect();
    assert_eq!(shown, ["Is ", "IMAGE", " like ", "IMAGE", "? Not an <image>.\nAnswer briefly."]);
    let urls: Vec<&str> = parts.iter().filter_map(|part| part["image_url"]["url"].as_str()).collect();
    assert!(urls.iter().all(|url| url.starts_with("data:image/png;base64,")) && urls[0] != urls[1]);
    let none = ask("none");
    assert_eq!(none[1]["content"], json!("Is  like ? Not an <image>.\nAnswer briefly."));

    let (url, thread) = endpoint(vec![json!([choice("Seen.\n### Answer: yes", "stop")])]);
    let teacher = json!({ "api": "openai", "url": url, "model": "m", "samples": 1, "patience_seconds": 0,
        "instruction": "{question}\nIn <image>: {answer}" });
    runner.run("distilled", "distill", &json!({ "items": "one", "teacher": teacher })).unwrap();
    let content = thread.join().unwrap().remove(0)["messages"][1]["content"].clone();
    let shown: Vec<String> = content.as_array().unwrap().iter().map(text).collect();
    assert_eq!(shown, ["Is ", "IMAGE", " like ", "IMAGE", "? Not an <image>.\nIn <image>: yes"]);
    let kept: Vec<Item> = runner.read("distilled/items.jsonl");
    assert_eq!((&kept[0].images, &kept[0].question), (&item.images, &item.question));
}

/// What transformers computes for a checkpoint.
#[derive(Deserialize)]
struct Expected {
    chat: ExpectedChat,
    question: ExpectedQuestion,
}

#[derive(Deserialize)]
struct ExpectedChat {
    ids: Vec<u32>,
    /// Of every token but the first.
    log_probs: Vec<f64>,
}

#[derive(Deserialize)]
struct ExpectedQuestion {
    ids: Vec<u32>,
    greedy: Vec<u32>,
}

#[test]
fn conversations_match_transformers() {
    let cases: BTreeMap<String, Expected> = files::read_json(&golden("conversations.json")).unwrap();
    assert_eq!(cases.len(), 6);
    let paths = ["tall", "wide"].map(|name| (name, golden("hub/images").join(format!("{name}.png"))));
    let paths: Vec<(&str, &Path)> = paths.iter().map(|(name, path)| (*name, path.as_path())).collect();
    for (name, Expected { chat, question }) in cases {
        let model = LoadedModel::load_folder(&golden("hub").join(&name), |processor| {
            ImageLoader::from_files(&paths, true, processor)
        });
        let model = model.unwrap();
        let sees = model.checkpoint.architecture.vision.is_some();
        // A language model is asked the same without images.
        let user = |text: &str| if sees { text.to_string() } else { text.replace("<image>", "") };
        let keys = |keys: &[&str]| {
            let keys = keys.iter().map(ToString::to_string).collect();
            if sees { ImageKeys::Placed(keys) } else { ImageKeys::None }
        };
        let exchange = |prompt: &str, response: &str| Exchange { prompt: user(prompt), response: response.into() };
        let row = Row {
            images: keys(&["tall", "wide", "tall"]),
            history: vec![
                exchange("<image><image>How many circles are there?", "There are three."),
                exchange("And squares?", "Two\n\nof them."),
            ],
            prompt: user("<image>And here?"),
            response: "One, on the left.".into(),
            ..conversation(&["tall".to_string()])
        };
        let encoded = model.chat.encode_row(&row, false).unwrap();
        let prompt = model.chat.encode_prompt("chat", &ChatPrompt::from(&row)).unwrap().tokens.len();
        let same = encoded.tokens.iter().zip(&chat.ids).take_while(|(ours, theirs)| ours == theirs).count();
        // LLaVA's template with SigLIP opens a given answer with a space and a generated one with a line break. Some
        // templates do not write the end of an answer.
        assert!(same + 1 >= if name == "llava-siglip" { prompt } else { encoded.tokens.len() }, "{name}: {same}");
        let resources = Resources { device: Device::Cpu, precision: Precision::F32, threads: 1, progress: &NoProgress };
        let ours =
            log_probs(&model.checkpoint, std::slice::from_ref(&encoded), &*model.images, &resources).unwrap().remove(0);
        let targets: Vec<usize> = (0..encoded.tokens.len()).filter(|&at| encoded.loss[at]).collect();
        assert_eq!(ours.len(), targets.len());
        let compared: Vec<(f64, f64)> = targets
            .iter()
            .zip(&ours)
            .filter(|(at, _)| **at < same)
            .map(|(at, ours)| (f64::from(*ours), chat.log_probs[at - 1]))
            .collect();
        assert!(compared.len() > 10, "{name}: {}", compared.len());
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / compared.len() as f64;
        let loss = mean(&mut compared.iter().map(|(ours, _)| -ours));
        let expected = mean(&mut compared.iter().map(|(_, theirs)| -theirs));
        assert!((loss - expected).abs() < 1e-5, "{name}: {loss} {expected}");
        let largest = compared.iter().map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f64::max);
        assert!(largest < 1e-4, "{name}: {largest}");

        let prompt = user("<image>Is it larger than <image>?");
        let prompt = model.chat.encode_prompt("q", &ChatPrompt::new(&keys(&["wide", "tall"]), &prompt)).unwrap();
        assert_eq!(prompt.tokens, question.ids, "{name}");
        let config = GenerateConfig {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            max_tokens: 16,
            samples: 1,
            stop: model.chat.stop_tokens().to_vec(),
            repetition_penalty: 1.0,
            batch: 1,
        };
        let mut greedy = Vec::new();
        let mut done = |_: usize, responses: Vec<Generated>| {
            greedy.extend(responses);
            Ok(())
        };
        let (checkpoint, images) = (&model.checkpoint, &*model.images);
        generate(checkpoint, &[prompt], images, &config, Seed(0), &|_, _, _| false, &resources, &mut done).unwrap();
        let stopped = |id: &u32| model.chat.stop_tokens().contains(id);
        let expected: Vec<u32> = question.greedy.iter().copied().filter(|id| !stopped(id)).collect();
        assert_eq!(greedy[0].tokens, expected, "{name}");
    }
}
