//! The verdict on a contrast, with its reason.

use super::statistics::{ALPHA, Needs};
use super::table::{CarriedBy, Difference, SeedEstimate, Verdict};
use super::text_table::{interval, percentage_points, thousands};

/// What a verdict is based on.
pub(super) struct Evidence<'a> {
    pub(super) difference: &'a Difference,
    /// The smallest difference that matters.
    pub(super) margin: Option<f64>,
    pub(super) by_seed: &'a [SeedEstimate],
    pub(super) carried_by: Option<&'a CarriedBy>,
    pub(super) needs: Option<&'a Needs>,
}

impl Evidence<'_> {
    pub(super) fn verdict(&self) -> Verdict {
        let above = self.difference.estimate.interval.low > 0.0;
        let below_margin = self.margin.is_some_and(|margin| self.difference.estimate.interval.high < margin);
        match (self.difference.significant(), above) {
            (true, true) => Verdict::Shown,
            (true, false) => Verdict::OppositeShown,
            (false, _) if below_margin => Verdict::BelowMargin,
            (false, _) => Verdict::NotShown,
        }
    }

    /// The reason for the verdict, in parts separated by semicolons.
    pub(super) fn reason(&self) -> String {
        let mut reasons: Vec<String> = Vec::new();
        let verdict = self.verdict();
        if matches!(verdict, Verdict::NotShown | Verdict::BelowMargin) {
            reasons.extend(self.why_not_shown());
        }
        reasons.extend(self.seeds());
        if let (Some(CarriedBy { dataset, mean, rest }), false) = (self.carried_by, verdict == Verdict::BelowMargin) {
            let (mean, without) = (percentage_points(*mean), percentage_points(rest.mean));
            reasons.push(format!("carried by `{dataset}` ({mean}): {without} {} without it", interval(rest)));
        }
        if verdict == Verdict::NotShown {
            reasons.extend(self.needed());
        }
        if self.difference.test.at_floor {
            reasons.push("p is the smallest that the random sign patterns can give".to_string());
        }
        reasons.join("; ")
    }

    fn why_not_shown(&self) -> Vec<String> {
        let bounds = self.difference.estimate.interval;
        let first = match (bounds.excludes_zero(), self.difference.p_holm < ALPHA) {
            (true, _) => "the confidence interval excludes zero, but p is not below 0.05",
            (false, true) => "p is below 0.05, but the confidence interval includes zero",
            (false, false) => "the confidence interval includes zero",
        };
        let largest = format!("an effect above {} is excluded", percentage_points(bounds.high.max(0.0)));
        vec![first.to_string(), largest]
    }

    fn seeds(&self) -> Option<String> {
        let mean = self.difference.estimate.mean;
        let agree = self.by_seed.iter().filter(|one| one.mean * mean > 0.0).count();
        match self.by_seed.len() {
            0 | 1 => Some("one seed: the variation between training runs is unknown".to_string()),
            _ if mean == 0.0 => None,
            all if agree == all => Some(format!("all {all} seeds agree in sign")),
            all => Some(format!("{agree} of {all} seeds agree in sign")),
        }
    }

    fn needed(&self) -> Option<String> {
        let Needs { effect, seeds, items } = *self.needs?;
        let size = percentage_points(effect);
        let seeds_text = seeds.map(|seeds| format!("{seeds} seeds"));
        let items_text = items.map(|items| format!("{} items", thousands(items as u64)));
        let found = match (seeds_text, items_text) {
            (Some(seeds), Some(items)) => format!("needs {seeds}, or {items}"),
            (Some(only), None) | (None, Some(only)) => format!("needs {only}"),
            (None, None) => "is out of reach of more seeds or items alone".to_string(),
        };
        Some(format!("to show a true effect of {size} with 80 % power {found}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::{ConfidenceInterval, PairedTest, TestMethod};
    use crate::table::{Estimate, Words};

    fn estimate(mean: f64, low: f64, high: f64, seeds: usize) -> Estimate {
        Estimate { mean, interval: ConfidenceInterval { low, high }, items: 1000, seeds }
    }

    fn difference(mean: f64, low: f64, high: f64, p: f64, seeds: usize) -> Difference {
        let test = PairedTest {
            method: TestMethod::CrossedSeeds,
            p_value: p,
            at_floor: false,
            gained: 5,
            lost: 1,
            pairs: 10,
            cohens_d: Some(0.3),
        };
        Difference { estimate: estimate(mean, low, high, seeds), test, p_holm: p, detectable: 0.024 }
    }

    fn verdict(difference: &Difference, seeds: &[f64], margin: Option<f64>) -> String {
        let by_seed: Vec<_> = seeds.iter().map(|mean| SeedEstimate { seed: String::new(), mean: *mean }).collect();
        let needs = Needs { effect: margin.unwrap_or(difference.estimate.mean), seeds: Some(9), items: None };
        let carried_by = CarriedBy { dataset: "pick".to_string(), mean: 0.385, rest: estimate(0.002, -0.01, 0.014, 3) };
        let carried_by = (difference.estimate.mean > 0.05).then_some(&carried_by);
        let evidence = Evidence { difference, margin, by_seed: &by_seed, carried_by, needs: Some(&needs) };
        let words = Words { verdict: evidence.verdict(), margin, seeds: seeds.len() };
        format!("{words}: {}", evidence.reason())
    }

    #[test]
    fn verdict_needs_interval_and_test() {
        let verdicts = [
            verdict(&difference(0.03, 0.01, 0.05, 0.001, 3), &[0.02, 0.04, 0.03], None),
            verdict(&difference(0.08, 0.01, 0.15, 0.001, 3), &[0.08, 0.07, 0.09], None),
            verdict(&difference(0.03, 0.01, 0.05, 0.08, 1), &[0.03], None),
            verdict(&difference(0.03, 0.01, 0.05, 0.01, 1), &[0.03], None),
            verdict(&difference(0.03, -0.01, 0.07, 0.001, 3), &[0.10, 0.09, -0.10], None),
            verdict(&difference(0.01, -0.01, 0.03, 0.4, 3), &[0.02, 0.01, 0.0], Some(0.02)),
            verdict(&difference(0.0, -0.01, 0.015, 1.0, 2), &[0.02, -0.02], Some(0.02)),
            verdict(&difference(-0.03, -0.05, -0.01, 0.001, 2), &[-0.03, -0.03], None),
        ];
        expect_test::expect![[r#"
            shown: all 3 seeds agree in sign
            shown: all 3 seeds agree in sign; carried by `pick` (+38.5): +0.2 [−1.0, 1.4] without it
            not shown: the confidence interval excludes zero, but p is not below 0.05; an effect above +5.0 is excluded; one seed: the variation between training runs is unknown; to show a true effect of +3.0 with 80 % power needs 9 seeds
            shown for this training run only: one seed: the variation between training runs is unknown
            not shown: p is below 0.05, but the confidence interval includes zero; an effect above +7.0 is excluded; 2 of 3 seeds agree in sign; to show a true effect of +3.0 with 80 % power needs 9 seeds
            not shown: the confidence interval includes zero; an effect above +3.0 is excluded; 2 of 3 seeds agree in sign; to show a true effect of +2.0 with 80 % power needs 9 seeds
            shown to be below 2.0 for these 2 training runs only: the confidence interval includes zero; an effect above +1.5 is excluded
            the opposite is shown for these 2 training runs only: all 2 seeds agree in sign"#]].assert_eq(&verdicts.join("\n"));
    }
}
