//! Fixtures of these tests: runners of stages, a small text data set, an endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::Result;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::stages::KINDS;
use crate::stages::kinds::{base, sft};
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Hash, Seed, files};
use ablate_core::stage::{
    ArtifactKind, EstimateContext, InputPath, InputSource, Kind, Manifest, ManifestEntry, RequestEstimate, Stage,
    StageContext, Summary, find_kind,
};
use ablate_data::image_keys::ImageKeys;
use ablate_data::jsonl;
use ablate_data::records::{AnswerType, Item, Pair, Row};
use ablate_data::tokenizer::{FILE, Tokenizer};

/// The stage that a table of a kind describes.
pub(super) fn parse(kind: &str, table: &Value) -> Box<dyn Stage> {
    (find_kind(KINDS, kind).unwrap().parse)(table).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The mistakes in a table, as `key: message`.
pub(super) fn mistakes(kind: &str, table: &Value) -> Vec<String> {
    let errors = (find_kind(KINDS, kind).unwrap().parse)(table).map(|_| ()).unwrap_err();
    errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message)).collect()
}

/// The manifest of a table, without inputs and seed.
pub(super) fn manifest(kind: &str, table: &Value) -> Manifest {
    let stage = parse(kind, table);
    let kind = find_kind(KINDS, kind).unwrap();
    let mut manifest = Manifest::new(kind.name, kind.version);
    stage.identify(&mut manifest);
    manifest
}

/// A line with kind, fingerprint and keys of the manifest of a table.
pub(super) fn manifest_line(kind: &str, table: &Value) -> String {
    let manifest = manifest(kind, table);
    let keys: Vec<&str> = manifest.entries.iter().map(ManifestEntry::key).collect();
    format!("{kind} {} {}\n", manifest.fingerprint().short(), keys.join(" "))
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    jsonl::read(path).unwrap()
}

/// A table of `items` with generated charts.
pub(super) fn chart(count: usize) -> Value {
    json!({ "synthetic": { "datasets": ["chart", "pick"], "split": "train", "count": count } })
}

fn context(
    inputs: BTreeMap<String, InputPath>,
    images: BTreeMap<Hash, PathBuf>,
    folder: &Path,
    name: &str,
) -> StageContext<'static> {
    StageContext {
        inputs,
        images,
        bases: BTreeMap::new(),
        out: folder.join(name),
        scratch: folder.join(format!("{name}-scratch")),
        seed: Seed(1),
        threads: 1,
        device: "cpu".into(),
        variables: BTreeMap::new(),
        replies: folder.join("replies"),
        retry: BTreeSet::new(),
        detach: false,
        progress: &NoProgress,
    }
}

/// Runs stages one after another. A reference in a table is the folder of an earlier stage, a path is relative to the
/// runner's folder.
pub(super) struct Runner {
    folder: tempfile::TempDir,
    /// The packs of the stages so far.
    pub(super) images: BTreeMap<Hash, PathBuf>,
    /// The folders that were inputs so far.
    folders: BTreeMap<Hash, PathBuf>,
    /// Kinds of bad replies that stages request again.
    pub(super) retry: BTreeSet<String>,
}

impl Runner {
    pub(super) fn new() -> Runner {
        let folder = tempfile::tempdir().unwrap();
        Runner { folder, images: BTreeMap::new(), folders: BTreeMap::new(), retry: BTreeSet::new() }
    }

    /// A runner with items `0`, `1`, ... in the folder `items`. The answer to each is 2; the questions
    /// differ.
    pub(super) fn with_items(count: usize) -> Runner {
        let runner = Runner::new();
        let item = |number: usize| {
            let item = json!({
                "id": number.to_string(), "dataset": "d", "question": format!("{number} + 2 - {number}?"), "answer_type": "number", "answers": ["2"],
            });
            format!("{item}\n")
        };
        runner.write("items/items.jsonl", &(0..count).map(item).collect::<String>());
        runner
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        files::write_atomic(&self.path(path), text.as_bytes()).unwrap();
    }

    pub(super) fn read<T: DeserializeOwned>(&self, path: &str) -> Vec<T> {
        read(&self.path(path))
    }

    /// Runs a stage called `name`.
    pub(super) fn run(&mut self, name: &str, kind: &str, table: &Value) -> Result<Summary> {
        let stage = parse(kind, table);
        let inputs = self.inputs(&*stage)?;
        let folders = inputs.values().filter(|input| input.path.is_dir());
        self.folders.extend(folders.map(|input| (input.hash, input.path.clone())));
        let ctx = StageContext {
            bases: self.folders.clone(),
            threads: 2,
            retry: self.retry.clone(),
            ..context(inputs, self.images.clone(), self.folder.path(), name)
        };
        files::create_dir(&ctx.out)?;
        files::create_dir(&ctx.scratch)?;
        let summary = stage.run(&ctx)?;
        let pack = ctx.out.join("images.tar");
        if pack.is_file() {
            self.images.insert(Hash::of_file(&pack)?, pack);
        }
        Ok(summary)
    }

    /// The requests that a stage would send.
    pub(super) fn estimate(&self, kind: &str, table: &Value) -> Option<RequestEstimate> {
        let stage = parse(kind, table);
        let (images, replies) = (self.images.clone(), self.path("replies"));
        let inputs = self.inputs(&*stage).unwrap();
        stage.estimate_requests(&EstimateContext { inputs, images, seed: Seed(1), replies, threads: 2 }).unwrap()
    }

    fn inputs(&self, stage: &dyn Stage) -> Result<BTreeMap<String, InputPath>> {
        let mut inputs = BTreeMap::new();
        for input in stage.inputs() {
            let (path, kind) = match &input.source {
                InputSource::External { path, .. } => (self.path(path), None),
                InputSource::Stage { reference, accepts } => self.output(&reference.stage, accepts),
                InputSource::Environment { .. } => continue,
            };
            // The hash of a folder's path stands for that of its content.
            let folder = || Hash::of_bytes(path.as_os_str().as_encoded_bytes());
            let hash = if path.is_dir() { folder() } else { Hash::of_file(&path)? };
            inputs.insert(input.role, InputPath { path, hash, kind });
        }
        Ok(inputs)
    }

    /// The error of a stage that fails, with paths relative to the runner's folder.
    pub(super) fn fail(&mut self, name: &str, kind: &str, table: &Value) -> String {
        let error = format!("{:#}", self.run(name, kind, table).unwrap_err());
        error.replace(&format!("{}/", self.folder.path().display()), "")
    }

    /// The first output of an earlier stage that is accepted.
    fn output(&self, stage: &str, accepts: &[ArtifactKind]) -> (PathBuf, Option<ArtifactKind>) {
        let names = [
            (ArtifactKind::Items, "items.jsonl"),
            (ArtifactKind::Rows, "rows.jsonl"),
            (ArtifactKind::Rollouts, "rollouts.jsonl"),
            (ArtifactKind::Judged, "judged.jsonl"),
            (ArtifactKind::Tokenizer, "tokenizer"),
            (ArtifactKind::Checkpoint, "model"),
            (ArtifactKind::Pairs, "pairs.jsonl"),
        ];
        let found = accepts.iter().find_map(|kind| {
            let (_, name) = names.iter().find(|(known, _)| known == kind)?;
            let path = self.path(stage).join(name);
            path.exists().then_some((path, Some(*kind)))
        });
        found.unwrap_or_else(|| panic!("`{stage}` has no output of {accepts:?}"))
    }
}

/// A folder with rows, items, pairs and a tokenizer of a data set with four words: the answer repeats a word of the
/// question. Runs stages with given inputs.
pub(super) struct EchoData {
    folder: tempfile::TempDir,
}

impl EchoData {
    pub(super) fn new() -> EchoData {
        let data = EchoData { folder: tempfile::tempdir().unwrap() };
        let rows: Vec<Row> = (0..24)
            .map(|i| Row {
                id: i.to_string(),
                dataset: "echo".into(),
                source: String::new(),
                images: ImageKeys::None,
                system: None,
                history: Vec::new(),
                prompt: prompt(i),
                response: word(i).into(),
                question: Some(question(i)),
            })
            .collect();
        jsonl::write(&data.path("rows.jsonl"), &rows).unwrap();
        let items: Vec<Item> = (0..6).map(item).collect();
        jsonl::write(&data.path("items.jsonl"), &items).unwrap();
        let pairs: Vec<Pair> = (0..8)
            .map(|i| Pair {
                id: format!("{i}#0"),
                dataset: "echo".into(),
                images: ImageKeys::None,
                system: None,
                history: Vec::new(),
                prompt: prompt(i),
                chosen: word(i).into(),
                rejected: word(i + 1).into(),
                chosen_truncated: false,
                rejected_truncated: false,
                question: None,
            })
            .collect();
        jsonl::write(&data.path("pairs.jsonl"), &pairs).unwrap();
        let texts: Vec<String> = rows.iter().flat_map(|row| [row.prompt.clone(), row.response.clone()]).collect();
        let tokenizer = Tokenizer::train_word(texts.iter().map(String::as_str), 100).unwrap();
        tokenizer.write(&data.path("tokenizer").join(FILE)).unwrap();
        data
    }

    /// The same with a model `sft/model` that has learned the data set.
    pub(super) fn trained() -> EchoData {
        let data = EchoData::new();
        data.train();
        data
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a kind in the folder `name`, with inputs by role.
    pub(super) fn run(&self, name: &str, kind: &Kind, table: &Value, inputs: &[(&str, &str)]) -> Summary {
        self.try_run(name, kind, table, inputs).unwrap()
    }

    pub(super) fn try_run(&self, name: &str, kind: &Kind, table: &Value, inputs: &[(&str, &str)]) -> Result<Summary> {
        let stage = parse(kind.name, table);
        let roles: Vec<String> = stage.inputs().into_iter().map(|input| input.role).collect();
        assert_eq!(roles, inputs.iter().map(|(role, _)| *role).collect::<Vec<_>>());
        let input = |path: &str| InputPath { path: self.path(path), hash: Hash::of_bytes(b""), kind: None };
        let inputs = inputs.iter().map(|(role, path)| ((*role).to_string(), input(path))).collect();
        stage.run(&context(inputs, BTreeMap::new(), self.folder.path(), name))
    }

    /// Trains `sft/model` from `base/model`.
    pub(super) fn train(&self) -> Summary {
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

/// Items 0 to 3 belong to the data set `echo`, later ones to `more`.
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

/// An endpoint that sends one list of choices per request, then stops and returns the bodies of the requests.
pub(super) fn endpoint(completions: Vec<Value>) -> (String, JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = move |choices: Value| {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
        let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
        let mut request = vec![0; length.unwrap()];
        stream.read_exact(&mut request).unwrap();
        let body = json!({ "choices": choices }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
        serde_json::from_slice(&request).unwrap()
    };
    (url, std::thread::spawn(move || completions.into_iter().map(serve).collect()))
}

/// One choice of a chat completion.
pub(super) fn choice(content: &str, finish: &str) -> Value {
    json!({ "message": { "content": content }, "finish_reason": finish })
}
