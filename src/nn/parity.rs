//! Checkpoints with what transformers computes for them (`tests/golden/parity/README.md`), laid out for a model and
//! compared with it. Test code only. Knows no tokenizer and no file of an image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use dfdx::prelude::Cpu;
use serde::Deserialize;

use super::engine::Engine;
use super::eyes::Learning;
use super::fused::Fused;
use super::gradients::{GradientSum, Part};
use super::hub::Folder;
use super::layers::Pass;
use super::learner::Learner;
use super::model::Model;
use super::ops::{OnDevice, Source, Taped};
use super::packed::{Packed, Packing};
use super::parameters::parameters;
use super::stock::Stock;
use super::tiles::slots;
use super::{Architecture, Batch, Checkpoint, Frame, Picture, PixelSource, Sequence, batch};
use ablate_core::base::files;

/// A checkpoint and what is expected of it. As a source of images: those of transformers' image processor.
pub(crate) struct Case {
    pub(crate) folder: PathBuf,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) expected: Expected,
    arrays: BTreeMap<String, Vec<f32>>,
}

/// `expected.json`, without its chats.
#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) images: BTreeMap<String, Image>,
    pub(crate) sequences: BTreeMap<String, Text>,
}

#[derive(Deserialize)]
pub(crate) struct Image {
    width: u32,
    height: u32,
    tokens: usize,
}

#[derive(Deserialize)]
pub(crate) struct Text {
    pub(crate) images: Vec<String>,
    pub(crate) ids: Vec<u32>,
    positions: Vec<usize>,
    pub(crate) span: (usize, usize),
    pub(crate) log_probs: Vec<f32>,
    pub(crate) greedy: Option<Vec<u32>>,
    #[serde(rename = "greedy_text")]
    pub(crate) answer: Option<String>,
    pub(crate) margin: Option<f64>,
}

/// The folder of the cases: that of `ABLATE_PARITY`, or the one in the repository.
pub(crate) fn root() -> PathBuf {
    let own = || Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join("tests/golden");
    given().unwrap_or_else(own).join("hub")
}

/// The folder of `ABLATE_PARITY`.
pub(crate) fn given() -> Option<PathBuf> {
    std::env::var_os("ABLATE_PARITY").map(PathBuf::from)
}

/// The folders of all cases, by name.
pub(crate) fn folders() -> Vec<(String, PathBuf)> {
    let found = files::entries(&root()).unwrap();
    let mut cases: Vec<(String, PathBuf)> = found
        .into_iter()
        .map(|(name, path, _)| (name, path))
        .filter(|(_, path)| path.join("config.json").exists())
        .collect();
    cases.sort();
    assert!(cases.len() > 10, "only {} cases in `{}`", cases.len(), root().display());
    cases
}

/// How far numbers are from those that are expected: the norm of the difference over their norm or the largest
/// difference over their largest, whichever is more.
pub(crate) fn off_by(ours: &[f32], expected: &[f32]) -> f64 {
    if ours.len() != expected.len() || ours.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let differences = || ours.iter().zip(expected).map(|(&one, &other)| f64::from(one) - f64::from(other));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let largest = |values: &mut dyn Iterator<Item = f64>| values.map(f64::abs).fold(0.0, f64::max);
    let wanted = || expected.iter().map(|&value| f64::from(value));
    let ratio = |part: f64, whole: f64| if part > 0.0 { part / whole } else { 0.0 };
    ratio(norm(&mut differences()), norm(&mut wanted())).max(ratio(largest(&mut differences()), largest(&mut wanted())))
}

impl Case {
    pub(crate) fn read(folder: &Path) -> Result<Case> {
        let checkpoint = Checkpoint::read(folder)?;
        let expected = files::read_json(&folder.join("expected.json"))?;
        let file = Folder::open_file(&folder.join("expected.safetensors"))?;
        let array = |name: &str| Ok((name.to_string(), file.array(name, file.shape(name)?)?));
        let arrays = file.names().map(array).collect::<Result<_>>()?;
        Ok(Case { folder: folder.to_path_buf(), checkpoint, expected, arrays })
    }

    pub(crate) fn model(&self) -> &Architecture {
        &self.checkpoint.architecture
    }

    /// An array of `expected.safetensors`.
    pub(crate) fn array(&self, name: &str) -> Result<&[f32]> {
        self.arrays.get(name).map(Vec::as_slice).with_context(|| format!("`{name}` is not in `expected.safetensors`"))
    }

    /// How far the logits of every sequence are off, by the fused operations and images from `images`.
    pub(crate) fn logits(&self, engine: &Engine, images: &dyn PixelSource) -> Result<f64> {
        let mut largest = 0.0_f64;
        for name in self.expected.sequences.keys() {
            let ours = engine.logits(&self.lay_out(name, images)?)?;
            largest = largest.max(off_by(&ours, self.array(&format!("{name}.logits"))?));
        }
        Ok(largest)
    }

    /// How far an image's features are off, as generation computes them, newlines included.
    pub(crate) fn features(&self, name: &str, images: &dyn PixelSource) -> Result<f64> {
        let vision = self.model().vision.as_ref().context("no eyes")?;
        let picture = images.picture(name)?;
        let (mut patches, mut ops) = (Vec::new(), Packed::default());
        let tiles = batch::patchify(vision, name, &picture, &mut patches)?;
        let model = Model::new(&Packing, &Learner::frozen(&self.checkpoint))?;
        let mut pass = Pass { ops: &mut ops, dropout: None };
        let frozen = Learning { encoder: false, projector: false };
        let eyes = model.eyes.as_ref().context("no eyes")?;
        let seen = eyes.see(&mut pass, tiles, patches, frozen, false)?;
        let sources = batch::features(vision, name, &picture, 0)?;
        let ours = model.embed(&mut pass, Some(&seen), &sources)?;
        Ok(off_by(&ours.values, self.array(&format!("{name}.features"))?))
    }

    /// How far the stock operations' logits are off, for all sequences of at most one image in one padded batch.
    pub(crate) fn stock_logits(&self) -> Result<f64> {
        let names: Vec<&String> =
            self.expected.sequences.iter().filter(|(_, text)| text.images.len() < 2).map(|(name, _)| name).collect();
        let texts: Vec<_> = names.iter().map(|name| self.expected.sequences[*name].marked()).collect();
        let sequences: Vec<Sequence> = names
            .iter()
            .zip(&texts)
            .map(|(name, (tokens, loss))| Sequence { tokens, loss, image: self.expected.sequences[*name].image() })
            .collect();
        let batch = Batch::new(self.model(), &sequences, true, self)?;
        let model = Model::new(&OnDevice(Cpu::default()), &Learner::frozen(&self.checkpoint))?;
        let ours = model.selected_logits::<Stock<Cpu>>(&batch)?;
        let (mut start, mut largest) = (0, 0.0_f64);
        for name in names {
            let wanted = self.array(&format!("{name}.logits"))?;
            largest = largest.max(off_by(&ours[start..start + wanted.len()], wanted));
            start += wanted.len();
        }
        Ok(largest)
    }

    /// By how much the gradients of the stock operations differ from the fused ones' for the mean cross-entropy of a
    /// sequence, at most: of each parameter's norm. One whose gradient is zero but for rounding (a bias of all keys)
    /// is left out if it is small in both.
    pub(crate) fn gradients(&self) -> Result<(f64, String)> {
        let name = if self.model().vision.is_some() { "image" } else { "short" };
        let text = &self.expected.sequences[name];
        let image_token = self.model().vision.as_ref().map(|vision| vision.image_token);
        let loss: Vec<bool> = text.ids.iter().map(|&id| Some(id) != image_token).collect();
        let sequence = Sequence { tokens: &text.ids, loss: &loss, image: text.image() };
        let (fused, stock) = (self.learn::<Fused>(sequence)?, self.learn::<Stock<Cpu>>(sequence)?);
        let norm = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let total = fused.iter().map(|values| norm(values).powi(2)).sum::<f64>().sqrt();
        assert!(total > 0.0, "nothing was learned");
        let (mut largest, mut whose) = (0.0, String::new());
        for (parameter, (one, other)) in parameters(self.model()).iter().zip(fused.iter().zip(&stock)) {
            let finite = one.iter().chain(other).all(|value| value.is_finite());
            if finite && norm(one).max(norm(other)) < 1e-6 * total {
                continue;
            }
            let error = off_by(other, one);
            if error > largest {
                (largest, whose) = (error, parameter.name.clone());
            }
        }
        Ok((largest, whose))
    }

    fn learn<O: Taped<Place: Default>>(&self, sequence: Sequence) -> Result<Vec<Vec<f32>>> {
        let batch = Batch::new(self.model(), &[sequence], O::PADDED, self)?;
        let learner = Learner::new(self.checkpoint.clone(), None, |_| true);
        let model = Model::new(&O::Place::default(), &learner)?;
        let mean = |values: &[f32]| Ok((vec![-1.0 / values.len() as f32; values.len()], ()));
        let sum = Arc::new(GradientSum::new(&learner));
        model.learn::<O, ()>(&Part::new(&sum, 0), &batch, &mean)?;
        Ok(sum.take())
    }

    /// A sequence as a batch, its stored positions selected. More than one image is more than the program takes: their
    /// features are placed by hand.
    fn lay_out(&self, name: &str, images: &dyn PixelSource) -> Result<Batch> {
        let text = &self.expected.sequences[name];
        let (tokens, loss) = text.marked();
        if text.images.len() < 2 {
            let sequence = Sequence { tokens: &tokens, loss: &loss, image: text.image() };
            return Batch::new(self.model(), &[sequence], false, images);
        }
        let vision = self.model().vision.as_ref().context("no eyes")?;
        let plain: Vec<u32> = tokens.iter().map(|&id| if id == vision.image_token { 0 } else { id }).collect();
        let mut batch =
            Batch::new(self.model(), &[Sequence { tokens: &plain, loss: &loss, image: None }], false, images)?;
        let mut features = Vec::new();
        for key in &text.images {
            let picture = images.picture(key)?;
            features.extend(batch::features(vision, key, &picture, batch.tiles)?);
            batch.tiles += batch::patchify(vision, key, &picture, &mut batch.patches)?;
        }
        batch.sources.clear();
        batch::place(self.model(), &text.ids, &features, &mut batch.sources);
        let placed = batch.sources.iter().filter(|source| !matches!(source, Source::Token(_))).count();
        assert_eq!(placed, features.len(), "{name}");
        Ok(batch)
    }
}

impl Text {
    /// The ids and a last one that is only a target, and which of them follow a stored position.
    fn marked(&self) -> (Vec<u32>, Vec<bool>) {
        let mut loss = vec![false; self.ids.len() + 1];
        for position in &self.positions {
            loss[position + 1] = true;
        }
        ([&self.ids[..], &[0]].concat(), loss)
    }

    /// The first image.
    pub(crate) fn image(&self) -> Option<&str> {
        self.images.first().map(String::as_str)
    }
}

impl PixelSource for Case {
    fn frame(&self, key: &str) -> Result<Frame> {
        let vision = self.model().vision.as_ref().context("no eyes")?;
        let Image { width, height, tokens } = self.expected.images[key];
        let frame = |grid| Frame { width, height, grid };
        if !vision.tiled {
            return Ok(frame(None));
        }
        // The grid of as many tiles and tokens.
        let tiles = self.array(&format!("{key}.pixel_values"))?.len() / vision.tile_values() - 1;
        let side = vision.image_size;
        let mut grids = self.checkpoint.resolutions().iter().map(|(height, width)| (height / side, width / side));
        let fits = |(rows, columns): (usize, usize)| {
            let frame = frame(Some((rows as u32, columns as u32)));
            let right = rows * columns == tiles && slots(vision, frame).is_ok_and(|slots| slots.len() == tokens);
            right.then_some(frame)
        };
        grids.find_map(fits).with_context(|| format!("no grid gives `{key}` {tokens} tokens"))
    }

    fn picture(&self, key: &str) -> Result<Picture> {
        Ok(Picture { frame: self.frame(key)?, values: self.array(&format!("{key}.pixel_values"))?.into() })
    }
}
