//! The whole model: vision tower, projector and decoder.
//!
//! ```text
//! patches -> vision tower -> projector --.            (deepstack) --.
//! tokens  -> embedding ----------> merge_image_features -> causal blocks -> norm [-> head]
//! ```

use anyhow::Result;

use super::batch::{Batch, EmbeddingSource};
use super::decoder_attention::{AttentionPlans, DecoderAttention};
use super::deepstack::Deepstack;
use super::key_ranges::key_ranges;
use super::layers::{Block, ForwardPass, Norm, NormStyle};
use super::loader::Loader;
use super::ops::{AutogradOps, Loaded, LoadedWeight, Ops, Param, SegmentOps, TargetGroups, WeightStore};
use super::parameters::{self, BlockNames, ParamGroup};
use super::trainable_model::TrainableModel;
use super::vision_tower::{ImageFeatures, TrainableParts, VisionTower};

/// From the two sums of each group of targets to the derivatives of the loss by them, and the loss's statistics.
pub(crate) type LossSlopes<'a, W> = dyn Fn(&[[f64; 2]]) -> Result<(Vec<[f64; 2]>, W)> + 'a;

/// A model with its weights in the store `P`.
pub(crate) struct Model<P: WeightStore> {
    weights: P,
    pub(crate) vision_tower: Option<VisionTower<P>>,
    embedding: Param<P::Table>,
    /// Factor of the token embeddings.
    embedding_scale: Option<f32>,
    blocks: Vec<Block<P>>,
    norm: Norm<P>,
    /// From hidden states to logits: (v, dim).
    head: Param<P::Matrix>,
    pub(crate) attention: DecoderAttention,
    trainable_parts: TrainableParts,
    /// All parameters by index.
    loaded: Vec<Loaded<P>>,
    /// Whether the backward pass runs through the operations of a parameter, by index.
    needs_backward: Vec<bool>,
}

/// The frozen weights, which stay loaded when the others change.
struct Frozen<P: WeightStore> {
    loaded: Vec<Loaded<P>>,
    /// A tied head is not a parameter of its own.
    head: Option<P::Matrix>,
}

/// What the decoder reads of a batch.
struct DecoderInputs<'b, O: Ops> {
    /// The embeddings: (n, dim).
    embeddings: O::Tensor,
    attention: AttentionPlans<O::AttentionPlan>,
    /// What is added to the hidden states.
    deepstack: Deepstack<'b, O::Tensor>,
}

impl<P: WeightStore> Model<P> {
    pub(crate) fn new(weights: &P, trainable_model: &TrainableModel) -> Result<Model<P>> {
        let attention = DecoderAttention::new(&trainable_model.checkpoint.architecture.decoder);
        Model::load(weights, trainable_model, attention, None)
    }

    /// Releases the trainable weights, lets `update` change them, and loads them again.
    pub(crate) fn update_weights(
        self,
        trainable_model: &mut TrainableModel,
        update: impl FnOnce(&mut TrainableModel),
    ) -> Result<Model<P>> {
        let (weights, attention, frozen) = self.into_frozen(trainable_model);
        update(trainable_model);
        Model::load(&weights, trainable_model, attention, Some(frozen))
    }

    fn into_frozen(self, trainable_model: &TrainableModel) -> (P, DecoderAttention, Frozen<P>) {
        let head = (!self.head.trainable).then_some(self.head.value);
        let loaded = self.loaded.into_iter().enumerate();
        let loaded = loaded.map(|(index, weight)| weight.filter(|_| !trainable_model.is_trainable(index)));
        (self.weights, self.attention, Frozen { loaded: loaded.collect(), head })
    }

    fn load(
        weights: &P,
        trainable_model: &TrainableModel,
        attention: DecoderAttention,
        frozen: Option<Frozen<P>>,
    ) -> Result<Model<P>> {
        let architecture = &trainable_model.checkpoint.architecture;
        let (loaded, frozen_head) = frozen.map(|Frozen { loaded, head }| (loaded, head)).unzip();
        let mut load = Loader::new(weights, trainable_model, loaded.as_deref());
        let vision = architecture.vision.as_ref();
        let vision_tower = vision.map(|vision| VisionTower::load(&mut load, vision)).transpose()?;
        let decoder = &architecture.decoder;
        let norms = NormStyle { eps: decoder.norm_eps, offset: decoder.norm_offset };
        let embedding = load.table(&parameters::weight(parameters::EMBEDDING))?;
        let mut block = |layer| load.block(&BlockNames::decoder(decoder, layer), norms, decoder.activation);
        let blocks = (0..decoder.layers).map(&mut block).collect::<Result<_>>()?;
        let norm = load.norm(parameters::FINAL_NORM, norms)?;
        let head = if decoder.tied_head {
            let Param { ref value, index, trainable } = embedding;
            let value = frozen_head.flatten().map_or_else(|| weights.tied(value), Ok)?;
            Param { value, index, trainable }
        } else {
            load.matrix(&parameters::weight(parameters::HEAD))?
        };
        let trains = |group| trainable_model.trains_group(group);
        let trainable_parts =
            TrainableParts { tower: trains(ParamGroup::Vision), projector: trains(ParamGroup::Projector) };
        let needs_backward = |index: usize| trainable_parts.needs_backward(trainable_model.group(index));
        Ok(Model {
            loaded: load.finish(),
            weights: weights.clone(),
            vision_tower,
            embedding,
            embedding_scale: decoder.embedding_scale.map(|scale| scale as f32),
            blocks,
            norm,
            head,
            attention,
            trainable_parts,
            needs_backward: (0..trainable_model.count()).map(needs_backward).collect(),
        })
    }

    /// The weights of all matrix products, and whether the backward pass runs through them.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (&P::Matrix, bool)> {
        let matrices = self.loaded.iter().zip(&self.needs_backward).filter_map(|(weight, &backward)| match weight {
            Some(LoadedWeight::Matrix(matrix)) => Some((matrix, backward)),
            _ => None,
        });
        // A head that is tied to the embedding is not a parameter of its own.
        let tied = matches!(self.loaded.get(self.head.index), Some(Some(LoadedWeight::Table(_))));
        matrices.chain(tied.then_some((&self.head.value, true)))
    }

    /// Token embeddings with the image features in their positions: (n, dim).
    pub(crate) fn embed<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        features: Option<&O::Tensor>,
        sources: &[EmbeddingSource],
    ) -> Result<O::Tensor> {
        let newline = self.vision_tower.as_ref().and_then(|tower| tower.newline.as_ref());
        let newline = newline.filter(|_| features.is_some());
        pass.ops.merge_image_features(&self.embedding, self.embedding_scale, features, newline, sources)
    }

    /// The decoder's normalized hidden states: (n, dim) -> (n, dim), or (needed, dim) with `needed`.
    pub(crate) fn decode<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        x: O::Tensor,
        attention: &AttentionPlans<O::AttentionPlan>,
        deepstack: &Deepstack<O::Tensor>,
        needed: Option<&[usize]>,
    ) -> Result<O::Tensor> {
        let mut x = x;
        for layer in 0..self.blocks.len() {
            x = self.block(pass, layer, &x, attention, deepstack, needed)?;
        }
        self.norm.forward(pass, &x)
    }

    /// Block number `layer`, and what is added to its output: (n, dim) -> (n, dim), or (needed, dim) for the last one with `needed`.
    fn block<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        layer: usize,
        x: &O::Tensor,
        attention: &AttentionPlans<O::AttentionPlan>,
        deepstack: &Deepstack<O::Tensor>,
        needed: Option<&[usize]>,
    ) -> Result<O::Tensor> {
        // The layers before the last compute all positions, for their keys and values.
        let needed = needed.filter(|_| layer + 1 == self.blocks.len());
        let y = self.blocks[layer].forward(pass, layer, x, attention.of(layer), needed)?;
        deepstack.add(pass.ops, layer, y, needed)
    }

    /// The normalized hidden states at the positions of a batch whose logits are needed: (needed, dim).
    pub(crate) fn hidden<O: Ops<Weights = P>>(&self, ops: &mut O, batch: &Batch, gradients: bool) -> Result<O::Tensor> {
        let mut pass = ForwardPass::of(ops, batch);
        let DecoderInputs { embeddings, attention, deepstack } = self.inputs(&mut pass, batch, gradients)?;
        self.decode(&mut pass, embeddings, &attention, &deepstack, Some(&batch.logit_positions))
    }

    /// What the decoder reads of a batch, with gradients or not.
    fn inputs<'b, O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        batch: &'b Batch,
        gradients: bool,
    ) -> Result<DecoderInputs<'b, O>> {
        pass.ops.set_grad_enabled(gradients);
        let (features, deepstack) = match &self.vision_tower {
            Some(tower) if !batch.images.tiles.is_empty() => {
                let gradients = gradients.then_some(self.trainable_parts);
                let ImageFeatures { embeddings, deepstack } =
                    tower.forward(pass, &batch.images.tiles, &batch.images.patches, gradients)?;
                (Some(embeddings), Deepstack::new(deepstack, &batch.sources))
            }
            _ => (None, Deepstack::none()),
        };
        let embeddings = self.embed(pass, features.as_ref(), &batch.sources)?;
        pass.set_rows(|part| part.tokens);
        let longest = batch.rows.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let attention = self.attention.plans(|rotary, window| {
            let rope = rotary.rotations(longest, &batch.points);
            let keys = key_ranges(&batch.rows, &batch.key_ends, window);
            pass.ops.plan_attention(self.attention.heads, &batch.rows, Some(&rope), keys.as_ref())
        })?;
        Ok(DecoderInputs { embeddings, attention, deepstack })
    }

    /// Hidden states to logits: (n, dim) -> (n, v).
    pub(crate) fn logits<O: Ops<Weights = P>>(&self, ops: &mut O, hidden: &O::Tensor) -> Result<O::Tensor> {
        ops.linear(hidden, &self.head, None)
    }

    /// The log-probability of every target of a batch, in order: (targets,). There must be one at least.
    pub(crate) fn log_probs<O: AutogradOps<Weights = P>>(
        &self,
        ops: &mut O,
        batch: &Batch,
        gradients: bool,
    ) -> Result<O::LogProbs> {
        let hidden = self.hidden(ops, batch, gradients)?;
        ops.log_probs(&hidden, &self.head, &batch.targets)
    }

    /// The logits at every position where they are needed: (needed, v).
    #[cfg(test)]
    pub(crate) fn batch_logits<O: AutogradOps<Weights = P>>(&self, batch: &Batch) -> Result<Vec<f32>> {
        let mut ops = O::new(&self.weights, None);
        let hidden = self.hidden(&mut ops, batch, false)?;
        let logits = self.logits(&mut ops, &hidden)?;
        ops.to_vec(&logits)
    }

    /// Forward and backward pass. The gradients go to `gradients`.
    #[cfg(test)]
    pub(crate) fn forward_backward<O: AutogradOps<Weights = P>, W>(
        &self,
        gradients: &O::Gradients,
        batch: &Batch,
        groups: &TargetGroups,
        slopes: &LossSlopes<W>,
    ) -> Result<W> {
        let mut ops = O::new(&self.weights, Some(gradients.clone()));
        let mut log_probs = self.log_probs(&mut ops, batch, true)?;
        let (slopes, statistics) = slopes(&ops.sums(&mut log_probs, groups)?)?;
        ops.backward(&log_probs, groups, &slopes, &self.loaded)?;
        ops.finish_backward();
        Ok(statistics)
    }

    /// As `forward_backward`. With `recompute`, only the input of each block is kept for the backward pass, which computes the
    /// block again (gradient checkpointing, Chen et al. 2016): the same bits for less memory and a third more time. Image features
    /// that enter at several blocks are kept; the segments of these blocks add to their gradients before the tower's segment reads them.
    pub(crate) fn learn<O: SegmentOps<Weights = P>, W>(
        &self,
        gradients: &O::Gradients,
        batch: &Batch,
        (groups, slopes): (&TargetGroups, &LossSlopes<W>),
        recompute: bool,
    ) -> Result<W> {
        let mut ops = O::new(&self.weights, Some(gradients.clone()));
        let mut pass = ForwardPass::of(&mut ops, batch);
        let DecoderInputs { embeddings: x, attention, deepstack } = self.inputs(&mut pass, batch, true)?;
        let needed = &batch.logit_positions;
        if !recompute {
            let hidden = self.decode(&mut pass, x, &attention, &deepstack, Some(needed))?;
            let statistics = self.loss_gradients(pass.ops, &hidden, batch, groups, slopes)?;
            pass.ops.finish_backward();
            return Ok(statistics);
        }
        let before = pass.ops.take_tape();
        // The input of every block, and the random numbers of its dropout.
        let mut inputs = Vec::with_capacity(self.blocks.len() + 1);
        inputs.push((pass.ops.leaf(&x)?, pass.dropout.clone()));
        for layer in 0..self.blocks.len() {
            pass.ops.set_grad_enabled(false);
            let y = self.block(&mut pass, layer, &inputs[layer].0, &attention, &deepstack, Some(needed))?;
            pass.ops.set_grad_enabled(true);
            inputs.push((pass.ops.leaf(&y)?, pass.dropout.clone()));
        }
        let Some((mut output, _)) = inputs.pop() else { panic!("BUG: the output of the last block") };
        let hidden = self.norm.forward(&mut pass, &output)?;
        let statistics = self.loss_gradients(pass.ops, &hidden, batch, groups, slopes)?;
        drop(hidden);
        for (layer, (input, dropout)) in inputs.into_iter().enumerate().rev() {
            pass.dropout = dropout;
            pass.set_rows(|part| part.tokens);
            let y = self.block(&mut pass, layer, &input, &attention, &deepstack, Some(needed))?;
            let tape = pass.ops.take_tape();
            pass.ops.backward_segment(tape, &y, &output)?;
            output = input;
        }
        pass.ops.backward_segment(before, &x, &output)?;
        pass.ops.finish_backward();
        Ok(statistics)
    }

    /// The backward pass from the loss to the hidden states, or as far as operations were recorded.
    fn loss_gradients<O: SegmentOps<Weights = P>, W>(
        &self,
        ops: &mut O,
        hidden: &O::Tensor,
        batch: &Batch,
        groups: &TargetGroups,
        slopes: &LossSlopes<W>,
    ) -> Result<W> {
        let mut log_probs = ops.log_probs(hidden, &self.head, &batch.targets)?;
        let (slopes, statistics) = slopes(&ops.sums(&mut log_probs, groups)?)?;
        ops.backward(&log_probs, groups, &slopes, &self.loaded)?;
        Ok(statistics)
    }

    /// All parameters by index.
    pub(crate) fn loaded(&self) -> &[Loaded<P>] {
        &self.loaded
    }

    pub(crate) fn weights(&self) -> &P {
        &self.weights
    }

    /// The token embedding (v, dim), and the factor of its rows.
    pub(crate) fn embedding(&self) -> (&P::Table, Option<f32>) {
        (&self.embedding.value, self.embedding_scale)
    }

    /// From hidden states to logits: (v, dim).
    pub(crate) fn head(&self) -> &P::Matrix {
        &self.head.value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cpu::weights::CpuWeights;
    use crate::{Checkpoint, DecoderConfig, ModelConfig};
    use ablate_core::base::Seed;

    #[test]
    fn head_is_reloaded_only_if_trainable() {
        for tied_head in [true, false] {
            let decoder = DecoderConfig { tied_head, ..Default::default() };
            let config = ModelConfig { decoder, ..Default::default() };
            let checkpoint = Checkpoint::initialize(&config, 83, 1, Seed(1)).unwrap();
            for trainable in [true, false] {
                let is_trainable = |name: &str| name.contains("norm") || trainable;
                let mut trainable_model =
                    TrainableModel::new(checkpoint.clone(), None, |parameter| is_trainable(&parameter.name));
                let model = Model::new(&CpuWeights::default(), &trainable_model).unwrap();
                let before = Arc::downgrade(&model.head.value);
                let model = model.update_weights(&mut trainable_model, |_| ()).unwrap();
                let same = before.upgrade().is_some_and(|before| Arc::ptr_eq(&before, &model.head.value));
                assert_eq!(same, !trainable, "tied: {tied_head}");
            }
        }
    }

    #[test]
    fn frozen_tower_and_projector_need_no_backward() {
        let checkpoint = Checkpoint::initialize(&ModelConfig::default(), 83, 1, Seed(1)).unwrap();
        let without_backward = |frozen: &[ParamGroup]| {
            let trainable_model =
                TrainableModel::new(checkpoint.clone(), None, |parameter| !frozen.contains(&parameter.group));
            let model = Model::new(&CpuWeights::default(), &trainable_model).unwrap();
            let needed: Vec<bool> = model.matrices().map(|(_, needed)| needed).collect();
            (needed.len(), needed.iter().filter(|needed| !**needed).count())
        };
        // The tower has its patch embedding and one block of seven matrices, the projector two matrices, the decoder three
        // blocks of seven, and the head.
        let all = 1 + 7 + 2 + 3 * 7 + 1;
        assert_eq!(without_backward(&[]), (all, 0));
        assert_eq!(without_backward(&[ParamGroup::Projector]), (all, 0));
        assert_eq!(without_backward(&[ParamGroup::Vision]), (all, 1 + 7));
        assert_eq!(without_backward(&[ParamGroup::Vision, ParamGroup::Projector]), (all, 1 + 7 + 2));
    }
}
