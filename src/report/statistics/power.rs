//! What a design detects, and what more seeds or items would detect, from the measured variances.

use serde::Serialize;

use super::interval::{ENOUGH_SEEDS, Student, regularized};
use super::variance::{Average, MeanSquare};

/// The power of all functions.
pub const POWER: f64 = 0.8;

/// Largest answers of [`Design::seeds_for`] and [`Design::items_for`], which gives a multiple of the items.
const MOST_SEEDS: usize = 100;
const MOST_ITEMS: f64 = 1000.0;

/// What it takes to detect an effect with 80 % power.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Needs {
    /// The true difference that is to be detected.
    pub effect: f64,
    /// Number of seeds, with the same items. None if no number up to 100 suffices, or if there are fewer than three
    /// seeds, from which the variation between seeds cannot be estimated.
    pub seeds: Option<usize>,
    /// Number of items, with the same seeds. None if no number up to 1,000 times as many suffices.
    pub items: Option<usize>,
}

/// The variance of an average as a function of the numbers of seeds and items.
///
/// The part of the items falls with the number of items, that of the seeds with the number of seeds, and that of both
/// with their product. The degrees of freedom are Satterthwaite's.
#[derive(Clone, Copy, Debug)]
pub struct Design {
    average: Average,
    clusters: MeanSquare,
    /// Level of the two-sided test.
    alpha: f64,
}

impl Design {
    /// The design of a measured average. `tests`: number of tests among which the level of 5 % is divided.
    pub fn new(average: Average, tests: usize) -> Design {
        let (clusters, _) = regularized(&average);
        Design { average, clusters, alpha: super::ALPHA / tests.max(1) as f64 }
    }

    /// The smallest true difference that the design detects.
    pub fn detectable(&self) -> f64 {
        self.detectable_with(1.0, self.average.seeds)
    }

    /// What it takes to detect `effect`, with `items` items now.
    pub fn needs(&self, effect: f64, items: usize) -> Needs {
        let seeds = self.average.seeds;
        let enough = |seeds: &usize| self.detectable_with(1.0, *seeds) <= effect;
        let multiples = std::iter::successors(Some(1.0), |multiple| Some(multiple * 1.05));
        let enough_items = |multiple: &f64| self.detectable_with(*multiple, seeds) <= effect;
        let multiple = multiples.take_while(|multiple| *multiple <= MOST_ITEMS).find(enough_items);
        Needs {
            effect,
            seeds: (seeds..=MOST_SEEDS).filter(|_| seeds >= ENOUGH_SEEDS).find(enough),
            items: multiple.map(|multiple| round_up(items as f64 * multiple)),
        }
    }

    /// As [`Design::detectable`], with `multiple` times the items and another number of seeds.
    fn detectable_with(&self, multiple: f64, seeds: usize) -> f64 {
        let Average { by_seed, by_both, .. } = self.average;
        let clusters = self.clusters;
        if self.average.seeds < ENOUGH_SEEDS {
            return self.quantiles(clusters.freedom * multiple) * (clusters.variance / multiple).sqrt();
        }
        let more_seeds = seeds as f64 / self.average.seeds as f64;
        let both = by_both.variance / (multiple * more_seeds);
        let of_items = (clusters.variance - by_both.variance).max(0.0) / multiple + both;
        let of_seeds = (by_seed.variance - by_both.variance).max(0.0) / more_seeds + both;
        let variance = of_items + of_seeds - both;
        let seeds_freedom = (seeds - 1) as f64;
        let squares = of_items.powi(2) / (clusters.freedom * multiple)
            + of_seeds.powi(2) / seeds_freedom
            + both.powi(2) / (clusters.freedom * multiple * seeds_freedom);
        let freedom = if squares > 0.0 { variance * variance / squares } else { seeds_freedom };
        self.quantiles(freedom) * variance.sqrt()
    }

    /// The difference that is detected, in standard errors: the quantiles of significance and of power.
    fn quantiles(&self, freedom: f64) -> f64 {
        let student = Student::new(freedom);
        student.quantile(1.0 - self.alpha / 2.0) + student.quantile(POWER)
    }
}

/// Two digits, rounded up, with the rest zero.
fn round_up(number: f64) -> usize {
    let unit = 10f64.powf((number.max(1.0).log10().floor() - 1.0).max(0.0));
    ((number / unit).ceil() * unit) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{Items, Range, Series};

    fn design(seeds: usize, value: impl Fn(usize, usize) -> f64) -> Design {
        let items = Items::new(&[1000]);
        let series = Series::new(seeds, &items, false, |seed, item| Some(value(seed, item)));
        let average = Average::new(&series, &items, Range::Difference(1.0)).unwrap();
        Design::new(average, 1)
    }

    #[test]
    fn discordant_items_limit_one_run() {
        // 10 % of 1000 items are discordant: 2.8 standard errors of sqrt(0.102 / 1002), as with Connor's formula
        // (Biometrics 43, 1987).
        let design = design(1, |_, item| [1.0, -1.0].get(item % 20).copied().unwrap_or(0.0));
        let detectable = design.detectable();
        assert!((0.0275..0.0290).contains(&detectable), "{detectable}");
        let needs = design.needs(detectable / 2.0, 1000);
        assert_eq!((needs.seeds, needs.items), (None, Some(4200)));
    }

    #[test]
    fn seeds_that_vary_need_more_seeds_and_not_more_items() {
        let design = design(3, |seed, item| f64::from(u8::from(item % 50 < [0, 3, 6][seed])));
        let needs = design.needs(0.05, 1000);
        assert!(needs.seeds.is_some_and(|seeds| (10..40).contains(&seeds)) && needs.items.is_none(), "{needs:?}");
    }

    #[test]
    fn a_correction_raises_what_is_detectable() {
        let one = design(3, |_, item| f64::from(u8::from(item % 10 == 0)));
        let many = Design { alpha: one.alpha / 20.0, ..one };
        assert!(many.detectable() > 1.2 * one.detectable());
    }

    #[test]
    fn numbers_are_rounded_up_to_two_digits() {
        assert_eq!([7.2, 99.5, 1201.0, 34_567.0].map(round_up), [8, 100, 1300, 35_000]);
    }
}
