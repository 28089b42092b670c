//! The power of paired tests: which differences a number of items can detect.

use statrs::distribution::{ContinuousCDF, Normal};

use super::ALPHA;

/// The power of [`minimum_detectable_difference`].
pub const POWER: f64 = 0.8;

/// The smallest true mean difference that a two-sided paired test of `items` items at 5 % detects with 80 % power.
///
/// `discordance` is the mean of the squared differences: for scores of 0 or 1 the share of discordant items. The
/// difference `D` solves `D sqrt(n) = z(1 - a/2) sqrt(d) + z(power) sqrt(d - D^2)` (R. J. Connor, "Sample size for
/// testing differences in proportions for the paired-sample design", Biometrics 43, 1987, equation 3, solved for `D`).
/// None if no item is discordant, or if no difference that `discordance` allows is detectable.
pub fn minimum_detectable_difference(items: usize, discordance: f64) -> Option<f64> {
    let normal = Normal::standard();
    let (significance, power) = (normal.inverse_cdf(1.0 - ALPHA / 2.0), normal.inverse_cdf(POWER));
    let n = items as f64;
    if items == 0 || discordance <= 0.0 {
        return None;
    }
    // The square of the equation is a quadratic in D; its larger root is the one with D sqrt(n) above the first term.
    let a = significance * discordance.sqrt();
    let lead = n + power * power;
    let inner = a * a * n - lead * (a * a - power * power * discordance);
    if inner < 0.0 {
        return None;
    }
    let difference = (a * n.sqrt() + inner.sqrt()) / lead;
    // The difference cannot exceed 1, nor the root of the mean squared difference.
    (difference <= discordance.sqrt().min(1.0)).then_some(difference)
}

/// The largest share of discordant items at which a paired test at 5 % detects the net `difference`. At most 1.
///
/// McNemar's statistic without correction is `z = (b - c) / sqrt(b + c) = D sqrt(n / d)`; it reaches `z(1 - a/2)`
/// as long as `d <= D^2 n / z^2` (Q. McNemar, Psychometrika 12, 1947).
pub fn largest_discordance(items: usize, difference: f64) -> f64 {
    let significance = Normal::standard().inverse_cdf(1.0 - ALPHA / 2.0);
    (difference.powi(2) * items as f64 / significance.powi(2)).min(1.0)
}

/// The standard error of the difference of two independent shares over `items` items each:
/// `sqrt(p (1 - p) / n + q (1 - q) / n)`. The unpaired z is the difference divided by it.
pub fn unpaired_error(items: usize, p: f64, q: f64) -> f64 {
    ((p * (1.0 - p) + q * (1.0 - q)) / items as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_of_the_headline_table_is_reproduced() {
        // Items, scores of the SFT and the DPO model with chain of thought in percent (Table 6), then the
        // unpaired error, z and the largest share of discordant items as printed in the digest.
        let rows = [
            ("A-OK", 1145, 86.2, 87.0, "1.42 0.56 1.9"),
            ("ChartQA", 2500, 83.0, 84.2, "1.05 1.15 9.4"),
            ("DocVQA", 5349, 81.8, 82.7, "0.74 1.22 11.3"),
            ("InfoVQA", 2801, 51.6, 52.7, "1.33 0.82 8.8"),
            ("TextVQA", 5000, 71.1, 71.5, "0.90 0.44 2.1"),
            ("AI2D", 3088, 78.5, 79.5, "1.04 0.96 8.0"),
            ("SQA", 2017, 92.7, 92.6, "0.82 -0.12 0.1"),
            ("MathVista", 1000, 50.6, 52.1, "2.24 0.67 5.9"),
        ];
        for (name, items, sft, dpo, printed) in rows {
            let error = 100.0 * unpaired_error(items, sft / 100.0, dpo / 100.0);
            let share = 100.0 * largest_discordance(items, (dpo - sft) / 100.0);
            assert_eq!(format!("{error:.2} {:.2} {share:.1}", (dpo - sft) / error), printed, "{name}");
        }
    }

    #[test]
    fn minimum_detectable_difference_solves_connors_equation() {
        for (items, discordance) in [(1000, 0.1), (150, 0.25), (5000, 0.02)] {
            let d = minimum_detectable_difference(items, discordance).unwrap();
            let sides = 1.959_964 * discordance.sqrt() + 0.841_621 * (discordance - d * d).sqrt();
            assert!((d * f64::from(items as u32).sqrt() - sides).abs() < 1e-4);
        }
        // 1000 items of which 10 % are discordant: about 2.8 standard errors of 1 point each.
        assert!((minimum_detectable_difference(1000, 0.1).unwrap() - 0.0279).abs() < 1e-4);
    }

    #[test]
    fn too_few_items_detect_nothing() {
        assert_eq!(minimum_detectable_difference(0, 0.1), None);
        assert_eq!(minimum_detectable_difference(100, 0.0), None);
        assert_eq!(minimum_detectable_difference(3, 0.3), None);
    }
}
