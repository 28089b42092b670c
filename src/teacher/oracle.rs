//! The oracle: a teacher that repeats an item's own rationale, with errors at a given rate. For synthetic data and for
//! data sets with human rationales.

use ablate_core::base::Seed;
use ablate_data::prompts::{cot_response, option_letters};
use ablate_data::records::Item;
use ablate_data::rng::{uniform, uniform_below};

/// The response to an item; `None` if the item has no rationale. With probability `wrong` the final answer is replaced
/// by one that the item does not accept. If the rationale ends with the right answer, that is replaced too, so that the
/// mistake is consistent. `others` are answers of the data set to choose a wrong one from.
pub fn respond(item: &Item, others: &[&str], wrong: f64, seed: Seed) -> Option<String> {
    let rationale = item.rationale.as_deref()?;
    let right = item.rationale_answer.as_deref().or(item.answers.first().map(String::as_str))?;
    let mut random = seed.derive(&format!("oracle/{}/{}", item.dataset, item.id)).stream("respond");
    if uniform(&mut random) >= wrong {
        return Some(cot_response(rationale, right));
    }
    let candidates = wrong_answers(item, others);
    let answer = &candidates[uniform_below(&mut random, candidates.len())];
    Some(cot_response(&replace_last(rationale, right, answer), answer))
}

/// Answers that the item does not accept; at least one.
fn wrong_answers(item: &Item, others: &[&str]) -> Vec<String> {
    let differs = |answer: &String| ablate_data::answers::score(item, answer) == 0.0;
    let mut candidates: Vec<String> = if item.answer_type.is_multiple_choice() {
        option_letters().take(item.options.len()).map(String::from).filter(differs).collect()
    } else {
        others.iter().map(ToString::to_string).filter(differs).collect()
    };
    candidates.sort();
    candidates.dedup();
    if candidates.is_empty() {
        candidates.push("none of these".to_string());
    }
    candidates
}

/// Replaces the word `from` if the text ends with it, apart from a full stop.
fn replace_last(text: &str, from: &str, to: &str) -> String {
    let body = text.trim_end().trim_end_matches('.');
    match body.strip_suffix(from) {
        Some(start) if !from.is_empty() && !start.ends_with(char::is_alphanumeric) => {
            format!("{start}{to}{}", &text[body.len()..])
        }
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_data::answers;
    use ablate_data::answers::DEFAULT_THRESHOLD;
    use ablate_data::image_keys::ImageKeys;
    use ablate_data::prompts::Style;
    use ablate_data::records::{AnswerType, FinishReason};

    fn item(id: usize) -> Item {
        Item {
            id: id.to_string(),
            dataset: "toy".into(),
            images: ImageKeys::None,
            question: "What is 3+2?".into(),
            options: vec![],
            answer_type: AnswerType::Number,
            answers: vec!["5".into()],
            rationale: Some("red3, blue2. 3+2=5.".into()),
            rationale_answer: None,
            facts: Vec::new(),
        }
    }

    #[test]
    fn rate_zero_returns_the_rationale() {
        let response = respond(&item(0), &["5", "6"], 0.0, Seed(0)).unwrap();
        assert_eq!(response, "red3, blue2. 3+2=5.\n### Answer: 5");
        assert_eq!(respond(&Item { rationale: None, ..item(0) }, &[], 0.0, Seed(0)), None);
    }

    #[test]
    fn wrong_response_is_consistent() {
        let response = respond(&item(0), &["5", "6"], 1.0, Seed(0)).unwrap();
        assert_eq!(response, "red3, blue2. 3+2=6.\n### Answer: 6");
        assert!(!answers::judge(&item(0), &response, FinishReason::Stop, Style::Cot, DEFAULT_THRESHOLD).correct);
        let alone = respond(&item(0), &["5"], 1.0, Seed(0)).unwrap();
        assert!(alone.ends_with("### Answer: none of these"));
    }

    #[test]
    fn wrong_letter_is_another_option() {
        let choice = Item {
            answer_type: AnswerType::Letter,
            options: vec!["red".into(), "blue".into(), "green".into()],
            answers: vec!["B".into()],
            rationale: Some("Largest:6.".into()),
            ..item(0)
        };
        for seed in 0..20 {
            let response = respond(&choice, &[], 1.0, Seed(seed)).unwrap();
            assert!(["A", "C"].contains(&&response[response.len() - 1..]), "{response}");
        }
    }

    #[test]
    fn wrong_responses_have_the_given_rate() {
        let wrong = |item: &Item| {
            let response = respond(item, &["6", "7"], 0.1, Seed(7)).unwrap();
            !answers::judge(item, &response, FinishReason::Stop, Style::Cot, DEFAULT_THRESHOLD).correct
        };
        let count = (0..4000).filter(|&id| wrong(&item(id))).count();
        // 400 expected, standard deviation 19.
        assert!((count as i32 - 400).abs() < 95, "{count}");
    }

    #[test]
    fn only_an_answer_at_the_end_is_replaced() {
        assert_eq!(replace_last("3+2=5.", "5", "6"), "3+2=6.");
        assert_eq!(replace_last("5 of them. Row 2.", "5", "6"), "5 of them. Row 2.");
        assert_eq!(replace_last("3+12=15.", "5", "6"), "3+12=15.");
    }
}
