//! The order in which rows are trained on: shuffled, and grouped by modality and length.
//! Knows lengths and indices only, no row and no token.

use super::draw::shuffle;
use ablate_core::base::Seed;

/// What of a row decides with which others it shares a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Tokens.
    pub length: usize,
    /// Whether it has an image. A batch holds rows with images or rows without, as in the paper's recipe (section 6):
    /// mixed, the many predictable and unpredictable tokens of plain text drown what an image teaches.
    pub image: bool,
}

/// The batches of `epochs` passes over `rows`, in training order: each batch lists indices into `rows`.
///
/// Every epoch is shuffled anew and parted by modality; each part is cut into windows of `window` batches, sorted by
/// length inside each window and cut into batches, and then all batches are shuffled. So a batch holds rows of like
/// length, and a long row may come at any time. A larger window pads less and mixes less: where kinds of rows differ
/// in length, a batch holds one kind, which hurts small models. With 1 a batch is any rows of a modality.
///
/// The last batch of a part may be smaller; with `drop_last` the rows that fill no whole batch are left out instead
/// (others in each epoch), and with fewer rows than `batch` nothing is left.
pub fn plan(
    rows: &[Extent],
    batch: usize,
    epochs: usize,
    drop_last: bool,
    window: usize,
    seed: Seed,
) -> Vec<Vec<usize>> {
    let batch = batch.max(1);
    let mut batches = Vec::new();
    for epoch in 0..epochs {
        let mut random = seed.stream(&format!("batches/{epoch}"));
        let mut order: Vec<usize> = (0..rows.len()).collect();
        shuffle(&mut order, &mut random);
        let (mut seeing, mut reading): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&row| rows[row].image);
        let mut of_epoch: Vec<Vec<usize>> = Vec::new();
        for part in [&mut seeing, &mut reading] {
            if drop_last {
                // Rows go before the sort: afterwards it would always be the longest that go.
                part.truncate(part.len() / batch * batch);
            }
            for window in part.chunks_mut(batch * window.max(1)) {
                window.sort_by_key(|&row| rows[row].length);
                of_epoch.extend(window.chunks(batch).map(<[usize]>::to_vec));
            }
        }
        shuffle(&mut of_epoch, &mut random);
        batches.append(&mut of_epoch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::below;

    fn lengths(count: usize) -> Vec<Extent> {
        let mut random = Seed(7).stream("lengths");
        (0..count).map(|_| Extent { length: 5 + below(&mut random, 195), image: true }).collect()
    }

    #[test]
    fn a_batch_has_images_or_none() {
        let rows: Vec<Extent> = (0..100).map(|row| Extent { length: 10, image: row % 3 > 0 }).collect();
        let batches = plan(&rows, 8, 1, false, 4, Seed(1));
        assert!(batches.iter().all(|batch| batch.iter().all(|&row| rows[row].image == rows[batch[0]].image)));
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 100);
        // 66 rows with an image, 34 without.
        assert_eq!(batches.len(), 9 + 5);
    }

    #[test]
    fn every_epoch_holds_every_row_once_in_another_order() {
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
    fn the_same_seed_gives_the_same_plan() {
        let lengths = lengths(300);
        assert_eq!(plan(&lengths, 8, 1, true, 32, Seed(1)), plan(&lengths, 8, 1, true, 32, Seed(1)));
        assert_ne!(plan(&lengths, 8, 1, true, 32, Seed(1)), plan(&lengths, 8, 1, true, 32, Seed(2)));
    }

    #[test]
    fn a_batch_holds_rows_of_like_length() {
        let lengths = lengths(4000);
        let padding = |batches: &[Vec<usize>]| -> f64 {
            let padded: usize =
                batches.iter().map(|b| b.len() * b.iter().map(|&row| lengths[row].length).max().unwrap()).sum();
            let real: usize = batches.iter().flatten().map(|&row| lengths[row].length).sum();
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
    fn drop_last_leaves_out_what_fills_no_batch() {
        assert!(plan(&lengths(103), 10, 3, true, 32, Seed(0)).iter().all(|batch| batch.len() == 10));
        assert_eq!(plan(&lengths(103), 10, 3, true, 32, Seed(0)).len(), 30);
        assert!(plan(&lengths(9), 10, 1, true, 32, Seed(0)).is_empty());
        assert_eq!(plan(&lengths(9), 10, 1, false, 32, Seed(0)).len(), 1);
        assert!(plan(&[], 10, 1, false, 32, Seed(0)).is_empty());
    }
}
