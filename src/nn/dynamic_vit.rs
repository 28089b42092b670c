//! The vision transformer of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, for images of any size.
//!
//! ```text
//! patches -> linear [+ positions] -> bidirectional blocks with rotary rows and columns -> features
//! ```
//!
//! A tile is an image. Its patches come cell by cell: the `merge` x `merge` patches that the merger joins follow each other. With
//! windows, the cells of a window follow each other, and all but some blocks attend only within windows.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use super::architecture::{DynamicVit, TileShape};
use super::kernels::attention::Heads;
use super::kernels::rope::{RotaryEmbedding, Rotations};
use super::layers::{Block, ForwardPass, Linear, NormStyle};
use super::loader::Loader;
use super::ops::{Bag, Ops, Param, WeightStore};
use super::parameters::{self, BlockNames, DYNAMIC_PATCH_EMBEDDING, DYNAMIC_POSITION_EMBEDDING};
use super::patch_order::{patch_order, windows};
use super::position_grid::interpolate;

/// The epsilon of all norms.
pub(crate) const NORM_EPS: f64 = 1e-6;

pub(crate) struct DynamicVitLayers<P: WeightStore> {
    vit: DynamicVit,
    patch_embedding: Linear<P>,
    /// A square grid of positions, and its side.
    positions: Option<(Param<P::Table>, usize)>,
    blocks: Vec<Block<P>>,
    heads: Heads,
    rotary: RotaryEmbedding,
}

/// The features of patches, in the order of the patches.
pub(crate) struct BlockOutputs<T> {
    /// Of the last block: (patches, dim).
    pub(crate) last: T,
    /// Of the blocks of `deepstack`, in their order: (patches, dim) each.
    pub(crate) inner: Vec<T>,
}

impl<P: WeightStore> DynamicVitLayers<P> {
    pub(crate) fn load(load: &mut Loader<P>, vit: &DynamicVit) -> Result<DynamicVitLayers<P>> {
        let patch_embedding = load.linear(DYNAMIC_PATCH_EMBEDDING)?;
        let positions = match vit.position_side {
            Some(side) => Some((load.table(&parameters::weight(DYNAMIC_POSITION_EMBEDDING))?, side)),
            None => None,
        };
        let block = |layer| load.block(&BlockNames::dynamic(vit, layer), NormStyle::plain(NORM_EPS), vit.activation);
        let blocks = (0..vit.layers).map(block).collect::<Result<_>>()?;
        let width = vit.dim / vit.heads;
        Ok(DynamicVitLayers {
            vit: vit.clone(),
            patch_embedding,
            positions,
            blocks,
            heads: Heads {
                heads: vit.heads,
                kv_heads: vit.heads,
                width,
                causal: false,
                factor: Heads::usual_factor(width),
            },
            // Half of a head's frequencies count rows, the other half columns.
            rotary: RotaryEmbedding::new(&vit.rope, width / 2),
        })
    }

    /// Patches of images to features of patches.
    pub(crate) fn forward<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        tiles: &[TileShape],
        patches: &[f32],
    ) -> Result<BlockOutputs<O::Tensor>> {
        let x = pass.ops.input(patches, self.vit.patch_values())?;
        let mut x = self.patch_embedding.forward(pass, &x)?;
        if let Some((table, side)) = &self.positions {
            let embedded = pass.ops.embedding_bag(table, &self.bags(tiles, *side))?;
            x = pass.ops.add(&x, &embedded)?;
        }
        let rope = self.rotations(tiles);
        let full = pass.ops.plan_attention(self.heads, &images(tiles), Some(&rope), None)?;
        let windowed = match &self.vit.windows {
            Some(_) => Some(pass.ops.plan_attention(self.heads, &self.windows(tiles), Some(&rope), None)?),
            None => None,
        };
        let mut inner = Vec::with_capacity(self.vit.deepstack.len());
        for (layer, block) in self.blocks.iter().enumerate() {
            let is_full = self.vit.windows.as_ref().is_none_or(|windows| windows.full.contains(&layer));
            let attention = windowed.as_ref().filter(|_| !is_full).unwrap_or(&full);
            x = block.forward(pass, layer, &x, attention, None)?;
            if self.vit.deepstack.contains(&layer) {
                inner.push(x.clone());
            }
        }
        Ok(BlockOutputs { last: x, inner })
    }

    /// The learned positions around every patch.
    fn bags(&self, tiles: &[TileShape], side: usize) -> Vec<Bag> {
        tiles.iter().flat_map(|&tile| interpolate(side, tile, &patch_order(&self.vit, tile))).collect()
    }

    /// The rotation of every patch by its row and column.
    fn rotations(&self, tiles: &[TileShape]) -> Rotations {
        let places: Vec<(usize, usize)> = tiles.iter().flat_map(|&tile| patch_order(&self.vit, tile)).collect();
        let longest = tiles.iter().map(|tile| tile.rows.max(tile.columns)).max().unwrap_or(0);
        let (table, half) = (self.rotary.table(longest), self.heads.width / 2);
        let source = |patch: usize, j: usize| {
            let (row, column) = places[patch];
            if j < half / 2 { (row, j) } else { (column, j - half / 2) }
        };
        Rotations::PerToken(Arc::new(table.compose(places.len(), half, source)))
    }

    /// The patches of each window.
    fn windows(&self, tiles: &[TileShape]) -> Vec<Range<usize>> {
        let area = self.vit.merge * self.vit.merge;
        let windows = tiles.iter().flat_map(|&tile| windows(&self.vit, tile));
        ranges(windows.map(|window| window.len() * area))
    }
}

/// The patches of each image.
fn images(tiles: &[TileShape]) -> Vec<Range<usize>> {
    ranges(tiles.iter().map(|tile| tile.patches()))
}

/// Ranges of these lengths that follow each other.
fn ranges(lengths: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut start = 0;
    let range = |length| {
        start += length;
        start - length..start
    };
    lengths.map(range).collect()
}
