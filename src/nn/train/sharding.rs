//! Splits a batch into shards that are computed in parallel.
//!
//! On a GPU, all shards of a micro-batch are computed as one batch.
//!
//! The number and sizes of the shards balance two threads, since cores come in pairs. They do not depend on the number of
//! threads: the dropout of training is drawn per shard.

use std::ops::Range;

/// Target size of a shard in tokens: few enough that the activations of a layer stay in the caches, and enough that reading
/// the weights and their gradients is a small shard of the work.
const SHARD_TOKENS: usize = 384;
/// The fixed cost of a shard, in tokens.
const SHARD_COST: usize = 24;
/// A batch with fewer tokens is one shard.
const MIN_SPLIT_TOKENS: usize = 96;

/// The shards of a batch, from the lengths of its examples in tokens.
pub(super) fn shards(lengths: &[usize]) -> Vec<Range<usize>> {
    let total = lengths.iter().sum::<usize>();
    if total < MIN_SPLIT_TOKENS {
        return split(lengths, 1);
    }
    let (fewest, most) = (total.div_ceil(SHARD_TOKENS * 4 / 3), total / (SHARD_TOKENS * 2 / 3));
    let counts = (fewest.max(2)..=most.max(2)).filter(|count| count.is_multiple_of(2));
    let splits = counts.map(|count| split(lengths, count));
    // Large shards need more memory, so they must save time.
    let best = splits.min_by_key(|shards| time_of_two(lengths, shards) + largest(lengths, shards) / 4);
    best.unwrap_or_else(|| panic!("BUG: no even number between {fewest} and {most}"))
}

/// Consecutive shards with at most `most` examples together, or one shard with more.
pub(super) fn in_order(shards: &[&[usize]], most: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut open = 0;
    for (at, shard) in shards.iter().enumerate() {
        if let Some(run) = runs.last_mut().filter(|_| open + shard.len() <= most) {
            (run.end, open) = (at + 1, open + shard.len());
        } else {
            runs.push(at..at + 1);
            open = shard.len();
        }
    }
    runs
}

/// At most `count` shards of about equal size. An example belongs to the shard that contains its middle.
fn split(lengths: &[usize], count: usize) -> Vec<Range<usize>> {
    let total = lengths.iter().sum::<usize>().max(1);
    let mut shards = Vec::with_capacity(count);
    let (mut start, mut open, mut before) = (0, 0, 0);
    for (at, length) in lengths.iter().enumerate() {
        let shard = ((before + length / 2) * count / total).min(count - 1);
        if shard > open && at > start {
            shards.push(start..at);
            start = at;
        }
        (open, before) = (shard, before + length);
    }
    shards.push(start..lengths.len());
    shards
}

fn tokens(lengths: &[usize], shard: &Range<usize>) -> usize {
    lengths[shard.clone()].iter().sum()
}

fn largest(lengths: &[usize], shards: &[Range<usize>]) -> usize {
    shards.iter().map(|shard| tokens(lengths, shard)).max().unwrap_or(0)
}

/// The time of two threads for the shards, in tokens. Each shard goes to the thread that is free first.
fn time_of_two(lengths: &[usize], shards: &[Range<usize>]) -> usize {
    let mut busy = [0; 2];
    for shard in shards {
        busy.sort_unstable();
        busy[0] += SHARD_COST + tokens(lengths, shard);
    }
    busy[0].max(busy[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of examples in each shard.
    fn sizes(lengths: &[usize]) -> Vec<usize> {
        let shards = super::shards(lengths);
        assert_eq!(shards.iter().cloned().flatten().collect::<Vec<_>>(), (0..lengths.len()).collect::<Vec<_>>());
        shards.into_iter().map(|shard| shard.len()).collect()
    }

    #[test]
    fn equal_examples_make_equal_shards() {
        assert_eq!(sizes(&[96; 32]), [4; 8]);
        assert_eq!(sizes(&[97; 32]), [4; 8]);
        assert_eq!(sizes(&[97; 16]), [4; 4]);
        assert_eq!(sizes(&[257; 8]), [1; 8]);
        assert_eq!(sizes(&[256; 4]), [1; 4]);
        assert_eq!(sizes(&[5; 16]), [16], "too small to split");
        assert_eq!(sizes(&[24; 16]), [8, 8]);
        assert_eq!(sizes(&[40; 16]), [8, 8]);
    }

    #[test]
    fn two_threads_are_balanced() {
        let lengths: Vec<usize> = (0..40).map(|i| 20 + (i * 7919) % 150).collect();
        let total: usize = lengths.iter().sum();
        let shards = super::shards(&lengths);
        assert!(largest(&lengths, &shards) <= 2 * SHARD_TOKENS && shards.len() >= 6, "{shards:?}");
        assert!(
            time_of_two(&lengths, &shards) <= total / 2 + SHARD_TOKENS / 4 + SHARD_COST * shards.len(),
            "{shards:?}"
        );
    }

    #[test]
    fn any_batch_can_be_split() {
        assert_eq!(sizes(&[]), [0]);
        assert_eq!(sizes(&[0, 0, 0]), [3]);
        assert_eq!(sizes(&[2000]), [1], "an example is not split");
        assert_eq!(sizes(&[1000, 10, 10, 10]), [1, 3]);
    }
}
