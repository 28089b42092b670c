//! The kinds that need no model: `items`, `tokenizer`, `distill`, `mix`, `judge`, `pairs`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::support::{Runner, chart, choice, endpoint};
use ablate_core::base::{Hash, files};
use ablate_data::images::ImageLoader;
use ablate_data::images::ImagePacks;
use ablate_data::images::ImageProcessor;
use ablate_data::jsonl;
use ablate_data::records::{FinishReason, Item, JudgedItem, Pair, Rollout, Row, Sample};

#[test]
fn item_images_are_in_the_pack() {
    let mut runner = Runner::new();
    runner.run("items", "items", &chart(20)).unwrap();
    let items: Vec<Item> = runner.read("items/items.jsonl");
    assert_eq!(items.len(), 40);
    let images = ImageLoader::open(&runner.images, ImageProcessor::Square { size: 32 }).unwrap();
    for item in &items {
        let pixels = images.load(&item.images.keys()[0]).unwrap();
        assert_eq!(pixels.len(), 32 * 32 * 3);
        assert!(pixels.iter().all(|value| (-1.0..=1.0).contains(value)));
    }
    let mut again = Runner::new();
    again.run("items", "items", &chart(20)).unwrap();
    for name in ["items/items.jsonl", "items/images.tar"] {
        assert_eq!(Hash::of_file(&runner.path(name)).unwrap(), Hash::of_file(&again.path(name)).unwrap());
    }
    assert_eq!(files::walk(&runner.path("items-scratch")).unwrap(), []);
}

#[test]
fn sampled_rows_keep_their_order() {
    let mut runner = Runner::new();
    let take = |take| json!({ "synthetic": chart(30)["synthetic"], "take": take });
    runner.run("few", "items", &take(10)).unwrap();
    runner.run("many", "items", &take(25)).unwrap();
    let ids = |runner: &Runner, name| -> Vec<String> {
        runner.read::<Item>(&format!("{name}/items.jsonl")).into_iter().map(|item| item.id).collect()
    };
    let (few, many) = (ids(&runner, "few"), ids(&runner, "many"));
    assert!(few.iter().all(|id| many.contains(id)));
    assert_eq!(few, many.iter().filter(|id| few.contains(id)).cloned().collect::<Vec<_>>());
    assert_eq!(runner.fail("all", "items", &take(61)), "`take` = 61 is more than the number of rows, 60");
}

#[test]
fn truncated_png_names_its_row() {
    let mut runner = Runner::new();
    runner.run("made", "items", &chart(1)).unwrap();
    let packs = ImagePacks::open(&runner.images).unwrap();
    let png = packs.encoded(packs.keys().next().unwrap()).unwrap();
    files::write_atomic(&runner.path("photos/whole.png"), &png).unwrap();
    files::write_atomic(&runner.path("photos/half.png"), &png[..png.len() / 2]).unwrap();
    let row = |id: u32, image: &str| {
        let turns = json!([{ "from": "human", "value": "<image>\nWhat?" }, { "from": "gpt", "value": "a cat" }]);
        json!({ "id": id, "image": image, "conversations": turns }).to_string()
    };
    files::write_atomic(&runner.path("cats.jsonl"), (row(1, "whole.png") + "\n" + &row(2, "whole.png")).as_bytes())
        .unwrap();
    let table = json!({ "path": "cats.jsonl", "images": "photos" });
    runner.run("cats", "items", &table).unwrap();
    let items: Vec<Item> = runner.read("cats/items.jsonl");
    assert_eq!((items[0].dataset.as_str(), items[1].id.as_str(), items.len()), ("cats", "2", 2));
    assert_eq!(items[0].images, items[1].images);
    files::write_atomic(&runner.path("cats.jsonl"), (row(1, "whole.png") + "\n" + &row(2, "half.png")).as_bytes())
        .unwrap();
    let error = runner.fail("cats", "items", &table);
    assert!(error.contains("cats.jsonl:2: the image `half.png`: cannot be decoded"), "{error}");
}

#[test]
fn wrong_rationales_are_rejected() {
    let mut runner = Runner::new();
    runner.run("items", "items", &chart(100)).unwrap();
    let table = |keep| json!({ "items": "items", "teacher": { "api": "oracle", "wrong": 0.2 }, "keep": keep });
    runner.run("kept", "distill", &table("answer-matches")).unwrap();
    runner.run("all", "distill", &table("all")).unwrap();
    let (kept, all): (Vec<Item>, Vec<Item>) = (runner.read("kept/items.jsonl"), runner.read("all/items.jsonl"));
    let rejects: Vec<JudgedItem> = runner.read("kept/rejects.jsonl");
    assert_eq!((all.len(), kept.len() + rejects.len()), (200, 200));
    // 40 expected, standard deviation 6.
    assert!((12..68).contains(&rejects.len()), "{}", rejects.len());
    assert!(kept.iter().all(|item| item.rationale_answer.is_none()));
    assert_eq!(all.iter().filter(|item| item.rationale_answer.is_some()).count(), rejects.len());
}

#[test]
fn mix_renders_the_templates_of_its_sources() {
    let mut runner = Runner::new();
    runner.run("items", "items", &chart(50)).unwrap();
    let lessons = json!({ "synthetic": { "datasets": ["caption", "text"], "split": "train", "count": 30 } });
    runner.run("lessons", "items", &lessons).unwrap();
    runner.run("kept", "distill", &json!({ "items": "items", "teacher": { "api": "oracle" } })).unwrap();
    runner.run("tokenizer", "tokenizer", &json!({ "train_on": ["items", "lessons"], "vocab": 400 })).unwrap();
    let mix = json!({
        "rows": 60,
        "tokenizer": "tokenizer",
        "sources": {
            "lessons": { "from": "lessons", "rows": 20, "datasets": ["caption"] },
            "cot": { "from": "kept", "as": "cot", "weight": 3 },
            "direct": { "from": "items", "as": "direct", "weight": 1 },
            "gone": "remove",
        },
    });
    runner.run("mix", "mix", &mix).unwrap();
    let rows: Vec<Row> = runner.read("mix/rows.jsonl");
    let of = |source: &str| rows.iter().filter(|row| row.source == source).collect::<Vec<_>>();
    assert_eq!((of("lessons").len(), of("cot").len(), of("direct").len()), (20, 30, 10));
    assert!(
        of("cot").iter().all(|row| row.prompt.contains("\nExplain first") && row.response.contains("\n### Answer: "))
    );
    assert!(of("direct").iter().all(|row| row.prompt.contains("\nAnswer ") && !row.response.contains('#')));
    assert!(of("lessons").iter().all(|row| row.prompt == "Describe the image." && row.dataset == "caption"));
    assert!(rows.iter().all(|row| row.prompt.starts_with(row.question.as_ref().unwrap())));
    let facts: Value = files::read_json(&runner.path("mix/mix.json")).unwrap();
    assert_eq!(facts["rows"], json!(60));
    assert_eq!(facts["sources"]["cot"]["epochs"], json!(0.3));
    assert!(facts["tokens"].as_u64().unwrap() > 60 * 5);
}

#[test]
fn mix_samples_rows_per_dataset() {
    let mut runner = Runner::new();
    runner.run("items", "items", &chart(20)).unwrap();
    let text = json!({ "synthetic": { "datasets": ["text"], "split": "train", "count": 15 } });
    runner.run("text", "items", &text).unwrap();
    let mut ids = |name: &str, rows: usize| -> BTreeSet<String> {
        let format = json!({ "from": "items", "as": "direct", "per_dataset": rows });
        let none = json!({ "from": "items", "as": "direct", "weight": 0 });
        let text = json!({ "from": "text", "weight": 1.0 });
        let table = json!({ "rows": 2 * rows + 12, "sources": { "format": format, "none": none, "text": text } });
        runner.run(name, "mix", &table).unwrap();
        let rows: Vec<Row> = runner.read(&format!("{name}/rows.jsonl"));
        let count = |dataset: &str| rows.iter().filter(|row| row.dataset == dataset).count();
        assert_eq!((count("chart"), count("pick"), count("text")), ((rows.len() - 12) / 2, (rows.len() - 12) / 2, 12));
        assert!(rows.iter().all(|row| row.source != "none" && row.images.is_empty() == (row.dataset == "text")));
        rows.iter().map(|row| format!("{}/{}", row.dataset, row.id)).collect()
    };
    let (few, many) = (ids("few", 3), ids("many", 8));
    assert!(few.is_subset(&many) && many.len() == 28);
    let table = json!({ "sources": { "a": { "from": "items", "per_dataset": 21 } } });
    assert_eq!(
        runner.fail("wrong", "mix", &table),
        "source `a`, data set `chart`, must give 21 rows but has 20; `replace = true` allows repeated rows"
    );
}

#[test]
fn judged_rollouts_become_pairs_and_rows() {
    let mut runner = Runner::new();
    runner.run("items", "items", &chart(10)).unwrap();
    let rollouts: Vec<Rollout> = runner
        .read::<Item>("items/items.jsonl")
        .into_iter()
        .map(|item| {
            let sample = |text: String, finish| Sample { text, finish, tokens: 5, thinking: 0 };
            let wrong = if item.options.is_empty() { "-70" } else { "Z" };
            let samples = vec![
                sample(format!("so.\n### Answer: {}", item.answers[0]), FinishReason::Stop),
                sample(format!("thus.\n### Answer: {wrong}"), FinishReason::Stop),
                sample("thus.\n### Answer: none".into(), FinishReason::Stop),
                sample("rambling".into(), FinishReason::Length),
            ];
            Rollout { item, prompt: "the prompt".into(), samples }
        })
        .collect();
    jsonl::write(&runner.path("sampled/rollouts.jsonl"), &rollouts).unwrap();
    let summary = runner.run("judged", "judge", &json!({ "rollouts": "sampled" })).unwrap();
    assert_eq!(
        ["accuracy", "compliance", "readable"].map(|key| summary.0[key].as_f64()),
        [Some(20.0 / 80.0), Some(60.0 / 80.0), Some(40.0 / 80.0)]
    );
    runner.run("pairs", "pairs", &json!({ "judged": "judged", "dev": 0.0, "truncate": "none" })).unwrap();
    let pairs: Vec<Pair> = runner.read("pairs/pairs.jsonl");
    assert_eq!(pairs.len(), 20);
    assert!(
        pairs
            .iter()
            .all(|pair| pair.chosen.starts_with("so.") && pair.rejected.starts_with("thus.") && !pair.chosen_truncated)
    );
    let right = json!({ "sources": { "own": { "from": "judged", "as": "correct", "per_question": 3 } } });
    runner.run("right", "mix", &right).unwrap();
    let rows: Vec<Row> = runner.read("right/rows.jsonl");
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|row| row.prompt == "the prompt" && row.response.starts_with("so.")));
    let error = runner.fail("none", "pairs", &json!({ "judged": "judged", "band": [0.9, 1.0] }));
    assert!(error.starts_with("no pairs: of 20 questions 20 are too hard"), "{error}");
    let wrong = json!({ "sources": { "own": { "from": "judged", "as": "cot" } } });
    assert_eq!(
        runner.fail("wrong", "mix", &wrong),
        "source `own`: `from` has judged rollouts, for which `as = \"cot\"` is not possible: write `as = \"correct\"`"
    );
}

#[test]
fn interrupted_distillation_resumes() {
    let mut runner = Runner::new();
    runner
        .run("items", "items", &json!({ "synthetic": { "datasets": ["count"], "split": "train", "count": 8 } }))
        .unwrap();
    let seen = || json!([choice("Seen.\n### Answer: 2", "stop")]);
    let table = |url: &str| {
        let teacher = json!({ "api": "openai", "url": url, "model": "m", "concurrency": 2, "patience_seconds": 0 });
        json!({ "items": "items", "teacher": teacher, "keep": "all" })
    };
    let (url, thread) = endpoint(vec![seen(); 5]);
    let error = runner.fail("kept", "distill", &table(&url));
    assert!(error.contains("no reply after 1 attempt in 0 s: cannot reach the endpoint at"), "{error}");
    thread.join().unwrap();
    // The response of a truncated line is requested again.
    let saved = runner.path("replies/log");
    let text = files::read_text(&saved).unwrap();
    assert_eq!(text.lines().count(), 1 + 5);
    files::write_atomic(&saved, &text.as_bytes()[..text.len() - 9]).unwrap();
    let (url, thread) = endpoint(vec![seen(); 4]);
    runner.run("kept", "distill", &table(&url)).unwrap();
    thread.join().unwrap();
    let kept: Vec<Item> = runner.read("kept/items.jsonl");
    assert_eq!(kept.len(), 8);
    assert!(kept.iter().all(|item| item.rationale.as_deref() == Some("Seen.")));
}

#[test]
fn imported_tokenizer_is_unchanged() {
    let mut runner = Runner::new();
    runner.run("items", "items", &chart(5)).unwrap();
    runner.run("trained", "tokenizer", &json!({ "train_on": ["items"], "algorithm": "word", "vocab": 100 })).unwrap();
    runner.run("imported", "tokenizer", &json!({ "path": "trained/tokenizer/tokenizer.json" })).unwrap();
    let text = |name: &str| files::read_text(&runner.path(name).join("tokenizer/tokenizer.json")).unwrap();
    assert_eq!(text("trained"), text("imported"));
}
