//! The random numbers of dropout.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::batch::BatchPart;
use ablate_core::base::Seed;

/// One stream of random numbers per part of a batch. Each dropout layer takes the next numbers of each stream, one per element
/// of the part's rows.
#[derive(Clone, Debug)]
pub(crate) struct Dropout {
    streams: Vec<ChaCha8Rng>,
    parts: Vec<BatchPart>,
    /// The rows of each part in the tensors that are computed now, in order.
    rows: Vec<usize>,
}

impl Dropout {
    /// A seed per part.
    pub(crate) fn new(seeds: &[Seed], parts: &[BatchPart]) -> Dropout {
        assert_eq!(seeds.len(), parts.len(), "BUG: a seed per part");
        let streams = seeds.iter().map(|seed| seed.stream("dropout")).collect();
        Dropout { streams, parts: parts.to_vec(), rows: vec![0; parts.len()] }
    }

    /// Sets the rows of each part in the tensors that are computed next.
    pub(crate) fn set_rows(&mut self, rows: impl Fn(&BatchPart) -> usize) {
        self.rows = self.parts.iter().map(rows).collect();
    }

    /// The factors of a tensor of `width` numbers per row: 0 with probability `rate`, else `1 / (1 - rate)`, which keeps the
    /// expected sum.
    pub(crate) fn factors(&mut self, rate: f64, width: usize) -> Vec<f32> {
        let kept = (1.0 / (1.0 - rate)) as f32;
        let uniform = |word: u32| f64::from(word) / (f64::from(u32::MAX) + 1.0);
        let mut factors = Vec::with_capacity(self.rows.iter().sum::<usize>() * width);
        for (stream, rows) in self.streams.iter_mut().zip(&self.rows) {
            factors.extend((0..rows * width).map(|_| if uniform(stream.next_u32()) < rate { 0.0 } else { kept }));
        }
        factors
    }

    /// For each part the key of its stream, the next word, and how many words a tensor of `width` numbers per row takes. They count
    /// as taken.
    pub(crate) fn take(&mut self, width: usize) -> Vec<([u8; 32], u64, usize)> {
        let part = |(stream, rows): (&mut ChaCha8Rng, &usize)| {
            let (word, count) = (stream.get_word_pos(), rows * width);
            stream.set_word_pos(word + count as u128);
            (stream.get_seed(), word as u64, count)
        };
        self.streams.iter_mut().zip(&self.rows).map(part).collect()
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "dropout factors are exact numbers")]
mod tests {
    use super::*;

    fn dropout(tokens: &[usize]) -> Dropout {
        let seeds: Vec<Seed> = (0..tokens.len() as u64).map(Seed).collect();
        let parts: Vec<BatchPart> =
            tokens.iter().map(|&tokens| BatchPart { tokens, needed: 0, tower_positions: 0, features: 0 }).collect();
        let mut dropout = Dropout::new(&seeds, &parts);
        dropout.set_rows(|part| part.tokens);
        dropout
    }

    #[test]
    fn dropout_has_its_rate_and_keeps_the_mean() {
        for rate in [0.1, 0.5] {
            let count = 100_000;
            let factors = dropout(&[count / 100]).factors(rate, 100);
            let dropped = factors.iter().filter(|factor| **factor == 0.0).count() as f64 / count as f64;
            let mean = factors.iter().map(|&factor| f64::from(factor)).sum::<f64>() / count as f64;
            // Four standard deviations of a share of 100,000 draws are 0.0063 at most.
            assert!((dropped - rate).abs() < 0.0063 && (mean - 1.0).abs() < 0.013, "{dropped} {mean}");
            let kept = (1.0 / (1.0 - rate)) as f32;
            assert!(factors.iter().all(|&factor| factor == 0.0 || factor == kept));
        }
    }

    #[test]
    fn parts_have_streams_of_their_own() {
        let mut both = dropout(&[3, 2]);
        let (first, second) = (both.factors(0.5, 4), both.factors(0.5, 4));
        let mut one = dropout(&[3]);
        assert_eq!(
            [&first[..12], &second[..12]],
            [one.factors(0.5, 4), one.factors(0.5, 4)].each_ref().map(|part| &part[..])
        );
        assert_ne!(first[..8], first[12..]);
    }
}
