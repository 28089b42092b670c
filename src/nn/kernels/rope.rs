//! Rotary position embeddings (Su et al. 2021): a table of cosines and sines by position, and the rotation of a token.

use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, PoisonError};

use super::simd::simd;
use crate::architecture::{Rope, RopeScaling};

/// The frequencies of a model, and the table of the positions computed so far.
#[derive(Debug)]
pub(crate) struct RotaryEmbedding {
    /// Radians per position.
    frequencies: Vec<f64>,
    /// Positions per radian. Without rounding, an angle is the position divided by this.
    periods: Vec<f64>,
    /// Factor on cosines and sines (YaRN).
    factor: f64,
    rounded: bool,
    /// Which coordinate of a position each frequency counts; empty unless multimodal.
    axes: Vec<usize>,
    table: Mutex<Arc<RopeTable>>,
}

/// A position in time, height and width.
pub(crate) type Point = [u32; 3];

/// The rotations of the tokens of rows.
#[derive(Clone, Debug)]
pub(crate) enum Rotations {
    /// Token `i` of a row has position `i` of a table.
    InRow(Arc<RopeTable>),
    /// Every token has a position of its own in a table, in order.
    PerToken(Arc<RopeTable>),
}

/// Cosines and sines of the positions from 0 on, `half` of each per position.
#[derive(Debug, Default)]
pub(crate) struct RopeTable {
    pub(crate) half: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl RotaryEmbedding {
    /// For heads of an even `width`.
    pub(crate) fn new(rope: &Rope, width: usize) -> RotaryEmbedding {
        let round = |value: f64| if rope.rounded { f64::from(value as f32) } else { value };
        let exponent = |j: usize| round(2.0 * j as f64 / width as f64);
        let plain: Vec<f64> = (0..width / 2).map(|j| round(rope.theta.powf(exponent(j)))).collect();
        let scaled = |frequency: f64, j: usize| match rope.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_positions } => {
                llama3(frequency, factor, low_frequency_factor, high_frequency_factor, original_positions as f64)
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_positions, truncate, .. } => {
                let dimension = |rotations: f64| {
                    width as f64 * (original_positions as f64 / (rotations * TAU)).ln() / (2.0 * rope.theta.ln())
                };
                let (low, high) = (dimension(beta_fast), dimension(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, mut high) = (low.max(0.0), high.min(width as f64 - 1.0));
                if low >= high {
                    // As in the paper's code, to avoid a division by zero.
                    high = low + 0.001;
                }
                let ramp = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * ramp + frequency * (1.0 - ramp)
            }
        };
        let frequencies: Vec<f64> =
            plain.iter().enumerate().map(|(j, period)| round(scaled(round(1.0 / period), j))).collect();
        let periods = match rope.scaling {
            RopeScaling::None => plain,
            _ => frequencies.iter().map(|frequency| 1.0 / frequency).collect(),
        };
        let factor = if let RopeScaling::Yarn { attention_factor, .. } = rope.scaling { attention_factor } else { 1.0 };
        let table = Mutex::new(Arc::new(RopeTable { half: width / 2, ..RopeTable::default() }));
        let axes =
            rope.sections.iter().enumerate().flat_map(|(at, &count)| std::iter::repeat_n(at % 3, count)).collect();
        RotaryEmbedding { frequencies, periods, factor, rounded: rope.rounded, axes, table }
    }

    /// A table of at least the positions `0..positions`.
    pub(crate) fn table(&self, positions: usize) -> Arc<RopeTable> {
        // A poisoned lock means that another thread panicked. The table is replaced as a whole, so it is valid.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.positions() < positions {
            *table = Arc::new(self.compute(positions.next_power_of_two()));
        }
        table.clone()
    }

    /// The rotations of rows of tokens, the longest of which has `longest`. `points` are the positions of the tokens in time, height and
    /// width; empty if each token's is its number in the row.
    pub(crate) fn rotations(&self, longest: usize, points: &[Point]) -> Rotations {
        if points.is_empty() {
            return Rotations::InRow(self.table(longest));
        }
        let most = points.iter().flatten().max().map_or(0, |&position| position as usize);
        let table = self.table(most + 1);
        let source = |token: usize, j: usize| (points[token][self.axes[j]] as usize, j);
        Rotations::PerToken(Arc::new(table.compose(points.len(), self.axes.len(), source)))
    }

    fn compute(&self, positions: usize) -> RopeTable {
        let angle = |position: usize, j: usize| {
            let position = position as f64;
            if self.rounded { f64::from((position * self.frequencies[j]) as f32) } else { position / self.periods[j] }
        };
        let half = self.periods.len();
        let angles = (0..positions).flat_map(|position| (0..half).map(move |j| angle(position, j)));
        let (sin, cos) =
            angles.map(|angle| ((angle.sin() * self.factor) as f32, (angle.cos() * self.factor) as f32)).unzip();
        RopeTable { half, cos, sin }
    }
}

/// Llama 3.1's scaling: wavelengths above `original / low` are stretched by `factor`, those below `original / high` are kept,
/// and those between are interpolated.
fn llama3(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = TAU / frequency;
    if wavelength > original / low {
        frequency / factor
    } else if wavelength < original / high {
        frequency
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

impl Rotations {
    pub(crate) fn table(&self) -> &Arc<RopeTable> {
        match self {
            Rotations::InRow(table) | Rotations::PerToken(table) => table,
        }
    }

    /// The position in the table of token `at` of a row that starts at token `start` of the batch.
    pub(crate) fn position(&self, start: usize, at: usize) -> usize {
        match self {
            Rotations::InRow(_) => at,
            Rotations::PerToken(_) => start + at,
        }
    }
}

impl RopeTable {
    pub(crate) fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// A table of `positions` positions whose elements come from this one: `source` gives the position and the index of element
    /// `j` of a position.
    pub(crate) fn compose(
        &self,
        positions: usize,
        half: usize,
        source: impl Fn(usize, usize) -> (usize, usize),
    ) -> RopeTable {
        let element = |position: usize, j: usize| {
            let (from, index) = source(position, j);
            let at = from * self.half + index;
            (self.cos[at], self.sin[at])
        };
        let elements = (0..positions).flat_map(|position| (0..half).map(move |j| (position, j)));
        let (cos, sin) = elements.map(|(position, j)| element(position, j)).unzip();
        RopeTable { half, cos, sin }
    }

    /// Rotates every head of a token at `position` (rotate-half): `(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)`.
    pub(crate) fn rotate(&self, token: &mut [f32], position: usize) {
        let range = position * self.half..(position + 1) * self.half;
        rotate_heads(token, &self.cos[range.clone()], &self.sin[range], 1.0);
    }

    /// The inverse rotation, which is the gradient of [`RopeTable::rotate`].
    pub(crate) fn rotate_back(&self, token: &mut [f32], position: usize) {
        let range = position * self.half..(position + 1) * self.half;
        rotate_heads(token, &self.cos[range.clone()], &self.sin[range], -1.0);
    }
}

simd! {
pub(crate) fn rotate_heads(token: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    for head in token.chunks_exact_mut(2 * cos.len()) {
        let (first, second) = head.split_at_mut(cos.len());
        for (((x1, x2), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let s = s * sign;
            (*x1, *x2) = (*x1 * c - *x2 * s, *x2 * c + *x1 * s);
        }
    }
}}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(theta: f64, scaling: RopeScaling) -> Rope {
        Rope { theta, scaling, rounded: false, sections: Vec::new() }
    }

    #[test]
    fn a_rotation_and_its_inverse_cancel() {
        let table = RotaryEmbedding::new(&rope(10.0, RopeScaling::None), 4).table(8);
        let mut token = vec![1.0, 2.0, 3.0, 4.0, -1.0, 0.5, 0.0, 2.0];
        let before = token.clone();
        table.rotate(&mut token, 5);
        // Position 5, frequencies 1 and 10^-0.5; the first number of the first head, computed by hand.
        let expected = 5f64.cos() - 3.0 * 5f64.sin();
        assert!((f64::from(token[0]) - expected).abs() < 1e-6, "{token:?}");
        table.rotate_back(&mut token, 5);
        assert!(token.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-6), "{token:?}");
    }

    #[test]
    fn a_composed_table_takes_its_elements_from_several_positions() {
        let table = RotaryEmbedding::new(&rope(10.0, RopeScaling::None), 4).table(8);
        // Two positions: the first element from one position, the second from another.
        let composed = table.compose(2, 2, |position, j| ([[3, 5], [0, 7]][position][j], j));
        assert_eq!(composed.cos, [table.cos[6], table.cos[11], table.cos[0], table.cos[15]]);
        assert_eq!(composed.sin, [table.sin[6], table.sin[11], table.sin[0], table.sin[15]]);
        assert_eq!(composed.positions(), 2);
    }

    #[test]
    fn a_longer_table_keeps_its_first_positions() {
        let rotary = RotaryEmbedding::new(&rope(1000.0, RopeScaling::None), 8);
        let few = rotary.table(3);
        let many = rotary.table(100);
        assert_eq!((few.positions(), many.positions()), (4, 128));
        assert_eq!(few.cos, many.cos[..few.cos.len()]);
    }

    #[test]
    fn scaled_frequencies_match_hand_computed_ones() {
        // Width 4 and theta 10,000: frequencies 1 and 0.01, wavelengths 6.28 and 628.
        let of = |scaling| RotaryEmbedding::new(&rope(10_000.0, scaling), 4).frequencies;
        assert_eq!(of(RopeScaling::Linear { factor: 4.0 }), [0.25, 0.0025]);
        let scaling = |original_positions| RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_positions,
        };
        // 628 is longer than 512: stretched; 6.28 is shorter than 512 / 4.
        let frequencies = of(scaling(512));
        assert!((frequencies[1] - 0.01 / 8.0).abs() < 1e-12 && (frequencies[0] - 1.0).abs() < 1e-12, "{frequencies:?}");
        // 628 is between 1024 / 4 and 1024: smooth = (1024 / 628.32 - 1) / 3 = 0.2099.
        let slope = (1024.0 / 628.318_530_717_958_6 - 1.0) / 3.0;
        assert!((of(scaling(1024))[1] - ((1.0 - slope) * 0.01 / 8.0 + slope * 0.01)).abs() < 1e-12);
    }
}
