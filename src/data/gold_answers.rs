//! Checks the gold answers and options of items before a model runs: gold answers that no response can match, and items
//! that no row can be made from.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::answers;
use super::prompts::{ANSWER_MARKER, option_letters};
use super::records::{AnswerType, Item};

/// How the gold answer of a multiple-choice item names its option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptionAnswers {
    /// By letter, also in the forms `(B)`, `B.` and `B. uk`.
    #[default]
    Letter,
    /// By the option's text.
    Text,
    /// By index, from 0.
    #[serde(rename = "index-0")]
    Index0,
    /// By index, from 1.
    #[serde(rename = "index-1")]
    Index1,
}

/// Replaces every answer that names an option by text or index with the option's letter. Returns all errors of the
/// item.
pub fn normalize_answers(item: &mut Item, form: OptionAnswers) -> Result<(), Vec<String>> {
    let mut wrong = check_options(item);
    if item.answer_type.is_multiple_choice() && wrong.is_empty() {
        let mut letters: Vec<String> = Vec::new();
        for answer in &item.answers {
            match letter(item, answer, form) {
                Ok(letter) if !letters.contains(&letter) => letters.push(letter),
                Ok(_) => {}
                Err(what) => wrong.push(what),
            }
        }
        match &item.rationale_answer {
            // The rationale's answer may be wrong, and may be none of the options.
            Some(answer) if wrong.is_empty() => match letter(item, answer, form) {
                Ok(letter) => item.rationale_answer = Some(letter).filter(|letter| Some(letter) != letters.first()),
                Err(what) if form == OptionAnswers::Letter && text_index(answer, &item.options).is_some() => {
                    wrong.push(format!("the assistant's turn: {what}"));
                }
                Err(_) => {}
            },
            _ => {}
        }
        if wrong.is_empty() {
            item.answers = letters;
        }
    }
    wrong.extend(check_texts(item));
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// All errors in the gold answers and options of an item that was not imported here.
pub fn check(item: &Item) -> Vec<String> {
    let mut wrong = check_options(item);
    if item.answer_type.is_multiple_choice() && wrong.is_empty() {
        wrong.extend(item.answers.iter().filter_map(|answer| letter(item, answer, OptionAnswers::Letter).err()));
    }
    wrong.extend(check_texts(item));
    wrong
}

/// Checks that every id is unique within its data set: scores are compared item by item.
pub fn check_ids<'a>(items: impl IntoIterator<Item = &'a Item>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    match items.into_iter().find(|item| !seen.insert((&item.dataset, &item.id))) {
        Some(item) => Err(format!("two items of `{}` have the id `{}`", item.dataset, item.id)),
        None => Ok(()),
    }
}

fn check_options(item: &Item) -> Vec<String> {
    let options: Vec<&str> = item.options.iter().map(|option| option.trim()).collect();
    if options.len() > option_letters().count() {
        return vec![format!("the row has {} options, at most 26 (A to Z) are possible", options.len())];
    }
    let mut wrong = Vec::new();
    for (letter, (at, option)) in option_letters().zip(options.iter().enumerate()) {
        let before = option_letters().zip(&options[..at]).find(|(_, before)| *before == option);
        match before {
            _ if option.is_empty() => wrong.push(format!("option {letter} is empty")),
            Some((first, _)) => wrong.push(format!("options {first} and {letter} are both `{option}`")),
            None => {}
        }
    }
    wrong
}

fn check_texts(item: &Item) -> Vec<String> {
    let mut wrong = Vec::new();
    let asked = [&item.question].into_iter().chain(&item.options).map(String::as_str);
    wrong.extend(item.images.check(asked).err());
    // An annotator may have given no answer.
    let annotated = matches!(item.answer_type, AnswerType::Vqa | AnswerType::VqaEval | AnswerType::Textvqa);
    let empty = item.answers.iter().filter(|answer| answer.trim().is_empty()).count();
    if empty == item.answers.len() {
        wrong.push("the item has no answer".to_string());
    } else if empty > 0 && !annotated {
        wrong.push(format!("{empty} of {} answers are empty", item.answers.len()));
    }
    if let Some(answer) = item.answers.iter().find(|answer| answer.contains(ANSWER_MARKER)) {
        wrong.push(format!("the answer `{answer}` contains `{ANSWER_MARKER}`, the marker of a final answer"));
    }
    if let Some(fact) = item.facts.iter().find(|fact| !answers::is_comparable(fact)) {
        wrong.push(format!("the fact `{fact}` has no word or number: no rationale can state it"));
    }
    if item.rationale.as_ref().is_some_and(|rationale| rationale.contains(ANSWER_MARKER)) {
        wrong.push(format!("the rationale contains `{ANSWER_MARKER}`, the marker of the final answer"));
    }
    wrong
}

/// The gold answer in normalized form: unchanged if it names an option by letter, otherwise that option's letter.
fn letter(item: &Item, answer: &str, form: OptionAnswers) -> Result<String, String> {
    let options = &item.options;
    match form {
        OptionAnswers::Letter => {
            let index = letter_index(answer, options).ok_or_else(|| not_a_letter(answer, options))?;
            check_index(item, answer, index)?;
            let after = after_letter(answer);
            match options.get(index) {
                Some(option) if !after.is_empty() && normalize(after) != normalize(option) => {
                    Err(format!("the answer `{answer}` names option {}, which is `{option}`", letter_name(index)))
                }
                _ => Ok(answer.trim().to_string()),
            }
        }
        OptionAnswers::Text => match text_index(answer, options) {
            Some(index) => Ok(letter_name(index)),
            None => Err(format!("the answer `{answer}` is not the text of an option (`option_answers` is \"text\")")),
        },
        OptionAnswers::Index0 | OptionAnswers::Index1 => {
            let (first, key) = if form == OptionAnswers::Index0 { (0, "index-0") } else { (1, "index-1") };
            let index = answer.trim().parse().ok().and_then(|number: usize| number.checked_sub(first));
            let index = index.filter(|index| *index < option_letters().count());
            let index = index.ok_or_else(|| {
                format!("the answer `{answer}` is not the index of an option (`option_answers` is \"{key}\")")
            })?;
            check_index(item, answer, index)?;
            Ok(letter_name(index))
        }
    }
}

/// Checks that the item has an option of this index, in `options` or in its question.
fn check_index(item: &Item, answer: &str, index: usize) -> Result<(), String> {
    let count = item.options.len();
    if count > 0 {
        let beyond =
            || format!("the answer `{answer}` names option {}, but there are {count} options", letter_name(index));
        return if index < count { Ok(()) } else { Err(beyond()) };
    }
    if !lists_option(&item.question, 'A') || !lists_option(&item.question, 'B') {
        return Err("the answer type is a letter, but neither `options` nor the question lists options".to_string());
    }
    let letter = letter_name(index).chars().next().unwrap_or('A');
    if lists_option(&item.question, letter) { Ok(()) } else { Err(format!("the question lists no option `{letter}`")) }
}

/// The error for an answer that is not a letter, with the key that makes it readable.
fn not_a_letter(answer: &str, options: &[String]) -> String {
    let text = text_index(answer, options).map(|index| {
        format!("it is the text of option {}; for texts set `option_answers = \"text\"`", letter_name(index))
    });
    let index = answer
        .trim()
        .parse::<usize>()
        .ok()
        .map(|_| "for indices set `option_answers = \"index-0\"` or `\"index-1\"`".to_string());
    let known: Vec<String> = text.into_iter().chain(index).collect();
    let known = if known.is_empty() { "it names no option".to_string() } else { known.join("; ") };
    format!("the answer `{answer}` is not the letter of an option: {known}")
}

/// The index of the letter at the beginning of an answer, if only the option's text follows it.
fn letter_index(answer: &str, options: &[String]) -> Option<usize> {
    let bare = answer.trim().trim_start_matches('(');
    let first = bare.chars().next()?;
    let index = option_letters().position(|letter| letter == first.to_ascii_uppercase())?;
    let (rest, after) = (&bare[first.len_utf8()..], after_letter(answer));
    let delimited = rest.starts_with([')', '.', ':', ',']);
    let agrees = options.get(index).is_some_and(|option| normalize(option) == normalize(after));
    let spaced = rest.starts_with(char::is_whitespace) && agrees;
    (after.is_empty() || delimited || spaced).then_some(index)
}

/// The text after the letter of an answer.
fn after_letter(answer: &str) -> &str {
    let bare = answer.trim().trim_start_matches('(');
    let rest = bare.char_indices().nth(1).map_or("", |(at, _)| &bare[at..]);
    rest.trim_start_matches([')', '.', ':', ',']).trim()
}

/// The index of the option with this text. If several differ only in case, only an exact match counts.
fn text_index(answer: &str, options: &[String]) -> Option<usize> {
    let equal = options.iter().position(|option| option.trim() == answer.trim());
    let mut alike = (0..options.len()).filter(|&index| normalize(&options[index]) == normalize(answer));
    let only = alike.next().filter(|_| alike.next().is_none());
    equal.or(only)
}

/// Whether a question lists an option with this letter: `(B)`, `B.`, `B)`, `B:`, or `B` and a space at the beginning of
/// a line.
fn lists_option(question: &str, letter: char) -> bool {
    let forms = [letter, letter.to_ascii_lowercase()];
    question.lines().map(str::trim_start).any(|line| {
        let begins = line.starts_with(letter) && line[1..].starts_with(char::is_whitespace);
        begins
            || line.match_indices(forms).any(|(at, found)| {
                let before = line[..at].chars().next_back();
                let after = line[at + 1..].chars().next();
                let apart = before.is_none_or(|c| c.is_whitespace() || matches!(c, '(' | '[' | ',' | ';' | ':'));
                let closed =
                    matches!(after, Some(')' | ']')) || (found.starts_with(letter) && matches!(after, Some('.' | ':')));
                apart && closed
            })
    })
}

fn letter_name(index: usize) -> String {
    option_letters().nth(index).map(String::from).unwrap_or_default()
}

fn normalize(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ").trim_end_matches('.').to_string()
}
