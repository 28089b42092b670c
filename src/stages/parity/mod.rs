//! Every family of models against transformers, on the checkpoints of `tests/golden/hub` or, for `just parity`, of
//! `ABLATE_PARITY`: one line of a table per checkpoint, and all that is wrong at the end.

#![expect(clippy::print_stdout, reason = "the table is for people")]

mod answers;
mod disk;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::model::Model;
use ablate_core::base::files;
use ablate_core::base::progress::Silent;
use ablate_data::conversation::parity::{Tally, Words};
use ablate_data::pixels::Images;
use ablate_data::tokens::TokenRow;
use ablate_nn::infer;
use ablate_nn::engine::Engine;
use ablate_nn::learner::Learner;
use ablate_nn::parity::{Case, folders, off_by};
use ablate_nn::{Device, PixelSource, Resources};

const RESOURCES: Resources = Resources { device: Device::Cpu, threads: 1, progress: &Silent };

/// Largest relative error of logits, features and log-probabilities, all in `f32`.
const NEAR: f64 = 1e-4;
/// Of gradients, between two ways to compute them.
const GRADIENTS_NEAR: f64 = 1e-3;
/// Largest difference of a pixel value.
const PIXELS_NEAR: f64 = 1e-6;

/// A checkpoint with its pictures, as the stages have it.
struct Subject {
    case: Case,
    words: Words,
    model: Model,
}

impl Subject {
    fn open(folder: &Path) -> Result<Subject> {
        let case = Case::read(folder)?;
        let beside = folder.parent().context("a case lies beside the images")?.join("images");
        let paths = files::paths_if_there(&beside)?;
        let keys: Vec<String> = paths.iter().map(|path| files::name_of(&path.with_extension(""))).collect();
        let images: Vec<(&str, &Path)> = keys.iter().map(String::as_str).zip(paths.iter().map(|p| &**p)).collect();
        let model = Model::open(folder, |processor| Images::of_files(&images, true, processor))?;
        let (vision, pictures) = (case.model().vision.clone(), model.pictures.clone());
        let count = move |key: &str| vision.as_ref().context("no eyes")?.image_tokens(pictures.frame(key)?);
        Ok(Subject { words: Words::read(folder, Arc::new(count))?, case, model })
    }

    fn images(&self) -> &dyn PixelSource {
        &*self.model.pictures
    }
}

/// A line of the table, and what is wrong with it.
#[derive(Default)]
struct Line {
    cells: Vec<String>,
    wrong: Vec<String>,
}

const TITLES: [&str; 11] = [
    "logits",
    "stock",
    "gradients",
    "features",
    "pixels",
    "strings",
    "chats",
    "greedy",
    "margin",
    "log-probs",
    "tensors",
];

impl Line {
    fn number(&mut self, what: &str, found: Result<f64>, allowed: f64) {
        match found {
            // What is not a number is not near.
            Ok(value) if value <= allowed => self.cells.push(format!("{value:.1e}")),
            Ok(value) => {
                self.cells.push(format!("{value:.1e}!"));
                self.wrong.push(format!("{what}: off by {value:.1e}, and {allowed:.0e} is allowed"));
            }
            Err(error) => self.error(what, &error),
        }
    }

    fn tally(&mut self, what: &str, found: Result<Tally>) {
        match found {
            Ok(Tally { right, wrong }) => {
                let mark = if wrong.is_empty() { "" } else { "!" };
                self.cells.push(format!("{right}/{}{mark}", right + wrong.len()));
                self.wrong.extend(wrong.into_iter().take(3).map(|told| format!("{what}: {told}")));
            }
            Err(error) => self.error(what, &error),
        }
    }

    fn error(&mut self, what: &str, error: &anyhow::Error) {
        self.cells.push("error!".to_string());
        self.wrong.push(format!("{what}: {error:#}"));
    }
}

/// The largest of the numbers for all images; none for a model without eyes.
fn over_images(subject: &Subject, of: impl Fn(&str) -> Result<f64>) -> Result<Option<f64>> {
    let mut largest = None;
    for name in subject.case.expected.images.keys() {
        largest = Some(of(name)?.max(largest.unwrap_or(0.0)));
    }
    Ok(largest)
}

/// Exactly as many values, and the largest difference.
fn pixels(subject: &Subject, name: &str) -> Result<f64> {
    let (ours, theirs) = (subject.images().picture(name)?, subject.case.picture(name)?);
    if ours.frame != theirs.frame || ours.values.len() != theirs.values.len() {
        return Ok(f64::INFINITY);
    }
    let differences = ours.values.iter().zip(&*theirs.values).map(|(one, other)| f64::from((one - other).abs()));
    Ok(differences.fold(0.0, f64::max))
}

/// The span's log-probabilities of every sequence of at most one image.
fn log_probs(Subject { case, model, .. }: &Subject) -> Result<f64> {
    let mut rows = Vec::new();
    let mut wanted = Vec::new();
    for text in case.expected.sequences.values().filter(|text| text.images.len() < 2) {
        let loss = (0..text.ids.len()).map(|i| (text.span.0..text.span.1).contains(&i)).collect();
        rows.push(TokenRow { tokens: text.ids.clone(), loss, image: text.image().map(str::to_string) });
        wanted.extend_from_slice(&text.log_probs);
    }
    let ours = infer::log_probs(&model.checkpoint, &rows, &*model.pictures, &RESOURCES)?;
    Ok(off_by(&ours.concat(), &wanted))
}

/// Prompts as transformers' processor has them, chats as its template has them, and those of a turn as we ask it.
fn chats(Subject { words, model, .. }: &Subject) -> Result<Tally> {
    let (mut tally, prompts) = (words.chats(), words.prompts());
    tally.right += prompts.right;
    tally.wrong.extend(prompts.wrong);
    for (text, image, ids) in words.questions() {
        let prompt = model.chat.prompt("a question", text, image)?;
        if prompt.tokens == ids {
            tally.right += 1;
        } else {
            tally.wrong.push(format!("the prompt {:?} is not {ids:?}", prompt.tokens));
        }
    }
    Ok(tally)
}

fn line(subject: &Subject) -> Line {
    let Subject { case, words, model } = subject;
    let mut line = Line::default();
    let engine = Engine::new(&Learner::frozen(&model.checkpoint), &RESOURCES);
    line.number("logits", engine.and_then(|engine| case.logits(&engine, subject.images())), NEAR);
    line.number("logits of the stock operations", case.stock_logits(), NEAR);
    let gradients = case.gradients();
    let whose = gradients.as_ref().map_or(String::new(), |(_, whose)| format!("gradients of `{whose}`"));
    line.number(&whose, gradients.map(|(largest, _)| largest), GRADIENTS_NEAR);
    for (what, found, near) in [
        ("features", over_images(subject, |name| case.features(name, subject.images())), NEAR),
        ("pixels", over_images(subject, |name| pixels(subject, name)), PIXELS_NEAR),
    ] {
        match found.transpose() {
            Some(found) => line.number(what, found, near),
            None => line.cells.push("-".to_string()),
        }
    }
    line.tally("strings", words.strings(&case.folder));
    line.tally("chats", chats(subject));
    line.tally("greedy", answers::greedy(subject));
    let margins = case.expected.sequences.values().filter_map(|text| text.margin);
    line.cells.push(format!("{:.1e}", margins.fold(f64::INFINITY, f64::min)));
    line.number("log-probabilities", log_probs(subject), NEAR);
    line.tally("tensors", disk::round_trip(case));
    line
}

#[test]
fn every_family_computes_what_transformers_does() {
    let mut wrong = Vec::new();
    let mut table = format!("{:22}", "case");
    for title in TITLES {
        write!(table, "{title:>10}").unwrap();
    }
    println!("{table}");
    for (name, folder) in folders() {
        let line = match Subject::open(&folder) {
            Ok(subject) => line(&subject),
            Err(error) => Line { cells: vec!["error!".to_string()], wrong: vec![format!("{error:#}")] },
        };
        let cells: Vec<String> = line.cells.iter().map(|cell| format!("{cell:>10}")).collect();
        println!("{name:22}{}", cells.concat());
        wrong.extend(line.wrong.into_iter().map(|told| format!("{name}: {told}")));
    }
    assert!(wrong.is_empty(), "{} of the comparisons failed:\n{}", wrong.len(), wrong.join("\n"));
}
