//! Numeric answers: finds the only number that a text gives.

use super::markup::{core, split_at_closing_brace};
use super::parsed::Parsed;
use super::text::equal;

/// ChartQA's tolerance.
const TOLERANCE: f64 = 0.05;

/// A number with its unit; the unit may be empty.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Amount {
    pub(super) value: f64,
    unit: String,
}

/// Equal units; the first name of each is the canonical one.
const SAME_UNITS: [&[&str]; 6] = [
    &["%", "percent", "per cent", "pct"],
    &["$", "us$", "usd", "dollar", "dollars", "us dollar", "us dollars"],
    &["€", "eur", "euro", "euros"],
    &["£", "gbp", "pound", "pounds"],
    &["¥", "jpy", "yen"],
    &["₹", "inr", "rs", "rupee", "rupees"],
];

const SCALES: [(&str, f64); 6] =
    [("dozen", 12.0), ("hundred", 1e2), ("thousand", 1e3), ("million", 1e6), ("billion", 1e9), ("trillion", 1e12)];

/// Scales that directly follow the digits.
const SHORT_SCALES: [(&str, f64); 6] = [("k", 1e3), ("K", 1e3), ("M", 1e6), ("mn", 1e6), ("B", 1e9), ("bn", 1e9)];

/// Words that make the next number a bound: `at least 5`, `more than 5`.
const BOUNDS: [&str; 7] = ["than", "least", "most", "over", "under", "above", "below"];

const FRACTIONS: [(char, &str); 5] = [('½', "1/2"), ('¼', "1/4"), ('¾', "3/4"), ('⅓', "1/3"), ('⅔', "2/3")];

/// Parses the number of an answer: the whole answer, or the only number in it. Figures that are not plain numbers
/// (`12:30`, `10-12`) count as further numbers. After a single `=`, only the right side is parsed.
pub(super) fn read(answer: &str) -> Parsed<Amount> {
    let text = plain_fractions(&core(answer));
    let text = match text.split_once('=') {
        Some((_, right)) if !right.contains('=') && right.contains(|c: char| c.is_ascii_digit()) => right.to_string(),
        _ => text,
    };
    whole(&text).map_or_else(|| only(&text), Parsed::One)
}

/// Parses a gold answer that is a number as a whole, optionally with a unit.
pub(super) fn of_gold(gold: &str) -> Option<Amount> {
    whole(&plain_fractions(&core(gold)))
}

/// Whether the answer is within 5 % of the gold number. Different units do not match; a missing unit matches every
/// unit.
pub(super) fn near(gold: &Amount, answer: &Amount) -> bool {
    let same_unit = gold.unit == answer.unit || gold.unit.is_empty() || answer.unit.is_empty();
    same_unit && (gold.value - answer.value).abs() <= TOLERANCE * gold.value.abs()
}

fn same(one: f64, other: f64) -> bool {
    (one - other).abs() <= f64::EPSILON * other.abs()
}

/// The score of an answer against one gold answer; `None` if it is unreadable. A gold answer that is not a number needs
/// equal text.
pub(super) fn grade(gold: &str, answer: &str) -> Option<f64> {
    if equal(gold, answer) {
        return Some(1.0);
    }
    let Some(gold) = of_gold(gold) else { return Some(0.0) };
    match read(answer) {
        Parsed::One(answer) => Some(f64::from(near(&gold, &answer))),
        Parsed::Ambiguous => Some(0.0),
        Parsed::Nothing => None,
    }
}

/// Writes `\frac{1}{2}` and `½` as `1/2`, and removes the spaces and escapes of formulas.
fn plain_fractions(text: &str) -> String {
    let mut text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac");
    while let Some(at) = text.find("\\frac{") {
        let parts = split_at_closing_brace(&text[at + 6..]).and_then(|(top, rest)| {
            let (bottom, rest) = split_at_closing_brace(rest.strip_prefix('{')?)?;
            Some(format!("{}{top}/{bottom}{rest}", &text[..at]))
        });
        let Some(replaced) = parts else { break };
        text = replaced;
    }
    for (sign, words) in FRACTIONS {
        text = text.replace(sign, &format!(" {words}"));
    }
    text.replace("\\%", "%").replace("\\$", "$").replace("{,}", ",").replace("\\,", "").trim().to_string()
}

/// Parses a text that is only a number with at most two words of a unit.
fn whole(text: &str) -> Option<Amount> {
    let text = text.trim().trim_end_matches(['.', '!']).trim();
    if text.contains('\n') {
        return None;
    }
    let sign_apart = text.strip_prefix('-').map(|rest| format!("-{}", rest.trim_start()));
    let text = grouped_by_spaces(sign_apart.as_deref().unwrap_or(text));
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let symbol = SAME_UNITS.iter().map(|names| names[0]).find(|name| words.first() == Some(name));
    if symbol.is_some() {
        words.remove(0);
    }
    let (first, rest) = words.split_first()?;
    let mut amount = figure(first)?;
    let rest = match rest {
        // `1 1/2`
        [fraction, rest @ ..] if fraction.contains('/') && !first.contains(['/', '.']) && amount.unit.is_empty() => {
            let part = figure(fraction).filter(|part| part.value < 1.0)?;
            amount = Amount { value: amount.value + part.value.copysign(amount.value), unit: part.unit };
            rest
        }
        rest => rest,
    };
    let (scale, rest) = scaled(rest);
    let foreign =
        |word: &&str| is_negation(word) || word.contains(|c: char| c.is_ascii_digit() || "=:+<>,;()".contains(c));
    if rest.len() > 2 || rest.iter().any(foreign) {
        return None;
    }
    let unit = symbol.map(String::from).or(Some(canonical_unit(&rest.join(" ")))).filter(|unit| !unit.is_empty());
    Some(Amount { value: amount.value * scale, unit: unit.unwrap_or(amount.unit) })
}

/// Joins `1 234 567` to one number if it is the whole text.
fn grouped_by_spaces(text: &str) -> String {
    let digits = |group: &str| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
    let (integer, _) = text.split_once('.').unwrap_or((text, ""));
    let mut groups = integer.strip_prefix('-').unwrap_or(integer).split(' ');
    let first = groups.next().is_some_and(|group| digits(group) && group.len() <= 3);
    let rest: Vec<&str> = groups.collect();
    let all = first && !rest.is_empty() && rest.iter().all(|group| digits(group) && group.len() == 3);
    if all { text.replacen(' ', "", rest.len()) } else { text.to_string() }
}

/// The scale of the first word, and the remaining words.
fn scaled<'a, 'b>(words: &'b [&'a str]) -> (f64, &'b [&'a str]) {
    let Some((first, rest)) = words.split_first() else { return (1.0, words) };
    let known = SCALES.iter().find(|(name, _)| first.trim_end_matches('s').eq_ignore_ascii_case(name));
    known.map_or((1.0, words), |(_, scale)| (*scale, rest))
}

/// Finds the only number in a sentence.
fn only(text: &str) -> Parsed<Amount> {
    let bare = |word| -> &str {
        let word: &str = word;
        word.trim_start_matches(|c| "([{\"'*_`~≈#".contains(c)).trim_end_matches(|c| ")]}\"'*_`.,;:!?".contains(c))
    };
    let words: Vec<&str> = text.split_whitespace().map(bare).collect();
    if words.iter().any(|word| is_negation(word)) {
        return Parsed::Nothing;
    }
    let mut found: Vec<Amount> = Vec::new();
    let mut other = false;
    for (at, word) in words.iter().enumerate() {
        // `Q1` and `H2O` are names.
        if !word.contains(|c: char| c.is_ascii_digit())
            || word.starts_with(char::is_alphabetic) && currency_prefix(word).is_none()
        {
            continue;
        }
        let bound = at > 0 && BOUNDS.contains(&words[at - 1].to_ascii_lowercase().as_str());
        let Some(amount) = figure(word).filter(|_| !bound) else {
            other = true;
            continue;
        };
        let (scale, rest) = scaled(&words[at + 1..]);
        // In a sentence, the word after the number is a unit only if it is a known one.
        let unit = rest
            .first()
            .map(|word| canonical_unit(word))
            .filter(|unit| SAME_UNITS.iter().any(|names| names[0] == unit));
        found.push(Amount { value: amount.value * scale, unit: unit.unwrap_or(amount.unit) });
    }
    match &found[..] {
        [] => Parsed::Nothing,
        [first, rest @ ..] if !other && rest.iter().all(|one| same(one.value, first.value)) => {
            Parsed::One(first.clone())
        }
        _ => Parsed::Ambiguous,
    }
}

/// Whether a word negates: `It is not 12` contains no number.
fn is_negation(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    matches!(word.as_str(), "not" | "never" | "wrong" | "incorrect") || word.ends_with("n't")
}

/// The currency at the beginning of a word, and the rest.
fn currency_prefix(word: &str) -> Option<(&'static str, &str)> {
    let lower = word.to_ascii_lowercase();
    SAME_UNITS[1..].iter().find_map(|names| {
        let name = names
            .iter()
            .find(|name| lower.starts_with(*name) && !lower[name.len()..].starts_with(char::is_alphabetic))?;
        Some((names[0], word[name.len()..].trim_start_matches('.')))
    })
}

/// Parses a number written as one word: `-1,234.5`, `$3`, `12%`, `2e3`, `1/2`, `12cm`, `5k`.
fn figure(word: &str) -> Option<Amount> {
    let mut negative = false;
    let mut unit = "";
    let mut rest = word;
    for _ in 0..2 {
        if let Some(after) = rest.strip_prefix('-').filter(|_| !negative) {
            (negative, rest) = (true, after);
        } else if let Some((name, after)) = currency_prefix(rest).filter(|_| unit.is_empty()) {
            (unit, rest) = (name, after);
        }
    }
    let rest = rest.strip_prefix('+').unwrap_or(rest);
    let (mut value, after) = decimal(rest)?;
    let mut after = after;
    if let Some(bottom) = after.strip_prefix('/').filter(|bottom| bottom.starts_with(|c: char| c.is_ascii_digit())) {
        let (divisor, left) = decimal(bottom)?;
        if divisor == 0.0 {
            return None;
        }
        (value, after) = (value / divisor, left);
    }
    if let Some((_, scale)) = SHORT_SCALES.iter().find(|(name, _)| *name == after) {
        (value, after) = (value * scale, "");
    }
    // `2nd` is an ordinal, and `12-15`, `12:30`, `3+` are not single numbers.
    let is_unit = after.chars().all(|c| c.is_alphabetic() || "%°²³/".contains(c)) && !after.ends_with('/');
    if !is_unit || matches!(after, "st" | "nd" | "rd" | "th") {
        return None;
    }
    let unit = if unit.is_empty() { canonical_unit(after) } else { unit.to_string() };
    Some(Amount { value: if negative { -value } else { value }, unit })
}

/// The canonical name of a unit: the first of its known names, otherwise without case, plural and full stop.
fn canonical_unit(unit: &str) -> String {
    let lower = unit.trim().trim_end_matches('.').to_lowercase();
    match SAME_UNITS.iter().find(|names| names.contains(&lower.as_str())) {
        Some(names) => names[0].to_string(),
        // In words as short as `cms` and `ms`, a final `s` may not be a plural.
        None => lower.strip_suffix('s').filter(|one| one.len() > 2).unwrap_or(&lower).to_string(),
    }
}

/// Parses the decimal number at the beginning of a text, and returns the rest. Commas separate groups of three digits:
/// `1,5` is not 15.
fn decimal(text: &str) -> Option<(f64, &str)> {
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let whole = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == ',').len();
    let (groups, mut end) = (&text[..whole], whole);
    if groups.contains(',') {
        let mut parts = groups.split(',');
        let first = parts.next().is_some_and(|group| (1..=3).contains(&group.len()));
        if !first || !parts.all(|group| group.len() == 3) {
            return None;
        }
    }
    let fraction = text[end..].strip_prefix('.').map_or(0, digits);
    if fraction > 0 || (whole > 0 && text[end..].starts_with('.')) {
        end += 1 + fraction;
    }
    if whole + fraction == 0 {
        return None;
    }
    let exponent = text[end..].strip_prefix(['e', 'E']).map_or(0, |rest| {
        let sign = usize::from(rest.starts_with(['-', '+']));
        match digits(&rest[sign..]) {
            0 => 0,
            count => 1 + sign + count,
        }
    });
    end += exponent;
    let value: f64 = text[..end].replace(',', "").parse().ok()?;
    value.is_finite().then_some((value, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        match read(text) {
            Parsed::One(Amount { value, unit }) if unit.is_empty() => value.to_string(),
            Parsed::One(Amount { value, unit }) => format!("{value} [{unit}]"),
            Parsed::Ambiguous => "several".into(),
            Parsed::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn numbers_are_parsed_in_common_forms() {
        let pairs = [
            ("-1,234.5", "-1234.5"),
            ("$3", "3 [$]"),
            ("-$3", "-3 [$]"),
            ("$-3.", "-3 [$]"),
            ("12 %", "12 [%]"),
            ("12 percent", "12 [%]"),
            ("2e3", "2000"),
            (".5", "0.5"),
            ("7.", "7"),
            ("1/2", "0.5"),
            ("\\frac{1}{2}", "0.5"),
            ("1½", "1.5"),
            ("-1 1/2", "-1.5"),
            ("12 cm", "12 [cm]"),
            ("12cm", "12 [cm]"),
            ("12 apples", "12 [apple]"),
            ("1.5 million dollars", "1500000 [$]"),
            ("5k", "5000"),
            ("1 234 567", "1234567"),
            ("4\n\nDone.", "4"),
            ("It is not 12", "nothing"),
            ("more than 12", "nothing"),
            ("- 5", "-5"),
            ("5 hundred", "500"),
            ("There are 4 bars in the chart.", "4"),
            ("x = 4", "4"),
            ("3+2=5", "5"),
            ("4 or 5", "several"),
            ("4, that is 4", "4"),
            ("12-15", "nothing"),
            ("12:30", "nothing"),
            ("at 12:30 there were 5", "several"),
            ("1,5", "nothing"),
            ("2nd", "nothing"),
            ("In Q1 it is 12", "12"),
            ("twelve", "nothing"),
            ("inf", "nothing"),
            ("1/0", "nothing"),
            ("", "nothing"),
        ];
        for (given, expected) in pairs {
            assert_eq!(parsed(given), expected, "{given}");
        }
    }
}
