//! Splits a response into thinking and answer, to fold the thinking.
//!
//! The scores of an evaluation have the whole text of a response and not the place where its thinking ends, so the page
//! looks for the markers that open models write.

/// Markers of the beginning and the end of thinking.
const MARKERS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
];

/// The thinking and the rest. Thinking without an end is the whole text. Without markers there is no thinking.
pub(super) fn split(text: &str) -> (&str, &str) {
    for (open, close) in MARKERS {
        // A chat template may have written the opening marker as a part of the prompt.
        if let Some(at) = text.rfind(close) {
            let thinking = &text[..at];
            let thinking = thinking.trim_start().strip_prefix(open).unwrap_or(thinking);
            return (thinking.trim(), text[at + close.len()..].trim_start());
        }
        if let Some(thinking) = text.trim_start().strip_prefix(open) {
            return (thinking.trim(), "");
        }
    }
    ("", text)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn thinking_is_split_from_the_answer() {
        assert_eq!(split("<think>\ntwo and two\n</think>\n\n4"), ("two and two", "4"));
        assert_eq!(split("two and two</think>4"), ("two and two", "4"));
        assert_eq!(split("[THINK]a[/THINK]b"), ("a", "b"));
        assert_eq!(split("<think>two and"), ("two and", ""));
        assert_eq!(split(" 4 <think>"), ("", " 4 <think>"));
        assert_eq!(split(""), ("", ""));
    }
}
