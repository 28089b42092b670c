//! Multiple-choice answers: finds the only option that a text names.

use super::markup::{core, normalize_unicode, strip_markup};
use super::parsed::Parsed;
use super::text::normalize;
use crate::prompts::option_letters;

/// Words that may occur between a negation and the option that it denies.
const FILLERS: [&str; 9] = ["option", "choice", "answer", "letter", "the", "a", "is", "be", "to"];

/// Words that negate what follows, in addition to words that end in `n't`.
const NEGATIONS: [&str; 7] = ["not", "never", "neither", "nor", "except", "cannot", "isnt"];

/// Words that may follow the letter `A` in a sentence; before any other lower-case word, `A` is an article.
const AFTER_A: [&str; 12] =
    ["is", "was", "because", "since", "as", "and", "or", "but", "not", "isn't", "would", "seems"];

/// The letter of the option that a gold answer names: a letter, `B. uk`, or the option's text. `None` for a letter
/// beyond the options, an index, or another text.
pub fn letter_of_gold(gold: &str, options: &[String]) -> Option<char> {
    let gold = strip_markup(normalize_unicode(gold).trim());
    let index = single_letter(&gold).or_else(|| option(&gold, options)).or_else(|| with_text(&gold, options))?;
    option_letters().take(if options.is_empty() { 26 } else { options.len() }).nth(index)
}

/// Finds the option that an answer names. A letter alone is that letter, even beyond the options. Otherwise the exact
/// text of an option counts, otherwise the only letter or text of an option that occurs. Several different options are
/// [`Parsed::Ambiguous`].
pub(super) fn read(answer: &str, options: &[String]) -> Parsed<usize> {
    let (normalized, core) = (normalize_unicode(answer), core(answer));
    let texts = [strip_markup(normalized.trim()), core.clone()];
    let exact = texts.iter().find_map(|text| single_letter(text).or_else(|| option(text, options)));
    let exact = exact.or_else(|| option(&normalized, options)).or_else(|| with_text(&core, options));
    exact.map_or_else(|| mentioned(&core, options), Parsed::One)
}

/// A single letter with punctuation, possibly after the word `option`.
fn single_letter(text: &str) -> Option<usize> {
    let text = text.trim_matches(|c: char| !c.is_alphanumeric());
    let lower = text.to_ascii_lowercase();
    let named = ["option", "choice"].iter().find_map(|word| lower.strip_prefix(word));
    let letter = named.filter(|rest| !rest.starts_with(char::is_alphanumeric)).unwrap_or(&lower);
    let mut characters = letter.trim_matches(|c: char| !c.is_alphanumeric()).chars();
    let letter = characters.next().filter(|_| characters.next().is_none())?;
    option_letters().position(|known| known.eq_ignore_ascii_case(&letter))
}

/// The option with this text.
fn option(text: &str, options: &[String]) -> Option<usize> {
    let text = normalize(text);
    options.iter().position(|option| normalize(option) == text)
}

/// `B. uk`, `(b) uk`, `B uk`, `B - uk`: a letter before the text of the same option.
fn with_text(text: &str, options: &[String]) -> Option<usize> {
    let text = text.trim_start_matches(['(', '[']);
    let index = option_letters().position(|known| text.starts_with(|c: char| c.eq_ignore_ascii_case(&known)))?;
    let rest = text.get(1..)?;
    let after = rest.trim_start_matches(|c: char| c.is_whitespace() || ").]:,-–—".contains(c));
    let delimited = after.len() < rest.len();
    let option_text = normalize(options.get(index)?);
    (delimited
        && !option_text.is_empty()
        && [after, &strip_markup(after)].iter().any(|after| normalize(after) == option_text))
    .then_some(index)
}

/// A word of an answer, and the text before the next word.
struct Word<'a> {
    text: &'a str,
    gap: &'a str,
}

/// Splits into runs of letters and digits. `'` and `-` inside a word belong to it, and so does a full stop between
/// single letters (`U.S.A`).
fn words(text: &str) -> Vec<Word<'_>> {
    let places: Vec<(usize, char)> = text.char_indices().collect();
    let is_word = |at: usize| places.get(at).is_some_and(|(_, c)| c.is_alphanumeric());
    let single = |at: usize| is_word(at) && !is_word(at + 1) && (at == 0 || !is_word(at - 1));
    let joins = |at: usize| match places[at].1 {
        '\'' | '-' => at > 0 && is_word(at - 1) && is_word(at + 1),
        '.' => at > 0 && single(at - 1) && single(at + 1),
        _ => false,
    };
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for at in (0..places.len()).filter(|&at| is_word(at) || joins(at)) {
        let (start, end) = (places[at].0, places[at].0 + places[at].1.len_utf8());
        match spans.last_mut() {
            Some((_, last)) if *last == start => *last = end,
            _ => spans.push((start, end)),
        }
    }
    let ends = spans.iter().skip(1).map(|(start, _)| *start).chain([text.len()]);
    spans
        .iter()
        .zip(ends)
        .map(|((start, end), next)| Word { text: &text[*start..*end], gap: &text[*end..next] })
        .collect()
}

/// The option that a sentence mentions, by letter or by text.
fn mentioned(text: &str, options: &[String]) -> Parsed<usize> {
    let words = words(text);
    let lower: Vec<String> = words.iter().map(|word| word.text.to_lowercase()).collect();
    let mut of: Vec<Option<usize>> = vec![None; words.len()];
    // Longer texts first: `red car` does not mention `red`.
    let mut texts: Vec<(usize, Vec<String>)> = options.iter().enumerate().map(|(at, text)| (at, parts(text))).collect();
    texts.sort_by_key(|(_, parts)| std::cmp::Reverse(parts.len()));
    let mut found: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
    for (index, parts) in texts.iter().filter(|(_, parts)| is_mentionable(parts)) {
        for start in 0..(lower.len() + 1).saturating_sub(parts.len()) {
            let range = start..start + parts.len();
            if of[range.clone()].iter().all(Option::is_none) && lower[range.clone()] == parts[..] {
                of[range.clone()].fill(Some(*index));
                found.push((*index, range));
            }
        }
    }
    let count = if options.is_empty() { 26 } else { options.len() };
    let mut beyond = false;
    for at in (0..words.len()).filter(|&at| of[at].is_none()).collect::<Vec<_>>() {
        if let Some(letter) = letter_at(&words, at) {
            if letter < count { found.push((letter, at..at + 1)) } else { beyond = true }
        }
    }
    // With three options, `B, F` names two letters, but `B, on the X axis` names one.
    let only_letters = lower.iter().all(|word| word.len() == 1 || word == "and" || word == "or");
    let mut distinct: Vec<usize> = found.iter().map(|(index, _)| *index).collect();
    distinct.sort_unstable();
    distinct.dedup();
    match distinct[..] {
        [_] if beyond && only_letters => Parsed::Ambiguous,
        [index] if found.iter().any(|(_, range)| !is_negated(&lower, &of, range)) => Parsed::One(index),
        [] | [_] => Parsed::Nothing,
        _ => Parsed::Ambiguous,
    }
}

/// Whether a sentence can mention the option by its text. An option whose text is a single letter (`C`) cannot be.
fn is_mentionable(parts: &[String]) -> bool {
    match parts {
        [] => false,
        [only] => only.len() > 1 || !only.starts_with(|c: char| c.is_ascii_alphabetic()),
        _ => true,
    }
}

fn parts(option: &str) -> Vec<String> {
    words(&normalize_unicode(option)).iter().map(|word| word.text.to_lowercase()).collect()
}

/// The option letter of a word: a capital that is neither article nor pronoun, or a small letter.
fn letter_at(words: &[Word], at: usize) -> Option<usize> {
    let Word { text, gap } = words[at];
    let mut characters = text.chars();
    let (letter, None) = (characters.next()?, characters.next()) else { return None };
    let index = option_letters().position(|known| known.eq_ignore_ascii_case(&letter))?;
    let spaced = !gap.is_empty() && gap.chars().all(char::is_whitespace);
    let next = words.get(at + 1).map_or("", |word| word.text);
    let sentence = spaced && next.starts_with(char::is_lowercase) && !AFTER_A.contains(&next);
    if matches!(letter.to_ascii_uppercase(), 'A' | 'I') && sentence {
        return None;
    }
    // `b) uk`, `b or c`: small letters count if the answer begins with one.
    let small = words[0].text.len() == 1 && words[0].text.starts_with(|c: char| c.is_ascii_lowercase());
    let letter_form = !matches!(letter, 'a' | 'i') || gap.starts_with([')', '.', ':', ',', ']']) || next == "or";
    (letter.is_ascii_uppercase() || (small && letter_form)).then_some(index)
}

/// Whether the sentence negates the mention: `not B`, `B is wrong`.
fn is_negated(lower: &[String], of: &[Option<usize>], range: &std::ops::Range<usize>) -> bool {
    let negation =
        |at: usize| of[at].is_none() && (NEGATIONS.contains(&lower[at].as_str()) || lower[at].ends_with("n't"));
    let before = (0..range.start).rev().find(|&at| !FILLERS.contains(&lower[at].as_str()));
    let is_said = lower.get(range.end).is_some_and(|word| word == "is" || word == "was");
    let mut after = (range.end..lower.len()).filter(|&at| lower[at] != "is" && lower[at] != "was");
    let wrong = |at: usize| matches!(lower[at].as_str(), "wrong" | "incorrect" | "false") || negation(at);
    // `B is certainly not right`
    before.is_some_and(negation)
        || after.next().is_some_and(wrong)
        || after.next().is_some_and(|at| negation(at) && is_said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn gold_letters_must_name_an_option() {
        let two = options(&["france", "uk"]);
        let letters = ["B", "b.", "(B)", "B. uk", "uk", "C", "1", "spain", "B. france", ""]
            .map(|gold| letter_of_gold(gold, &two));
        assert_eq!(letters, [Some('B'), Some('B'), Some('B'), Some('B'), Some('B'), None, None, None, None, None]);
    }

    #[test]
    fn words_keep_inner_punctuation() {
        let texts = |text| words(text).iter().map(|word| word.text.to_string()).collect::<Vec<_>>();
        assert_eq!(texts("It's the X-ray of U.S.A. (B) é"), ["It's", "the", "X-ray", "of", "U.S.A", "B", "é"]);
        assert_eq!(texts("B.uk, A/C"), ["B", "uk", "A", "C"]);
    }
}
