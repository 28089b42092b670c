//! Extracts, parses and grades answers. A verdict is right, wrong or unreadable; compliance with the required form is
//! reported separately.
//!
//! | answer type | rule | after |
//! |---|---|---|
//! | letter | the only option that the answer names, by letter or by text (`letters.rs`) | A-OKVQA, AI2D, ScienceQA |
//! | number | the only number in it, within 5 % of the gold number (`numbers.rs`) | ChartQA |
//! | text | equal after normalization (`text.rs`) | |
//! | anls | 1 - edit distance / longer length, 0 below 0.5 | DocVQA, InfoVQA |
//! | vqa | soft accuracy over the annotators' answers (`vqa.rs`) | TextVQA |
//! | contains | a gold answer occurs in the answer, ignoring case and white space | OCRBench |
//!
//! The types of `reference/` reproduce the evaluator of a benchmark exactly.

mod facts;
mod letters;
mod markup;
mod numbers;
mod parsed;
mod reference;
mod text;
mod vqa;

pub use facts::{failure, is_comparable};
pub use letters::letter_of_gold;

use parsed::Parsed;

use super::prompts::{ANSWER_MARKER, Style, option_letters};
use super::records::{AnswerType, FinishReason, Item, Verdict};

/// Default of the score from which a sample counts as right.
pub const DEFAULT_THRESHOLD: f64 = 0.5;

/// The final answer of a response: the text after the last marker (CoT), or all of it (direct). `None` if that is
/// empty.
pub fn extract(response: &str, style: Style) -> Option<String> {
    let answer = match style {
        Style::Cot => response.rsplit_once(ANSWER_MARKER)?.1,
        Style::Direct => response,
    };
    let answer = answer.trim();
    (!answer.is_empty()).then(|| answer.to_string())
}

/// The text before the last marker, without an opening `**` that is closed after the answer.
pub fn reasoning(response: &str) -> &str {
    let (before, answer) = response.rsplit_once(ANSWER_MARKER).unwrap_or(("", ""));
    let before = before.trim();
    let opened = answer.trim_end().ends_with("**") && answer.matches("**").count() % 2 == 1;
    before.strip_suffix("**").filter(|_| opened).unwrap_or(before).trim()
}

/// Whether a response has the form that its prompt asks for: ended by the model itself, with an answer, and the marker
/// present (CoT) or absent (direct).
pub fn is_compliant(response: &str, finish: FinishReason, style: Style) -> bool {
    let marked = response.contains(ANSWER_MARKER);
    let asked = match style {
        Style::Cot => marked,
        Style::Direct => !marked,
    };
    asked && finish == FinishReason::Stop && extract(response, style).is_some()
}

/// Grades an answer from 0 to 1: the best match with the item's gold answers, or for `vqa` the match with all of them.
/// `None` if the answer cannot be parsed as the item's type.
pub fn grade(item: &Item, answer: &str) -> Option<f64> {
    if reference::is_reference(item.answer_type) {
        return reference::grade(item, answer);
    }
    if !answer.contains(|c: char| c.is_alphanumeric()) && !item.answers.iter().any(|gold| text::equal(gold, answer)) {
        // Punctuation alone is an answer only if it is the gold answer.
        return None;
    }
    let best = |one: &dyn Fn(&str) -> f64| item.answers.iter().map(|gold| one(gold)).fold(0.0, f64::max);
    match item.answer_type {
        AnswerType::Letter => match letters::read(answer, &item.options) {
            Parsed::One(index) => Some(best(&|gold| f64::from(option_of_gold(item, gold) == Some(index)))),
            Parsed::Ambiguous => Some(0.0),
            // The gold answer names no option.
            Parsed::Nothing if item.answers.iter().any(|gold| text::equal(gold, answer)) => Some(1.0),
            Parsed::Nothing => None,
        },
        // An answer is readable if it is readable for one gold answer.
        AnswerType::Number => item.answers.iter().filter_map(|gold| numbers::grade(gold, answer)).reduce(f64::max),
        AnswerType::Text => Some(best(&|gold| f64::from(text::equal(gold, answer)))),
        AnswerType::Anls => Some(best(&|gold| text::anls(gold, answer))),
        AnswerType::Vqa => Some(vqa::score(&item.answers, answer)),
        _ => Some(best(&|gold| f64::from(text::contains(gold, answer)))),
    }
}

/// [`grade`], with 0 for unreadable answers.
pub fn score(item: &Item, answer: &str) -> f64 {
    grade(item, answer).unwrap_or(0.0)
}

fn option_of_gold(item: &Item, gold: &str) -> Option<usize> {
    option_letters().position(|letter| Some(letter) == letter_of_gold(gold, &item.options))
}

/// The canonical form of an answer, for counting votes: an option's letter, a number without unit, otherwise the
/// normalized text. It is stricter than [`score`], which also accepts near numbers and texts.
pub fn canonical(item: &Item, answer: &str) -> String {
    let name = match item.answer_type {
        AnswerType::Letter => match letters::read(answer, &item.options) {
            Parsed::One(index) => option_letters().nth(index).map(String::from),
            _ => None,
        },
        AnswerType::Number => match numbers::read(answer) {
            // Adding 0 makes -0 and 0 equal.
            Parsed::One(amount) => Some((amount.value + 0.0).to_string()),
            _ => None,
        },
        AnswerType::Text | AnswerType::Anls | AnswerType::Contains => None,
        AnswerType::Vqa => Some(vqa::normalize(&markup::core(answer))),
        _ => reference::canonical(item, answer),
    };
    name.unwrap_or_else(|| text::normalize(answer))
}

/// The answer as a training target: an option's letter, otherwise the text without markup and introduction.
pub fn concise(item: &Item, answer: &str) -> String {
    match letters::read(answer, &item.options) {
        Parsed::One(index) if item.answer_type.is_multiple_choice() => option_letters().nth(index).map(String::from),
        _ => None,
    }
    .unwrap_or_else(|| markup::core(answer))
}

/// Judges a response. A sample is right from the score `threshold` on.
///
/// A response that does not comply has score 0, because its answer is misplaced or may be truncated. The evaluators of
/// `reference/` ignore the form, so their score is kept, but such a response is never right.
pub fn judge(item: &Item, response: &str, finish: FinishReason, style: Style, threshold: f64) -> Verdict {
    judge_part(item, response, response, finish, style, threshold)
}

/// [`judge`] for a response of which only a part is graded, such as the text after a thinking block.
pub fn judge_part(
    item: &Item,
    response: &str,
    graded: &str,
    finish: FinishReason,
    style: Style,
    threshold: f64,
) -> Verdict {
    let answer = extract(graded, style);
    let compliant = is_compliant(graded, finish, style);
    let grade = answer.as_ref().and_then(|answer| grade(item, answer));
    let counts = compliant || reference::is_reference(item.answer_type);
    let score = grade.filter(|_| counts).unwrap_or(0.0);
    Verdict {
        text: response.to_string(),
        finish,
        answer,
        compliant,
        unreadable: grade.is_none(),
        score,
        correct: compliant && grade.is_some() && score >= threshold,
    }
}
