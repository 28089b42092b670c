//! Patch mergers (Wang et al. 2024): the features of a cell become one feature of the decoder's width.

use anyhow::Result;

use super::architecture::Activation;
use super::dynamic_vit::NORM_EPS;
use super::layers::{ForwardPass, Linear, Norm, NormStyle};
use super::loader::Loader;
use super::ops::{Ops, WeightStore};
use super::parameters::MergerNames;

/// A norm, the features of a cell side by side, and two linear layers with a GELU.
pub(crate) struct PatchMerger<P: WeightStore> {
    /// Features along a side of a cell.
    merge: usize,
    norm: Norm<P>,
    /// Whether the norm reads the features of a cell side by side, and not each by itself.
    norms_cells: bool,
    layers: [Linear<P>; 2],
}

impl<P: WeightStore> PatchMerger<P> {
    /// The merger of the tower's last block.
    pub(crate) fn load(load: &mut Loader<P>, names: &MergerNames, merge: usize) -> Result<PatchMerger<P>> {
        let [first, second] = &names.layers;
        Ok(PatchMerger {
            merge,
            norm: load.norm(&names.norm, NormStyle::plain(NORM_EPS))?,
            norms_cells: false,
            layers: [load.linear(first)?, load.linear(second)?],
        })
    }

    /// The merger of an inner block, number `index` of those.
    pub(crate) fn load_deepstack(load: &mut Loader<P>, index: usize, merge: usize) -> Result<PatchMerger<P>> {
        let merger = PatchMerger::load(load, &MergerNames::deepstack(index), merge)?;
        Ok(PatchMerger { norms_cells: true, ..merger })
    }

    /// Features of patches, those of a cell after each other (n, feature width) -> (cells, dim).
    pub(crate) fn forward<O: Ops<Weights = P>>(&self, pass: &mut ForwardPass<O>, x: O::Tensor) -> Result<O::Tensor> {
        let count = self.merge * self.merge;
        let x = if self.norms_cells {
            let cells = pass.ops.join_rows(x, count)?;
            self.norm.forward(pass, &cells)?
        } else {
            let x = self.norm.forward(pass, &x)?;
            pass.ops.join_rows(x, count)?
        };
        let [first, second] = &self.layers;
        let x = first.forward(pass, &x)?;
        let x = pass.ops.activate(&x, Activation::Gelu)?;
        second.forward(pass, &x)
    }
}
