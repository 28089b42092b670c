//! Gold answers that no response could match, and items that no row could be made of: found before a model is asked.
//! Knows no file and no model.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::prompts::{ANSWER_MARKER, option_letters};
use super::records::{AnswerType, Item};

/// How the gold answer of an item that asks for a letter names its option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptionAnswers {
    /// By its letter, also in the forms `(B)`, `B.` and `B. uk`.
    #[default]
    Letter,
    /// By its text.
    Text,
    /// By its place, the first being 0.
    #[serde(rename = "index-0")]
    Index0,
    /// By its place, the first being 1.
    #[serde(rename = "index-1")]
    Index1,
}

/// Writes the letter in place of every answer that names an option by text or by place, or says all that is wrong.
pub fn settle(item: &mut Item, form: OptionAnswers) -> Result<(), Vec<String>> {
    let mut wrong = check_options(item);
    if item.answer_type.is_multiple_choice() && wrong.is_empty() {
        let mut written: Vec<String> = Vec::new();
        for answer in &item.answers {
            match letter(item, answer, form) {
                Ok(letter) if !written.contains(&letter) => written.push(letter),
                Ok(_) => {}
                Err(what) => wrong.push(what),
            }
        }
        match &item.rationale_answer {
            // What a text concludes may be wrong, and may be none of the options.
            Some(told) if wrong.is_empty() => match letter(item, told, form) {
                Ok(letter) => item.rationale_answer = Some(letter).filter(|letter| Some(letter) != written.first()),
                Err(what) if form == OptionAnswers::Letter && text_index(told, &item.options).is_some() => {
                    wrong.push(format!("the assistant's turn: {what}"));
                }
                Err(_) => {}
            },
            _ => {}
        }
        if wrong.is_empty() {
            item.answers = written;
        }
    }
    wrong.extend(check_texts(item));
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// All that is wrong with the gold answers and options of an item from elsewhere.
pub fn check(item: &Item) -> Vec<String> {
    let mut wrong = check_options(item);
    if item.answer_type.is_multiple_choice() && wrong.is_empty() {
        wrong.extend(item.answers.iter().filter_map(|answer| letter(item, answer, OptionAnswers::Letter).err()));
    }
    wrong.extend(check_texts(item));
    wrong
}

/// Whether an id names one item of a data set: scores are compared item by item.
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
        return vec![format!("the row has {} options: the letters A to Z name 26", options.len())];
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
    // An annotator may have said nothing.
    let annotated = matches!(item.answer_type, AnswerType::Vqa | AnswerType::VqaEval | AnswerType::Textvqa);
    let empty = item.answers.iter().filter(|answer| answer.trim().is_empty()).count();
    if empty == item.answers.len() {
        wrong.push("there is no answer".to_string());
    } else if empty > 0 && !annotated {
        wrong.push(format!("{empty} of {} answers are empty", item.answers.len()));
    }
    if let Some(answer) = item.answers.iter().find(|answer| answer.contains(ANSWER_MARKER)) {
        wrong.push(format!("the answer `{answer}` holds `{ANSWER_MARKER}`, which stands before a final answer"));
    }
    if item.rationale.as_ref().is_some_and(|rationale| rationale.contains(ANSWER_MARKER)) {
        wrong.push(format!("the rationale holds `{ANSWER_MARKER}`, which stands before the one final answer"));
    }
    wrong
}

/// The gold answer as it is asked for: as it is where it names an option by its letter, else that letter.
fn letter(item: &Item, answer: &str, form: OptionAnswers) -> Result<String, String> {
    let options = &item.options;
    match form {
        OptionAnswers::Letter => {
            let index = letter_index(answer, options).ok_or_else(|| no_letter(answer, options))?;
            named(item, answer, index)?;
            let after = after_letter(answer);
            match options.get(index) {
                Some(option) if !after.is_empty() && plain(after) != plain(option) => {
                    Err(format!("the answer `{answer}` names option {}, which is `{option}`", name(index)))
                }
                _ => Ok(answer.trim().to_string()),
            }
        }
        OptionAnswers::Text => match text_index(answer, options) {
            Some(index) => Ok(name(index)),
            None => Err(format!("the answer `{answer}` is the text of no option: `option_answers` is \"text\"")),
        },
        OptionAnswers::Index0 | OptionAnswers::Index1 => {
            let (first, key) = if form == OptionAnswers::Index0 { (0, "index-0") } else { (1, "index-1") };
            let index = answer.trim().parse().ok().and_then(|place: usize| place.checked_sub(first));
            let index = index.filter(|index| *index < option_letters().count());
            let index = index.ok_or_else(|| {
                format!("the answer `{answer}` is not the place of an option: `option_answers` is \"{key}\"")
            })?;
            named(item, answer, index)?;
            Ok(name(index))
        }
    }
}

/// Whether the item has an option of this place, among its `options` or in its question.
fn named(item: &Item, answer: &str, index: usize) -> Result<(), String> {
    let count = item.options.len();
    if count > 0 {
        let beyond = || format!("the answer `{answer}` names option {}, and there are {count} options", name(index));
        return if index < count { Ok(()) } else { Err(beyond()) };
    }
    if !lists(&item.question, 'A') || !lists(&item.question, 'B') {
        return Err("a letter is asked for, and there are no options: neither `options` nor the question lists \
                    them"
            .to_string());
    }
    let letter = name(index).chars().next().unwrap_or('A');
    if lists(&item.question, letter) { Ok(()) } else { Err(format!("the question lists no option `{letter}`")) }
}

/// Why an answer is no letter, and which key reads it.
fn no_letter(answer: &str, options: &[String]) -> String {
    let text = text_index(answer, options)
        .map(|index| format!("it is the text of option {}, which `option_answers = \"text\"` reads", name(index)));
    let place = answer.trim().parse::<usize>().ok().map(|_| {
        "a place is read with `option_answers = \"index-0\"` or `\"index-1\"`, whichever the first one is".to_string()
    });
    let known: Vec<String> = text.into_iter().chain(place).collect();
    let known = if known.is_empty() { "it names no option".to_string() } else { known.join("; ") };
    format!("the answer `{answer}` is not the letter of an option: {known}")
}

/// The place of the letter that an answer begins with, if nothing but the option's text follows it.
fn letter_index(answer: &str, options: &[String]) -> Option<usize> {
    let bare = answer.trim().trim_start_matches('(');
    let first = bare.chars().next()?;
    let index = option_letters().position(|letter| letter == first.to_ascii_uppercase())?;
    let (rest, after) = (&bare[first.len_utf8()..], after_letter(answer));
    let parted = rest.starts_with([')', '.', ':', ',']);
    let agrees = options.get(index).is_some_and(|option| plain(option) == plain(after));
    let spaced = rest.starts_with(char::is_whitespace) && agrees;
    (after.is_empty() || parted || spaced).then_some(index)
}

/// What stands behind the letter of an answer.
fn after_letter(answer: &str) -> &str {
    let bare = answer.trim().trim_start_matches('(');
    let rest = bare.char_indices().nth(1).map_or("", |(at, _)| &bare[at..]);
    rest.trim_start_matches([')', '.', ':', ',']).trim()
}

/// The place of the option with this text; of several that differ in case only the one that is equal.
fn text_index(answer: &str, options: &[String]) -> Option<usize> {
    let equal = options.iter().position(|option| option.trim() == answer.trim());
    let mut alike = (0..options.len()).filter(|&index| plain(&options[index]) == plain(answer));
    let only = alike.next().filter(|_| alike.next().is_none());
    equal.or(only)
}

/// Whether a question lists the option of a letter: `(B)`, `B.`, `B)`, `B:`, or `B` and a space at a line's beginning.
fn lists(question: &str, letter: char) -> bool {
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

fn name(index: usize) -> String {
    option_letters().nth(index).map(String::from).unwrap_or_default()
}

fn plain(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ").trim_end_matches('.').to_string()
}
