//! Removes what surrounds an answer: typography, markup, and the sentence that introduces it.

use unicode_normalization::UnicodeNormalization;

/// Introductions of an answer. The answer follows the last one.
const INTRODUCTIONS: [&str; 14] = [
    "answer is",
    "answer:",
    "answer would be",
    "answer should be",
    "answer must be",
    "answer will be",
    "option is",
    "option:",
    "choice is",
    "choice:",
    "答案是",
    "答案为",
    "答案:",
    "\\boxed{",
];

/// LaTeX commands that only change the style of their argument.
const STYLES: [&str; 9] = [
    "\\text{",
    "\\textbf{",
    "\\textit{",
    "\\textrm{",
    "\\mathrm{",
    "\\mathbf{",
    "\\mathit{",
    "\\mbox{",
    "\\operatorname{",
];

/// Pairs that are removed if they enclose the whole text.
const ENCLOSING: [(&str, &str); 16] = [
    ("<answer>", "</answer>"),
    ("**", "**"),
    ("__", "__"),
    ("$$", "$$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("```", "```"),
    ("*", "*"),
    ("_", "_"),
    ("$", "$"),
    ("`", "`"),
    ("\"", "\""),
    ("'", "'"),
    ("(", ")"),
    ("[", "]"),
    ("{", "}"),
];

/// Normalizes Unicode: NFC, straight quotes, ASCII for full-width forms and digits of other scripts, `-` for minus sign
/// and hyphens; characters without width are removed.
pub(super) fn normalize_unicode(text: &str) -> String {
    let one = |character: char| match character {
        '\u{2018}'..='\u{201b}' | '\u{2032}' => Some('\''),
        '\u{201c}'..='\u{201f}' | '\u{2033}' => Some('"'),
        '\u{2010}' | '\u{2011}' | '\u{2212}' => Some('-'),
        '\u{3002}' => Some('.'),
        '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2060}' | '\u{feff}' => None,
        digit if digit_value(digit).is_some() => digit_value(digit).and_then(|value| char::from_digit(value, 10)),
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(character as u32 - 0xfee0),
        other => Some(other),
    };
    text.nfc().filter_map(one).collect()
}

/// The digit zero of scripts with ten consecutive digits: Arabic, Persian, N'Ko, Indian scripts, Thai, Lao, Tibetan,
/// Burmese, Khmer, Mongolian, full-width.
const ZEROS: [u32; 20] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
    0x1040, 0x17e0, 0x1810, 0xff10,
];

/// The value of a digit of another script.
pub(super) fn digit_value(character: char) -> Option<u32> {
    ZEROS.iter().map(|zero| (character as u32).wrapping_sub(*zero)).find(|value| *value < 10)
}

/// The candidate texts of an answer: the text as it is, without markup, and without the introducing sentence. All are
/// normalized. The first is empty only if the answer is empty.
pub(super) fn candidates(answer: &str) -> Vec<String> {
    let normalized = normalize_unicode(answer).trim().to_string();
    let bare = strip_markup(&normalized);
    let core = after_introduction(&bare).map(strip_markup);
    let mut all = vec![normalized];
    for one in [Some(bare), core].into_iter().flatten() {
        if !one.is_empty() && !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

/// The last candidate: the answer without everything around it.
pub(super) fn core(answer: &str) -> String {
    candidates(answer).pop().unwrap_or_default()
}

/// Removes markup: headings, emphasis, code, LaTeX, brackets and quotes around the whole text.
pub(super) fn strip_markup(text: &str) -> String {
    let mut text = without_emphasis(&without_styles(text)).trim().to_string();
    loop {
        let before = text.len();
        text = text.trim_start_matches('#').trim().to_string();
        for bullet in ["- ", "* ", "> ", "• "] {
            // `- 5` is a number.
            let item =
                text.strip_prefix(bullet).filter(|rest| !rest.starts_with(|c: char| c.is_ascii_digit() || c == '$'));
            text = item.unwrap_or(&text).trim().to_string();
        }
        for (open, close) in ENCLOSING {
            let whole = text.strip_suffix('.').unwrap_or(&text);
            let inner = whole.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
            // `"a" or "b"` and `(a) (b)` are two pairs.
            let alone = |inner: &&str| !inner.contains(open) && !inner.contains(close) && !inner.trim().is_empty();
            if let Some(inner) = inner.filter(alone) {
                text = inner.trim().to_string();
            }
        }
        if text.len() == before {
            return text;
        }
    }
}

/// The text after the last introduction, or in the last `\boxed{}`.
fn after_introduction(text: &str) -> Option<&str> {
    // ASCII lower case keeps the length, so that indices are valid in both texts.
    let lower = text.to_ascii_lowercase();
    let starts_word = |at: usize| !lower[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
    let found = INTRODUCTIONS.iter().flat_map(|words| {
        lower.match_indices(words).map(|(at, words)| (at, at + words.len())).filter(|(at, _)| starts_word(*at))
    });
    let (at, end) = found.max_by_key(|(_, end)| *end)?;
    let rest = &text[end..];
    if text[at..].starts_with("\\boxed{") {
        return split_at_closing_brace(rest).map(|(inside, _)| inside.trim()).filter(|inside| !inside.is_empty());
    }
    // `The answer is: B`, `Answer:- 4`.
    let rest = rest.trim_start().trim_start_matches(':').trim();
    (rest.contains(char::is_alphanumeric)).then_some(rest)
}

/// The text up to the closing brace, and the rest.
pub(super) fn split_at_closing_brace(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `\text{uk}` is `uk`.
fn without_styles(text: &str) -> String {
    let mut text = text.to_string();
    for style in STYLES {
        while let Some(at) = text.find(style) {
            let Some((inside, rest)) = split_at_closing_brace(&text[at + style.len()..]) else { break };
            text = format!("{}{inside}{rest}", &text[..at]);
        }
    }
    text
}

/// Removes the marks of bold text and code. Between two letters or digits they are not markup: `2**3`.
fn without_emphasis(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("**") {
        let (before, after) = (&rest[..at], rest[at + 2..].trim_start_matches('*'));
        plain.push_str(before);
        let inside = plain.ends_with(char::is_alphanumeric) && after.starts_with(char::is_alphanumeric);
        // A mark alone is the answer itself.
        if inside || (plain.trim().is_empty() && after.trim().is_empty()) {
            plain.push_str(&rest[at..rest.len() - after.len()]);
        }
        rest = after;
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_introductions_are_removed() {
        let pairs = [
            ("**B**", "B"),
            (" B** ", "B"),
            ("[B]", "B"),
            ("\\boxed{B}", "B"),
            ("$\\boxed{\\text{B}}$", "B"),
            ("So it is \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
            ("The answer is B.", "B."),
            ("**Answer:** B", "B"),
            ("The final answer is: **12 cm**.", "12 cm."),
            ("A is small. The answer is A. No: the answer is B", "B"),
            ("`code`", "code"),
            ("## red", "red"),
            ("<answer>red</answer>", "red"),
            ("“red”", "red"),
            ("Ｂ。", "B."),
            ("2**3", "2**3"),
            ("**", "**"),
            ("\"a\" or \"b\"", "\"a\" or \"b\""),
            ("(", "("),
            ("The answer is", "The answer is"),
            ("", ""),
        ];
        for (given, expected) in pairs {
            assert_eq!(core(given), expected, "{given}");
        }
    }

    #[test]
    fn unicode_is_normalized() {
        assert_eq!(normalize_unicode("cafe\u{301} ‘a’ \u{2212}1\u{200b}"), "café 'a' -1");
    }
}
