//! The vision tower (an image encoder) and its projector.
//!
//! ```text
//! patches -> linear [+ class token] + positions -> bidirectional blocks -> features -> linear, gelu, linear
//! ```

use anyhow::Result;

use super::architecture::{Vision, VisionFamily};
use super::batch::EmbeddingSource;
use super::kernels::attention::Heads;
use super::layers::{Block, ForwardPass, Linear, Norm};
use super::loader::Loader;
use super::ops::{Ops, Param, WeightStore};
use super::parameters::{self, ParamGroup, TowerNames};

pub(crate) struct VisionTower<P: WeightStore> {
    vision: Vision,
    patch_embedding: Linear<P>,
    /// A row before the patches (CLIP).
    class_embedding: Option<Param<P::Table>>,
    position_embedding: Param<P::Table>,
    pre_norm: Option<Norm<P>>,
    blocks: Vec<Block<P>>,
    post_norm: Option<Norm<P>>,
    projector: [Linear<P>; 2],
    /// The feature that ends a row of patches (LLaVA-NeXT).
    pub(crate) newline: Option<Param<P::Vector>>,
    heads: Heads,
}

/// Which of the tower and the projector have trainable parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrainableParts {
    pub(crate) tower: bool,
    pub(crate) projector: bool,
}

impl TrainableParts {
    /// Whether the backward pass runs through a group.
    pub(crate) fn needs_backward(self, group: ParamGroup) -> bool {
        match group {
            ParamGroup::Vision => self.tower,
            ParamGroup::Projector => self.tower || self.projector,
            ParamGroup::Decoder => true,
        }
    }
}

impl<P: WeightStore> VisionTower<P> {
    pub(crate) fn load(load: &mut Loader<P>, vision: &Vision) -> Result<VisionTower<P>> {
        let (names, eps) = (TowerNames::of(vision.family), vision.norm_eps);
        let patch_embedding = load.linear(&names.patch_embedding)?;
        let class = names.class_embedding.as_deref();
        let class_embedding = class.map(|name| load.table(name)).transpose()?;
        let position_embedding = load.table(&parameters::weight(&names.position_embedding))?;
        let pre_norm = names.pre_norm.as_deref().map(|name| load.norm(name, eps)).transpose()?;
        let block = |layer| load.block(&names.block(layer), eps, vision.activation);
        let blocks = (0..vision.used_layers()).map(block).collect::<Result<_>>()?;
        // No decoder reads the norm on top of a CLIP or SigLIP tower.
        let plain = vision.family == VisionFamily::Plain;
        let post_norm = if plain { Some(load.norm(&names.post_norm, eps)?) } else { None };
        let [linear_1, linear_2] = parameters::PROJECTOR;
        let projector = [load.linear(linear_1)?, load.linear(linear_2)?];
        let newline = if vision.tiled { Some(load.vector(parameters::NEWLINE)?) } else { None };
        Ok(VisionTower {
            vision: vision.clone(),
            patch_embedding,
            class_embedding,
            position_embedding,
            pre_norm,
            blocks,
            post_norm,
            projector,
            newline,
            heads: heads(vision),
        })
    }

    /// Patches of `tiles` tiles to features of the decoder's width: (tiles x tile tokens, dim). With `gradients`, the
    /// operations are recorded for a backward pass from the first trainable one on; recording stays on.
    pub(crate) fn forward<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        tiles: usize,
        patches: &[f32],
        gradients: Option<TrainableParts>,
    ) -> Result<O::Tensor> {
        let needs_backward = |group| gradients.is_some_and(|parts| parts.needs_backward(group));
        pass.ops.set_grad_enabled(needs_backward(ParamGroup::Vision));
        let (positions, features) = (self.vision.positions(), self.vision.tile_tokens());
        pass.set_rows(|part| part.tiles * positions);
        let x = self.encode(pass, tiles, patches)?;
        pass.ops.set_grad_enabled(needs_backward(ParamGroup::Projector));
        pass.set_rows(|part| part.tiles * features);
        let [linear_1, linear_2] = &self.projector;
        let x = linear_1.forward(pass, &x)?;
        let x = pass.ops.activate(&x, self.vision.projector.activation)?;
        let x = linear_2.forward(pass, &x)?;
        pass.ops.set_grad_enabled(gradients.is_some());
        Ok(x)
    }

    /// The tower's features: (tiles x tile tokens, feature width).
    fn encode<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        tiles: usize,
        patches: &[f32],
    ) -> Result<O::Tensor> {
        let (positions, patches_per_tile) = (self.vision.positions(), self.vision.side().pow(2));
        let x = pass.ops.input(patches, self.vision.patch_values())?;
        let mut x = self.patch_embedding.forward(pass, &x)?;
        if let Some(class) = &self.class_embedding {
            let source = |at: usize| match at % positions {
                0 => EmbeddingSource::Token(0),
                patch => EmbeddingSource::Feature(at / positions * patches_per_tile + patch - 1),
            };
            let sources: Vec<EmbeddingSource> = (0..tiles * positions).map(source).collect();
            x = pass.ops.merge_image_features(class, Some(&x), None, &sources)?;
        }
        let position = |at: usize| EmbeddingSource::Token((at % positions) as u32);
        let position_sources: Vec<EmbeddingSource> = (0..tiles * positions).map(position).collect();
        let embedded = pass.ops.merge_image_features(&self.position_embedding, None, None, &position_sources)?;
        x = pass.ops.add(&x, &embedded)?;
        if let Some(norm) = &self.pre_norm {
            x = norm.forward(pass, &x)?;
        }
        let rows: Vec<_> = (0..tiles).map(|tile| tile * positions..(tile + 1) * positions).collect();
        let attention = pass.ops.plan_attention(self.heads, &rows, None)?;
        let mut features = Vec::new();
        for layer in 0..=self.blocks.len() {
            for _ in self.vision.feature_layers.iter().filter(|feature| **feature == layer) {
                features.push((layer, pass.ops.select_rows(&x, &self.feature_positions(tiles))?));
            }
            if let Some(block) = self.blocks.get(layer) {
                x = block.forward(pass, layer, &x, &attention, None)?;
            }
        }
        // The projector reads the features in the order of the config, not of the layers.
        let mut ordered = Vec::with_capacity(features.len());
        for wanted in &self.vision.feature_layers {
            if let Some(at) = features.iter().position(|(layer, _)| layer == wanted) {
                ordered.push(features.swap_remove(at).1);
            }
        }
        let mut x = if ordered.len() == 1 { ordered.swap_remove(0) } else { pass.ops.concat_columns(&ordered)? };
        if let Some(norm) = &self.post_norm {
            x = norm.forward(pass, &x)?;
        }
        Ok(x)
    }

    /// The positions whose outputs are features.
    fn feature_positions(&self, tiles: usize) -> Vec<usize> {
        let positions = self.vision.positions();
        let first = usize::from(self.vision.skip_first);
        (0..tiles * positions).filter(|at| at % positions >= first).collect()
    }
}

/// The tower's attention heads: every position attends to every other.
pub(crate) fn heads(vision: &Vision) -> Heads {
    let Vision { dim, heads, .. } = *vision;
    Heads { heads, kv_heads: heads, width: dim / heads, causal: false }
}
