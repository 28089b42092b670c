//! Dotted paths of keys as in TOML: a part that contains dots is quoted.

/// The parts of a path up to the end of the text or to an `=` outside of quotes, and the offset of that end. `None` if
/// a part is empty or a quote is not closed.
pub(crate) fn parse(text: &str) -> Option<(Vec<String>, usize)> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let (part, after) = if let quote @ ('"' | '\'') = rest.chars().next()? {
            quoted(rest, quote)?
        } else {
            let end = rest.find(['.', '=']).unwrap_or(rest.len());
            (rest[..end].trim_end().to_string(), &rest[end..])
        };
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        let after = after.trim_start();
        match after.strip_prefix('.') {
            Some(more) => rest = more,
            None if after.is_empty() || after.starts_with('=') => return Some((parts, text.len() - after.len())),
            None => return None,
        }
    }
}

/// The quoted text at the start, and the rest after it. As in TOML, `\"` and `\\` are escapes between double quotes.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            letter if letter == quote => return Some((part, &text[at + 1..])),
            '\\' if quote == '"' => part.push(letters.next()?.1),
            letter => part.push(letter),
        }
    }
    None
}

/// Joins parts to a path that can be written in a file and on the command line.
pub(crate) fn join<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> String {
    parts.into_iter().map(|part| key(part.as_ref())).collect::<Vec<_>>().join(".")
}

/// One part, quoted if it would otherwise be parsed as several.
pub(crate) fn key(part: &str) -> String {
    if part.is_empty() || part.contains(['.', '=', '"', '\'']) || part.trim() != part {
        format!("\"{}\"", part.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        part.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_parse_and_join() {
        let cases: [(&str, &[&str]); 5] = [
            ("stage.dpo.beta", &["stage", "dpo", "beta"]),
            ("stage.run.inputs.\"in.txt\"", &["stage", "run", "inputs", "in.txt"]),
            ("\"a=b\".\"say \\\"hi\\\"\"", &["a=b", "say \"hi\""]),
            ("stage.mix.sources.MV+GL", &["stage", "mix", "sources", "MV+GL"]),
            ("stage.\"\"", &["stage", ""]),
        ];
        for (text, parts) in &cases[..4] {
            let (read, end) = parse(text).unwrap();
            assert_eq!((read.iter().map(String::as_str).collect::<Vec<_>>(), end), (parts.to_vec(), text.len()));
        }
        for (text, parts) in cases {
            assert_eq!(join(parts), text);
        }
    }

    #[test]
    fn a_path_ends_at_the_equals_sign() {
        let (parts, end) = parse(" vars . 'a.b=c' = \"x=y\"").unwrap();
        assert_eq!((parts, end), (vec!["vars".to_string(), "a.b=c".to_string()], 16));
        for wrong in ["", "a.", ".a", "a..b", "\"a", "\"a\"b", "a.\"\"", "=1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
