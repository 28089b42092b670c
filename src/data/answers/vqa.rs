//! The score of the VQA challenge (Antol et al. 2015), which TextVQA uses: answers are normalized as in its evaluation,
//! and an answer's score depends on how many annotators gave it.

use super::markup::{candidates, normalize_unicode};

/// Number of agreeing annotators for a full score.
const AGREEING: f64 = 3.0;

/// Punctuation that is removed. A mark next to a space is dropped; inside a word it becomes a space.
const MARKS: [char; 21] =
    [';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!'];

const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// Number words; the index is the number. `none` is 0 too.
const NUMBERS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/// Contractions whose missing or misplaced apostrophes are corrected. Those that would be another word without
/// apostrophe (`well`, `its`, `shed`) are not included.
const CONTRACTIONS: &str = "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've \
    hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've \
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've \
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's \
    there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't \
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're \
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've";

/// The soft accuracy of a normalized answer: the mean, over all ways to leave one annotator out, of min(1, other
/// annotators with this answer / 3). With 10 annotators, one match scores 0.3, two 0.6, three 0.9, four 1. With two or
/// three annotators, an answer cannot reach 1. With a single gold answer, the answer must equal it.
pub(super) fn soft_accuracy(golds: &[String], answer: &str) -> f64 {
    let matches = golds.iter().filter(|gold| *gold == answer).count();
    if golds.len() < 2 {
        return f64::from(matches == golds.len() && matches > 0);
    }
    let agreement = |others: usize| (others as f64 / AGREEING).min(1.0);
    let without_a_match = matches as f64 * agreement(matches.saturating_sub(1));
    let without_another = (golds.len() - matches) as f64 * agreement(matches);
    (without_a_match + without_another) / golds.len() as f64
}

/// The best soft accuracy of the candidates of an answer.
pub(super) fn score(golds: &[String], answer: &str) -> f64 {
    let golds: Vec<String> = golds.iter().map(|gold| normalize(&normalize_unicode(gold))).collect();
    candidates(answer).iter().map(|candidate| soft_accuracy(&golds, &normalize(candidate))).fold(0.0, f64::max)
}

/// Normalizes an answer: no punctuation, lower case, digits for number words, no articles, contractions with
/// apostrophes.
pub(super) fn normalize(text: &str) -> String {
    let text = text.replace(['\n', '\t'], " ");
    process_digit_article(&process_punctuation(text.trim()))
}

/// The challenge's `processPunctuation`.
pub(super) fn process_punctuation(text: &str) -> String {
    without_full_stops(&without_marks(text))
}

/// The challenge's `processDigitArticle`.
pub(super) fn process_digit_article(text: &str) -> String {
    let plain = text.to_lowercase();
    let words = plain.split_whitespace().map(|word| number(word).unwrap_or_else(|| word.to_string()));
    let words = words.filter(|word| !ARTICLES.contains(&word.as_str())).map(contraction);
    words.collect::<Vec<_>>().join(" ")
}

fn without_marks(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let grouped = letters.windows(3).any(|three| match three {
        [before, ',', after] => before.is_ascii_digit() && after.is_ascii_digit(),
        _ => false,
    });
    let touches_space = |mark: char| letters.windows(2).any(|two| two == [mark, ' '] || two == [' ', mark]);
    let mut plain = text.to_string();
    for mark in MARKS.into_iter().filter(|mark| letters.contains(mark)) {
        // If a text has a grouping comma (`1,000`), every mark is dropped, as in the challenge's code.
        plain = plain.replace(mark, if grouped || touches_space(mark) { "" } else { " " });
    }
    plain
}

/// Removes full stops that precede no digit, at most 32 of them: the challenge's code passes a flag of that value as
/// the count.
fn without_full_stops(text: &str) -> String {
    let mut letters = text.chars().peekable();
    let (mut plain, mut left) = (String::new(), 32);
    while let Some(letter) = letters.next() {
        if letter == '.' && left > 0 && !letters.peek().is_some_and(char::is_ascii_digit) {
            left -= 1;
        } else {
            plain.push(letter);
        }
    }
    plain
}

fn number(word: &str) -> Option<String> {
    let word = if word == "none" { "zero" } else { word };
    NUMBERS.iter().position(|known| *known == word).map(|number| number.to_string())
}

/// Restores the missing apostrophe of a contraction. One pair of the challenge is reversed.
fn contraction(word: String) -> String {
    if word == "somebody'd" {
        return "somebodyd".to_string();
    }
    let lacks_one = |known: &&str| {
        known.len() == word.len() + 1
            && known.match_indices('\'').any(|(at, _)| known[..at] == word[..at] && known[at + 1..] == word[at..])
    };
    if !word.is_ascii() {
        return word;
    }
    CONTRACTIONS.split_whitespace().find(lacks_one).map_or(word.clone(), str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_normalized_as_in_the_challenge() {
        let pairs = [
            ("The Dog.", "dog"),
            ("two  dogs", "2 dogs"),
            ("None", "0"),
            ("1,000", "1000"),
            ("12.5 m.", "12.5 m"),
            ("red/blue", "red blue"),
            ("red / blue", "red blue"),
            ("stop !", "stop"),
            ("t-shirt", "t shirt"),
            ("dont\nwalk", "don't walk"),
            ("couldn'tve", "couldn't've"),
            ("well, its shed", "well its shed"),
            ("an", ""),
        ];
        for (given, expected) in pairs {
            assert_eq!(normalize(given), expected, "{given}");
        }
    }

    #[test]
    fn the_score_depends_on_agreeing_annotators() {
        let golds = |matching: usize, all: usize| -> Vec<String> {
            (0..all).map(|at| if at < matching { "Stop!".into() } else { format!("other {at}") }).collect()
        };
        let of = |matching, all| score(&golds(matching, all), "**Stop!**");
        // Without the match 0 others agree, without another annotator 1 agrees: (1 * 0 + 9 * 1/3) / 10.
        assert!((of(1, 10) - 0.3).abs() < 1e-12);
        // (2 * 1/3 + 8 * 2/3) / 10 and (3 * 2/3 + 7 * 1) / 10.
        assert!((of(2, 10) - 0.6).abs() < 1e-12);
        assert!((of(3, 10) - 0.9).abs() < 1e-12);
        assert_eq!((of(0, 10), of(4, 10), of(10, 10)), (0.0, 1.0, 1.0));
        // (3 * 2/3) / 3.
        assert!((of(3, 3) - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!((of(1, 1), of(0, 1), of(0, 0)), (1.0, 0.0, 0.0));
    }
}
