//! Training batches: shuffled, and grouped by modality and length.

use super::rng::shuffle;
use ablate_core::base::Seed;

/// The properties of a row that decide which batch it goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSize {
    pub tokens: usize,
    /// Whether the row has an image. A batch contains only rows with images or only rows without, as in the paper's
    /// recipe (section 6): in a mixed batch the many tokens of plain text dominate the gradient of the image rows.
    pub has_image: bool,
}

/// The batches of `epochs` passes over `rows`, in training order. A batch is a list of indices into `rows`.
///
/// Every epoch is shuffled and split by modality. Each part is split into windows of `window` batches; the rows of a
/// window are sorted by length and split into batches. Finally all batches of the epoch are shuffled. So the rows of a
/// batch have similar lengths, and long rows occur throughout the epoch. A larger window needs less padding and mixes
/// less: if kinds of rows differ in length, a batch contains one kind, which hurts small models. With `window = 1`, a
/// batch contains any rows of one modality.
///
/// The last batch of a part may be smaller. With `drop_last`, rows that fill no whole batch are left out of the epoch
/// (different ones in each epoch); with fewer rows than `batch`, nothing is left.
pub fn plan(
    rows: &[RowSize],
    batch: usize,
    epochs: usize,
    drop_last: bool,
    window: usize,
    seed: Seed,
) -> Vec<Vec<usize>> {
    let batch = batch.max(1);
    let mut batches = Vec::new();
    for epoch in 0..epochs {
        let mut rng = seed.stream(&format!("batches/{epoch}"));
        let mut order: Vec<usize> = (0..rows.len()).collect();
        shuffle(&mut order, &mut rng);
        let (mut with_image, mut text_only): (Vec<usize>, Vec<usize>) =
            order.into_iter().partition(|&row| rows[row].has_image);
        let mut of_epoch: Vec<Vec<usize>> = Vec::new();
        for part in [&mut with_image, &mut text_only] {
            if drop_last {
                // Rows are dropped before sorting; after it, the longest rows would always be dropped.
                part.truncate(part.len() / batch * batch);
            }
            for window in part.chunks_mut(batch * window.max(1)) {
                window.sort_by_key(|&row| rows[row].tokens);
                of_epoch.extend(window.chunks(batch).map(<[usize]>::to_vec));
            }
        }
        shuffle(&mut of_epoch, &mut rng);
        batches.append(&mut of_epoch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::uniform_below;

    fn lengths(count: usize) -> Vec<RowSize> {
        let mut rng = Seed(7).stream("lengths");
        (0..count).map(|_| RowSize { tokens: 5 + uniform_below(&mut rng, 195), has_image: true }).collect()
    }

    #[test]
    fn a_batch_has_one_modality() {
        let rows: Vec<RowSize> = (0..100).map(|row| RowSize { tokens: 10, has_image: row % 3 > 0 }).collect();
        let batches = plan(&rows, 8, 1, false, 4, Seed(1));
        assert!(batches.iter().all(|batch| batch.iter().all(|&row| rows[row].has_image == rows[batch[0]].has_image)));
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 100);
        // 66 rows with an image, 34 without.
        assert_eq!(batches.len(), 9 + 5);
    }

    #[test]
    fn every_epoch_has_every_row_in_a_new_order() {
        let lengths = lengths(1000);
        let batches = plan(&lengths, 16, 2, false, 32, Seed(1));
        assert_eq!(batches.len(), 2 * 63);
        let (first, second) = batches.split_at(63);
        for epoch in [first, second] {
            let mut rows: Vec<usize> = epoch.concat();
            rows.sort_unstable();
            assert_eq!(rows, (0..1000).collect::<Vec<_>>());
        }
        assert_ne!(first.concat(), second.concat());
    }

    #[test]
    fn equal_seeds_give_equal_batches() {
        let lengths = lengths(300);
        assert_eq!(plan(&lengths, 8, 1, true, 32, Seed(1)), plan(&lengths, 8, 1, true, 32, Seed(1)));
        assert_ne!(plan(&lengths, 8, 1, true, 32, Seed(1)), plan(&lengths, 8, 1, true, 32, Seed(2)));
    }

    #[test]
    fn a_batch_has_rows_of_similar_length() {
        let lengths = lengths(4000);
        let padding = |batches: &[Vec<usize>]| -> f64 {
            let padded: usize =
                batches.iter().map(|b| b.len() * b.iter().map(|&row| lengths[row].tokens).max().unwrap()).sum();
            let real: usize = batches.iter().flatten().map(|&row| lengths[row].tokens).sum();
            padded as f64 / real as f64 - 1.0
        };
        let grouped = padding(&plan(&lengths, 32, 1, true, 32, Seed(3)));
        let mut order: Vec<usize> = (0..4000).collect();
        shuffle(&mut order, &mut Seed(3).stream("plain"));
        let plain = padding(&order.chunks(32).map(<[usize]>::to_vec).collect::<Vec<_>>());
        assert!(grouped < 0.08, "{grouped}");
        assert!(plain > 0.8, "{plain}");
    }

    #[test]
    fn drop_last_drops_incomplete_batches() {
        assert!(plan(&lengths(103), 10, 3, true, 32, Seed(0)).iter().all(|batch| batch.len() == 10));
        assert_eq!(plan(&lengths(103), 10, 3, true, 32, Seed(0)).len(), 30);
        assert!(plan(&lengths(9), 10, 1, true, 32, Seed(0)).is_empty());
        assert_eq!(plan(&lengths(9), 10, 1, false, 32, Seed(0)).len(), 1);
        assert!(plan(&[], 10, 1, false, 32, Seed(0)).is_empty());
    }
}
