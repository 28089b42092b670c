//! Generation with dfdx's operations, on any device. The prompts of a batch are read together; then each step continues
//! every sequence by one token.

use std::ops::Range;

use anyhow::Result;
use dfdx::prelude::*;

use super::DfdxOps;
use super::attention::{AttentionPlan, StepPlan};
use super::weights::DfdxWeights;
use crate::batch::{Batch, EmbeddingSource};
use crate::device_error::device_error;
use crate::layers::ForwardPass;
use crate::model::Model;
use crate::trainable_model::TrainableModel;
use crate::{Checkpoint, Device as DeviceId, Resources};

/// Sequences that are prefilled and continued together.
pub(crate) trait BatchDecoder {
    /// Reads the prompts of a padded batch, which needs the logits of each prompt's last position. `samples` sequences will
    /// continue each prompt. The logits: (prompts, v).
    fn prefill(&mut self, prompts: &Batch, samples: usize) -> Result<Vec<f32>>;

    /// Continues every sequence by its token. The logits of the next tokens: (sequences, v).
    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;

    /// Keeps only these sequences, in this order.
    fn retain(&mut self, sequences: &[usize]) -> Result<()>;
}

/// A decoder on the device of a run.
pub(crate) fn batch_decoder(model: &Checkpoint, resources: &Resources) -> Result<Box<dyn BatchDecoder>> {
    match resources.device {
        #[cfg(feature = "cuda")]
        DeviceId::Cuda(_) => anyhow::bail!("generation on a GPU is being written"),
        #[cfg(not(feature = "cuda"))]
        DeviceId::Cuda(_) => anyhow::bail!("this program was built for the CPU only"),
        DeviceId::Cpu => Ok(Box::new(DfdxDecoder::new(Cpu::default(), model)?)),
    }
}

struct DfdxDecoder<D: Device<f32>> {
    model: Model<DfdxWeights<D>>,
    ops: DfdxOps<D>,
    /// Prompt length of each sequence.
    lengths: Vec<usize>,
    /// Tokens by which each sequence has been continued.
    generated: usize,
}

impl<D: Device<f32>> DfdxDecoder<D> {
    fn new(device: D, model: &Checkpoint) -> Result<DfdxDecoder<D>> {
        let model = Model::new(&DfdxWeights(device), &TrainableModel::frozen(model))?;
        let ops = DfdxOps::for_generation(model.weights(), 1);
        Ok(DfdxDecoder { model, ops, lengths: Vec::new(), generated: 0 })
    }
}

impl<D: Device<f32>> BatchDecoder for DfdxDecoder<D> {
    fn prefill(&mut self, prompts: &Batch, samples: usize) -> Result<Vec<f32>> {
        self.ops = DfdxOps::for_generation(self.model.weights(), samples);
        self.generated = 0;
        let length = |(row, last): (&Range<usize>, &usize)| last + 1 - row.start;
        let lengths = prompts.rows.iter().zip(&prompts.logit_positions).map(length);
        self.lengths = lengths.flat_map(|length| std::iter::repeat_n(length, samples)).collect();
        let last = self.model.hidden(&mut self.ops, prompts, false)?;
        let logits = self.model.logits(&mut self.ops, &last)?.as_vec();
        let longest = prompts.rows.first().map_or(0, ExactSizeIterator::len);
        if let Some(cache) = &mut self.ops.kv_cache {
            cache.mask_padding(&self.lengths, longest, self.model.heads.kv_heads)?;
        }
        Ok(logits)
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        assert_eq!(tokens.len(), self.lengths.len(), "BUG: one token per sequence");
        let positions: Vec<usize> = self.lengths.iter().map(|length| length + self.generated).collect();
        let rope = self.model.rotary.table(positions.iter().max().map_or(0, |last| last + 1));
        let sources: Vec<EmbeddingSource> = tokens.iter().map(|&token| EmbeddingSource::Token(token)).collect();
        let plan = AttentionPlan::Step(StepPlan::new(&self.model.weights().0, self.model.heads, &rope, &positions)?);
        if let Some(cache) = &mut self.ops.kv_cache {
            cache.extend_mask(tokens.len() * self.model.heads.kv_heads)?;
        }
        let mut pass = ForwardPass { ops: &mut self.ops, dropout: None };
        let x = self.model.embed(&mut pass, None, &sources)?;
        let hidden = self.model.decode(&mut pass, x, &plan, None)?;
        let logits = self.model.logits(&mut self.ops, &hidden)?.as_vec();
        self.generated += 1;
        Ok(logits)
    }

    fn retain(&mut self, sequences: &[usize]) -> Result<()> {
        if let Some(cache) = &mut self.ops.kv_cache {
            let kv_heads = self.model.heads.kv_heads;
            cache.retain(sequences, self.lengths.len(), kv_heads).map_err(device_error)?;
        }
        self.lengths = sequences.iter().map(|&sequence| self.lengths[sequence]).collect();
        Ok(())
    }
}
