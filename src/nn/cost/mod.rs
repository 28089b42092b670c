//! What a pass costs on a GPU, computed without one: launches, products, FLOPs, bytes, memory and the expected time.
//!
//! The estimates run the operations of a GPU (`cuda::ops`) on one that only records, over a model that has shapes and no values.
//! So the counts are those of a real pass by construction. Bytes and FLOPs of a kernel come from its sizes; every number that a
//! kernel uses counts once, whatever a cache does.

mod generation;
mod memory;
mod prediction;
mod training;
mod work;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, bail};

use crate::adapter::{LowRank, linear_layers};
use crate::batch::{Batch, EmbeddingSource, ImageBatch};
use crate::checkpoint::Layout;
use crate::cuda::ops::Gpu;
use crate::cuda::ops::recorder::Recorder;
use crate::cuda::ops::weights::CudaWeights;
use crate::model::Model;
use crate::parameters::{Parameter, parameters};
use crate::trainable_model::TrainableModel;
use crate::{Adapter, Architecture, Checkpoint, ModelConfig, ParamGroup, Pattern, Precision};

pub use generation::{GenerationCost, GenerationShape, generation};
pub use memory::{Memory, largest_batch};
pub use prediction::{Card, Prediction};
pub use training::{TrainingCost, training};
pub use work::{Work, WorkItem};

/// A model and how it is trained.
#[derive(Clone, Debug)]
pub struct Workload<'a> {
    pub architecture: &'a Architecture,
    pub precision: Precision,
    pub trainable: Trainable,
    /// Whether only the input of each of the decoder's blocks is kept for the backward pass.
    pub gradient_checkpointing: bool,
}

/// The parameters that are trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Trainable {
    /// The model's own, except those of frozen groups.
    Model { frozen: Vec<ParamGroup> },
    /// A LoRA adapter of this rank on the linear layers that match a target.
    Lora { rank: usize, targets: Vec<Pattern> },
}

/// The sizes of a batch of rows of one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    pub rows: usize,
    /// Positions of a row that are computed, image tokens included.
    pub positions: usize,
    /// Tiles of the images of a row.
    pub tiles: usize,
    /// Positions of a row whose next token is a target.
    pub targets: usize,
}

/// A model with shapes and without values on a GPU that records.
struct Recording {
    recorder: Rc<Recorder>,
    gpu: Gpu,
    trainable_model: TrainableModel,
    model: Model<CudaWeights>,
}

impl Recording {
    fn new(workload: &Workload) -> Result<Recording> {
        let recorder = Rc::new(Recorder::new(workload.precision));
        let gpu = Gpu::recording(&recorder, workload.precision);
        let trainable_model = describe(workload)?;
        let model = Model::new(&CudaWeights(gpu.clone()), &trainable_model)?;
        Ok(Recording { recorder, gpu, trainable_model, model })
    }

    /// Bytes in use now, without freed memory that is kept.
    fn live_bytes(&self) -> usize {
        self.recorder.used_bytes() - self.gpu.idle_bytes()
    }

    /// The operations since the last call.
    fn work(&self) -> Work {
        Work::new(self.recorder.take())
    }
}

/// The number of weights of a model.
pub fn parameter_count(architecture: &Architecture) -> usize {
    parameters(architecture).iter().map(Parameter::len).sum()
}

/// The model with shapes and without values.
fn describe(workload: &Workload) -> Result<TrainableModel> {
    let architecture = workload.architecture.clone();
    let weights = parameters(&architecture).iter().map(|_| Arc::default()).collect();
    let checkpoint = Checkpoint { architecture, layout: Layout::Own(ModelConfig::default()), weights };
    let (adapter, frozen) = match &workload.trainable {
        Trainable::Model { frozen } => (None, &frozen[..]),
        Trainable::Lora { rank, targets } => (Some(describe_adapter(&checkpoint, *rank, targets)?), &[][..]),
    };
    Ok(TrainableModel::new(checkpoint, adapter, |parameter| !frozen.contains(&parameter.group)))
}

fn describe_adapter(model: &Checkpoint, rank: usize, targets: &[Pattern]) -> Result<Adapter> {
    if rank > MAX_RANK {
        bail!("an adapter of rank {rank}: at most {MAX_RANK}");
    }
    let layers = linear_layers(model).into_iter();
    let chosen = layers.filter(|(name, _)| targets.iter().any(|target| target.matches(name)));
    let module = |(name, parameter): (String, Parameter)| {
        let (outputs, inputs) = (parameter.shape[0], parameter.shape[1]);
        (name, LowRank { inputs, outputs, down: Vec::new(), up: Vec::new() })
    };
    let modules: BTreeMap<_, _> = chosen.map(module).collect();
    if modules.is_empty() {
        bail!("no target of the adapter matches a linear layer of the model");
    }
    Ok(Adapter { rank, alpha: rank as f64, dropout: 0.0, rank_stabilized: false, modules })
}

/// Most positions of a batch, or of the sequences that are generated together.
const MAX_POSITIONS: usize = 1 << 26;
/// Highest rank of an adapter.
const MAX_RANK: usize = 1 << 16;

/// Refuses rows that are longer than the model's context, and batches that are too large to be estimated.
fn check_size(architecture: &Architecture, rows: usize, positions: usize) -> Result<()> {
    let longest = architecture.decoder.max_positions;
    if positions > longest {
        bail!("rows of {positions} positions: the model's `max_positions` is {longest}");
    }
    if rows.checked_mul(positions).is_none_or(|all| all > MAX_POSITIONS) {
        bail!("{rows} rows of {positions} positions are too many for an estimate: at most {MAX_POSITIONS} positions");
    }
    Ok(())
}

impl BatchShape {
    /// A text batch where every next token is a target.
    pub fn text(rows: usize, positions: usize) -> BatchShape {
        BatchShape { rows, positions, tiles: 0, targets: positions }
    }

    /// A batch of these sizes. Its tokens are all different where the vocabulary allows it, which is the most work for the gradient
    /// of the embedding.
    fn batch(&self, architecture: &Architecture) -> Result<Batch> {
        let BatchShape { rows, positions, tiles, targets } = *self;
        let vision = architecture.vision.as_ref().filter(|_| tiles > 0);
        if tiles > 0 && vision.is_none() {
            bail!("a batch with images for a model without a vision tower");
        }
        check_size(architecture, rows, positions)?;
        let features = vision.map_or(0, |vision| tiles.saturating_mul(vision.tile_tokens(vision.own_tile())));
        if rows == 0 || features > positions || !(1..=positions).contains(&targets) {
            bail!("rows of {positions} positions have no room for {features} image tokens and {targets} targets");
        }
        let mut batch = Batch::default();
        if let Some(vision) = vision {
            let tile = vision.own_tile();
            batch.images = ImageBatch {
                tiles: vec![tile; rows * tiles],
                features: rows * features,
                patches: vec![0.0; rows * tiles * tile.patches() * vision.tower.patch_values()],
            };
        }
        for row in 0..rows {
            let start = row * positions;
            let feature = |at: usize| EmbeddingSource::Feature(row * features + at);
            let token = |at: usize| EmbeddingSource::Token(((start + at) % architecture.vocab) as u32);
            batch.sources.extend((0..features).map(feature).chain((features..positions).map(token)));
            batch.rows.push(start..start + positions);
            batch.logit_positions.extend(start + positions - targets..start + positions);
            batch.targets.extend(vec![0; targets]);
            batch.target_rows.extend(vec![row; targets]);
        }
        batch.parts.push(batch.part(architecture));
        Ok(batch)
    }
}
