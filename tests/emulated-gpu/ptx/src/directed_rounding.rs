//! Sums and products that are not rounded to the nearest number.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    TowardsZero,
    Down,
    Up,
}

impl Rounding {
    pub(crate) fn parse(modifier: &str) -> Option<Rounding> {
        match modifier {
            "rz" => Some(Rounding::TowardsZero),
            "rm" => Some(Rounding::Down),
            "rp" => Some(Rounding::Up),
            _ => None,
        }
    }

    /// `value + error` as an `f32`, where `error` is smaller than half a unit in the last place of `value`.
    #[expect(clippy::float_cmp, reason = "both are exact")]
    pub(crate) fn round(self, value: f64, error: f64) -> f32 {
        let nearest = value as f32;
        let exact = f64::from(nearest);
        let above = exact > value || (exact == value && error < 0.0);
        let below = exact < value || (exact == value && error > 0.0);
        let (down, up) = match self {
            Rounding::Down => (above, false),
            Rounding::Up => (false, below),
            Rounding::TowardsZero => (above && value > 0.0, below && value < 0.0),
        };
        match (nearest.is_finite(), down, up) {
            (true, true, _) => nearest.next_down(),
            (true, _, true) => nearest.next_up(),
            // Beyond the largest number.
            (false, true, _) if nearest > 0.0 && value.is_finite() => f32::MAX,
            (false, _, true) if nearest < 0.0 && value.is_finite() => f32::MIN,
            _ => nearest,
        }
    }

    /// `a * b + c`.
    pub(crate) fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        // The product is exact, and the error of the sum is known exactly (Knuth's two-sum).
        let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
        let sum = product + c;
        let other = sum - product;
        self.round(sum, (product - (sum - other)) + (c - other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "results are exact")]
    fn sums_are_rounded_in_the_direction() {
        let tiny = 1e-30f32;
        assert_eq!(Rounding::Down.fma(1.0, 1.0, -tiny), 1f32.next_down());
        assert_eq!(Rounding::Up.fma(1.0, 1.0, tiny), 1f32.next_up());
        assert_eq!(Rounding::TowardsZero.fma(-1.0, 1.0, tiny), (-1f32).next_up());
        assert_eq!(Rounding::Down.fma(0.5, 0.5, 0.25), 0.5);
    }
}
