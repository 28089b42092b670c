//! Blocks of thinking, as chat templates know them: text between two markers before an answer, such as
//! `<think>\n\n</think>\n\n`. A block is recognised by what the template does, not by a model's name:
//!
//! ```text
//! asked:  ...assistant\n              given: ...assistant\n<think>\n\n</think>\n\nanswer   an empty block (Qwen3)
//! asked:  ...assistant\n<think>\n     given: ...assistant\n<think>\n\n</think>\n\nanswer   opened when asked
//! asked:  ...assistant\n<think>\n     given: ...assistant\nanswer                          opened, and dropped later
//! asked:  ...assistant\n              given: ...assistant\nanswer                          dropped only (DeepSeek)
//! ```

/// The markers of a template's blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ThinkingBlock {
    open: String,
    close: String,
    /// What closes a block that the opening of an answer has begun; none if it begins none.
    closing: Option<String>,
}

impl ThinkingBlock {
    /// Compares a prompt with the same chat when it is answered: `lead` is what comes before the answer there. `drops` says
    /// whether the template leaves a block between two markers out of a given answer; `source` is the template.
    pub(super) fn find(
        prompt: &str,
        lead: &str,
        source: &str,
        drops: impl Fn(&str, &str) -> bool,
    ) -> Option<ThinkingBlock> {
        if let Some(written) = lead.strip_prefix(prompt) {
            match markers(written).as_slice() {
                [open, close] if closes(open, close) => {
                    return Some(ThinkingBlock { open: open.to_string(), close: close.to_string(), closing: None });
                }
                [close] => {
                    let open = prompt.split_whitespace().last().map(last_marker).unwrap_or_default();
                    if closes(open, close) {
                        let closing = Some(written.to_string());
                        return Some(ThinkingBlock { open: open.to_string(), close: close.to_string(), closing });
                    }
                }
                _ => {}
            }
        }
        for (open, close) in pairs(source) {
            let begun = prompt.trim_end().ends_with(&open);
            if begun || drops(&open, &close) {
                let closing = begun.then(|| format!("\n{close}\n\n"));
                return Some(ThinkingBlock { open, close, closing });
            }
        }
        None
    }

    /// What a model is taught to write behind the prompt for a response: an answer alone comes without an empty block, or
    /// closes the one that the prompt has opened.
    pub(super) fn target(&self, response: &str, cut: bool) -> String {
        let begins = response.trim_start().strip_prefix(self.open.as_str());
        match (&self.closing, begins) {
            (Some(_), Some(rest)) => rest.trim_start().to_string(),
            (Some(closing), None) if !cut && !response.contains(&self.close) => format!("{closing}{response}"),
            _ => response.to_string(),
        }
    }

    /// How many bytes of a generated text are not its answer: those up to the last marker that closes a block, or all of a
    /// block that is not closed.
    pub(super) fn length(&self, text: &str) -> usize {
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

/// The markers that a text consists of, white space aside; none if it has anything else.
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

/// Whether `</x>` stands against `<x>`, `[/X]` against `[X]`, or `<|end_of_x|>` against `<|begin_of_x|>`.
fn closes(open: &str, close: &str) -> bool {
    close != open && [("/", ""), ("end", "begin")].into_iter().any(|(from, to)| close.replacen(from, to, 1) == open)
}

/// The pairs of markers that a template's source names by the closing one: `</think>`, `[/THINK]`.
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
    fn blocks_are_recognised_by_what_a_template_does() {
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
    fn an_answer_is_what_follows_the_block() {
        let empty = find("A\n", "A\n<think>\n\n</think>\n\n", "", "").unwrap();
        let begun = ThinkingBlock { closing: Some("\n</think>\n\n".to_string()), ..empty.clone() };
        let answer = |block: &ThinkingBlock, text: &str| text[block.length(text)..].to_string();
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
