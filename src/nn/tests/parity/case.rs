//! A checkpoint with what transformers computes for it (`tests/golden/parity/README.md`), and the comparisons of numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use dfdx::prelude::{Cpu, Device};
use serde::Deserialize;

use crate::anyres::pack_image_features;
use crate::batch::ImageBatch;
use crate::cpu::CpuOps;
use crate::cpu::weights::CpuWeights;
use crate::dfdx::DfdxOps;
use crate::dfdx::weights::DfdxWeights;
use crate::gradients::{GradientAccumulator, Shard};
use crate::hub::WeightFiles;
use crate::kernels::weight::Pass;
use crate::layers::ForwardPass;
use crate::model::Model;
use crate::ops::{AutogradOps, TargetGroups};
use crate::parameters::parameters;
use crate::session::Session;
use crate::trainable_model::TrainableModel;
use crate::{Architecture, Batch, Checkpoint, ImageShape, PixelSource, PixelValues, Sequence};
use ablate_core::base::files;

/// A checkpoint and what transformers computes for it. As a [`PixelSource`]: the output of transformers' image processor.
pub(super) struct Case {
    pub(super) folder: PathBuf,
    pub(super) checkpoint: Checkpoint,
    pub(super) expected: Expected,
    arrays: BTreeMap<String, Vec<f32>>,
}

/// `expected.json`, without its chats.
#[derive(Deserialize)]
pub(super) struct Expected {
    pub(super) images: BTreeMap<String, Image>,
    pub(super) sequences: BTreeMap<String, Text>,
}

#[derive(Deserialize)]
pub(super) struct Image {
    width: u32,
    height: u32,
    pub(super) tokens: usize,
    /// Height and width after resizing, for a tower for images of any size.
    tile: Option<(u32, u32)>,
}

#[derive(Deserialize)]
pub(super) struct Text {
    pub(super) images: Vec<String>,
    pub(super) ids: Vec<u32>,
    positions: Vec<usize>,
    pub(super) span: (usize, usize),
    pub(super) log_probs: Vec<f32>,
    pub(super) greedy: Option<Vec<u32>>,
    pub(super) margin: Option<f64>,
}

/// The larger of two relative errors: the norm of the difference over the norm of the expected values, and the largest
/// absolute difference over the largest absolute expected value.
pub(super) fn relative_error(ours: &[f32], expected: &[f32]) -> f64 {
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
    pub(super) fn read(folder: &Path) -> Result<Case> {
        let checkpoint = Checkpoint::read(folder)?;
        let expected = files::read_json(&folder.join("expected.json"))?;
        let file = WeightFiles::open_file(&folder.join("expected.safetensors"))?;
        let array = |name: &str| Ok((name.to_string(), file.array(name, file.shape(name)?)?));
        let arrays = file.names().map(array).collect::<Result<_>>()?;
        Ok(Case { folder: folder.to_path_buf(), checkpoint, expected, arrays })
    }

    pub(super) fn architecture(&self) -> &Architecture {
        &self.checkpoint.architecture
    }

    /// An array of `expected.safetensors`.
    pub(super) fn array(&self, name: &str) -> Result<&[f32]> {
        self.arrays.get(name).map(Vec::as_slice).with_context(|| format!("`{name}` is not in `expected.safetensors`"))
    }

    /// The largest relative error of the logits of all sequences, computed on the CPU path.
    pub(super) fn logits(&self, session: &Session, images: &dyn PixelSource) -> Result<f64> {
        let mut largest = 0.0_f64;
        for name in self.expected.sequences.keys() {
            let ours = session.logits(&self.batch(name, images)?)?;
            largest = largest.max(relative_error(&ours, self.array(&format!("{name}.logits"))?));
        }
        Ok(largest)
    }

    /// The relative error of an image's features as generation computes them, newline features included.
    pub(super) fn features(&self, name: &str, images: &dyn PixelSource) -> Result<f64> {
        let vision = self.architecture().vision.as_ref().context("no vision tower")?;
        let pixels = images.pixel_values(name)?;
        let (mut batch, mut ops) = (ImageBatch::default(), CpuOps::default());
        let sources = batch.push(vision, name, &pixels)?;
        let model = Model::new(&CpuWeights::default(), &TrainableModel::frozen(&self.checkpoint))?;
        model.matrices().for_each(|(matrix, _)| matrix.pack(Pass::Forward));
        let mut pass = ForwardPass { ops: &mut ops, dropout: None };
        let tower = model.vision_tower.as_ref().context("no vision tower")?;
        let features = tower.forward(&mut pass, &batch.tiles, &batch.patches, None)?;
        let ours = model.embed(&mut pass, Some(&features.embeddings), &sources)?;
        Ok(relative_error(&ours, self.array(&format!("{name}.features"))?))
    }

    /// The largest relative error of dfdx's logits on a device, for all sequences in one padded batch.
    pub(super) fn dfdx_logits<D: Device<f32>>(&self, device: D) -> Result<f64> {
        let names: Vec<&String> = self.expected.sequences.keys().collect();
        let texts: Vec<_> = names.iter().map(|name| self.expected.sequences[*name].marked()).collect();
        let sequences: Vec<Sequence> = names
            .iter()
            .zip(&texts)
            .map(|(name, (tokens, loss))| Sequence { tokens, loss, images: &self.expected.sequences[*name].images })
            .collect();
        let batch = Batch::new(self.architecture(), &sequences, true, self)?;
        let model = Model::new(&DfdxWeights(device), &TrainableModel::frozen(&self.checkpoint))?;
        let ours = model.batch_logits::<DfdxOps<D>>(&batch)?;
        let (mut start, mut largest) = (0, 0.0_f64);
        for name in names {
            let wanted = self.array(&format!("{name}.logits"))?;
            largest = largest.max(relative_error(&ours[start..start + wanted.len()], wanted));
            start += wanted.len();
        }
        Ok(largest)
    }

    /// The largest relative difference between dfdx's gradients and ours for the mean cross-entropy of a sequence, with the
    /// parameter's name. A parameter whose gradient is zero apart from rounding (a bias added to every key) is skipped if
    /// both gradients are small.
    pub(super) fn gradients(&self) -> Result<(f64, String)> {
        let name = if self.architecture().vision.is_some() { "image" } else { "short" };
        let text = &self.expected.sequences[name];
        let image_token = self.architecture().vision.as_ref().map(|vision| vision.image_token);
        let loss: Vec<bool> = text.ids.iter().map(|&id| Some(id) != image_token).collect();
        let sequence = Sequence { tokens: &text.ids, loss: &loss, images: &text.images };
        let (fused, stock) = (self.learn::<CpuOps>(sequence)?, self.learn::<DfdxOps<Cpu>>(sequence)?);
        let norm = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let total = fused.iter().map(|values| norm(values).powi(2)).sum::<f64>().sqrt();
        assert!(total > 0.0, "all gradients are zero");
        let (mut largest, mut parameter_name) = (0.0, String::new());
        for (parameter, (one, other)) in parameters(self.architecture()).iter().zip(fused.iter().zip(&stock)) {
            let finite = one.iter().chain(other).all(|value| value.is_finite());
            if finite && norm(one).max(norm(other)) < 1e-6 * total {
                continue;
            }
            let error = relative_error(other, one);
            if error > largest {
                (largest, parameter_name) = (error, parameter.name.clone());
            }
        }
        Ok((largest, parameter_name))
    }

    fn learn<O: AutogradOps<Weights: Default, Gradients = Shard>>(&self, sequence: Sequence) -> Result<Vec<Vec<f32>>> {
        let batch = Batch::new(self.architecture(), &[sequence], O::NEEDS_PADDING, self)?;
        let trainable_model = TrainableModel::new(self.checkpoint.clone(), None, |_| true);
        let model = Model::new(&O::Weights::default(), &trainable_model)?;
        let count = batch.targets();
        let groups = TargetGroups { ends: vec![count], factors: vec![1.0; count] };
        let mean = |_: &[[f64; 2]]| Ok((vec![[-1.0 / count as f64, 0.0]], ()));
        let sum = Arc::new(GradientAccumulator::new(&trainable_model));
        let shard = Shard::new(&sum, 0);
        model.forward_backward::<O, ()>(&shard, &batch, &groups, &mean)?;
        shard.finish()?;
        Ok(sum.take())
    }

    /// A sequence as a batch with its stored positions selected.
    pub(super) fn batch(&self, name: &str, images: &dyn PixelSource) -> Result<Batch> {
        let text = &self.expected.sequences[name];
        let (tokens, loss) = text.marked();
        let sequence = Sequence { tokens: &tokens, loss: &loss, images: &text.images };
        Batch::new(self.architecture(), &[sequence], false, images)
    }
}

impl Text {
    /// The ids with a dummy target at the end, and a mask of the tokens that follow a stored position.
    fn marked(&self) -> (Vec<u32>, Vec<bool>) {
        let mut loss = vec![false; self.ids.len() + 1];
        for position in &self.positions {
            loss[position + 1] = true;
        }
        ([&self.ids[..], &[0]].concat(), loss)
    }
}

impl PixelSource for Case {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        let vision = self.architecture().vision.as_ref().context("no vision tower")?;
        let Image { width, height, tokens, tile } = self.expected.images[key];
        let Some(vit) = vision.tower.vit() else {
            let tile = tile.context("no size after resizing")?;
            return Ok(ImageShape { width, height, grid: None, tiles: 1, tile });
        };
        let side = vit.image_size;
        let tiles = self.array(&format!("{key}.pixel_values"))?.len() / (side * side * 3) - 1;
        if !vision.newlines {
            let single = ImageShape::single(width, height, side as u32);
            return Ok(ImageShape { tiles: 1 + tiles as u32, ..single });
        }
        // The grid that gives as many tiles and image tokens.
        let mut grids = self.checkpoint.resolutions().iter().map(|(height, width)| (height / side, width / side));
        let fits = |(rows, columns): (usize, usize)| {
            let shape = ImageShape::tiled(width, height, side as u32, (rows as u32, columns as u32));
            let right = rows * columns == tiles
                && pack_image_features(vision, shape).is_ok_and(|features| features.len() == tokens);
            right.then_some(shape)
        };
        grids.find_map(fits).with_context(|| format!("no grid gives `{key}` {tokens} tokens"))
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        Ok(PixelValues { shape: self.shape(key)?, values: self.array(&format!("{key}.pixel_values"))?.into() })
    }
}
