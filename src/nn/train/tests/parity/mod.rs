//! Training against torch's AdamW, transformers' schedules, TRL's losses and PEFT's adapters, from equal weights and batches
//! (`tests/golden/parity/train.py`, or the folder of `ABLATE_PARITY`). Prints the errors.

#![expect(clippy::print_stdout, reason = "the table is for people")]

mod batches;
mod cut;
pub(super) mod full;
mod lora;
mod micro;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::support::{merged, relative_error};
use crate::hub::WeightFiles;
use crate::optimizer::OptimizerConfig;
use crate::tests::support::{RESOURCES, parity};
use crate::train::run::{Batches, Objective, Run, Trained};
use crate::train::state::TrainState;
use crate::train::tuning::exactly;
use crate::trainable_model::TrainableModel;
use crate::{Adapter, Checkpoint, ImageShape, ParamGroup, PixelSource, PixelValues, Resources};
use ablate_core::base::{Seed, files};
use ablate_data::records::CurvePoint;
use ablate_data::tokens::{TokenPair, TokenRow};

static STATE: TrainState = TrainState::none();

/// A model before training, its data, and the folder of its runs.
pub(super) struct Case {
    folder: PathBuf,
    pub(super) start: Checkpoint,
    pub(super) rows: Vec<TokenRow>,
    pub(super) pairs: Vec<TokenPair>,
    pub(super) images: Images,
}

/// Pixel values of transformers' image processor.
pub(super) struct Images(BTreeMap<String, PixelValues>);

impl PixelSource for Images {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        Ok(self.pixel_values(key)?.shape)
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        self.0.get(key).cloned().context("no such image")
    }
}

#[derive(Deserialize)]
struct Data {
    rows: Vec<Row>,
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    chosen: Row,
    rejected: Row,
}

#[derive(Deserialize)]
struct Row {
    ids: Vec<u32>,
    loss: Vec<u8>,
    image: Option<String>,
}

impl From<Row> for TokenRow {
    fn from(Row { ids, loss, image }: Row) -> TokenRow {
        let images = image.into_iter().collect();
        TokenRow { tokens: ids, loss: loss.into_iter().map(|loss| loss == 1).collect(), images }
    }
}

/// A run of PyTorch.
pub(super) struct Expected {
    pub(super) optimizer: OptimizerConfig,
    pub(super) batches: Vec<Vec<usize>>,
    losses: Vec<f64>,
    rates: Vec<f64>,
    norms: Vec<f64>,
    /// All fields of the file.
    pub(super) fields: Map<String, Value>,
    /// The final weights.
    pub(super) end: Checkpoint,
}

impl Batches for Vec<Vec<usize>> {
    fn steps(&self) -> usize {
        self.len()
    }

    fn starting_at(&self, step: usize) -> Box<dyn Iterator<Item = Vec<usize>> + '_> {
        Box::new(self[step..].iter().cloned())
    }
}

/// All models with runs.
pub(super) fn cases() -> Vec<Case> {
    ["llava", "qwen2"].into_iter().map(case).collect()
}

/// Models of families of which only fine-tuning, DPO and an adapter are compared.
pub(super) fn brief_cases() -> Vec<Case> {
    ["gemma3", "internvl", "smolvlm", "qwen2-vl", "qwen2.5-vl", "qwen3-vl"].into_iter().map(case).collect()
}

pub(super) fn case(name: &str) -> Case {
    let folder = parity("train").join(name);
    let start = Checkpoint::read(&folder).unwrap();
    let Data { rows, pairs } = files::read_json(&folder.join("data.json")).unwrap();
    let rows: Vec<TokenRow> = rows.into_iter().map(TokenRow::from).collect();
    let pair = |Pair { chosen, rejected }| TokenPair { chosen: TokenRow::from(chosen), rejected: rejected.into() };
    let pairs: Vec<TokenPair> = pairs.into_iter().map(pair).collect();
    let images = images(&folder, &start, &rows);
    Case { folder, start, rows, pairs, images }
}

fn images(folder: &Path, model: &Checkpoint, rows: &[TokenRow]) -> Images {
    if model.architecture.vision.is_none() {
        return Images(BTreeMap::new());
    }
    // A third of the rows has no image. The image `wide` is only in pairs.
    let mut names: Vec<&str> =
        rows.iter().flat_map(|row| row.images.iter().map(String::as_str)).chain(["wide"]).collect();
    names.sort_unstable();
    names.dedup();
    let file = WeightFiles::open_file(&folder.join("pixel_values.safetensors")).unwrap();
    let pixels = |name: &str| {
        let shape = file.shape(name).unwrap();
        let [_, height, width] = *shape else { panic!("{name}: {shape:?}") };
        let values = file.array(name, shape).unwrap().into();
        let tile = (height as u32, width as u32);
        (
            name.to_string(),
            PixelValues { shape: ImageShape { tile, ..ImageShape::single(tile.1, tile.0, tile.0) }, values },
        )
    };
    Images(names.into_iter().map(pixels).collect())
}

impl Case {
    pub(super) fn name(&self) -> String {
        self.folder.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// Reads a run.
    pub(super) fn expected(&self, run: &str) -> Expected {
        let fields: Map<String, Value> = files::read_json(&self.folder.join(format!("{run}.json"))).unwrap();
        Expected {
            optimizer: serde_json::from_value(fields["optimizer"].clone()).unwrap(),
            batches: serde_json::from_value(fields["batches"].clone()).unwrap(),
            losses: serde_json::from_value(fields["losses"].clone()).unwrap(),
            rates: serde_json::from_value(fields["rates"].clone()).unwrap(),
            norms: serde_json::from_value(fields["norms"].clone()).unwrap(),
            fields,
            end: self.with_weights(&self.folder.join(format!("{run}.safetensors"))),
        }
    }

    /// An adapter that PEFT saved.
    pub(super) fn adapter(&self, run: &str, when: &str) -> (PathBuf, Adapter) {
        let folder = self.folder.join(run).join(when);
        let adapter = Adapter::read(&folder, self.start.architecture.family).unwrap();
        (folder, adapter)
    }

    /// The model with the weights of another file.
    fn with_weights(&self, weights: &Path) -> Checkpoint {
        let folder = tempfile::tempdir().unwrap();
        for (from, to) in [(self.folder.join("config.json").as_path(), "config.json"), (weights, "model.safetensors")] {
            files::write_atomic(&folder.path().join(to), &files::read_bytes(from).unwrap()).unwrap();
        }
        Checkpoint::read(folder.path()).unwrap()
    }

    /// A training run with PyTorch's batches.
    pub(super) fn run<'a>(&'a self, expected: &'a Expected, micro_batch: Option<usize>) -> Run<'a> {
        Run {
            batches: &expected.batches,
            optimizer: &expected.optimizer,
            auto_batch: micro_batch.map_or(exactly(usize::MAX), exactly),
            recompute: false.into(),
            seed: Seed(0),
            images: &self.images,
            state: &STATE,
            resources: &RESOURCES,
        }
    }

    /// Trains as PyTorch did, and compares the losses before every step.
    fn follow(&self, run: &str, expected: &Expected, adapter: Option<Adapter>, objective: &impl Objective) -> Trained {
        self.follow_on(&RESOURCES, run, expected, adapter, objective)
    }

    /// As [`Case::follow`], on a given device.
    pub(super) fn follow_on(
        &self,
        resources: &Resources,
        run: &str,
        expected: &Expected,
        adapter: Option<Adapter>,
        objective: &impl Objective,
    ) -> Trained {
        let trainable_model = TrainableModel::new(self.start.clone(), adapter, |_| true);
        let run_here = Run { resources, ..self.run(expected, None) };
        let trained = run_here.train(trainable_model, objective).unwrap();
        // Up to 100 steps, the curve has a point per step.
        let found = |of: fn(&CurvePoint) -> f64| trained.curve.iter().map(of).collect::<Vec<f64>>();
        let losses = largest_error(&found(|point| point.loss), &expected.losses);
        let rates = largest_error(&found(|point| point.learning_rate), &expected.rates);
        let norms = largest_error(&found(|point| point.gradient_norm), &expected.norms);
        let Compared { weights, moves, worst } = self.compare(&merged(&trained), &expected.end);
        let (name, lowest) = (self.name(), expected.norms.iter().copied().fold(f64::INFINITY, f64::min));
        let highest = expected.norms.iter().copied().fold(0.0, f64::max);
        println!(
            "{name:<6} {run:<12} | loss {losses:.1e} | weights {weights:.1e} | moves {moves:.1e} ({worst}) | \
             norms {norms:.1e} ({lowest:.3} to {highest:.3})"
        );
        assert!(rates < 1e-12, "{name} {run}: learning rates are off by {rates:e}");
        assert!(losses < 1e-4 && norms < 1e-3, "{name} {run}: losses are off by {losses:e}, norms by {norms:e}");
        assert!(weights < 1e-3 && moves < 1e-2, "{name} {run}: {worst} is off by {weights:e}, its move by {moves:e}");
        trained
    }

    /// Compares the final weights, parameter by parameter. One without a gradient must be unchanged.
    fn compare(&self, ours: &Checkpoint, theirs: &Checkpoint) -> Compared {
        let mut compared = Compared { weights: 0.0, moves: 0.0, worst: String::new() };
        for (index, parameter) in self.start.list().into_iter().enumerate() {
            let [start, ours, theirs] = [&self.start, ours, theirs].map(|model| model.weights[index].as_slice());
            // A constant added to all keys does not change attention without positions, so the true gradient is zero. Adam
            // turns the rounding errors into steps of the usual size.
            if parameter.group == ParamGroup::Vision && parameter.name.ends_with("k_proj.bias") {
                continue;
            }
            if start == theirs {
                assert_eq!(start, ours, "`{}` has moved", parameter.name);
                continue;
            }
            assert!(parameter.used, "`{}` has moved in PyTorch", parameter.name);
            let moves = relative_error(&difference(ours, start), &difference(theirs, start));
            compared.weights = compared.weights.max(relative_error(ours, theirs));
            if moves > compared.moves {
                (compared.moves, compared.worst) = (moves, parameter.name);
            }
        }
        compared
    }
}

/// The largest relative error of a parameter, and of its change.
struct Compared {
    weights: f64,
    moves: f64,
    /// The parameter with the largest error of its change.
    worst: String,
}

fn difference(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// The largest relative error of a number.
fn largest_error(ours: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    ours.iter().zip(expected).map(|(ours, expected)| (ours / expected - 1.0).abs()).fold(0.0, f64::max)
}
