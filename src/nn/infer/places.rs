//! The places of a KV cache: a row per token in every layer. All layers are alike, so one list of free ranges serves them.

use std::collections::BTreeMap;
use std::ops::Range;

/// The free places.
#[derive(Debug)]
pub(super) struct Places {
    /// The end of each free range by its start. No range touches another.
    free: BTreeMap<usize, usize>,
}

impl Places {
    /// All of `count` places are free.
    pub(super) fn new(count: usize) -> Places {
        let mut places = Places { free: BTreeMap::new() };
        places.give_back(0..count);
        places
    }

    /// Takes `count` places that follow each other from the first range with enough of them.
    pub(super) fn take(&mut self, count: usize) -> Option<Range<usize>> {
        if count == 0 {
            return Some(0..0);
        }
        let (&start, &end) = self.free.iter().find(|(start, end)| *end - *start >= count)?;
        self.free.remove(&start);
        let taken = start..start + count;
        self.give_back(taken.end..end);
        Some(taken)
    }

    /// Takes several ranges, or none of them.
    pub(super) fn take_all(&mut self, counts: impl Iterator<Item = usize>) -> Option<Vec<Range<usize>>> {
        let mut taken = Vec::new();
        for count in counts {
            if let Some(range) = self.take(count) {
                taken.push(range);
            } else {
                for range in taken {
                    self.give_back(range);
                }
                return None;
            }
        }
        Some(taken)
    }

    /// Frees places that were taken.
    pub(super) fn give_back(&mut self, range: Range<usize>) {
        let Range { mut start, mut end } = range;
        if start == end {
            return;
        }
        if let Some(after) = self.free.remove(&end) {
            end = after;
        }
        if let Some((&before, _)) = self.free.range(..start).next_back().filter(|(_, before)| **before == start) {
            start = before;
        }
        self.free.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_that_is_large_enough_is_used() {
        let mut places = Places::new(10);
        let [a, b, c] = [2, 3, 5].map(|count| places.take(count).unwrap());
        assert_eq!([a.clone(), b.clone(), c.clone()], [0..2, 2..5, 5..10]);
        assert_eq!(places.take(1), None);
        places.give_back(a);
        places.give_back(c);
        assert_eq!(places.take(3), Some(5..8));
        assert_eq!(places.take(1), Some(0..1));
        places.give_back(b);
        assert_eq!(places.free, BTreeMap::from([(1, 5), (8, 10)]));
        places.give_back(5..8);
        places.give_back(0..1);
        assert_eq!(places.free, BTreeMap::from([(0, 10)]));
    }

    #[test]
    fn several_ranges_are_taken_together_or_not_at_all() {
        let mut places = Places::new(6);
        assert_eq!(places.take_all([3, 4].into_iter()), None);
        assert_eq!(places.take_all([3, 0, 3].into_iter()), Some(vec![0..3, 0..0, 3..6]));
        places.give_back(3..6);
        places.give_back(0..3);
        assert_eq!(places.free, BTreeMap::from([(0, 6)]));
    }
}
