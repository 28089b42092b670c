//! Escapes control characters in text that goes to a terminal. Unescaped, they could move the cursor, change the
//! title or hide earlier text. They are written as codes, such as `\u{1b}`.

use std::borrow::Cow;
use std::fmt::Write;

/// Control characters, the bidirectional controls (which change the order of display) and the Unicode line
/// separators. Line feed and tab are not among them.
fn is_control(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    }
}

/// The text with control characters written as codes. Line breaks and tabs stay.
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_control) { Cow::Owned(text.chars().map(code).collect()) } else { Cow::Borrowed(text) }
}

/// As [`escape_controls`], in one line: line breaks are written as `\n`.
pub fn escape_line(text: &str) -> Cow<'_, str> {
    match escape_controls(text) {
        text if text.contains('\n') => Cow::Owned(text.replace('\n', "\\n")),
        text => text,
    }
}

/// The text with every line after the first indented, so that no line looks like a separate message.
pub fn indented(text: &str, indent: &str) -> String {
    text.trim_end_matches('\n').replace('\n', &format!("\n{indent}"))
}

/// As [`escape_controls`], but color sequences stay. For text whose untrusted pieces are already escaped.
pub fn escape_except_colors(text: &str) -> Cow<'_, str> {
    escape_around_colors(text, |color, shown| shown.push_str(color))
}

/// The output of a program without its color sequences. A line that overwrites another (`\r`) becomes a line of its
/// own.
pub fn clean_log(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    Cow::Owned(escape_around_colors(&lines, |_, _| ()).into_owned())
}

/// JSON text with control characters written as JSON escapes.
pub fn escape_json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_control(character) {
            _ = write!(shown, "\\u{:04x}", character as u32);
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

fn code(character: char) -> String {
    match character {
        '\r' => "\\r".to_string(),
        other if is_control(other) => other.escape_unicode().to_string(),
        other => other.to_string(),
    }
}

/// As [`escape_controls`]; `color` is called for every color sequence.
fn escape_around_colors(text: &str, color: impl Fn(&str, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('\u{1b}') {
        shown.push_str(&escape_controls(&rest[..start]));
        rest = &rest[start..];
        let length = color_length(rest);
        if length > 0 {
            color(&rest[..length], &mut shown);
        } else {
            shown.push_str(&code('\u{1b}'));
        }
        rest = &rest[length.max(1)..];
    }
    shown.push_str(&escape_controls(rest));
    Cow::Owned(shown)
}

/// Length of the color sequence (`ESC [ 1 ; 31 m`) at the start of a text; 0 if there is none.
fn color_length(text: &str) -> usize {
    let Some(rest) = text.strip_prefix("\u{1b}[") else { return 0 };
    let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b';' || *byte == b':').count();
    if rest.as_bytes().get(digits) == Some(&b'm') { 2 + digits + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_become_codes() {
        assert_eq!(escape_controls("a\u{1b}]0;title\u{7}b\rc"), "a\\u{1b}]0;title\\u{7}b\\rc");
        let escaped = escape_controls("\u{9b}2J \u{7f} \u{202e}gnp.exe \u{2028}");
        assert_eq!(escaped, "\\u{9b}2J \\u{7f} \\u{202e}gnp.exe \\u{2028}");
        assert!(matches!(escape_controls("ü\t漢\n🙂"), Cow::Borrowed("ü\t漢\n🙂")));
        assert_eq!(escape_line("a\nerror: b"), "a\\nerror: b");
        assert_eq!(indented("a\nerror: b\n", "  "), "a\n  error: b");
    }

    #[test]
    fn own_colors_stay_and_program_colors_go() {
        let text = "\u{1b}[1;31merror\u{1b}[0m: \u{1b}[2J\u{1b}[31\u{1b}";
        assert_eq!(escape_except_colors(text), "\u{1b}[1;31merror\u{1b}[0m: \\u{1b}[2J\\u{1b}[31\\u{1b}");
        assert_eq!(clean_log("\u{1b}[32mok\u{1b}[0m\r\n 10%\r 20%\n\u{1b}[8m"), "ok\n 10%\n 20%\n");
        assert_eq!(clean_log("\u{1b}c"), "\\u{1b}c");
    }

    #[test]
    fn escaped_json_stays_valid() {
        let text = serde_json::to_string(&["a\u{1b}b", "\u{9b}c\u{202e}"]).unwrap();
        assert_eq!(escape_json(&text), r#"["a\u001bb","\u009bc\u202e"]"#);
        let read: Vec<String> = serde_json::from_str(&escape_json(&text)).unwrap();
        assert_eq!(read, ["a\u{1b}b", "\u{9b}c\u{202e}"]);
    }
}
