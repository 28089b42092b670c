//! The projector: from the features of a vision tower to those of the decoder's width.

use anyhow::Result;

use super::architecture::{Activation, Projector, TileShape, Vision};
use super::layers::{ForwardPass, Linear, Norm, NormStyle};
use super::loader::Loader;
use super::ops::{Ops, WeightStore};
use super::parameters::{self, MergerNames};
use super::patch_merger::PatchMerger;

pub(crate) enum ProjectorLayers<P: WeightStore> {
    Mlp { layers: [Linear<P>; 2], activation: Activation },
    PixelShuffle { factor: usize, layer: Linear<P> },
    NormedPixelShuffle { factor: usize, norm: Norm<P>, layers: [Linear<P>; 2], activation: Activation },
    PatchMerger(PatchMerger<P>),
    AveragePool { side: usize, norm: Norm<P>, layer: Linear<P> },
}

/// Epsilon of the norm of InternVL's projector, the default of PyTorch.
const NORM_EPS: f64 = 1e-5;

impl<P: WeightStore> ProjectorLayers<P> {
    pub(crate) fn load(load: &mut Loader<P>, vision: &Vision) -> Result<ProjectorLayers<P>> {
        Ok(match vision.projector {
            Projector::Mlp { activation, .. } => {
                let [first, second] = parameters::PROJECTOR;
                ProjectorLayers::Mlp { layers: [load.linear(first)?, load.linear(second)?], activation }
            }
            Projector::PixelShuffle { factor } => {
                ProjectorLayers::PixelShuffle { factor, layer: load.linear(parameters::SHUFFLE_PROJECTOR)? }
            }
            Projector::NormedPixelShuffle { factor, activation } => {
                let norm = load.norm(parameters::PROJECTOR_NORM, NormStyle::plain(NORM_EPS))?;
                let [first, second] = parameters::PROJECTOR;
                let layers = [load.linear(first)?, load.linear(second)?];
                ProjectorLayers::NormedPixelShuffle { factor, norm, layers, activation }
            }
            Projector::PatchMerger { family, merge, .. } => {
                ProjectorLayers::PatchMerger(PatchMerger::load(load, &MergerNames::of(family), merge)?)
            }
            Projector::AveragePool { side } => {
                let eps = vision.tower.vit().map_or(NORM_EPS, |vit| vit.norm_eps);
                let norm = load.norm(parameters::POOL_NORM, NormStyle { eps, offset: true })?;
                ProjectorLayers::AveragePool { side, norm, layer: load.linear(parameters::POOL_PROJECTOR)? }
            }
        })
    }

    /// Features of all tiles (n, feature width) -> (tile tokens of all tiles, dim).
    pub(crate) fn forward<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        tiles: &[TileShape],
        x: O::Tensor,
    ) -> Result<O::Tensor> {
        match self {
            ProjectorLayers::Mlp { layers, activation } => mlp(pass, layers, *activation, &x),
            ProjectorLayers::PixelShuffle { factor, layer } => {
                let x = shuffle(pass, tiles, *factor, x)?;
                layer.forward(pass, &x)
            }
            ProjectorLayers::NormedPixelShuffle { factor, norm, layers, activation } => {
                let x = shuffle(pass, tiles, *factor, x)?;
                let x = norm.forward(pass, &x)?;
                mlp(pass, layers, *activation, &x)
            }
            ProjectorLayers::PatchMerger(merger) => merger.forward(pass, x),
            ProjectorLayers::AveragePool { side, norm, layer } => {
                let squares = pass.ops.select_rows(&x, &squares(tiles, *side))?;
                let x = pass.ops.average_rows(&squares, side * side)?;
                let x = norm.forward(pass, &x)?;
                layer.forward(pass, &x)
            }
        }
    }
}

fn mlp<O: Ops>(
    pass: &mut ForwardPass<O>,
    [first, second]: &[Linear<O::Weights>; 2],
    activation: Activation,
    x: &O::Tensor,
) -> Result<O::Tensor> {
    let x = first.forward(pass, x)?;
    let x = pass.ops.activate(&x, activation)?;
    second.forward(pass, &x)
}

/// The features of each square side by side: (n, d) -> (n / factor^2, factor^2 d).
fn shuffle<O: Ops>(pass: &mut ForwardPass<O>, tiles: &[TileShape], factor: usize, x: O::Tensor) -> Result<O::Tensor> {
    let squares = pass.ops.select_rows(&x, &squares(tiles, factor))?;
    drop(x);
    pass.ops.join_rows(squares, factor * factor)
}

/// The features of all tiles in the order of squares of `factor` x `factor`: the squares row by row, and so the features of each.
fn squares(tiles: &[TileShape], factor: usize) -> Vec<usize> {
    let mut order = Vec::with_capacity(tiles.iter().map(|tile| tile.patches()).sum());
    let mut start = 0;
    for &TileShape { rows, columns } in tiles {
        for (top, left) in (0..rows / factor).flat_map(|row| (0..columns / factor).map(move |column| (row, column))) {
            for row in top * factor..(top + 1) * factor {
                order.extend((left * factor..(left + 1) * factor).map(|column| start + row * columns + column));
            }
        }
        start += rows * columns;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_taken_square_by_square() {
        let tiles = [TileShape { rows: 2, columns: 4 }, TileShape { rows: 2, columns: 2 }];
        assert_eq!(squares(&tiles, 2), [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 10, 11]);
    }
}
