//! Finds the thinking blocks of chat templates: text between two markers before an answer, such as
//! `<think>\n\n</think>\n\n`. A block is recognised by the template's output, not by the model's name:
//!
//! ```text
//! prompt: ...assistant\n              answered: ...assistant\n<think>\n\n</think>\n\nanswer   empty block (Qwen3)
//! prompt: ...assistant\n<think>\n     answered: ...assistant\n<think>\n\n</think>\n\nanswer   opened by the prompt
//! prompt: ...assistant\n<think>\n     answered: ...assistant\nanswer     opened by the prompt, dropped later
//! prompt: ...assistant\n              answered: ...assistant\nanswer     dropped only (DeepSeek)
//! ```

/// The markers of a template's thinking blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ThinkingBlock {
    open: String,
    close: String,
    /// The text that closes a block which the prompt has opened; `None` if the prompt opens none.
    closing: Option<String>,
}

impl ThinkingBlock {
    /// Compares a prompt with the answered chat, in which `lead` precedes the answer. `drops` returns whether the
    /// template removes a block between two markers from a given answer; `source` is the template.
    pub(super) fn find(prompt: &str, lead: &str, source: &str, drops: impl Fn(&str, &str) -> bool) -> Option<Self> {
        if let Some(written) = lead.strip_prefix(prompt) {
            let begun = || prompt.split_whitespace().last().map(last_marker).unwrap_or_default();
            let found = match markers(written)[..] {
                [open, close] => Some((open, close, None)),
                [close] => Some((begun(), close, Some(written.to_string()))),
                _ => None,
            };
            if let Some((open, close, closing)) = found.filter(|(open, close, _)| closes(open, close)) {
                return Some(ThinkingBlock { open: open.to_string(), close: close.to_string(), closing });
            }
        }
        for (open, close) in pairs(source) {
            let opened = prompt.trim_end().ends_with(&open);
            if opened || drops(&open, &close) {
                let closing = opened.then(|| format!("\n{close}\n\n"));
                return Some(ThinkingBlock { open, close, closing });
            }
        }
        None
    }

    /// The training target of a response after the prompt: an answer without a block gets no empty block, or closes the
    /// block that the prompt opened.
    pub(super) fn target(&self, response: &str, truncated: bool) -> String {
        let begins = response.trim_start().strip_prefix(self.open.as_str());
        match (&self.closing, begins) {
            (Some(_), Some(rest)) => rest.trim_start().to_string(),
            (Some(closing), None) if !truncated && !response.contains(&self.close) => format!("{closing}{response}"),
            _ => response.to_string(),
        }
    }

    /// Number of bytes of a generated text before its answer: up to the last closing marker, or the whole text if the
    /// block is not closed.
    pub(super) fn thinking_bytes(&self, text: &str) -> usize {
        match text.rfind(&self.close) {
            Some(at) => {
                let end = at + self.close.len();
                end + text[end..].len() - text[end..].trim_start().len()
            }
            None if self.closing.is_some() || text.trim_start().starts_with(&self.open) => text.len(),
            None => 0,
        }
    }
}

/// The markers of a text that contains only markers and white space; otherwise empty.
fn markers(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for word in text.split_whitespace() {
        let mut rest = word;
        while !rest.is_empty() {
            let end = match rest.chars().next() {
                Some('<') => rest.find('>'),
                Some('[') => rest.find(']'),
                _ => None,
            };
            let Some(end) = end else { return Vec::new() };
            found.push(&rest[..=end]);
            rest = &rest[end + 1..];
        }
    }
    found
}

fn last_marker(word: &str) -> &str {
    let start = word.rfind(['<', '[']).unwrap_or(0);
    &word[start..]
}

/// Whether `close` is the closing marker of `open`: `</x>` for `<x>`, `[/X]` for `[X]`, or `<|end_of_x|>` for
/// `<|begin_of_x|>`.
fn closes(open: &str, close: &str) -> bool {
    close != open && [("/", ""), ("end", "begin")].into_iter().any(|(from, to)| close.replacen(from, to, 1) == open)
}

/// The pairs of markers whose closing marker occurs in a template's source: `</think>`, `[/THINK]`.
fn pairs(source: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (start, end) in [("</", '>'), ("[/", ']')] {
        for (at, _) in source.match_indices(start) {
            let name: String =
                source[at + 2..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect();
            if name.is_empty() || !source[at + 2 + name.len()..].starts_with(end) {
                continue;
            }
            let pair = (format!("{}{name}{end}", &start[..1]), format!("{start}{name}{end}"));
            if !found.contains(&pair) {
                found.push(pair);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(prompt: &str, lead: &str, source: &str, dropped: &str) -> Option<ThinkingBlock> {
        ThinkingBlock::find(prompt, lead, source, |open, _| open == dropped)
    }

    #[test]
    fn blocks_are_found_by_the_templates_output() {
        let empty = find("A\n", "A\n<think>\n\n</think>\n\n", "", "").unwrap();
        assert_eq!(empty.closing, None);
        let begun = find("A\n<think>\n", "A\n<think>\n\n</think>\n\n", "", "").unwrap();
        assert_eq!((begun.open.as_str(), begun.closing.as_deref()), ("<think>", Some("\n</think>\n\n")));
        let forgotten = find("A\n<think>\n", "A\n", "x.split('</think>')", "").unwrap();
        assert_eq!(forgotten, begun);
        let dropped = find("A\n", "A\n", "x.split('[/THINK]')", "[THINK]").unwrap();
        assert_eq!((dropped.open.as_str(), dropped.close.as_str(), dropped.closing), ("[THINK]", "[/THINK]", None));
        let named = find("A", "A<|begin_of_thought|><|end_of_thought|>", "", "").unwrap();
        assert_eq!(named.close, "<|end_of_thought|>");
        // Not blocks: white space, words, the instruction markers of Llama 2, other markers.
        for (prompt, lead, source) in [
            ("A ", "A  ", ""),
            ("A", "A so: ", ""),
            ("[INST] a [/INST]", "[INST] a [/INST] ", "'[INST] ' + x + ' [/INST]'"),
            ("A", "A<final><message>", ""),
            ("A", "A", "</tool_call>"),
        ] {
            assert_eq!(find(prompt, lead, source, ""), None, "{prompt} {lead}");
        }
    }

    #[test]
    fn the_answer_follows_the_block() {
        let empty = find("A\n", "A\n<think>\n\n</think>\n\n", "", "").unwrap();
        let begun = ThinkingBlock { closing: Some("\n</think>\n\n".to_string()), ..empty.clone() };
        let answer = |block: &ThinkingBlock, text: &str| text[block.thinking_bytes(text)..].to_string();
        for (text, expected, expected_begun) in [
            ("B", "B", ""),
            ("<think>\nC?\n</think>\n\nB", "B", "B"),
            ("C?\n</think>\n\nB", "B", "B"),
            ("<think>\nC? It is", "", ""),
            ("<think></think>", "", ""),
        ] {
            assert_eq!((answer(&empty, text).as_str(), answer(&begun, text).as_str()), (expected, expected_begun));
        }
        assert_eq!(empty.target("B", false), "B");
        assert_eq!(begun.target("B", false), "\n</think>\n\nB");
        assert_eq!(begun.target("<think>\nC\n</think>\n\nB", false), "C\n</think>\n\nB");
        assert_eq!(begun.target("C\n</think>\n\nB", false), "C\n</think>\n\nB");
        assert_eq!(begun.target("C? It is", true), "C? It is");
    }
}
