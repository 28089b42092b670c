//! Statistics of credited responses: whether the log-ratio separates right from wrong responses, and where in a wrong
//! response its lowest token is (paper 5.6 and 5.7).

use serde::{Deserialize, Serialize};

use super::prompts::ANSWER_MARKER;
use super::records::{CreditedItem, CreditedResponse};

/// Statistics over questions with credited responses. A value that needs right or wrong responses is omitted if there
/// are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreditStats {
    pub questions: usize,
    pub responses: usize,
    pub right: usize,
    /// Share of (right, wrong) response pairs in which the right one has the higher log-ratio; ties count half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auc: Option<f64>,
    /// The same over pairs of responses to one question. Re-ranking depends on this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auc_within_questions: Option<f64>,
    /// Mean log-ratio of right responses, and of wrong responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_right: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_wrong: Option<f64>,
    /// Wrong responses: mean relative position of the lowest token, from 0 (first) to 1 (last).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowest_place: Option<f64>,
    /// Wrong responses: share whose lowest token is in the reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowest_in_reasoning: Option<f64>,
    /// Wrong responses: mean share of tokens in the reasoning; the chance level of `lowest_in_reasoning`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_in_reasoning: Option<f64>,
}

impl CreditStats {
    pub fn of(credited: &[CreditedItem]) -> CreditStats {
        let responses: Vec<&CreditedResponse> = credited.iter().flat_map(|one| &one.responses).collect();
        let (right, wrong): (Vec<&CreditedResponse>, Vec<&CreditedResponse>) =
            responses.iter().copied().partition(|credit| credit.verdict.correct);
        let within = credited.iter().map(|one| wins(&one.responses.iter().collect::<Vec<_>>()));
        let within = within.fold((0.0, 0.0), |sum, (wins, pairs)| (sum.0 + wins, sum.1 + pairs));
        let ratio = |(part, whole): (f64, f64)| (whole > 0.0).then(|| part / whole);
        let mut positions = Vec::new();
        for credit in &wrong {
            if let Some(lowest) = lowest(credit) {
                let (last, reasoning) = (credit.tokens.len() - 1, reasoning(credit));
                let place = if last == 0 { 0.0 } else { lowest as f64 / last as f64 };
                positions.push((place, f64::from(lowest < reasoning), reasoning as f64 / credit.tokens.len() as f64));
            }
        }
        CreditStats {
            questions: credited.len(),
            responses: responses.len(),
            right: right.len(),
            auc: ratio(wins(&responses)),
            auc_within_questions: ratio(within),
            mean_right: mean(right.iter().map(|credit| credit.log_ratio)),
            mean_wrong: mean(wrong.iter().map(|credit| credit.log_ratio)),
            lowest_place: mean(positions.iter().map(|one| one.0)),
            lowest_in_reasoning: mean(positions.iter().map(|one| one.1)),
            tokens_in_reasoning: mean(positions.iter().map(|one| one.2)),
        }
    }
}

/// Index of the token with the lowest log-ratio; ties go to the first.
pub fn lowest(credit: &CreditedResponse) -> Option<usize> {
    (0..credit.tokens.len()).min_by(|&one, &other| credit.tokens[one].1.total_cmp(&credit.tokens[other].1))
}

/// Number of tokens that begin before the answer marker; without a marker, all tokens.
fn reasoning(credit: &CreditedResponse) -> usize {
    let text: String = credit.tokens.iter().map(|(piece, _)| piece.as_str()).collect();
    let end = text.rfind(ANSWER_MARKER).unwrap_or(text.len());
    let starts = credit.tokens.iter().scan(0, |start, (piece, _)| Some(std::mem::replace(start, *start + piece.len())));
    starts.take_while(|&start| start < end).count()
}

/// Number of (right, wrong) pairs in which the right response has the higher log-ratio (ties count half), and number of
/// all such pairs.
fn wins(credits: &[&CreditedResponse]) -> (f64, f64) {
    let mut sorted = credits.to_vec();
    sorted.sort_by(|one, other| one.log_ratio.total_cmp(&other.log_ratio));
    let (mut wins, mut rights, mut wrongs) = (0.0, 0.0, 0.0);
    for equal in sorted.chunk_by(|one, other| one.log_ratio.total_cmp(&other.log_ratio).is_eq()) {
        let right = equal.iter().filter(|credit| credit.verdict.correct).count() as f64;
        let wrong = equal.len() as f64 - right;
        wins += right * (wrongs + wrong / 2.0);
        rights += right;
        wrongs += wrong;
    }
    (wins, rights * wrongs)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::{credit, credited_item};

    #[test]
    fn auc_counts_ties_half() {
        // Right at 3, 1 and 0; wrong at 1 and -2. Of 6 pairs, 3 > 1, 3 > -2, 1 = 1, 1 > -2, 0 < 1, 0 > -2: 4.5 / 6.
        let one = credited_item(&["3", "3", "4"], &[3.0, 1.0, 1.0]);
        let other = credited_item(&["3", "4"], &[0.0, -2.0]);
        let stats = CreditStats::of(&[one, other]);
        assert_eq!(stats.auc, Some(0.75));
        // Within questions: 3 > 1, 1 = 1, 0 > -2: 2.5 / 3.
        assert!((stats.auc_within_questions.unwrap() - 2.5 / 3.0).abs() < 1e-12);
        assert_eq!((stats.questions, stats.responses, stats.right), (2, 5, 3));
        assert!((stats.mean_right.unwrap() - 4.0 / 3.0).abs() < 1e-12);
        assert_eq!(stats.mean_wrong, Some(-0.5));
    }

    #[test]
    fn undefined_values_are_omitted() {
        let stats = CreditStats::of(&[credited_item(&["3"], &[1.0])]);
        assert_eq!((stats.auc, stats.mean_wrong, stats.lowest_place), (None, None, None));
        assert!(!serde_json::to_string(&stats).unwrap().contains("null"));
    }

    #[test]
    fn lowest_tokens_have_relative_positions() {
        let wrong = |tokens: &[(&str, f32)]| CreditedResponse {
            tokens: tokens.iter().map(|(piece, ratio)| ((*piece).to_string(), *ratio)).collect(),
            ..credit("4", 0.0)
        };
        // The second of five tokens, and four of them before the marker.
        let early = wrong(&[("2+", 0.1), ("2=5", -3.0), (".", -0.5), ("\n", 0.0), ("### Answer:", 0.5)]);
        // The last of three tokens, which ends a marker that begins in the second.
        let late = wrong(&[("so\n", 0.1), ("### ", 0.2), ("Answer: 4", -1.0)]);
        // A truncated response has no marker: all of it is reasoning. Of equal tokens the first counts.
        let cut = wrong(&[("2", -1.0), ("+", -1.0)]);
        let empty = wrong(&[]);
        assert_eq!([&early, &late, &cut, &empty].map(lowest), [Some(1), Some(2), Some(0), None]);
        assert_eq!([&early, &late, &cut, &empty].map(reasoning), [4, 1, 2, 0]);
        let mut item = credited_item(&["3"], &[1.0]);
        item.responses.extend([early, late, cut, empty]);
        let stats = CreditStats::of(&[item]);
        // (1/4 + 2/2 + 0/1) / 3, 2 of 3, and (4/5 + 1/3 + 1) / 3.
        assert!((stats.lowest_place.unwrap() - 1.25 / 3.0).abs() < 1e-12);
        assert!((stats.lowest_in_reasoning.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert!((stats.tokens_in_reasoning.unwrap() - (0.8 + 1.0 / 3.0 + 1.0) / 3.0).abs() < 1e-12);
    }
}
