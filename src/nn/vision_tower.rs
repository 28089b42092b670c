//! The vision tower (an image encoder) and its projector.
//!
//! ```text
//! patches -> tower -> features -> projector -> features of the decoder's width
//!                `--> features of inner blocks -> mergers -> the same, for the decoder's first layers (Qwen3-VL)
//! ```

use anyhow::Result;

use super::architecture::{TileShape, Tower, Vision};
use super::dynamic_vit::{BlockOutputs, DynamicVitLayers};
use super::layers::ForwardPass;
use super::loader::Loader;
use super::ops::{Ops, Param, WeightStore};
use super::parameters::{self, ParamGroup};
use super::patch_merger::PatchMerger;
use super::projector::ProjectorLayers;
use super::vit::VitLayers;

pub(crate) struct VisionTower<P: WeightStore> {
    tower: TowerLayers<P>,
    projector: ProjectorLayers<P>,
    /// The mergers of the tower's inner blocks.
    deepstack: Vec<PatchMerger<P>>,
    /// The feature that ends a row of patches (LLaVA-NeXT).
    pub(crate) newline: Option<Param<P::Vector>>,
}

enum TowerLayers<P: WeightStore> {
    Vit(VitLayers<P>),
    Dynamic(DynamicVitLayers<P>),
}

/// The features of images, of the decoder's width.
pub(crate) struct ImageFeatures<T> {
    /// For the image tokens: (tile tokens of all tiles, dim).
    pub(crate) embeddings: T,
    /// What is added to the outputs of the decoder's first layers, in their order: of the same shape each.
    pub(crate) deepstack: Vec<T>,
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
        let tower = match &vision.tower {
            Tower::Vit(vit) => TowerLayers::Vit(VitLayers::load(load, vit)?),
            Tower::Dynamic(vit) => TowerLayers::Dynamic(DynamicVitLayers::load(load, vit)?),
        };
        let projector = ProjectorLayers::load(load, vision)?;
        let merge = if let Tower::Dynamic(vit) = &vision.tower { vit.merge } else { 1 };
        let merger = |index| PatchMerger::load_deepstack(load, index, merge);
        let deepstack = (0..vision.tower.deepstack().len()).map(merger).collect::<Result<_>>()?;
        let newline = if vision.newlines { Some(load.vector(parameters::NEWLINE)?) } else { None };
        Ok(VisionTower { tower, projector, deepstack, newline })
    }

    /// Patches of tiles to features of the decoder's width. With `gradients`, the operations are recorded for a backward pass from
    /// the first trainable one on; recording stays on.
    pub(crate) fn forward<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        tiles: &[TileShape],
        patches: &[f32],
        gradients: Option<TrainableParts>,
    ) -> Result<ImageFeatures<O::Tensor>> {
        let needs_backward = |group| gradients.is_some_and(|parts| parts.needs_backward(group));
        pass.ops.set_grad_enabled(needs_backward(ParamGroup::Vision));
        pass.set_rows(|part| part.tower_positions);
        let BlockOutputs { last, inner } = match &self.tower {
            TowerLayers::Vit(vit) => BlockOutputs { last: vit.forward(pass, tiles.len(), patches)?, inner: Vec::new() },
            TowerLayers::Dynamic(vit) => vit.forward(pass, tiles, patches)?,
        };
        pass.ops.set_grad_enabled(needs_backward(ParamGroup::Projector));
        pass.set_rows(|part| part.features);
        let embeddings = self.projector.forward(pass, tiles, last)?;
        let mergers = self.deepstack.iter().zip(inner);
        let deepstack = mergers.map(|(merger, x)| merger.forward(pass, x)).collect::<Result<_>>()?;
        pass.ops.set_grad_enabled(gradients.is_some());
        Ok(ImageFeatures { embeddings, deepstack })
    }
}
