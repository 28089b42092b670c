//! Picks one of several responses to a question: first sample, majority vote, or a verifier's log-ratio (paper 5.6).

use serde::{Deserialize, Serialize};

use super::answers::canonical;
use super::records::{CreditedResponse, Item};

/// How a response is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The first response: a single sample.
    First,
    /// A response with the most frequent answer: self-consistency.
    Majority,
    /// The response with the highest log-ratio: best-of-N.
    Best,
    /// A response with the answer whose votes have the greatest total weight.
    Weighted,
    /// The best response by the gold answer: an upper bound for every verifier.
    Oracle,
}

/// The weight of a response's vote, from its log-ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Weight")]
pub enum VoteWeight {
    /// `1 / (1 + exp(-log_ratio))`.
    #[default]
    Sigmoid,
    /// `exp(log_ratio)`.
    Exp,
}

/// The index of the picked response; `None` if there are no responses.
///
/// Only a readable, compliant response has a vote and a rank; if there is none, the first response is picked. Answers
/// that are equal in canonical form share their votes. Ties go to the answer that occurs first. Among the responses
/// with one answer, the one with the greatest weight is picked.
pub fn pick(item: &Item, responses: &[CreditedResponse], strategy: Strategy, weight: VoteWeight) -> Option<usize> {
    let readable = responses.iter().enumerate().filter(|(_, credit)| credit.verdict.is_readable());
    let votes: Vec<(usize, String)> = readable
        .filter_map(|(index, credit)| Some((index, canonical(item, credit.verdict.answer.as_deref()?))))
        .collect();
    let first = (!responses.is_empty()).then_some(0);
    let highest = |rank: &dyn Fn(usize) -> f64| greatest(votes.iter().map(|(index, _)| (*index, rank(*index))));
    let picked = match strategy {
        Strategy::First => first,
        Strategy::Best => highest(&|index| responses[index].log_ratio),
        Strategy::Oracle => highest(&|index| responses[index].verdict.score),
        Strategy::Majority => elect(&votes, &|_| 1.0),
        Strategy::Weighted => {
            let top = highest(&|index| responses[index].log_ratio).map_or(0.0, |index| responses[index].log_ratio);
            elect(&votes, &|index| match weight {
                VoteWeight::Sigmoid => 1.0 / (1.0 + (-responses[index].log_ratio).exp()),
                // A common factor does not change the order; this one keeps the sums finite.
                VoteWeight::Exp => (responses[index].log_ratio - top).exp(),
            })
        }
    };
    picked.or(first)
}

/// The response with the greatest weight among those with the winning answer.
fn elect(votes: &[(usize, String)], weight: &dyn Fn(usize) -> f64) -> Option<usize> {
    let mut answers: Vec<(&str, f64)> = Vec::new();
    for (index, answer) in votes {
        match answers.iter_mut().find(|(known, _)| known == answer) {
            Some((_, sum)) => *sum += weight(*index),
            None => answers.push((answer, weight(*index))),
        }
    }
    let winner = answers[greatest(answers.iter().map(|(_, sum)| *sum).enumerate())?].0;
    greatest(votes.iter().filter(|(_, answer)| answer == winner).map(|(index, _)| (*index, weight(*index))))
}

/// The index of the greatest value, of equal ones the first.
fn greatest(values: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    values.reduce(|best, one| if one.1 > best.1 { one } else { best }).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::CreditedItem;
    use crate::tests::support::credited_item;

    /// The picks of all strategies: first, majority, best, weighted by sigmoid and by exp, oracle.
    fn picks(answers: &[&str], log_ratios: &[f64]) -> [Option<usize>; 6] {
        let CreditedItem { item, responses, .. } = credited_item(answers, log_ratios);
        let sigmoid = |strategy| pick(&item, &responses, strategy, VoteWeight::Sigmoid);
        let exp = pick(&item, &responses, Strategy::Weighted, VoteWeight::Exp);
        let [first, majority, best, weighted, oracle] =
            [Strategy::First, Strategy::Majority, Strategy::Best, Strategy::Weighted, Strategy::Oracle].map(sigmoid);
        [first, majority, best, weighted, exp, oracle]
    }

    #[test]
    fn strategies_pick_different_responses() {
        // 5 has 2 votes, 4 and 3 have 3 each: the tie goes to 4, which occurs first. 5 has the highest log-ratio.
        // Sigmoid: 5 has 0.88 + 0.27 = 1.15, 4 has 3 x 0.5 = 1.5, 3 has 0.62 + 0.62 + 0.38 = 1.62. The first 3 weighs most.
        // Exp: 5 has 7.39 + 0.37 = 7.76, 4 has 3, 3 has 1.65 + 1.65 + 0.61 = 3.91.
        let answers = ["5", "4", "3", "4", "3", "4", "3", "5"];
        let ratios = [2.0, 0.0, 0.5, 0.0, 0.5, 0.0, -0.5, -1.0];
        assert_eq!(picks(&answers, &ratios), [Some(0), Some(1), Some(0), Some(2), Some(0), Some(2)]);
    }

    #[test]
    fn ties_go_to_the_first_answer() {
        assert_eq!(picks(&["4", "3", "3", "4"], &[0.0; 4]), [0, 0, 0, 0, 0, 1].map(Some));
    }

    #[test]
    fn spellings_of_one_answer_share_votes() {
        // `3`, `3.0` and `$3` are three votes for one answer; the last has the greatest weight.
        assert_eq!(picks(&["4", "4", "3", "3.0", "$3"], &[0.0, 0.0, 0.0, 0.0, 0.1]), [0, 2, 4, 4, 4, 2].map(Some));
    }

    #[test]
    fn a_response_without_an_answer_has_no_vote() {
        // The unreadable responses come first, and have the highest log-ratios and the most votes.
        assert_eq!(picks(&["", "", "4", "3"], &[9.0, 9.0, 1.0, 0.0]), [0, 2, 2, 2, 2, 3].map(Some));
        // Without readable responses, the first one is picked, and its score is 0.
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
