//! How a model is tuned: micro-batches, adapters, frozen parameters.

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::auto_batch::AutoBatch;
use crate::optimizer::{Freeze, OptimizerConfig};
use crate::trainable_model::TrainableModel;
use crate::{Adapter, Checkpoint, LoraConfig};
use ablate_core::base::Seed;

/// The number of examples per micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged, expecting = "wrong type, expected a number of rows or \"auto\"")]
pub enum MicroBatch {
    Rows(usize),
    Auto(Auto),
}

/// As many as fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    Auto,
}

/// How a model is tuned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuning {
    /// Examples per micro-batch; the gradients are summed over the batch. None: the whole batch.
    pub micro_batch: Option<MicroBatch>,
    /// Keeps only the input of each block for the backward pass and computes the block again: less memory, the same bits, a
    /// third more time. A `micro_batch` of "auto" does it by itself where a single row does not fit.
    pub gradient_checkpointing: bool,
    /// Trains an adapter instead of the model's own parameters.
    pub lora: Option<LoraConfig>,
}

impl Tuning {
    /// The size of the micro-batches.
    pub(super) fn auto_batch(&self) -> AutoBatch {
        match self.micro_batch {
            None => exactly(usize::MAX),
            Some(MicroBatch::Rows(rows)) => exactly(rows),
            Some(MicroBatch::Auto(Auto::Auto)) => AutoBatch::at_most("row", usize::MAX),
        }
    }

    /// The model with its trainable parameters. The initial values of an adapter are drawn from `seed`.
    pub(super) fn trainable_model(
        &self,
        start: Checkpoint,
        optimizer: &OptimizerConfig,
        seed: Seed,
    ) -> Result<TrainableModel> {
        let adapter = self.lora.as_ref().map(|lora| Adapter::initialize(&start, lora, seed)).transpose()?;
        let mut parameters = start.list();
        parameters.extend(adapter.iter().flat_map(Adapter::list));
        for freeze in &optimizer.freeze {
            let Freeze::Named(pattern) = freeze else { continue };
            if !parameters.iter().any(|parameter| freeze.matches(parameter)) {
                bail!("`freeze`: `{pattern}` matches no parameter of the model");
            }
        }
        let trainable_model = TrainableModel::new(start, adapter, |parameter| !optimizer.freezes(parameter));
        if trainable_model.trainable_parameters().next().is_none() {
            bail!("`freeze` leaves no trainable parameter");
        }
        Ok(trainable_model)
    }
}

/// Micro-batches of `rows`, or an error with a possible size if memory does not suffice.
pub(super) fn exactly(rows: usize) -> AutoBatch {
    let advice = |rows| format!("`micro_batch = {rows}`, or \"auto\", which finds a size by itself");
    AutoBatch::exactly("row", rows, advice)
}
