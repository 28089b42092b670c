//! One response picked from several of the same question: a single sample, votes, or a verifier's log-ratio (paper
//! 5.6). Knows no model.

use serde::{Deserialize, Serialize};

use super::answers::canonical;
use super::records::{CreditedResponse, Item};

/// How one of several responses is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The first: a single sample.
    First,
    /// Of the most frequent answer: self-consistency.
    Majority,
    /// The one of the highest log-ratio: best-of-N.
    Best,
    /// Of the answer with the greatest sum of weights.
    Weighted,
    /// The best by the gold answer: what a perfect verifier would pick.
    Oracle,
}

/// What a response's vote weighs, of its log-ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VoteWeight {
    /// `1 / (1 + exp(-log_ratio))`.
    #[default]
    Sigmoid,
    /// `exp(log_ratio)`.
    Exp,
}

/// The place of the picked response; none where there is no response.
///
/// Only a response in the asked form whose answer was read has a vote and a rank; where none has, the first stands.
/// Answers that are written differently and are the same have their votes together. A tie goes to the answer whose
/// first sample came first, and of one answer's responses the one of the greatest weight is taken.
pub fn pick(item: &Item, responses: &[CreditedResponse], strategy: Strategy, weight: VoteWeight) -> Option<usize> {
    let readable = responses.iter().enumerate().filter(|(_, credit)| credit.verdict.is_readable());
    let votes: Vec<(usize, String)> = readable
        .filter_map(|(place, credit)| Some((place, canonical(item, credit.verdict.answer.as_deref()?))))
        .collect();
    let first = (!responses.is_empty()).then_some(0);
    let highest = |rank: &dyn Fn(usize) -> f64| greatest(votes.iter().map(|(place, _)| (*place, rank(*place))));
    let picked = match strategy {
        Strategy::First => first,
        Strategy::Best => highest(&|place| responses[place].log_ratio),
        Strategy::Oracle => highest(&|place| responses[place].verdict.score),
        Strategy::Majority => elect(&votes, &|_| 1.0),
        Strategy::Weighted => {
            let top = highest(&|place| responses[place].log_ratio).map_or(0.0, |place| responses[place].log_ratio);
            elect(&votes, &|place| match weight {
                VoteWeight::Sigmoid => 1.0 / (1.0 + (-responses[place].log_ratio).exp()),
                // A common factor changes no order; this one keeps the sums finite.
                VoteWeight::Exp => (responses[place].log_ratio - top).exp(),
            })
        }
    };
    picked.or(first)
}

/// The heaviest response of the answer with the greatest sum of weights.
fn elect(votes: &[(usize, String)], weight: &dyn Fn(usize) -> f64) -> Option<usize> {
    let mut answers: Vec<(&str, f64)> = Vec::new();
    for (place, answer) in votes {
        match answers.iter_mut().find(|(known, _)| known == answer) {
            Some((_, sum)) => *sum += weight(*place),
            None => answers.push((answer, weight(*place))),
        }
    }
    let winner = answers[greatest(answers.iter().map(|(_, sum)| *sum).enumerate())?].0;
    greatest(votes.iter().filter(|(_, answer)| answer == winner).map(|(place, _)| (*place, weight(*place))))
}

/// The place of the greatest value, of equal ones the first.
fn greatest(values: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    values.reduce(|best, one| if one.1 > best.1 { one } else { best }).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::CreditedItem;
    use crate::tests::support::credited_item;

    /// What every strategy picks: first, majority, best, weighted by sigmoid and by exp, oracle.
    fn picks(answers: &[&str], log_ratios: &[f64]) -> [Option<usize>; 6] {
        let CreditedItem { item, responses, .. } = credited_item(answers, log_ratios);
        let with = |strategy, weight| pick(&item, &responses, strategy, weight);
        [
            with(Strategy::First, VoteWeight::Sigmoid),
            with(Strategy::Majority, VoteWeight::Sigmoid),
            with(Strategy::Best, VoteWeight::Sigmoid),
            with(Strategy::Weighted, VoteWeight::Sigmoid),
            with(Strategy::Weighted, VoteWeight::Exp),
            with(Strategy::Oracle, VoteWeight::Sigmoid),
        ]
    }

    #[test]
    fn every_strategy_has_its_own_pick() {
        // 5 has 2 votes, 4 and 3 have 3: a tie that goes to 4, which came first. 5 has the highest log-ratio.
        // Sigmoid: 5 has 0.88 + 0.27 = 1.15, 4 has 3 x 0.5 = 1.5, 3 has 0.62 + 0.62 + 0.38 = 1.62; 3's first is heaviest.
        // Exp: 5 has 7.39 + 0.37 = 7.76, 4 has 3, 3 has 1.65 + 1.65 + 0.61 = 3.91.
        let answers = ["5", "4", "3", "4", "3", "4", "3", "5"];
        let ratios = [2.0, 0.0, 0.5, 0.0, 0.5, 0.0, -0.5, -1.0];
        assert_eq!(picks(&answers, &ratios), [Some(0), Some(1), Some(0), Some(2), Some(0), Some(2)]);
    }

    #[test]
    fn ties_go_to_the_answer_that_came_first() {
        assert_eq!(picks(&["4", "3", "3", "4"], &[0.0; 4]), [0, 0, 0, 0, 0, 1].map(Some));
    }

    #[test]
    fn one_answer_in_several_forms_is_one_vote_each() {
        // `3`, `3.0` and `$3` are three votes; of them the last has the greatest weight.
        assert_eq!(picks(&["4", "4", "3", "3.0", "$3"], &[0.0, 0.0, 0.0, 0.0, 0.1]), [0, 2, 4, 4, 4, 2].map(Some));
    }

    #[test]
    fn a_response_without_an_answer_has_no_vote() {
        // The unreadable ones have the highest log-ratio and the most votes, and come first.
        assert_eq!(picks(&["", "", "4", "3"], &[9.0, 9.0, 1.0, 0.0]), [0, 2, 2, 2, 2, 3].map(Some));
        // Nothing else is there: the first stands, and its score is 0.
        assert_eq!(picks(&["", ""], &[0.0, 1.0]), [Some(0); 6]);
        assert!(credited_item(&[""], &[0.0]).responses[0].verdict.score < 0.5);
        assert_eq!(picks(&[], &[]), [None; 6]);
    }

    #[test]
    fn large_log_ratios_stay_finite() {
        // Two sigmoids are 1 and the third is 0: a tie. Of the exponentials the second is 1/e of the first.
        assert_eq!(picks(&["4", "3", "3"], &[900.0, 899.0, -900.0]), [0, 1, 0, 0, 0, 1].map(Some));
    }
}
