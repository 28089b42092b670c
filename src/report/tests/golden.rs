//! Variances, intervals and p-values compared with an implementation in numpy and scipy: `tests/golden/make_statistics.py`.

use std::path::Path;

use serde::Deserialize;

use crate::statistics::{Average, Items, Range, Series, TestMethod, confidence_interval, paired_test};
use ablate_core::base::Seed;

#[derive(Deserialize)]
struct Case {
    difference: bool,
    /// Data set, image, seed, value.
    pairs: Vec<(usize, usize, usize, f64)>,
    mean: f64,
    by_cluster: f64,
    freedom: f64,
    by_seed: f64,
    by_both: f64,
    low: f64,
    high: f64,
    p: Option<f64>,
}

impl Case {
    fn series(&self) -> (Series, Items) {
        let seeds = self.pairs.iter().map(|pair| pair.2).max().map_or(0, |last| last + 1);
        let first: Vec<_> = self.pairs.iter().filter(|pair| pair.2 == 0).collect();
        let datasets = first.iter().map(|pair| pair.0).max().map_or(0, |last| last + 1);
        let sizes: Vec<usize> =
            (0..datasets).map(|dataset| first.iter().filter(|pair| pair.0 == dataset).count()).collect();
        let items = Items::clustered(&sizes, first.iter().map(|pair| pair.1).collect());
        // The pairs are ordered by item, then by seed.
        let series = Series::new(seeds, &items, false, |seed, item| Some(self.pairs[item * seeds + seed].3));
        (series, items)
    }
}

#[test]
fn statistics_agree_with_scipy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/statistics.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let cases: Vec<Case> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cases.len(), 200);
    let mut tested = 0;
    for (number, case) in cases.iter().enumerate() {
        let (series, items) = case.series();
        let range = if case.difference { Range::Difference(1.0) } else { Range::Share };
        let average = Average::new(&series, &items, range).unwrap();
        let near = |name: &str, actual: f64, expected: f64, tolerance: f64| {
            let error = (actual - expected).abs();
            assert!(error <= tolerance, "case {number}, {name}: {actual} is not {expected}");
        };
        let relative = |expected: f64| 1e-9 * expected.abs() + 1e-15;
        near("mean", average.mean, case.mean, 1e-12);
        near("clusters", average.by_cluster.variance, case.by_cluster, relative(case.by_cluster));
        near("freedom", average.by_cluster.freedom, case.freedom, relative(case.freedom));
        near("seeds", average.by_seed.variance, case.by_seed, relative(case.by_seed));
        near("both", average.by_both.variance, case.by_both, relative(case.by_both));
        let interval = confidence_interval(&average);
        near("low", interval.low, case.low, 5e-4);
        near("high", interval.high, case.high, 5e-4);
        if let Some(p_value) = case.p {
            let test = paired_test(&average, &series, &items, Seed(0));
            assert_eq!(test.method, TestMethod::CrossedSeeds);
            near("p", test.p_value, p_value, 1e-2 * p_value + 1e-9);
            tested += 1;
        }
    }
    assert!(tested > 50, "{tested} p-values");
}
