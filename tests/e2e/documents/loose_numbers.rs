//! Numbers of results that no marker holds.

use super::markers::Document;

/// Text that looks like a result and is none.
const ALLOWED: [&str; 1] = ["95 %"];

/// Measured numbers outside markers in the sections of a document with these headings: a decimal number, a number with a
/// sign, or one before `%` or a unit of measurement. Text in code style does not count.
pub(super) fn find(name: &str, document: &Document, sections: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let (mut in_section, mut in_code) = (false, false);
    for (line, text) in document.unmarked() {
        if let Some(heading) = text.strip_prefix("## ") {
            in_section = sections.contains(&heading);
        }
        in_code ^= text.trim_start().starts_with("```");
        if !in_section || in_code {
            continue;
        }
        let text = ALLOWED.iter().fold(text, |text, allowed| text.replace(allowed, ""));
        // Every other part is outside of backticks.
        let plain: Vec<&str> = text.split('`').step_by(2).collect();
        found.extend(plain.iter().flat_map(|part| measured(part)).map(|number| {
            format!("{name}:{line}: `{number}` is in no marker: write `<!--=PATH-->`, `<!--paper-->` or `<!--size-->` before it")
        }));
    }
    found
}

/// Numbers that look measured.
fn measured(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < letters.len() {
        if !letters[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let start = at;
        while at < letters.len() && (letters[at].is_ascii_digit() || is_inside(&letters, at)) {
            at += 1;
        }
        let number: String = letters[start..at].iter().collect();
        let before = |back: usize| start.checked_sub(back).map(|place| letters[place]);
        if before(1).is_some_and(char::is_alphabetic) {
            continue;
        }
        let has_sign =
            before(1).is_some_and(|sign| "+-−".contains(sign)) && !before(2).is_some_and(char::is_alphanumeric);
        let rest: String = letters[at..].iter().collect();
        let rest = rest.trim_start();
        let unit =
            ["%", "points", "seconds", "minutes", "hours", "GiB", "MiB"].iter().any(|unit| rest.starts_with(unit));
        if has_sign || number.contains('.') || unit {
            found.push(number);
        }
    }
    found
}

/// Whether a letter is a decimal point or a comma between digits.
fn is_inside(letters: &[char], at: usize) -> bool {
    ".,".contains(letters[at]) && letters.get(at + 1).is_some_and(char::is_ascii_digit)
}

#[test]
fn measured_numbers_are_recognised() {
    let text = "Mix 4 - 3 gains +21.2 over 3 (−2 of 1,000 items, 5 minutes), 41 % of v1 and 2.5.";
    assert_eq!(measured(text), ["21.2", "2", "5", "41", "2.5"]);
}
