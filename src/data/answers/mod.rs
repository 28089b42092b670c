//! Answers: found in a response, read as an answer of their type, compared with the gold ones, judged. Three verdicts:
//! right, wrong, unreadable; compliance with the asked form is told apart from all three. Knows no model.
//!
//! | answer type | rule | after |
//! |---|---|---|
//! | letter | the only option that the answer names, by letter or by text (`letters.rs`) | A-OKVQA, AI2D, ScienceQA |
//! | number | the only number in it, within 5 % of the gold; where the gold is no number, equal text (`numbers.rs`) | ChartQA |
//! | text | equal after normalisation (`text.rs`) | |
//! | anls | 1 - edit distance / longer length, 0 below 0.5 | DocVQA, InfoVQA |
//! | vqa | soft accuracy over the annotators' answers (`vqa.rs`) | TextVQA |
//! | contains | a gold answer occurs in the answer, case and white space ignored | OCRBench |
//!
//! The types of `reference/` follow the code of a benchmark's evaluator to the letter.

mod letters;
mod markup;
mod numbers;
mod parsed;
mod reference;
mod text;
mod vqa;

pub use letters::letter_of_gold;

use parsed::Parsed;

use super::prompts::{ANSWER_MARKER, Style, option_letters};
use super::records::{AnswerType, FinishReason, Item, Verdict};

/// A sample counts as right from this score on, unless a stage says otherwise.
pub const DEFAULT_THRESHOLD: f64 = 0.5;

/// The final answer of a response: what follows the last marker (CoT), or all of it (direct). None when that is empty.
pub fn extract(response: &str, style: Style) -> Option<String> {
    let answer = match style {
        Style::Cot => response.rsplit_once(ANSWER_MARKER)?.1,
        Style::Direct => response,
    };
    let answer = answer.trim();
    (!answer.is_empty()).then(|| answer.to_string())
}

/// What stands before the last marker: without the marks of bold text that open before it and close after the answer.
pub fn reasoning(response: &str) -> &str {
    let (before, answer) = response.rsplit_once(ANSWER_MARKER).unwrap_or(("", ""));
    let before = before.trim();
    let opened = answer.trim_end().ends_with("**") && answer.matches("**").count() % 2 == 1;
    before.strip_suffix("**").filter(|_| opened).unwrap_or(before).trim()
}

/// Whether a response has the form that its prompt asks for: ended by itself, with an answer, and the marker
/// present (CoT) or absent (direct).
pub fn compliant(response: &str, finish: FinishReason, style: Style) -> bool {
    let marked = response.contains(ANSWER_MARKER);
    let asked = match style {
        Style::Cot => marked,
        Style::Direct => !marked,
    };
    asked && finish == FinishReason::Stop && extract(response, style).is_some()
}

/// How well an answer matches the best of the item's gold answers, or for `vqa` all of them, 0 to 1; none where it
/// cannot be read as an answer of the item's type.
pub fn grade(item: &Item, answer: &str) -> Option<f64> {
    if reference::is_reference(item.answer_type) {
        return reference::grade(item, answer);
    }
    if !answer.contains(|c: char| c.is_alphanumeric()) && !item.answers.iter().any(|gold| text::equal(gold, answer)) {
        // Punctuation is an answer only where it is the gold one.
        return None;
    }
    let best = |one: &dyn Fn(&str) -> f64| item.answers.iter().map(|gold| one(gold)).fold(0.0, f64::max);
    match item.answer_type {
        AnswerType::Letter => match letters::read(answer, &item.options) {
            Parsed::One(index) => Some(best(&|gold| f64::from(option_of_gold(item, gold) == Some(index)))),
            Parsed::Ambiguous => Some(0.0),
            // A gold answer that names no option.
            Parsed::Nothing if item.answers.iter().any(|gold| text::equal(gold, answer)) => Some(1.0),
            Parsed::Nothing => None,
        },
        // Readable by one gold is readable.
        AnswerType::Number => item.answers.iter().filter_map(|gold| numbers::grade(gold, answer)).reduce(f64::max),
        AnswerType::Text => Some(best(&|gold| f64::from(text::equal(gold, answer)))),
        AnswerType::Anls => Some(best(&|gold| text::anls(gold, answer))),
        AnswerType::Vqa => Some(vqa::score(&item.answers, answer)),
        _ => Some(best(&|gold| f64::from(text::contains(gold, answer)))),
    }
}

/// [`grade`] with 0 for what cannot be read.
pub fn score(item: &Item, answer: &str) -> f64 {
    grade(item, answer).unwrap_or(0.0)
}

fn option_of_gold(item: &Item, gold: &str) -> Option<usize> {
    option_letters().position(|letter| Some(letter) == letter_of_gold(gold, &item.options))
}

/// The name that all ways to write an answer share, so that votes for it can be counted: an option's letter, a number
/// without its units, else the normalised text. Narrower than [`score`], which takes a near number or text for right:
/// being near is no equality.
pub fn canonical(item: &Item, answer: &str) -> String {
    let name = match item.answer_type {
        AnswerType::Letter => match letters::read(answer, &item.options) {
            Parsed::One(index) => option_letters().nth(index).map(String::from),
            _ => None,
        },
        AnswerType::Number => match numbers::read(answer) {
            // Adding 0 makes -0 and 0 one number.
            Parsed::One(amount) => Some((amount.value + 0.0).to_string()),
            _ => None,
        },
        AnswerType::Text | AnswerType::Anls | AnswerType::Contains => None,
        AnswerType::Vqa => Some(vqa::normalize(&markup::core(answer))),
        _ => reference::canonical(item, answer),
    };
    name.unwrap_or_else(|| text::normalize(answer))
}

/// The answer as a training target: an option's letter, else without markup and the sentence around it.
pub fn concise(item: &Item, answer: &str) -> String {
    match letters::read(answer, &item.options) {
        Parsed::One(index) if item.answer_type.is_multiple_choice() => option_letters().nth(index).map(String::from),
        _ => None,
    }
    .unwrap_or_else(|| markup::core(answer))
}

/// The verdict over one response; a sample is right from the score `threshold` on.
///
/// A response that does not comply has score 0: an answer in the wrong place, or one that may be cut, is no answer to
/// the question as it was asked. The evaluators of `reference/` do not ask for a form, so there the score stands; but no
/// such response is right.
pub fn judge(item: &Item, response: &str, finish: FinishReason, style: Style, threshold: f64) -> Verdict {
    judge_part(item, response, response, finish, style, threshold)
}

/// [`judge`] where only a part of the response is graded, such as what follows a block of thoughts.
pub fn judge_part(
    item: &Item,
    response: &str,
    graded: &str,
    finish: FinishReason,
    style: Style,
    threshold: f64,
) -> Verdict {
    let answer = extract(graded, style);
    let compliant = compliant(graded, finish, style);
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
