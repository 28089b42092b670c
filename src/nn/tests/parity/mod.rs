//! Every supported family of models against transformers, on the checkpoints of `tests/golden/hub` or, for `just parity`,
//! of `ABLATE_PARITY`. Prints a table with one row per checkpoint.

#![expect(clippy::print_stdout, reason = "the table is for people")]

mod case;
#[cfg(feature = "cuda")]
mod gpu;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use dfdx::prelude::Cpu;

use crate::hub::WeightFiles;
use crate::infer::{GenerateConfig, Generated, generate, log_probs, reference};
use crate::session::Session;
use crate::tests::support::{RESOURCES, parity};
use crate::trainable_model::TrainableModel;
use crate::{Checkpoint, PixelSource, Resources};
use ablate_core::base::{Seed, files};
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::conversation::Conversation;
use ablate_data::image_keys::ImageKeys;
use ablate_data::images::{ImageLoader, ImageProcessor};
use ablate_data::records::FinishReason;
use ablate_data::tokens::{ChatEncoder, TokenPrompt, TokenRow};
use case::{Case, Text, relative_error};

/// Largest relative error of logits, features and log-probabilities, all in `f32`.
const TOLERANCE: f64 = 1e-4;
/// Largest relative difference of gradients between two implementations.
const GRADIENT_TOLERANCE: f64 = 1e-3;

/// Checkpoints whose greedy tokens are also generated without a cache, which takes long.
const WITHOUT_CACHE: [&str; 4] = ["llava-next", "llava-siglip", "qwen3", "qwen3-vl"];

type Responses = Vec<Vec<Generated>>;

/// A case with its images from our own image processor, and its chat template.
pub(crate) struct Subject {
    case: Case,
    images: Arc<ImageLoader>,
    chat: ChatEncoder,
}

impl Subject {
    pub(crate) fn open(folder: &Path) -> Result<Subject> {
        let case = Case::read(folder)?;
        let paths = files::list_paths(&folder.with_file_name("images"))?;
        let keys: Vec<String> = paths.iter().map(|path| files::name_of(&path.with_extension(""))).collect();
        let paths: Vec<(&str, &Path)> = keys.iter().map(String::as_str).zip(paths.iter().map(|path| &**path)).collect();
        let vision = case.architecture().vision.clone();
        let square = ImageProcessor::Square { size: 1 };
        let processor = if vision.is_some() { ImageProcessor::read(folder)? } else { square };
        let images = Arc::new(ImageLoader::from_files(&paths, true, processor)?);
        let source = images.clone();
        let texts = move |key: &str| {
            let shape = source.shape(key)?;
            source.processor().text(shape, vision.as_ref().context("no vision tower")?.image_tokens(shape)?)
        };
        let max_tokens = case.architecture().decoder.max_positions;
        let chat = ChatEncoder::from_conversation(Conversation::read(folder)?, Arc::new(texts), max_tokens);
        Ok(Subject { case, images, chat })
    }

    /// The largest of a number over all images; none for a model without a vision tower.
    fn max_over_images(&self, number: impl Fn(&str) -> Result<f64>) -> Result<Option<f64>> {
        let mut largest = None;
        for name in self.case.expected.images.keys() {
            largest = Some(number(name)?.max(largest.unwrap_or(0.0)));
        }
        Ok(largest)
    }

    /// How many image tokens stand for each image.
    fn image_tokens(&self) -> Result<Tally> {
        let mut tally = Tally::default();
        let Some(vision) = &self.case.architecture().vision else { return Ok(tally) };
        for (name, image) in &self.case.expected.images {
            let count = vision.image_tokens(self.images.shape(name)?)?;
            tally.add(count == image.tokens, || format!("`{name}`: {count}, expected {}", image.tokens));
        }
        Ok(tally)
    }

    /// Log-probabilities of the span of every sequence.
    fn log_probs(&self) -> Result<f64> {
        let (mut rows, mut expected) = (Vec::new(), Vec::new());
        for text in self.case.expected.sequences.values() {
            let loss = (0..text.ids.len()).map(|i| (text.span.0..text.span.1).contains(&i)).collect();
            rows.push(TokenRow { tokens: text.ids.clone(), loss, images: text.images.clone() });
            expected.extend_from_slice(&text.log_probs);
        }
        let ours = log_probs(&self.case.checkpoint, &rows, &*self.images, &RESOURCES)?;
        Ok(relative_error(&ours.concat(), &expected))
    }

    fn config(&self, temperature: f64, samples: usize) -> GenerateConfig {
        GenerateConfig {
            temperature,
            top_k: 0,
            top_p: 1.0,
            max_tokens: 64,
            samples,
            stop: self.chat.stop_tokens().to_vec(),
            repetition_penalty: 1.0,
            batch: 16,
        }
    }

    fn generate(&self, prompts: &[TokenPrompt], config: &GenerateConfig, resources: &Resources) -> Result<Responses> {
        let mut found = BTreeMap::new();
        let model = &self.case.checkpoint;
        let mut done = |index, responses| {
            found.insert(index, responses);
            Ok(())
        };
        generate(model, prompts, &*self.images, config, Seed(5), &|_, _, _| false, resources, &mut done)?;
        Ok(found.into_values().collect())
    }

    /// The prompts whose greedy tokens are stored.
    fn greedy_prompts(&self) -> Vec<TokenPrompt> {
        let texts = self.case.expected.sequences.iter().filter(|(_, text)| text.greedy.is_some());
        let prompt = |(name, text): (&String, &Text)| TokenPrompt {
            key: name.clone(),
            tokens: text.ids.clone(),
            images: text.images.clone(),
        };
        texts.map(prompt).collect()
    }

    /// Greedy tokens as [`generate`] computes them with these resources.
    pub(crate) fn greedy_on(&self, resources: &Resources) -> Result<Tally> {
        let mut tally = Tally::default();
        let prompts = self.greedy_prompts();
        let path = format!("on `{}`", resources.device);
        self.check_greedy(&path, &self.generate(&prompts, &self.config(0.0, 1), resources)?, &mut tally);
        Ok(tally)
    }

    /// Greedy tokens, with a key/value cache and, for some checkpoints, without.
    fn greedy(&self) -> Result<Tally> {
        let mut tally = self.greedy_on(&RESOURCES)?;
        if WITHOUT_CACHE.iter().any(|name| self.case.folder.ends_with(name)) {
            let (model, prompts) = (&self.case.checkpoint, self.greedy_prompts());
            let found = reference::responses(model, &prompts, &*self.images, &self.config(0.0, 1), &RESOURCES)?;
            self.check_greedy("without a cache", &found, &mut tally);
        }
        Ok(tally)
    }

    /// Compares the responses to [`Subject::greedy_prompts`] with the stored ones.
    fn check_greedy(&self, path: &str, responses: &Responses, tally: &mut Tally) {
        for (prompt, response) in self.greedy_prompts().iter().zip(responses) {
            let name = &prompt.key;
            let Generated { tokens, finish, .. } = &response[0];
            let greedy = &self.case.expected.sequences[name].greedy;
            let (mut expected, mut end) = (greedy.clone().unwrap_or_default(), FinishReason::Length);
            if expected.last().is_some_and(|last| self.chat.stop_tokens().contains(last)) {
                expected.pop();
                end = FinishReason::Stop;
            }
            tally.add((tokens, *finish) == (&expected, end), || {
                format!("`{name}` {path}: {tokens:?}, {finish:?}, expected {expected:?}, {end:?}")
            });
        }
    }
}

/// Writes a checkpoint, reads it again and compares every array bit by bit, names and number types too.
fn round_trip(case: &Case) -> Result<Tally> {
    let folder = tempfile::tempdir()?;
    case.checkpoint.write(folder.path())?;
    let (source, written) = (WeightFiles::open(&case.folder)?, WeightFiles::open(folder.path())?);
    let mut tally = Tally::default();
    for name in source.names() {
        let same = || -> Result<bool> {
            let shape = source.shape(name)?;
            let bits = |file: &WeightFiles| -> Result<Vec<u32>> {
                Ok(file.array(name, shape)?.into_iter().map(f32::to_bits).collect())
            };
            Ok(source.dtype(name)? == written.dtype(name)? && bits(&source)? == bits(&written)?)
        };
        let same = same();
        tally.add(matches!(same, Ok(true)), || match same {
            Ok(_) => format!("`{name}` has changed"),
            Err(error) => format!("`{name}`: {error:#}"),
        });
    }
    tally.wrong.extend(written.names().filter(|name| !source.has(name)).map(|name| format!("`{name}` is new")));
    if Checkpoint::read(folder.path())? != case.checkpoint {
        tally.wrong.push("the written checkpoint reads as another one".to_string());
    }
    Ok(tally)
}

/// How many comparisons succeeded, and what failed.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) right: usize,
    pub(crate) wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, right: bool, message: impl FnOnce() -> String) {
        if right {
            self.right += 1;
        } else {
            self.wrong.push(message());
        }
    }
}

const COLUMNS: [&str; 9] =
    ["logits", "dfdx", "gradients", "features", "im.tokens", "greedy", "margin", "log-probs", "arrays"];

/// A row of the table, and what failed.
#[derive(Default)]
struct TableRow {
    cells: Vec<String>,
    wrong: Vec<String>,
}

impl TableRow {
    fn of(subject: &Subject) -> TableRow {
        let Subject { case, images, .. } = subject;
        let mut row = TableRow::default();
        let session = Session::new(&TrainableModel::frozen(&case.checkpoint), &RESOURCES);
        row.number("logits", session.and_then(|session| case.logits(&session, &**images)), TOLERANCE);
        row.number("logits of dfdx", case.dfdx_logits(Cpu::default()), TOLERANCE);
        let gradients = case.gradients();
        let name = gradients.as_ref().map_or(String::new(), |(_, name)| format!("gradients of `{name}`"));
        row.number(&name, gradients.map(|(largest, _)| largest), GRADIENT_TOLERANCE);
        match subject.max_over_images(|name| case.features(name, &**images)).transpose() {
            Some(features) => row.number("features", features, TOLERANCE),
            None => row.cells.push("-".to_string()),
        }
        row.tally("image tokens", subject.image_tokens());
        row.tally("greedy", subject.greedy());
        let margins = case.expected.sequences.values().filter_map(|text| text.margin);
        row.cells.push(format!("{:.1e}", margins.fold(f64::INFINITY, f64::min)));
        row.number("log-probabilities", subject.log_probs(), TOLERANCE);
        row.tally("arrays", round_trip(case));
        row
    }

    fn number(&mut self, what: &str, found: Result<f64>, allowed: f64) {
        match found {
            // NaN fails this comparison.
            Ok(value) if value <= allowed => self.cells.push(format!("{value:.1e}")),
            Ok(value) => {
                self.cells.push(format!("{value:.1e}!"));
                self.wrong.push(format!("{what}: off by {value:.1e}, allowed is {allowed:.0e}"));
            }
            Err(error) => self.error(what, &error),
        }
    }

    fn tally(&mut self, what: &str, found: Result<Tally>) {
        match found {
            Ok(Tally { right: 0, wrong }) if wrong.is_empty() => self.cells.push("-".to_string()),
            Ok(Tally { right, wrong }) => {
                let mark = if wrong.is_empty() { "" } else { "!" };
                self.cells.push(format!("{right}/{}{mark}", right + wrong.len()));
                self.wrong.extend(wrong.into_iter().take(3).map(|message| format!("{what}: {message}")));
            }
            Err(error) => self.error(what, &error),
        }
    }

    fn error(&mut self, what: &str, error: &anyhow::Error) {
        self.cells.push("error!".to_string());
        self.wrong.push(format!("{what}: {error:#}"));
    }
}

#[test]
fn every_family_matches_transformers() {
    let mut folders: Vec<(String, PathBuf)> =
        files::entries(&parity("hub")).unwrap().into_iter().map(|(name, path, _)| (name, path)).collect();
    folders.retain(|(_, folder)| folder.join("config.json").exists());
    folders.sort();
    assert!(folders.len() > 10, "only {} checkpoints in `{}`", folders.len(), parity("hub").display());
    let mut wrong = Vec::new();
    let mut titles = format!("{:22}", "case");
    for column in COLUMNS {
        write!(titles, "{column:>10}").unwrap();
    }
    println!("{titles}");
    for (name, folder) in folders {
        let row = match Subject::open(&folder) {
            Ok(subject) => TableRow::of(&subject),
            Err(error) => TableRow { cells: vec!["error!".to_string()], wrong: vec![format!("{error:#}")] },
        };
        let cells: Vec<String> = row.cells.iter().map(|cell| format!("{cell:>10}")).collect();
        println!("{name:22}{}", cells.concat());
        wrong.extend(row.wrong.into_iter().map(|message| format!("{name}: {message}")));
    }
    assert!(wrong.is_empty(), "{} comparisons failed:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn samples_do_not_depend_on_other_prompts() {
    for name in ["llava-next", "llava", "qwen2", "qwen3-vl"] {
        let subject = Subject::open(&parity("hub").join(name)).unwrap();
        let images = subject.case.expected.images.keys().map(|name| ImageKeys::Leading(name.clone()));
        let images: Vec<ImageKeys> = images.chain([ImageKeys::None, ImageKeys::None]).collect();
        let prompt = |(index, images): (usize, ImageKeys)| {
            let text = "What is it? ".repeat(index + 1);
            subject.chat.encode_prompt(&format!("{name} {index}"), &ChatPrompt::new(&images, &text)).unwrap()
        };
        let prompts: Vec<TokenPrompt> = images.into_iter().enumerate().map(prompt).collect();
        let config = subject.config(1.0, 2);
        let together = subject.generate(&prompts, &config, &RESOURCES).unwrap();
        let two = Resources { threads: 2, ..RESOURCES };
        assert_eq!(subject.generate(&prompts, &config, &two).unwrap(), together, "{name}");
        for (prompt, responses) in prompts.iter().zip(&together) {
            let alone = subject.generate(std::slice::from_ref(prompt), &config, &RESOURCES).unwrap();
            assert_eq!(&alone[0], responses, "{name}: `{}`", prompt.key);
            assert_ne!(responses[0], responses[1], "{name}: `{}`", prompt.key);
        }
    }
}
