//! The model-free stages on real files, each in a private folder as the engine would run it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::stages::KINDS;
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Hash, Seed, files};
use ablate_core::stage::{ArtifactKind, InputPath, InputSource, StageContext, Summary, find_kind};
use ablate_data::images::ImageLoader;
use ablate_data::images::ImagePacks;
use ablate_data::images::ImageProcessor;
use ablate_data::jsonl;
use ablate_data::records::{FinishReason, Item, JudgedItem, Pair, Rollout, Row, Sample};

/// Runs stages one after another; every stage's outputs can be inputs of later ones.
pub(super) struct Bench {
    folder: tempfile::TempDir,
    pub(super) images: BTreeMap<Hash, PathBuf>,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench { folder: tempfile::tempdir().unwrap(), images: BTreeMap::new() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a stage called `name`. A reference in its table is the folder of an earlier stage.
    pub(super) fn run(&mut self, name: &str, kind: &str, table: &Value) -> anyhow::Result<Summary> {
        let stage = (find_kind(KINDS, kind).unwrap().parse)(table).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
        let mut inputs = BTreeMap::new();
        for input in stage.inputs() {
            let (path, kind) = match &input.source {
                InputSource::External { path } => (self.path(path), None),
                InputSource::Stage { reference, accepts } => self.output(&reference.stage, accepts),
                InputSource::Environment { .. } => continue,
            };
            let hash = if path.is_dir() { Hash::of_bytes(b"folder") } else { Hash::of_file(&path)? };
            inputs.insert(input.role, InputPath { path, hash, kind });
        }
        let (out, scratch) = (self.path(name), self.path(&format!("{name}-scratch")));
        files::create_dir(&out)?;
        files::create_dir(&scratch)?;
        let ctx = StageContext {
            inputs,
            images: self.images.clone(),
            out: out.clone(),
            scratch,
            seed: Seed(1),
            threads: 2,
            device: "cpu".into(),
            variables: BTreeMap::new(),
            progress: &NoProgress,
        };
        let summary = stage.run(&ctx)?;
        let pack = out.join("images.tar");
        if pack.is_file() {
            self.images.insert(Hash::of_file(&pack)?, pack);
        }
        Ok(summary)
    }

    /// The first output of an earlier stage that is accepted.
    fn output(&self, stage: &str, accepts: &[ArtifactKind]) -> (PathBuf, Option<ArtifactKind>) {
        let names = [
            (ArtifactKind::Items, "items.jsonl"),
            (ArtifactKind::Rows, "rows.jsonl"),
            (ArtifactKind::Rollouts, "rollouts.jsonl"),
            (ArtifactKind::Judged, "judged.jsonl"),
            (ArtifactKind::Tokenizer, "tokenizer"),
        ];
        let found = accepts.iter().find_map(|kind| {
            let (_, name) = names.iter().find(|(known, _)| known == kind)?;
            let path = self.path(stage).join(name);
            path.exists().then_some((path, Some(*kind)))
        });
        found.unwrap_or_else(|| panic!("`{stage}` has no output of {accepts:?}"))
    }

    pub(super) fn read<T: serde::de::DeserializeOwned>(&self, path: &str) -> Vec<T> {
        jsonl::read(&self.path(path)).unwrap()
    }
}

fn chart(count: usize) -> Value {
    json!({ "synthetic": { "datasets": ["chart", "pick"], "split": "train", "count": count } })
}

#[test]
fn items_are_written_with_a_pack_that_their_keys_name() {
    let mut bench = Bench::new();
    bench.run("items", "items", &chart(20)).unwrap();
    let items: Vec<Item> = bench.read("items/items.jsonl");
    assert_eq!(items.len(), 40);
    let images = ImageLoader::open(&bench.images, ImageProcessor::Square { size: 32 }).unwrap();
    for item in &items {
        let pixels = images.load(item.image.as_ref().unwrap()).unwrap();
        assert_eq!(pixels.len(), 32 * 32 * 3);
        assert!(pixels.iter().all(|value| (-1.0..=1.0).contains(value)));
    }
    let mut again = Bench::new();
    again.run("items", "items", &chart(20)).unwrap();
    for name in ["items/items.jsonl", "items/images.tar"] {
        assert_eq!(Hash::of_file(&bench.path(name)).unwrap(), Hash::of_file(&again.path(name)).unwrap());
    }
    assert_eq!(files::walk(&bench.path("items-scratch")).unwrap(), []);
}

#[test]
fn rows_are_taken_by_the_seed_and_stay_in_order() {
    let mut bench = Bench::new();
    let take = |take| json!({ "synthetic": chart(30)["synthetic"], "take": take });
    bench.run("few", "items", &take(10)).unwrap();
    bench.run("many", "items", &take(25)).unwrap();
    let ids = |bench: &Bench, name| -> Vec<String> {
        bench.read::<Item>(&format!("{name}/items.jsonl")).into_iter().map(|item| item.id).collect()
    };
    let (few, many) = (ids(&bench, "few"), ids(&bench, "many"));
    assert!(few.iter().all(|id| many.contains(id)));
    assert_eq!(few, many.iter().filter(|id| few.contains(id)).cloned().collect::<Vec<_>>());
    let error = bench.run("all", "items", &take(61)).unwrap_err().to_string();
    assert_eq!(error, "`take` = 61 asks for more rows than there are: 60");
}

#[test]
fn a_llava_file_with_a_broken_image_names_its_row() {
    let mut bench = Bench::new();
    bench.run("made", "items", &chart(1)).unwrap();
    let packs = ImagePacks::open(&bench.images).unwrap();
    let png = packs.encoded(packs.keys().next().unwrap()).unwrap();
    files::write_atomic(&bench.path("photos/whole.png"), &png).unwrap();
    files::write_atomic(&bench.path("photos/half.png"), &png[..png.len() / 2]).unwrap();
    let row = |id: u32, image: &str| {
        let turns = json!([{ "from": "human", "value": "<image>\nWhat?" }, { "from": "gpt", "value": "a cat" }]);
        json!({ "id": id, "image": image, "conversations": turns }).to_string()
    };
    files::write_atomic(&bench.path("cats.jsonl"), (row(1, "whole.png") + "\n" + &row(2, "whole.png")).as_bytes())
        .unwrap();
    let table = json!({ "path": "cats.jsonl", "images": "photos" });
    bench.run("cats", "items", &table).unwrap();
    let items: Vec<Item> = bench.read("cats/items.jsonl");
    assert_eq!((items[0].dataset.as_str(), items[1].id.as_str(), items.len()), ("cats", "2", 2));
    assert_eq!(items[0].image, items[1].image);
    files::write_atomic(&bench.path("cats.jsonl"), (row(1, "whole.png") + "\n" + &row(2, "half.png")).as_bytes())
        .unwrap();
    let error = format!("{:#}", bench.run("cats", "items", &table).unwrap_err());
    assert!(error.contains("cats.jsonl:2: the image `half.png`: cannot be decoded"), "{error}");
}

#[test]
fn a_wrong_teacher_is_caught_by_the_filter() {
    let mut bench = Bench::new();
    bench.run("items", "items", &chart(100)).unwrap();
    let table = |keep| json!({ "items": "items", "teacher": { "api": "oracle", "wrong": 0.2 }, "keep": keep });
    bench.run("kept", "distill", &table("answer-matches")).unwrap();
    bench.run("all", "distill", &table("all")).unwrap();
    let (kept, all): (Vec<Item>, Vec<Item>) = (bench.read("kept/items.jsonl"), bench.read("all/items.jsonl"));
    let rejects: Vec<JudgedItem> = bench.read("kept/rejects.jsonl");
    assert_eq!((all.len(), kept.len() + rejects.len()), (200, 200));
    // 40 expected, standard deviation 6.
    assert!((12..68).contains(&rejects.len()), "{}", rejects.len());
    assert!(kept.iter().all(|item| item.rationale_answer.is_none()));
    assert_eq!(all.iter().filter(|item| item.rationale_answer.is_some()).count(), rejects.len());
}

#[test]
fn a_mix_asks_items_with_the_templates_of_its_sources() {
    let mut bench = Bench::new();
    bench.run("items", "items", &chart(50)).unwrap();
    let lessons = json!({ "synthetic": { "datasets": ["caption", "text"], "split": "train", "count": 30 } });
    bench.run("lessons", "items", &lessons).unwrap();
    bench.run("kept", "distill", &json!({ "items": "items", "teacher": { "api": "oracle" } })).unwrap();
    bench.run("tokenizer", "tokenizer", &json!({ "train_on": ["items", "lessons"], "vocab": 400 })).unwrap();
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
    bench.run("mix", "mix", &mix).unwrap();
    let rows: Vec<Row> = bench.read("mix/rows.jsonl");
    let of = |source: &str| rows.iter().filter(|row| row.source == source).collect::<Vec<_>>();
    assert_eq!((of("lessons").len(), of("cot").len(), of("direct").len()), (20, 30, 10));
    assert!(
        of("cot").iter().all(|row| row.prompt.contains("\nExplain first") && row.response.contains("\n### Answer: "))
    );
    assert!(of("direct").iter().all(|row| row.prompt.contains("\nAnswer ") && !row.response.contains('#')));
    assert!(of("lessons").iter().all(|row| row.prompt == "Describe the image." && row.dataset == "caption"));
    assert!(rows.iter().all(|row| row.prompt.starts_with(row.question.as_ref().unwrap())));
    let facts: Value = files::read_json(&bench.path("mix/mix.json")).unwrap();
    assert_eq!(facts["rows"], json!(60));
    assert_eq!(facts["sources"]["cot"]["epochs"], json!(0.3));
    assert!(facts["tokens"].as_u64().unwrap() > 60 * 5);
}

#[test]
fn a_mix_takes_so_many_rows_of_each_data_set_and_rows_without_images() {
    let mut bench = Bench::new();
    bench.run("items", "items", &chart(20)).unwrap();
    let text = json!({ "synthetic": { "datasets": ["text"], "split": "train", "count": 15 } });
    bench.run("text", "items", &text).unwrap();
    let mut ids = |name: &str, rows: usize| -> BTreeSet<String> {
        let format = json!({ "from": "items", "as": "direct", "per_dataset": rows });
        let none = json!({ "from": "items", "as": "direct", "weight": 0 });
        let text = json!({ "from": "text", "weight": 1.0 });
        let table = json!({ "rows": 2 * rows + 12, "sources": { "format": format, "none": none, "text": text } });
        bench.run(name, "mix", &table).unwrap();
        let rows: Vec<Row> = bench.read(&format!("{name}/rows.jsonl"));
        let count = |dataset: &str| rows.iter().filter(|row| row.dataset == dataset).count();
        assert_eq!((count("chart"), count("pick"), count("text")), ((rows.len() - 12) / 2, (rows.len() - 12) / 2, 12));
        assert!(rows.iter().all(|row| row.source != "none" && row.image.is_none() == (row.dataset == "text")));
        rows.iter().map(|row| format!("{}/{}", row.dataset, row.id)).collect()
    };
    let (few, many) = (ids("few", 3), ids("many", 8));
    assert!(few.is_subset(&many) && many.len() == 28);
    let table = json!({ "sources": { "a": { "from": "items", "per_dataset": 21 } } });
    let error = bench.run("wrong", "mix", &table).unwrap_err().to_string();
    assert_eq!(
        error,
        "source `a`, data set `chart`, is to give 21 rows and has 20: `replace = true` lets rows come again"
    );
}

#[test]
fn judged_rollouts_become_pairs_and_right_rows() {
    let mut bench = Bench::new();
    bench.run("items", "items", &chart(10)).unwrap();
    let rollouts: Vec<Rollout> = bench
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
            Rollout { item, prompt: "asked".into(), samples }
        })
        .collect();
    jsonl::write(&bench.path("sampled/rollouts.jsonl"), &rollouts).unwrap();
    let summary = bench.run("judged", "judge", &json!({ "rollouts": "sampled" })).unwrap();
    assert_eq!(
        ["accuracy", "compliance", "readable"].map(|key| summary.0[key].as_f64()),
        [Some(20.0 / 80.0), Some(60.0 / 80.0), Some(40.0 / 80.0)]
    );
    bench.run("pairs", "pairs", &json!({ "judged": "judged", "dev": 0.0, "truncate": "none" })).unwrap();
    let pairs: Vec<Pair> = bench.read("pairs/pairs.jsonl");
    assert_eq!(pairs.len(), 20);
    assert!(
        pairs
            .iter()
            .all(|pair| pair.chosen.starts_with("so.") && pair.rejected.starts_with("thus.") && !pair.chosen_truncated)
    );
    let right = json!({ "sources": { "own": { "from": "judged", "as": "correct", "per_question": 3 } } });
    bench.run("right", "mix", &right).unwrap();
    let rows: Vec<Row> = bench.read("right/rows.jsonl");
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().all(|row| row.prompt == "asked" && row.response.starts_with("so.")));
    let error = bench.run("none", "pairs", &json!({ "judged": "judged", "band": [0.9, 1.0] })).unwrap_err().to_string();
    assert!(error.starts_with("no pair: of 20 questions 20 are too hard"), "{error}");
    let wrong = json!({ "sources": { "own": { "from": "judged", "as": "cot" } } });
    let error = format!("{:#}", bench.run("wrong", "mix", &wrong).unwrap_err());
    assert_eq!(
        error,
        "source `own`: `from` gives judged rollouts, which cannot be taken as `cot`: they can be taken as `correct`"
    );
}

/// An endpoint that answers so many requests with the given text, then closes its door and says what it was asked.
pub(super) fn endpoint(count: usize, text: &str) -> (String, std::thread::JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = json!({ "choices": [{ "message": { "content": text }, "finish_reason": "stop" }] }).to_string();
    let thread = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
            let mut question = vec![0; length.unwrap()];
            reader.read_exact(&mut question).unwrap();
            asked.push(serde_json::from_slice(&question).unwrap());
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .unwrap();
        }
        asked
    });
    (url, thread)
}

#[test]
fn an_interrupted_distillation_goes_on_where_it_stopped() {
    let mut bench = Bench::new();
    bench
        .run("items", "items", &json!({ "synthetic": { "datasets": ["count"], "split": "train", "count": 8 } }))
        .unwrap();
    let table = |url: &str| {
        let teacher = json!({ "api": "openai", "url": url, "model": "m", "concurrency": 2, "retries": 0 });
        json!({ "items": "items", "teacher": teacher, "keep": "all" })
    };
    let (url, thread) = endpoint(5, "Seen.\n### Answer: 2");
    let error = format!("{:#}", bench.run("kept", "distill", &table(&url)).unwrap_err());
    assert!(error.contains("gave up on the endpoint after 1 try: cannot reach the endpoint at"), "{error}");
    thread.join().unwrap();
    // A line that was torn is asked for again.
    let saved = bench.path("kept-scratch/replies.jsonl");
    let text = files::read_text(&saved).unwrap();
    assert_eq!(text.lines().count(), 5);
    files::write_atomic(&saved, &text.as_bytes()[..text.len() - 9]).unwrap();
    let (url, thread) = endpoint(4, "Seen.\n### Answer: 2");
    bench.run("kept", "distill", &table(&url)).unwrap();
    thread.join().unwrap();
    let kept: Vec<Item> = bench.read("kept/items.jsonl");
    assert_eq!(kept.len(), 8);
    assert!(kept.iter().all(|item| item.rationale.as_deref() == Some("Seen.")));
}

/// The bench's outside paths are relative to its folder.
#[test]
fn an_imported_tokenizer_is_written_as_it_came() {
    let mut bench = Bench::new();
    bench.run("items", "items", &chart(5)).unwrap();
    bench.run("trained", "tokenizer", &json!({ "train_on": ["items"], "algorithm": "word", "vocab": 100 })).unwrap();
    bench.run("imported", "tokenizer", &json!({ "path": "trained/tokenizer/tokenizer.json" })).unwrap();
    let text = |name: &str| files::read_text(&Path::new(&bench.path(name)).join("tokenizer/tokenizer.json")).unwrap();
    assert_eq!(text("trained"), text("imported"));
}
