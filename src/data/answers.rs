//! Answers: found in a response, compared with the gold ones by answer type, judged. Compliance with the asked form
//! is told apart from being right. Knows no model and no prompt text.
//!
//! | answer type | rule | after |
//! |---|---|---|
//! | letter | same option: `B`, `b.`, `(B)`, `B. uk`, `B uk` or the option's text | A-OKVQA, AI2D, ScienceQA |
//! | number | within 5 % of the gold; where the gold is no number, equal text | ChartQA's relaxed accuracy |
//! | text | equal after normalisation | |
//! | anls | 1 - edit distance / longer length, 0 below 0.5 | DocVQA, InfoVQA |
//! | vqa | soft accuracy over the annotators' answers (`vqa.rs`) | TextVQA |
//! | contains | a gold answer occurs in the answer, case and white space ignored | OCRBench |

use super::prompts::{MARKER, Style, letters};
use super::records::{AnswerType, Finish, Item, Verdict};
use super::vqa;

/// A sample counts as right from this score on, unless a stage says otherwise.
pub const CORRECT_FROM: f64 = 0.5;

/// ChartQA's tolerance.
const RELAXED: f64 = 0.05;

/// ANLS below this is 0.
const ANLS_THRESHOLD: f64 = 0.5;

/// The final answer of a response: what follows the last marker (CoT), or all of it (direct). None when that is empty.
pub fn extract(response: &str, style: Style) -> Option<String> {
    let answer = match style {
        Style::Cot => response.rsplit_once(MARKER)?.1,
        Style::Direct => response,
    };
    let answer = answer.trim();
    (!answer.is_empty()).then(|| answer.to_string())
}

/// Whether a response has the form that its prompt asks for: ended by itself, with an answer, and the marker
/// present (CoT) or absent (direct).
pub fn compliant(response: &str, finish: Finish, style: Style) -> bool {
    let marked = response.contains(MARKER);
    let asked = match style {
        Style::Cot => marked,
        Style::Direct => !marked,
    };
    asked && finish == Finish::Stop && extract(response, style).is_some()
}

/// How well an answer matches the best of the item's gold answers, or for `vqa` all of them, 0 to 1.
pub fn score(item: &Item, answer: &str) -> f64 {
    let best = |one: &dyn Fn(&str) -> f64| item.answers.iter().map(|gold| one(gold)).fold(0.0, f64::max);
    let equal = |gold: &str| f64::from(normalize(gold) == normalize(answer));
    match item.answer_type {
        AnswerType::Letter => {
            best(&|gold| match (option_index(gold, &item.options), option_index(answer, &item.options)) {
                (Some(gold), Some(answer)) => f64::from(gold == answer),
                _ => equal(gold),
            })
        }
        AnswerType::Number => best(&|gold| f64::from(relaxed(gold, answer))),
        AnswerType::Text => best(&equal),
        AnswerType::Anls => best(&|gold| anls(gold, answer)),
        AnswerType::Vqa => vqa::score(&item.answers, answer),
        AnswerType::Contains => best(&|gold| f64::from(contains(gold, answer))),
    }
}

/// The name that all ways to write an answer share, so that votes for it can be counted: an option's letter, a number
/// without its units, else the normalised text. Narrower than [`score`], which takes a near number or text for right:
/// being near is no equality.
pub fn canonical(item: &Item, answer: &str) -> String {
    let name = match item.answer_type {
        AnswerType::Letter => {
            option_index(answer, &item.options).and_then(|index| letters().nth(index)).map(String::from)
        }
        // Adding 0 makes -0 and 0 one number.
        AnswerType::Number => number(answer).map(|value| (value + 0.0).to_string()),
        AnswerType::Vqa => Some(vqa::normalize(answer)),
        AnswerType::Text | AnswerType::Anls | AnswerType::Contains => None,
    };
    name.unwrap_or_else(|| normalize(answer))
}

/// The verdict over one response. A response that does not comply has score 0: an answer in the wrong place, or one
/// that may be cut, is no answer to the question as it was asked.
pub fn judge(item: &Item, response: &str, finish: Finish, style: Style) -> Verdict {
    let answer = extract(response, style);
    let compliant = compliant(response, finish, style);
    let score = match &answer {
        Some(answer) if compliant => score(item, answer),
        _ => 0.0,
    };
    Verdict { text: response.to_string(), finish, answer, compliant, score, correct: score >= CORRECT_FROM }
}

/// Lower case, inner space made single, quotes and closing punctuation taken off.
fn normalize(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let outer = |c: char| matches!(c, '"' | '\'' | '`' | '“' | '”' | '‘' | '’');
    let joined = words.join(" ");
    let text = joined.trim_matches(outer).trim_end_matches(['.', ',', ';', ':', '!']).trim_matches(outer).trim();
    // An answer that is nothing but punctuation stays what it is.
    if text.is_empty() { joined } else { text.to_string() }
}

/// Which option an answer names: by letter, by letter and text, or by text.
fn option_index(answer: &str, options: &[String]) -> Option<usize> {
    let answer = answer.trim();
    let count = if options.is_empty() { 26 } else { options.len() };
    let index = |letter: char| letters().take(count).position(|known| known == letter.to_ascii_uppercase());
    let bare = answer.trim_start_matches('(');
    let mut rest = bare.chars();
    if let Some(found) = rest.next().and_then(index) {
        let rest = rest.as_str();
        let after = rest.trim_start_matches([')', '.', ':', ',']).trim();
        let delimited = rest.len() != rest.trim_start_matches([')', '.', ':', ',']).len();
        let spaced = rest.starts_with(char::is_whitespace);
        // `A red` is option A only if A is `red`: the letter may be an article.
        let agrees = options.get(found).is_some_and(|option| normalize(option) == normalize(after));
        if after.is_empty() || (delimited && (rest.contains(char::is_whitespace) || agrees)) || (spaced && agrees) {
            return Some(found);
        }
    }
    options.iter().position(|option| normalize(option) == normalize(answer))
}

/// Numbers within 5 % of the gold one; other golds need equal text.
fn relaxed(gold: &str, answer: &str) -> bool {
    match (number(gold), number(answer)) {
        (Some(gold), Some(answer)) => (gold - answer).abs() <= RELAXED * gold.abs(),
        _ => normalize(gold) == normalize(answer),
    }
}

/// A number as people write it: `-1,234.5`, `$3`, `12 %`, `7.`, `2e3`. A percent sign and a currency are units: they
/// are dropped, so `12%` and `12` are the same answer and `0.12` is another.
fn number(text: &str) -> Option<f64> {
    let text = text.trim().trim_end_matches('.').trim().replace('\u{2212}', "-");
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest.trim()),
        None => (1.0, text.strip_prefix('+').unwrap_or(&text).trim()),
    };
    let units = ['$', '€', '£', '¥', '₹', '%'];
    let text = text.trim_start_matches(&units[..5]).trim_end_matches(units).trim();
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) if sign > 0.0 => (-1.0, rest),
        _ => (sign, text),
    };
    let plain = if text.contains(',') {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let mut groups = whole.split(',');
        let first = groups.next().is_some_and(|group| (1..=3).contains(&group.len()));
        // `1,5` is no grouping: read as a number it would be 15.
        if !first || !groups.all(|group| group.len() == 3) || fraction.contains(',') {
            return None;
        }
        text.replace(',', "")
    } else {
        text.to_string()
    };
    // `inf` and `nan` are words here.
    if !plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    plain.parse::<f64>().ok().filter(|value| value.is_finite()).map(|value| sign * value)
}

/// Lower case, and every white space one space.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Whether the gold answer occurs in the given one, inside of words and numbers too. An empty one never does.
fn contains(gold: &str, answer: &str) -> bool {
    let gold = plain(gold);
    !gold.is_empty() && plain(answer).contains(&gold)
}

/// Average normalised Levenshtein similarity of one pair, in characters, case and outer space ignored.
fn anls(gold: &str, answer: &str) -> f64 {
    let (gold, answer) = (plain(gold), plain(answer));
    let longer = gold.chars().count().max(answer.chars().count());
    if longer == 0 {
        return 1.0;
    }
    let similarity = 1.0 - strsim::levenshtein(&gold, &answer) as f64 / longer as f64;
    if similarity < ANLS_THRESHOLD { 0.0 } else { similarity }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(answer_type: AnswerType, answers: &[&str], options: &[&str]) -> Item {
        Item {
            id: "1".into(),
            dataset: "toy".into(),
            image: None,
            question: "?".into(),
            options: options.iter().map(ToString::to_string).collect(),
            answer_type,
            answers: answers.iter().map(ToString::to_string).collect(),
            rationale: None,
            concluded: None,
        }
    }

    fn scores(item: &Item, answers: &[&str]) -> Vec<f64> {
        answers.iter().map(|answer| score(item, answer)).collect()
    }

    #[test]
    fn the_answer_stands_after_the_last_marker() {
        let found = |response| extract(response, Style::Cot);
        assert_eq!(found("a\n### Answer: 3\nno:\n### Answer: 4 ").as_deref(), Some("4"));
        assert_eq!(found("a\n### Answer:"), None);
        assert_eq!(found("the answer is 4"), None);
        assert_eq!(extract(" 4\n", Style::Direct).as_deref(), Some("4"));
        assert_eq!(extract(" \n", Style::Direct), None);
    }

    #[test]
    fn all_ways_to_name_an_option_are_one_answer() {
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
    fn text_is_compared_after_normalisation() {
        let text = item(AnswerType::Text, &["Red=3", "crimson = 3"], &[]);
        assert_eq!(
            scores(&text, &["red=3", " RED=3. ", "\"red=3\"", "red=4", "Crimson  = 3"]),
            [1.0, 1.0, 1.0, 0.0, 1.0]
        );
        assert_eq!(scores(&item(AnswerType::Text, &["."], &[]), &[".", "!", ""]), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn anls_is_the_best_similarity_over_the_golds_and_0_below_half() {
        let text = item(AnswerType::Anls, &["abcd"], &[]);
        // 1, 1 - 1/4, 1 - 2/4, 1 - 3/4 which is below half.
        assert_eq!(scores(&text, &["ABCD", "abcx", "abxx", "axxx"]), [1.0, 0.75, 0.5, 0.0]);
        let unicode = item(AnswerType::Anls, &["größe", "x"], &[]);
        // One of five characters differs, though two of seven bytes do.
        assert_eq!(scores(&unicode, &["grösse", "große", "x"]), [1.0 - 2.0 / 6.0, 0.8, 1.0]);
        assert_eq!(scores(&text, &["", "🦀🦀🦀🦀"]), [0.0, 0.0]);
    }

    #[test]
    fn ways_to_write_an_answer_have_one_name() {
        let named = |item: &Item, answers: &[&str]| -> Vec<String> {
            answers.iter().map(|answer| canonical(item, answer)).collect()
        };
        let choice = item(AnswerType::Letter, &["B"], &["france", "uk"]);
        assert_eq!(named(&choice, &["B", "b.", "B. uk", "UK", "A", "Spain."]), ["B", "B", "B", "B", "A", "spain"]);
        let sum = item(AnswerType::Number, &["5"], &[]);
        assert_eq!(
            named(&sum, &["1,200", "$1200.0", "12 %", "-0", "5.1", "Five."]),
            ["1200", "1200", "12", "0", "5.1", "five"]
        );
        assert_eq!(named(&item(AnswerType::Anls, &["x"], &[]), &["Red  Car.", "red car"]), ["red car", "red car"]);
    }

    #[test]
    fn text_in_a_picture_may_stand_anywhere_in_the_answer() {
        let sign = item(AnswerType::Contains, &["No Parking", "parking\nnever"], &[]);
        let answers = ["The sign says NO  PARKING here.", "Parking never.", "no-parking", ""];
        assert_eq!(scores(&sign, &answers), [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(scores(&item(AnswerType::Contains, &["12", " "], &[]), &["3124", "3 14"]), [1.0, 0.0]);
    }

    #[test]
    fn annotators_are_counted() {
        let answers = ["stop", "stop", "Stop.", "stop sign", "the stop sign", "red", "a", "b", "c", "d"];
        let sign = item(AnswerType::Vqa, &answers, &[]);
        // Three matches of ten: (3 * 2/3 + 7 * 1) / 10. Two: (2 * 1/3 + 8 * 2/3) / 10. None.
        let expected = [0.9, 0.6, 0.0];
        for (score, expected) in scores(&sign, &["STOP!", "stop sign", "go"]).into_iter().zip(expected) {
            assert!((score - expected).abs() < 1e-12, "{score} {expected}");
        }
    }

    #[test]
    fn compliance_is_told_apart_from_being_right() {
        let sum = item(AnswerType::Number, &["5"], &[]);
        let told = |response: &str, finish, style| {
            let verdict = judge(&sum, response, finish, style);
            (verdict.compliant, verdict.score, verdict.answer)
        };
        let five = || Some("5".to_string());
        assert_eq!(told("3+2=5.\n### Answer: 5", Finish::Stop, Style::Cot), (true, 1.0, five()));
        assert_eq!(told("3+2=6.\n### Answer: 6", Finish::Stop, Style::Cot), (true, 0.0, Some("6".into())));
        assert_eq!(told("3+2=5.\n### Answer: 5", Finish::Length, Style::Cot), (false, 0.0, five()));
        assert_eq!(told("5", Finish::Stop, Style::Cot), (false, 0.0, None));
        assert_eq!(told("5", Finish::Stop, Style::Direct), (true, 1.0, five()));
        assert_eq!(told("5", Finish::Length, Style::Direct), (false, 0.0, five()));
        let marked = "3+2=5.\n### Answer: 5";
        assert_eq!(told(marked, Finish::Stop, Style::Direct), (false, 0.0, Some(marked.into())));
        assert_eq!(told(" ", Finish::Stop, Style::Direct), (false, 0.0, None));
    }
}
