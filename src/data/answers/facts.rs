//! Why a response is wrong, from the facts that its item carries: what a right rationale must state about the image.

use std::borrow::Cow;

use super::markup::normalize_unicode;
use super::reasoning;
use crate::records::{Failure, Item, Verdict};

/// The class of a wrong response to a CoT prompt. `None` if the response is right or the item has no facts.
pub fn failure(item: &Item, verdict: &Verdict) -> Option<Failure> {
    if item.facts.is_empty() || verdict.is_right() {
        return None;
    }
    if !verdict.is_readable() {
        return Some(Failure::Form);
    }
    let text = words(reasoning(&verdict.text));
    let read = item.facts.iter().all(|fact| is_stated(&words(fact), &text));
    Some(if read { Failure::Arithmetic } else { Failure::Reading })
}

/// Whether a fact has a word that can be compared.
pub fn is_comparable(fact: &str) -> bool {
    !words(fact).is_empty()
}

/// Whether the words of a fact occur in the text, next to each other. If the fact ends with a number, the words before
/// it must never have another number behind them: `red5` contradicts `red6`.
fn is_stated(fact: &[String], text: &[String]) -> bool {
    let occurs = text.windows(fact.len()).any(|part| part == fact);
    occurs && !text.windows(fact.len()).any(|part| contradicts(part, fact))
}

fn contradicts(part: &[String], fact: &[String]) -> bool {
    let (Some((value, name)), Some((stated, same_name))) = (fact.split_last(), part.split_last()) else { return false };
    !name.is_empty() && name == same_name && is_number(value) && is_number(stated) && value != stated
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}

/// The words and numbers of a text in lower case. `red6`, `Red: 6` and `red 6` are equal; `1,234` is `1234`.
fn words(text: &str) -> Vec<String> {
    let normalized: Cow<str> = normalize_unicode(text).to_lowercase().into();
    let characters: Vec<char> = normalized.chars().collect();
    let digit = |at: usize| characters.get(at).is_some_and(char::is_ascii_digit);
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for (at, &c) in characters.iter().enumerate() {
        let number = words.last().is_some_and(|word| open && is_number(word));
        let inside = number && at > 0 && digit(at - 1) && digit(at + 1);
        // A comma between two digits separates thousands if exactly three digits follow.
        let thousands = inside && c == ',' && (1..=3).all(|next| digit(at + next)) && !digit(at + 4);
        if thousands {
            continue;
        }
        if !(c.is_alphanumeric() || (inside && c == '.')) {
            open = false;
            continue;
        }
        let joins = open && (number == (c.is_ascii_digit() || c == '.'));
        match words.last_mut().filter(|_| joins) {
            Some(word) => word.push(c),
            None => words.push(c.to_string()),
        }
        open = true;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::{DEFAULT_THRESHOLD, judge};
    use crate::image_keys::ImageKeys;
    use crate::prompts::Style;
    use crate::records::{AnswerType, FinishReason};

    fn item(facts: &[&str], answer: &str) -> Item {
        Item {
            id: "1".into(),
            dataset: "chart".into(),
            images: ImageKeys::None,
            question: "What is the sum of red and yellow?".into(),
            options: Vec::new(),
            answer_type: AnswerType::Number,
            answers: vec![answer.into()],
            rationale: None,
            rationale_answer: None,
            facts: facts.iter().map(ToString::to_string).collect(),
        }
    }

    fn class(item: &Item, response: &str) -> Option<Failure> {
        failure(item, &judge(item, response, FinishReason::Stop, Style::Cot, DEFAULT_THRESHOLD))
    }

    #[test]
    fn words_split_names_from_numbers() {
        assert_eq!(words("Row 2: red6, Yellow = 3.5."), ["row", "2", "red", "6", "yellow", "3.5"]);
        assert_eq!(words("red6.yellow3 1,234 and 1,2"), ["red", "6", "yellow", "3", "1234", "and", "1", "2"]);
        assert!(words(" -- ").is_empty());
    }

    #[test]
    fn a_wrong_response_has_one_class() {
        let chart = item(&["red6", "yellow3"], "9");
        let cases = [
            ("red6, yellow3. 6+3=9.\n### Answer: 9", None),
            ("Right by luck.\n### Answer: 9", None),
            ("red6, yellow3. 6+3=8.\n### Answer: 8", Some(Failure::Arithmetic)),
            ("Red is 6; yellow: 3.\n### Answer: 8", Some(Failure::Reading)),
            ("red 6 and Yellow: 3.\n### Answer: 8", Some(Failure::Arithmetic)),
            ("red6, yellow4. 6+4=10.\n### Answer: 10", Some(Failure::Reading)),
            ("red6, yellow3, red5. 5+3=8.\n### Answer: 8", Some(Failure::Reading)),
            ("red6. 6+2=8.\n### Answer: 8", Some(Failure::Reading)),
            ("red6, yellow3. 6+3=8.\n### Answer: eight", Some(Failure::Form)),
            ("red6, yellow3. 6+3=9.", Some(Failure::Form)),
        ];
        for (response, expected) in cases {
            assert_eq!(class(&chart, response), expected, "{response}");
        }
        assert_eq!(class(&item(&[], "9"), "red1.\n### Answer: 1"), None);
    }

    #[test]
    fn a_fact_of_several_words_is_a_phrase() {
        let count = item(&["red, green, blue, green"], "2");
        assert_eq!(class(&count, "red, green, blue, green.\n### Answer: 3"), Some(Failure::Arithmetic));
        assert_eq!(class(&count, "red, blue, green, green.\n### Answer: 3"), Some(Failure::Reading));
    }
}
