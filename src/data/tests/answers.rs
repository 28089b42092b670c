//! Extraction, grading and judging of answers: one test per rule. Many more cases are in `tests/golden/answers.jsonl`.

use crate::answers::*;
use crate::prompts::Style;
use crate::records::{AnswerType, FinishReason, Item};
use crate::tests::support;

fn item(answer_type: AnswerType, answers: &[&str], options: &[&str]) -> Item {
    support::item(answer_type, "?", options, answers)
}

fn scores(item: &Item, answers: &[&str]) -> Vec<f64> {
    answers.iter().map(|answer| score(item, answer)).collect()
}

#[test]
fn the_answer_follows_the_last_marker() {
    let found = |response| extract(response, Style::Cot);
    assert_eq!(found("a\n### Answer: 3\nno:\n### Answer: 4 ").as_deref(), Some("4"));
    assert_eq!(found("a\n### Answer:"), None);
    assert_eq!(found("the answer is 4"), None);
    assert_eq!(extract(" 4\n", Style::Direct).as_deref(), Some("4"));
    assert_eq!(extract(" \n", Style::Direct), None);
}

#[test]
fn options_are_named_by_letter_or_text() {
    let choice = item(AnswerType::Letter, &["B"], &["france", "uk", "a red car"]);
    let right = ["B", "b", "B.", "(b)", "(B)", "b)", "B. uk", "B: UK.", "B uk", "(B) uk", "uk", "UK.", " \"uk\" "];
    assert_eq!(scores(&choice, &right), [1.0; 13]);
    let wrong = ["A", "C", "france", "", "Because", "B france", "BC", "D", "(", "é"];
    assert_eq!(scores(&choice, &wrong), [0.0; 10]);
    let article = item(AnswerType::Letter, &["C"], &["france", "uk", "a red car"]);
    assert_eq!(scores(&article, &["A red car", "C", "c. a red car", "A"]), [1.0, 1.0, 1.0, 0.0]);
    let gold_with_text = item(AnswerType::Letter, &["B. uk"], &["france", "uk"]);
    assert_eq!(scores(&gold_with_text, &["B", "uk", "A"]), [1.0, 1.0, 0.0]);
}

#[test]
fn numbers_are_right_within_5_percent() {
    let hundred = item(AnswerType::Number, &["100"], &[]);
    assert_eq!(scores(&hundred, &["95", "105", "94.9", "105.1", "-100", "1e2"]), [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let large = item(AnswerType::Number, &["$1,234.5"], &[]);
    assert_eq!(scores(&large, &["1234.5", "1,234.5", "$1234.5.", "12345", "1,2345"]), [1.0, 1.0, 1.0, 0.0, 0.0]);
    let percent = item(AnswerType::Number, &["12%"], &[]);
    assert_eq!(scores(&percent, &["12", "12 %", "0.12", "twelve"]), [1.0, 1.0, 0.0, 0.0]);
    let zero = item(AnswerType::Number, &["0"], &[]);
    assert_eq!(scores(&zero, &["0", "0.0", "-0", "0.01"]), [1.0, 1.0, 1.0, 0.0]);
    let negative = item(AnswerType::Number, &["-3"], &[]);
    assert_eq!(scores(&negative, &["\u{2212}3", "-$3", "$-3", "3", "nan", "inf"]), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    let word = item(AnswerType::Number, &["Spain"], &[]);
    assert_eq!(scores(&word, &["spain.", "Italy", "5"]), [1.0, 0.0, 0.0]);
    let not_grouped = item(AnswerType::Number, &["15"], &[]);
    assert_eq!(scores(&not_grouped, &["1,5"]), [0.0]);
}

#[test]
fn text_is_compared_after_normalization() {
    let text = item(AnswerType::Text, &["Red=3", "crimson = 3"], &[]);
    assert_eq!(scores(&text, &["red=3", " RED=3. ", "\"red=3\"", "red=4", "Crimson  = 3"]), [1.0, 1.0, 1.0, 0.0, 1.0]);
    assert_eq!(scores(&item(AnswerType::Text, &["."], &[]), &[".", "!", ""]), [1.0, 0.0, 0.0]);
}

#[test]
fn anls_is_the_best_similarity_or_0_below_half() {
    let text = item(AnswerType::Anls, &["abcd"], &[]);
    // 1, 1 - 1/4, 1 - 2/4, 1 - 3/4 which is below half.
    assert_eq!(scores(&text, &["ABCD", "abcx", "abxx", "axxx"]), [1.0, 0.75, 0.5, 0.0]);
    let unicode = item(AnswerType::Anls, &["größe", "x"], &[]);
    // One of five characters differs, though two of seven bytes do.
    assert_eq!(scores(&unicode, &["grösse", "große", "x"]), [1.0 - 2.0 / 6.0, 0.8, 1.0]);
    assert_eq!(scores(&text, &["", "🦀🦀🦀🦀"]), [0.0, 0.0]);
}

#[test]
fn equal_answers_have_one_canonical_form() {
    let named = |item: &Item, answers: &[&str]| -> Vec<String> {
        answers.iter().map(|answer| canonical(item, answer)).collect()
    };
    let choice = item(AnswerType::Letter, &["B"], &["france", "uk"]);
    assert_eq!(named(&choice, &["B", "b.", "B. uk", "UK", "A", "Spain."]), ["B", "B", "B", "B", "A", "spain"]);
    let sum = item(AnswerType::Number, &["5"], &[]);
    let numbers = named(&sum, &["1,200", "$1200.0", "12 %", "-0", "5.1", "Five."]);
    assert_eq!(numbers, ["1200", "1200", "12", "0", "5.1", "five"]);
    assert_eq!(named(&item(AnswerType::Anls, &["x"], &[]), &["Red  Car.", "red car"]), ["red car", "red car"]);
}

#[test]
fn contains_finds_the_gold_answer_anywhere() {
    let sign = item(AnswerType::Contains, &["No Parking", "parking\nnever"], &[]);
    let answers = ["The sign says NO  PARKING here.", "Parking never.", "no-parking", ""];
    assert_eq!(scores(&sign, &answers), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(scores(&item(AnswerType::Contains, &["12", " "], &[]), &["3124", "3 14"]), [1.0, 0.0]);
}

#[test]
fn vqa_counts_agreeing_annotators() {
    let answers = ["stop", "stop", "Stop.", "stop sign", "the stop sign", "red", "a", "b", "c", "d"];
    let sign = item(AnswerType::Vqa, &answers, &[]);
    // Three matches of ten: (3 * 2/3 + 7 * 1) / 10. Two: (2 * 1/3 + 8 * 2/3) / 10. None.
    let expected = [0.9, 0.6, 0.0];
    for (score, expected) in scores(&sign, &["STOP!", "stop sign", "go"]).into_iter().zip(expected) {
        assert!((score - expected).abs() < 1e-12, "{score} {expected}");
    }
}

#[test]
fn compliance_and_readability_are_separate() {
    let sum = item(AnswerType::Number, &["5"], &[]);
    let judged = |response: &str, finish, style| {
        let verdict = judge(&sum, response, finish, style, DEFAULT_THRESHOLD);
        assert_eq!(verdict.correct, verdict.score > 0.5);
        (verdict.compliant, !verdict.unreadable, verdict.score, verdict.answer)
    };
    let five = || Some("5".to_string());
    assert_eq!(judged("3+2=5.\n### Answer: 5", FinishReason::Stop, Style::Cot), (true, true, 1.0, five()));
    assert_eq!(judged("3+2=6.\n### Answer: 6", FinishReason::Stop, Style::Cot), (true, true, 0.0, Some("6".into())));
    assert_eq!(judged("3+2=5.\n### Answer: 5", FinishReason::Length, Style::Cot), (false, true, 0.0, five()));
    assert_eq!(judged("5", FinishReason::Stop, Style::Cot), (false, false, 0.0, None));
    assert_eq!(judged("5", FinishReason::Stop, Style::Direct), (true, true, 1.0, five()));
    assert_eq!(judged("five", FinishReason::Stop, Style::Direct), (true, false, 0.0, Some("five".into())));
    assert_eq!(judged("5", FinishReason::Length, Style::Direct), (false, true, 0.0, five()));
    let marked = "So.\n### Answer: 5";
    assert_eq!(judged(marked, FinishReason::Stop, Style::Direct), (false, true, 0.0, Some(marked.into())));
    assert_eq!(judged(" ", FinishReason::Stop, Style::Direct), (false, false, 0.0, None));
}

#[test]
fn reference_scores_ignore_truncation() {
    let sign = item(AnswerType::Ocrbench, &["STOP"], &[]);
    let cut = judge(&sign, "It says stop and", FinishReason::Length, Style::Direct, DEFAULT_THRESHOLD);
    assert_eq!((cut.compliant, cut.unreadable, cut.score, cut.correct), (false, false, 1.0, false));
    let same = Item { answer_type: AnswerType::Contains, ..sign };
    let cut = judge(&same, "It says stop and", FinishReason::Length, Style::Direct, DEFAULT_THRESHOLD);
    assert_eq!((cut.unreadable, cut.score, cut.correct), (false, 0.0, false));
}

#[test]
fn only_the_graded_part_counts() {
    let choice = item(AnswerType::Letter, &["B"], &["france", "uk"]);
    let whole = "<think>A or B?</think>B";
    let verdict = judge_part(&choice, whole, "B", FinishReason::Stop, Style::Direct, DEFAULT_THRESHOLD);
    assert_eq!((verdict.text.as_str(), verdict.answer.as_deref(), verdict.correct), (whole, Some("B"), true));
}

#[test]
fn concise_answers_have_no_markup() {
    let choice = item(AnswerType::Letter, &["B"], &["france", "uk"]);
    let concise = |answer| concise(&choice, answer);
    assert_eq!(["**B**", "The answer is B.", "B. uk", "B or A"].map(concise), ["B", "B", "B", "B or A"]);
    let number = item(AnswerType::Number, &["5"], &[]);
    assert_eq!(crate::answers::concise(&number, "\\boxed{5 cm}"), "5 cm");
    assert_eq!(reasoning("Because.\n**### Answer: B**"), "Because.");
    assert_eq!(reasoning("It is **so**\n### Answer: **B**"), "It is **so**");
    assert_eq!(reasoning("no marker"), "");
}
