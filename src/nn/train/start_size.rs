//! With how many rows a run on a GPU begins that finds the size of its micro-batches by trying: as many as an estimate of the memory
//! allows.

use anyhow::Result;

use crate::cost::{BatchShape, Trainable, Workload, largest_batch};
use crate::trainable_model::TrainableModel;
use crate::{Adapter, Architecture, ParamGroup, Pattern, PixelSource, Precision, Sequence};

/// Where a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StartSize {
    /// Examples at a time, at least 1.
    pub(super) examples: usize,
    /// Whether blocks are computed again in the backward pass.
    pub(super) recompute: bool,
}

/// The size for `free` bytes of memory, from the mean sizes of the sequences of a batch of `examples`. If not even one example
/// fits, blocks are computed again.
pub(super) fn start_size(
    sequences: &[Sequence],
    examples: usize,
    images: &dyn PixelSource,
    trainable_model: &TrainableModel,
    (precision, recompute): (Precision, bool),
    free: u64,
) -> Result<StartSize> {
    let shape = mean_shape(trainable_model, sequences, images)?;
    let fit = |gradient_checkpointing: bool| -> Result<usize> {
        let architecture = &trainable_model.checkpoint.architecture;
        let trainable = trainable(trainable_model);
        let workload = Workload { architecture, precision, trainable, gradient_checkpointing };
        Ok(largest_batch(free, &workload, &shape)? * examples / sequences.len().max(1))
    };
    let plain = fit(recompute)?;
    if plain > 0 || recompute {
        return Ok(StartSize { examples: plain.max(1), recompute });
    }
    Ok(StartSize { examples: fit(true)?.max(1), recompute: true })
}

/// The mean sizes of the sequences, rounded up.
fn mean_shape(
    trainable_model: &TrainableModel,
    sequences: &[Sequence],
    images: &dyn PixelSource,
) -> Result<BatchShape> {
    let Architecture { vision, decoder, .. } = &trainable_model.checkpoint.architecture;
    let (mut positions, mut targets, mut features) = (0, 0, 0);
    for Sequence { tokens, loss, images: keys } in sequences {
        positions += tokens.len().saturating_sub(1);
        targets += loss.iter().skip(1).filter(|loss| **loss).count();
        for (vision, key) in vision.iter().flat_map(|vision| keys.iter().map(move |key| (vision, key))) {
            let shape = images.shape(key)?;
            features += shape.tiles as usize * vision.tile_tokens(vision.tile(shape.tile));
        }
    }
    let rows = sequences.len().max(1);
    let mean = |sum: usize| sum.div_ceil(rows);
    // As many tiles of the tower's own size as have these features.
    let own = vision.as_ref().map_or(1, |vision| vision.tile_tokens(vision.own_tile()).max(1));
    let tiles = features.div_ceil(rows * own).min(decoder.max_positions / own);
    let positions = mean(positions).max(tiles * own).max(1);
    Ok(BatchShape { rows, positions, tiles, targets: mean(targets).clamp(1, positions) })
}

/// What is trained. Parameters that are frozen by name count as trained.
fn trainable(trainable_model: &TrainableModel) -> Trainable {
    if let Some(Adapter { rank, modules, .. }) = &trainable_model.adapter {
        return Trainable::Lora { rank: *rank, targets: modules.keys().cloned().map(Pattern).collect() };
    }
    let groups = [ParamGroup::Vision, ParamGroup::Projector, ParamGroup::Decoder];
    Trainable::Model { frozen: groups.into_iter().filter(|&group| !trainable_model.trains_group(group)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checkpoint;
    use crate::tests::support::{Ramps, small_config};
    use crate::train::sft::sequence;
    use ablate_core::base::Seed;
    use ablate_data::tokens::TokenRow;

    #[test]
    fn less_memory_means_fewer_rows_and_then_gradient_checkpointing() {
        let mut config = small_config();
        config.decoder.layers = 6;
        let trainable_model =
            TrainableModel::new(Checkpoint::initialize(&config, 24, 1, Seed(1)).unwrap(), None, |_| true);
        let row = || TokenRow { tokens: vec![5; 60], loss: vec![true; 60], images: Vec::new() };
        let rows: Vec<TokenRow> = (0..32).map(|_| row()).collect();
        let sequences: Vec<Sequence> = rows.iter().map(sequence).collect();
        let start = |free: u64, recompute| {
            start_size(&sequences, 32, &Ramps, &trainable_model, (Precision::F32, recompute), free).unwrap()
        };
        assert_eq!(start(1 << 40, false), StartSize { examples: 32, recompute: false });
        assert_eq!(start(0, false), StartSize { examples: 1, recompute: true });
        // From much to little memory, the number of rows falls, and checkpointing begins when one row does not fit.
        let sizes: Vec<StartSize> = (640..720).rev().map(|mebibytes| start(mebibytes << 20, false)).collect();
        let plain: Vec<usize> = sizes.iter().filter(|size| !size.recompute).map(|size| size.examples).collect();
        assert!(plain.is_sorted_by(|a, b| a >= b) && plain.first() == Some(&32), "{sizes:?}");
        assert!(start(700 << 20, true).examples >= start(700 << 20, false).examples);
    }
}
