//! Cuts a batch into parts that run side by side. Knows no loss and no model.
//!
//! Parts are so many and so long that two threads end about together, since cores come in pairs. How many threads there
//! are has no say: what is dropped in training is drawn part by part.

use std::ops::Range;

/// Tokens of a part, about: few enough that what a layer computes stays in the caches, enough that reading its weights and
/// their gradients is little of the work.
const TOKENS: usize = 384;
/// What a part costs besides its tokens, in tokens.
const COST: usize = 24;
/// A batch of fewer tokens is one part.
const LEAST: usize = 96;

/// The parts of a batch of examples of these lengths, in tokens.
pub(super) fn even_parts(lengths: &[usize]) -> Vec<Range<usize>> {
    let total = lengths.iter().sum::<usize>();
    if total < LEAST {
        return cut(lengths, 1);
    }
    let (fewest, most) = (total.div_ceil(TOKENS * 4 / 3), total / (TOKENS * 2 / 3));
    let counts = (fewest.max(2)..=most.max(2)).filter(|count| count.is_multiple_of(2));
    let cuts = counts.map(|count| cut(lengths, count));
    // Large parts need more memory: they must be worth it.
    let best = cuts.min_by_key(|parts| time_of_two(lengths, parts) + largest(lengths, parts) / 4);
    best.unwrap_or_else(|| panic!("BUG: no even number between {fewest} and {most}"))
}

/// At most so many parts, as equal as they can be: an example belongs to the one that its middle falls into.
fn cut(lengths: &[usize], count: usize) -> Vec<Range<usize>> {
    let total = lengths.iter().sum::<usize>().max(1);
    let mut parts = Vec::with_capacity(count);
    let (mut start, mut open, mut before) = (0, 0, 0);
    for (at, length) in lengths.iter().enumerate() {
        let part = ((before + length / 2) * count / total).min(count - 1);
        if part > open && at > start {
            parts.push(start..at);
            start = at;
        }
        (open, before) = (part, before + length);
    }
    parts.push(start..lengths.len());
    parts
}

fn tokens(lengths: &[usize], part: &Range<usize>) -> usize {
    lengths[part.clone()].iter().sum()
}

fn largest(lengths: &[usize], parts: &[Range<usize>]) -> usize {
    parts.iter().map(|part| tokens(lengths, part)).max().unwrap_or(0)
}

/// How long two threads take for the parts, each of which goes to the one that is free first: in tokens, of which every
/// part costs some more.
fn time_of_two(lengths: &[usize], parts: &[Range<usize>]) -> usize {
    let mut busy = [0; 2];
    for part in parts {
        busy.sort_unstable();
        busy[0] += COST + tokens(lengths, part);
    }
    busy[0].max(busy[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of examples in each part.
    fn sizes(lengths: &[usize]) -> Vec<usize> {
        let parts = even_parts(lengths);
        assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..lengths.len()).collect::<Vec<_>>());
        parts.into_iter().map(|part| part.len()).collect()
    }

    #[test]
    fn equal_examples_make_equal_parts() {
        assert_eq!(sizes(&[96; 32]), [4; 8]);
        assert_eq!(sizes(&[97; 32]), [4; 8]);
        assert_eq!(sizes(&[97; 16]), [4; 4]);
        assert_eq!(sizes(&[257; 8]), [1; 8]);
        assert_eq!(sizes(&[256; 4]), [1; 4]);
        assert_eq!(sizes(&[5; 16]), [16], "too little to cut");
        assert_eq!(sizes(&[24; 16]), [8, 8]);
        assert_eq!(sizes(&[40; 16]), [8, 8]);
    }

    #[test]
    fn two_threads_end_about_together_whatever_the_lengths() {
        let lengths: Vec<usize> = (0..40).map(|i| 20 + (i * 7919) % 150).collect();
        let total: usize = lengths.iter().sum();
        let parts = even_parts(&lengths);
        assert!(largest(&lengths, &parts) <= 2 * TOKENS && parts.len() >= 6, "{parts:?}");
        assert!(time_of_two(&lengths, &parts) <= total / 2 + TOKENS / 4 + COST * parts.len(), "{parts:?}");
    }

    #[test]
    fn any_batch_is_cut() {
        assert_eq!(sizes(&[]), [0]);
        assert_eq!(sizes(&[0, 0, 0]), [3]);
        assert_eq!(sizes(&[2000]), [1], "an example stays whole");
        assert_eq!(sizes(&[1000, 10, 10, 10]), [1, 3]);
    }
}
