//! Lists and dictionaries that a text holds, as pandas writes them into CSV and TSV files: JSON, Python's `['a', 'b']`, or
//! NumPy's `['a' 'b']`.

use serde_json::{Map, Value};

/// Most lists inside each other.
const MAX_DEPTH: usize = 16;

/// Parses a text that is a list or a dictionary as a whole; `None` for any other text.
pub(super) fn parse(text: &str) -> Option<Value> {
    let text = text.trim();
    if !text.starts_with(['[', '{']) {
        return None;
    }
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let mut parser = Parser { rest: text, depth: 0 };
    let value = parser.value()?;
    parser.rest.trim().is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn value(&mut self) -> Option<Value> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            '[' => self
                .nested(']', |parser, list: &mut Vec<Value>| {
                    list.push(parser.value()?);
                    Some(())
                })
                .map(Value::Array),
            '{' => self
                .nested('}', |parser, fields: &mut Map<String, Value>| {
                    let Value::String(key) = parser.value()? else { return None };
                    parser.rest = parser.rest.trim_start().strip_prefix(':')?;
                    fields.insert(key, parser.value()?).is_none().then_some(())
                })
                .map(Value::Object),
            quote @ ('\'' | '"') => self.string(quote).map(Value::String),
            _ => self.word(),
        }
    }

    /// Elements up to a closing bracket. NumPy separates them by white space.
    fn nested<T: Default>(&mut self, close: char, element: impl Fn(&mut Self, &mut T) -> Option<()>) -> Option<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        self.rest = &self.rest[1..];
        let mut elements = T::default();
        loop {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix(close) {
                self.rest = rest;
                self.depth -= 1;
                return Some(elements);
            }
            element(self, &mut elements)?;
            let spaced = self.rest.trim_start();
            self.rest = match spaced.strip_prefix(',') {
                Some(rest) => rest,
                None if spaced.starts_with(close) => spaced,
                None if spaced.len() < self.rest.len() => spaced,
                None => return None,
            };
        }
    }

    fn string(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, letter)) = chars.next() {
            if letter == quote {
                self.rest = &self.rest[1 + at + quote.len_utf8()..];
                return Some(text);
            }
            if letter != '\\' {
                text.push(letter);
                continue;
            }
            match chars.next()?.1 {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'x' => text.push(code(&mut chars, 2)?),
                'u' => text.push(code(&mut chars, 4)?),
                'U' => text.push(code(&mut chars, 8)?),
                other @ ('\'' | '"' | '\\') => text.push(other),
                other => text.extend(['\\', other]),
            }
        }
        None
    }

    /// A number, `None`, `True` or `False`.
    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| c.is_whitespace() || ",:]}".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "None" | "nan" => Some(Value::Null),
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            // The number as it is written.
            number => number.parse::<f64>().ok().map(|_| Value::String(number.to_string())),
        }
    }
}

/// A character by its hexadecimal code.
fn code(chars: &mut std::str::CharIndices<'_>, digits: usize) -> Option<char> {
    let mut value = 0;
    for _ in 0..digits {
        value = value * 16 + chars.next()?.1.to_digit(16)?;
    }
    char::from_u32(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals_of_python_are_parsed() {
        assert_eq!(parse("['it\\'s', \"two\", 3.10, None, True]"), Some(json!(["it's", "two", "3.10", null, true])));
        assert_eq!(parse(" ['a'\n 'b' 'c']"), Some(json!(["a", "b", "c"])));
        assert_eq!(parse("['\\u00e9\\n\\d', ]"), Some(json!(["é\n\\d"])));
        assert_eq!(parse("{'A': ['x'], 'B': 2}"), Some(json!({ "A": ["x"], "B": "2" })));
        assert_eq!(parse("[\"a\", 1]"), Some(json!(["a", 1])));
        assert_eq!(parse("[]"), Some(json!([])));
        let deep = "[".repeat(100_000);
        for text in
            ["['a'", "['a' b]", "['a''b']", "[1, 2] x", "a, b", "{'a': 1, 'a': 2}", "['\\x4']", "[é]", "", &deep]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
