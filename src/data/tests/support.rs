//! Fixtures of the tests.

use std::path::{Path, PathBuf};

use crate::answers::{DEFAULT_THRESHOLD, judge};
use crate::image_keys::ImageKeys;
use crate::prompts::Style;
use crate::records::{AnswerType, CreditedItem, CreditedResponse, FinishReason, Item};

/// A file below `tests/golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name)
}

/// An item of data set `toy` without image and rationale.
pub(crate) fn item(answer_type: AnswerType, question: &str, options: &[&str], answers: &[&str]) -> Item {
    Item {
        id: "1".into(),
        dataset: "toy".into(),
        images: ImageKeys::None,
        question: question.into(),
        options: options.iter().map(ToString::to_string).collect(),
        answer_type,
        answers: answers.iter().map(ToString::to_string).collect(),
        rationale: None,
        rationale_answer: None,
        facts: Vec::new(),
    }
}

/// A response to `1 + 2?` with this answer; with `""`, a response without an answer.
pub(crate) fn credit(answer: &str, log_ratio: f64) -> CreditedResponse {
    let text = if answer.is_empty() { "I do not know.".to_string() } else { format!("So.\n### Answer: {answer}") };
    let item = item(AnswerType::Number, "1 + 2?", &[], &["3"]);
    let verdict = judge(&item, &text, FinishReason::Stop, Style::Cot, DEFAULT_THRESHOLD);
    CreditedResponse { verdict, log_ratio, tokens: Vec::new() }
}

/// The question `1 + 2?` with these answers and their log-ratios.
pub(crate) fn credited_item(answers: &[&str], log_ratios: &[f64]) -> CreditedItem {
    let responses = answers.iter().zip(log_ratios).map(|(answer, ratio)| credit(answer, *ratio)).collect();
    CreditedItem { item: item(AnswerType::Number, "1 + 2?", &[], &["3"]), prompt: "1 + 2?".into(), responses }
}
