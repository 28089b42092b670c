//! A vision transformer for tiles of one size.
//!
//! ```text
//! patches -> linear [+ class token] + positions -> bidirectional blocks -> features
//! ```

use anyhow::Result;

use super::architecture::Vit;
use super::batch::EmbeddingSource;
use super::kernels::attention::Heads;
use super::layers::{Block, ForwardPass, Linear, Norm, NormStyle};
use super::loader::Loader;
use super::ops::{Ops, Param, WeightStore};
use super::parameters::TowerNames;

pub(crate) struct VitLayers<P: WeightStore> {
    vit: Vit,
    patch_embedding: Linear<P>,
    /// A row before the patches (CLIP).
    class_embedding: Option<Param<P::Table>>,
    position_embedding: Param<P::Table>,
    pre_norm: Option<Norm<P>>,
    blocks: Vec<Block<P>>,
    post_norm: Option<Norm<P>>,
    heads: Heads,
}

impl<P: WeightStore> VitLayers<P> {
    pub(crate) fn load(load: &mut Loader<P>, vit: &Vit) -> Result<VitLayers<P>> {
        let (names, norms) = (TowerNames::of(vit.family), NormStyle::plain(vit.norm_eps));
        let patch_embedding = load.linear(&names.patch_embedding)?;
        let class = names.class_embedding.as_deref();
        let class_embedding = class.map(|name| load.table(name)).transpose()?;
        let position_embedding = load.table(&names.position_embedding)?;
        let pre_norm = names.pre_norm.as_deref().map(|name| load.norm(name, norms)).transpose()?;
        let block = |layer| load.block(&names.block(layer), norms, vit.activation);
        let blocks = (0..vit.used_layers()).map(block).collect::<Result<_>>()?;
        let post_norm = if vit.final_norm { Some(load.norm(&names.post_norm, norms)?) } else { None };
        Ok(VitLayers {
            vit: vit.clone(),
            patch_embedding,
            class_embedding,
            position_embedding,
            pre_norm,
            blocks,
            post_norm,
            heads: heads(vit),
        })
    }

    /// Patches of `tiles` tiles to features: (tiles x features of a tile, feature width).
    pub(crate) fn forward<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        tiles: usize,
        patches: &[f32],
    ) -> Result<O::Tensor> {
        let (positions, patches_per_tile) = (self.vit.positions(), self.vit.side().pow(2));
        let x = pass.ops.input(patches, self.vit.patch_values())?;
        let mut x = self.patch_embedding.forward(pass, &x)?;
        if let Some(class) = &self.class_embedding {
            let source = |at: usize| match at % positions {
                0 => EmbeddingSource::Token(0),
                patch => EmbeddingSource::Feature(at / positions * patches_per_tile + patch - 1),
            };
            let sources: Vec<EmbeddingSource> = (0..tiles * positions).map(source).collect();
            x = pass.ops.merge_image_features(class, None, Some(&x), None, &sources)?;
        }
        let position = |at: usize| EmbeddingSource::Token((at % positions) as u32);
        let position_sources: Vec<EmbeddingSource> = (0..tiles * positions).map(position).collect();
        let embedded = pass.ops.merge_image_features(&self.position_embedding, None, None, None, &position_sources)?;
        x = pass.ops.add(&x, &embedded)?;
        if let Some(norm) = &self.pre_norm {
            x = norm.forward(pass, &x)?;
        }
        let rows: Vec<_> = (0..tiles).map(|tile| tile * positions..(tile + 1) * positions).collect();
        let attention = pass.ops.plan_attention(self.heads, &rows, None, None)?;
        let mut features = Vec::new();
        for layer in 0..=self.blocks.len() {
            for _ in self.vit.feature_layers.iter().filter(|feature| **feature == layer) {
                features.push((layer, pass.ops.select_rows(&x, &self.feature_positions(tiles))?));
            }
            if let Some(block) = self.blocks.get(layer) {
                x = block.forward(pass, layer, &x, &attention, None)?;
            }
        }
        // The projector reads the features in the order of the config, not of the layers.
        let mut ordered = Vec::with_capacity(features.len());
        for wanted in &self.vit.feature_layers {
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
        let positions = self.vit.positions();
        let first = usize::from(self.vit.skip_first);
        (0..tiles * positions).filter(|at| at % positions >= first).collect()
    }
}

/// The tower's attention heads: every position attends to every other.
pub(crate) fn heads(vit: &Vit) -> Heads {
    let Vit { dim, heads, .. } = *vit;
    Heads { heads, kv_heads: heads, width: dim / heads, causal: false, factor: Heads::usual_factor(dim / heads) }
}
