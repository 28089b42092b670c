//! Text from data on its way to a terminal. A terminal obeys control characters: it would move the cursor, change its title,
//! or hide what stands before. Here each is written as its code instead: `\u{1b}`.

use std::borrow::Cow;
use std::fmt::Write;

/// What a terminal obeys, or shows in another order than it is written in (the bidirectional controls), or takes for a line
/// break. Line feed and tab are not among them.
fn is_obeyed(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        other => other.is_control(),
    }
}

/// The text with every character that a terminal obeys written as its code. Line breaks and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_obeyed) { Cow::Owned(text.chars().map(code).collect()) } else { Cow::Borrowed(text) }
}

/// The text in one line: its line breaks are written as `\n`.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    match visible(text) {
        text if text.contains('\n') => Cow::Owned(text.replace('\n', "\\n")),
        text => text,
    }
}

/// The text with each line after the first behind `indent`, so that none of them passes for a message of its own.
pub fn indented(text: &str, indent: &str) -> String {
    text.trim_end_matches('\n').replace('\n', &format!("\n{indent}"))
}

/// A text with colors of ours in it, of which [`visible`] was made piece by piece. Colors stay, nothing else does.
pub fn visible_but_colors(text: &str) -> Cow<'_, str> {
    in_pieces(text, |color, shown| shown.push_str(color))
}

/// What a program has said: without the colors that it wrote, and with the lines that it wrote over each other one below
/// the other.
pub fn visible_log(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    Cow::Owned(in_pieces(&lines, |_, _| ()).into_owned())
}

/// JSON with the characters that it may hold as they are, and a terminal obeys, in JSON's own escapes.
pub fn visible_json(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_obeyed(character) {
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
        other if is_obeyed(other) => other.escape_unicode().to_string(),
        other => other.to_string(),
    }
}

/// The text made visible, with `color` called for every sequence that sets a color.
fn in_pieces(text: &str, color: impl Fn(&str, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('\u{1b}') {
        shown.push_str(&visible(&rest[..start]));
        rest = &rest[start..];
        let length = color_length(rest);
        if length > 0 {
            color(&rest[..length], &mut shown);
        } else {
            shown.push_str(&code('\u{1b}'));
        }
        rest = &rest[length.max(1)..];
    }
    shown.push_str(&visible(rest));
    Cow::Owned(shown)
}

/// Bytes of the sequence that sets colors (`ESC [ 1 ; 31 m`) at the beginning of a text; 0 where there is none.
fn color_length(text: &str) -> usize {
    let Some(rest) = text.strip_prefix("\u{1b}[") else { return 0 };
    let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b';' || *byte == b':').count();
    if rest.as_bytes().get(digits) == Some(&b'm') { 2 + digits + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_written_as_its_code() {
        assert_eq!(visible("a\u{1b}]0;title\u{7}b\rc"), "a\\u{1b}]0;title\\u{7}b\\rc");
        assert_eq!(visible("\u{9b}2J \u{7f} \u{202e}gnp.exe \u{2028}"), "\\u{9b}2J \\u{7f} \\u{202e}gnp.exe \\u{2028}");
        assert!(matches!(visible("ü\t漢\n🙂"), Cow::Borrowed("ü\t漢\n🙂")));
        assert_eq!(visible_line("a\nerror: b"), "a\\nerror: b");
        assert_eq!(indented("a\nerror: b\n", "  "), "a\n  error: b");
    }

    #[test]
    fn colors_of_ours_stay_and_those_of_programs_go() {
        let text = "\u{1b}[1;31merror\u{1b}[0m: \u{1b}[2J\u{1b}[31\u{1b}";
        assert_eq!(visible_but_colors(text), "\u{1b}[1;31merror\u{1b}[0m: \\u{1b}[2J\\u{1b}[31\\u{1b}");
        assert_eq!(visible_log("\u{1b}[32mok\u{1b}[0m\r\n 10%\r 20%\n\u{1b}[8m"), "ok\n 10%\n 20%\n");
        assert_eq!(visible_log("\u{1b}c"), "\\u{1b}c");
    }

    #[test]
    fn json_stays_json() {
        let text = serde_json::to_string(&["a\u{1b}b", "\u{9b}c\u{202e}"]).unwrap();
        assert_eq!(visible_json(&text), r#"["a\u001bb","\u009bc\u202e"]"#);
        let read: Vec<String> = serde_json::from_str(&visible_json(&text)).unwrap();
        assert_eq!(read, ["a\u{1b}b", "\u{9b}c\u{202e}"]);
    }
}
