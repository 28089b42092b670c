//! Python features of chat templates that `minijinja` lacks: `json.dumps`, Python's white space and string methods, and
//! the tags of `transformers`.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Prepares a template's source: `\n` for every line end, as in Jinja, and `generation` blocks, which `transformers`
/// uses to mark the assistant's text, as blocks without effect.
pub(super) fn source(template: &str) -> String {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut source = String::with_capacity(template.len());
    let mut rest = template.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        source.push_str(before);
        let inner = &tag[2..];
        let word_at = inner.len() - inner.trim_start_matches(['-', '+']).trim_start().len();
        let word: &str = inner[word_at..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        source.push_str(&tag[..2 + word_at]);
        source.push_str(match word {
            "generation" => "with",
            "endgeneration" => "endwith",
            other => other,
        });
        rest = &inner[word_at + word.len()..];
    }
    source + rest
}

/// Python's white space: Unicode white space and four control characters.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Jinja's `trim` filter: Python's `str.strip`.
pub(super) fn trim(text: &str, chars: Option<&str>) -> String {
    strip(text, chars, true, true).to_string()
}

fn strip<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let matches = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(matches) } else { text };
    if end { text.trim_end_matches(matches) } else { text }
}

/// Methods of Python's types.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let (start, end) = match name {
            "strip" => (true, true),
            "lstrip" => (true, false),
            "rstrip" => (false, true),
            "removeprefix" | "removesuffix" => {
                let (part,): (&str,) = from_args(args)?;
                let without = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
                return Ok(Value::from(without.unwrap_or(text)));
            }
            _ => return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
        };
        let (chars,): (Option<&str>,) = from_args(args)?;
        return Ok(Value::from(strip(text, chars, start, end)));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// `json.dumps` with the keywords that `transformers` allows.
#[expect(clippy::needless_pass_by_value, reason = "the signature of `minijinja` filters")]
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let indent = options.get::<Option<usize>>("indent")?;
    let separators: Option<Vec<String>> = options.get::<Option<Vec<String>>>("separators")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > 16) {
        return Err(Error::new(ErrorKind::InvalidOperation, "`indent` of `tojson` is above 16"));
    }
    let [item, key] = match separators {
        Some(separators) => <[String; 2]>::try_from(separators)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "`separators` of `tojson` must be two strings"))?,
        None => [if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()],
    };
    let mut text = String::new();
    Dump { ensure_ascii, sort_keys, indent, item, key }.write(value, 0, &mut text)?;
    Ok(text)
}

struct Dump {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<usize>,
    item: String,
    key: String,
}

impl Dump {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.collect();
                self.items(items, ['[', ']'], depth, out, |item, out| self.write(&item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.items(keys, ['{', '}'], depth, out, |key, out| {
                    self.string(&key.to_string(), out);
                    out.push_str(&self.key);
                    self.write(&value.get_item(&key)?, depth + 1, out)
                })?;
            }
            other => {
                let message = format!("{other} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn items(
        &self,
        items: Vec<Value>,
        [open, close]: [char; 2],
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let indent = self.indent.filter(|_| !items.is_empty());
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(open);
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            line(depth + 1, out);
            write(item, out)?;
        }
        line(depth, out);
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
