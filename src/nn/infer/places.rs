//! The places of a KV cache: a row per token in every layer. All layers are alike, so one list of free ranges serves them.

use std::ops::Range;

/// The free places, as ranges in ascending order that do not touch each other.
#[derive(Debug)]
pub(super) struct Places {
    free: Vec<Range<usize>>,
}

impl Places {
    /// All of `count` places are free.
    pub(super) fn new(count: usize) -> Places {
        Places { free: vec![0..count] }
    }

    /// Takes `count` places that follow each other from the first range with enough of them.
    pub(super) fn take(&mut self, count: usize) -> Option<Range<usize>> {
        let range = self.free.iter_mut().find(|range| range.len() >= count)?;
        let taken = range.start..range.start + count;
        range.start = taken.end;
        self.free.retain(|range| !range.is_empty());
        Some(taken)
    }

    /// Takes several ranges, or none of them.
    pub(super) fn take_all(&mut self, counts: impl Iterator<Item = usize>) -> Option<Vec<Range<usize>>> {
        let mut taken = Vec::new();
        for count in counts {
            match if count == 0 { Some(0..0) } else { self.take(count) } {
                Some(range) => taken.push(range),
                None => {
                    taken.into_iter().for_each(|range| self.give_back(range));
                    return None;
                }
            }
        }
        Some(taken)
    }

    /// Frees places that were taken together.
    pub(super) fn give_back(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let at = self.free.partition_point(|free| free.start < range.start);
        self.free.insert(at, range);
        // With the range after it, then with the one before.
        for right in [at + 1, at] {
            if (1..self.free.len()).contains(&right) && self.free[right - 1].end == self.free[right].start {
                self.free[right - 1].end = self.free.remove(right).end;
            }
        }
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
        assert_eq!(places.free, [1..5, 8..10]);
        places.give_back(5..8);
        places.give_back(0..1);
        assert_eq!(places.free, [0..10]);
    }

    #[test]
    fn several_ranges_are_taken_together_or_not_at_all() {
        let mut places = Places::new(6);
        assert_eq!(places.take_all([3, 4].into_iter()), None);
        assert_eq!(places.take_all([3, 0, 3].into_iter()), Some(vec![0..3, 0..0, 3..6]));
        places.give_back(3..6);
        places.give_back(0..3);
        assert_eq!(places.free, [0..6]);
    }
}
