//! TOML values with their places in the text.

use std::collections::BTreeMap;
use std::num::IntErrorKind;
use std::ops::Range;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Diagnostics;
use ablate_core::base::{Diagnostic, SourceId, Sources, Span};

/// The deepest nesting of tables and lists. It bounds the recursion.
pub(crate) const MAX_DEPTH: usize = 32;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) data: Data,
    pub(crate) span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Data {
    String(String),
    Number(Number),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
}

/// A table. Its keys are sorted, so that the order of lines in the file does not matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table(pub(crate) BTreeMap<String, Entry>);

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Place of the key.
    pub(crate) key: Span,
    pub(crate) node: Node,
}

impl Node {
    pub(crate) fn as_table(&self) -> Option<&Table> {
        match &self.data {
            Data::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::String(text) => Some(text),
            _ => None,
        }
    }

    /// The type of the value for messages.
    pub(crate) fn type_name(&self) -> &'static str {
        match &self.data {
            Data::String(_) => "a string",
            Data::Number(_) => "a number",
            Data::Boolean(_) => "a boolean",
            Data::List(_) => "a list",
            Data::Table(_) => "a table",
        }
    }

    /// Calls `visit` with every string in the value, at any depth.
    pub(crate) fn each_string(&self, visit: &mut dyn FnMut(&str)) {
        match &self.data {
            Data::String(string) => visit(string),
            Data::List(nodes) => nodes.iter().for_each(|node| node.each_string(visit)),
            Data::Table(table) => table.0.values().for_each(|entry| entry.node.each_string(visit)),
            Data::Number(_) | Data::Boolean(_) => {}
        }
    }

    /// Whether a string in the value, at any depth, equals `text`.
    pub(crate) fn contains_string(&self, text: &str) -> bool {
        let mut found = false;
        self.each_string(&mut |string| found |= string == text);
        found
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.data {
            Data::String(text) => Value::String(text.clone()),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Boolean(flag) => Value::Bool(*flag),
            Data::List(nodes) => Value::Array(nodes.iter().map(Node::to_json).collect()),
            Data::Table(table) => table.to_json(),
        }
    }
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.0.get(key).map(|entry| &entry.node)
    }

    /// Entries in the order of the file.
    pub(crate) fn in_source_order(&self) -> Vec<(&str, &Entry)> {
        let mut entries: Vec<(&str, &Entry)> = self.0.iter().map(|(key, entry)| (key.as_str(), entry)).collect();
        entries.sort_by_key(|(_, entry)| (entry.key.source, entry.key.range.start));
        entries
    }

    /// The keys on a path. Parts of the path that form one key with dots are joined.
    pub(crate) fn keys_on_path<T: AsRef<str>>(&self, path: &[T]) -> Vec<String> {
        let mut keys = Vec::new();
        let (mut table, mut rest) = (Some(self), path);
        while let Some((first, below)) = rest.split_first() {
            let found = table.and_then(|table| table.entry_for(first.as_ref(), below));
            let used = found.map_or(0, |(_, used)| used);
            keys.push(rest[..=used].iter().map(AsRef::as_ref).collect::<Vec<_>>().join("."));
            table = found.and_then(|(entry, _)| entry.node.as_table());
            rest = &below[used..];
        }
        keys
    }

    /// The value at a path of keys.
    pub(crate) fn get_path(&self, path: &[&str]) -> Option<&Node> {
        let (first, rest) = path.split_first()?;
        let (entry, used) = self.entry_for(first, rest)?;
        let rest = &rest[used..];
        if rest.is_empty() { Some(&entry.node) } else { entry.node.as_table()?.get_path(rest) }
    }

    /// The first entry on a path, and the number of further parts that belong to its key: a key may contain dots
    /// (`"a.txt"`), so one key may take several parts of a dotted path.
    pub(crate) fn entry_for<T: AsRef<str>>(&self, first: &str, rest: &[T]) -> Option<(&Entry, usize)> {
        let mut key = first.to_string();
        for used in 0..=rest.len() {
            if let Some(entry) = self.0.get(&key) {
                return Some((entry, used));
            }
            key.push('.');
            key.push_str(rest.get(used)?.as_ref());
        }
        None
    }

    /// Sets the value at a path and creates missing tables. The error is the path to a value that is not a table.
    pub(crate) fn set(&mut self, path: &[&str], key: &Span, node: Node) -> Result<(), String> {
        let Some((first, rest)) = path.split_first() else { return Ok(()) };
        if rest.is_empty() {
            self.0.insert((*first).to_string(), Entry { key: key.clone(), node });
            return Ok(());
        }
        let entry = self.0.entry((*first).to_string()).or_insert_with(|| Entry {
            key: key.clone(),
            node: Node { data: Data::Table(Table::default()), span: key.clone() },
        });
        let Data::Table(inner) = &mut entry.node.data else { return Err((*first).to_string()) };
        inner.set(rest, key, node).map_err(|below| format!("{first}.{below}"))
    }

    /// Removes the value at a path. `false` if there is none.
    pub(crate) fn remove(&mut self, path: &[&str]) -> bool {
        match path {
            [] => false,
            [key] => self.0.remove(*key).is_some(),
            [key, rest @ ..] => match self.0.get_mut(*key).map(|entry| &mut entry.node.data) {
                Some(Data::Table(inner)) => inner.remove(rest),
                _ => false,
            },
        }
    }

    /// Merges `over` into this table: tables merge key by key, other values replace.
    pub(crate) fn merge(&mut self, over: Table) {
        for (name, entry) in over.0 {
            match (self.0.get_mut(&name), entry.node.data) {
                (Some(Entry { key, node: Node { data: Data::Table(below), span } }), Data::Table(above)) => {
                    *key = entry.key;
                    *span = entry.node.span;
                    below.merge(above);
                }
                (_, data) => {
                    let node = Node { data, span: entry.node.span };
                    self.0.insert(name, Entry { key: entry.key, node });
                }
            }
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(key, entry)| (key.clone(), entry.node.to_json())).collect::<Map<_, _>>())
    }

    /// Collects the place of each value by its dotted key.
    pub(crate) fn collect_spans(&self, prefix: &str, into: &mut BTreeMap<String, Span>) {
        for (key, entry) in &self.0 {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            if let Data::Table(inner) = &entry.node.data {
                inner.collect_spans(&path, into);
            }
            into.insert(path, entry.node.span.clone());
        }
    }
}

/// Parses a TOML document. Reports every syntax error, and then returns `None`.
pub(crate) fn parse_document(source: SourceId, sources: &Sources, diagnostics: &mut Diagnostics) -> Option<Table> {
    let text = sources.get(source).text.as_str();
    let (table, errors) = DeTable::parse_recoverable(text);
    let valid = errors.iter().all(|error| error.message() == "duplicate key");
    // In a table that is defined twice every key is a duplicate. Only the table is reported.
    let mut duplicate_table = 0..0;
    let mut broken = Vec::new();
    for error in errors {
        let range = char_range(text, error.span().unwrap_or(text.len()..text.len()));
        if duplicate_table.contains(&range.start) {
            continue;
        }
        let message = match error.message() {
            "duplicate key" => {
                duplicate_table = table_body(text, range.start);
                format!("`{}` is defined twice", text[range.clone()].trim())
            }
            message => {
                broken.push(range.start);
                // The parser adds this suffix where the text should end.
                lower_first(message.strip_suffix(", expected nothing").unwrap_or(message))
            }
        };
        diagnostics.push(Diagnostic::error(message).at(Span { source, range }, ""));
    }
    let reader = Reader { source, text, offset: 0, broken };
    let table = reader.table(table.get_ref(), MAX_DEPTH, diagnostics);
    valid.then_some(table)
}

/// Parses the value of an override, the part after `=`. A text that is not a TOML value is a string.
pub(crate) fn parse_value(
    source: SourceId,
    sources: &Sources,
    range: Range<usize>,
    diagnostics: &mut Diagnostics,
) -> Node {
    let all = sources.get(source).text.as_str();
    let text = &all[range.clone()];
    let reader = Reader { source, text, offset: range.start, broken: Vec::new() };
    if let Ok(value) = DeValue::parse(text) {
        return reader.node(&value, MAX_DEPTH, diagnostics);
    }
    Node { data: Data::String(text.to_string()), span: Span { source, range } }
}

struct Reader<'a> {
    source: SourceId,
    text: &'a str,
    /// The offset of `text` in its source.
    offset: usize,
    /// The offsets of syntax errors. The parser puts placeholders there, about which nothing more is reported.
    broken: Vec<usize>,
}

impl Reader<'_> {
    fn span(&self, range: Range<usize>) -> Span {
        let range = char_range(self.text, range);
        Span { source: self.source, range: range.start + self.offset..range.end + self.offset }
    }

    fn table(&self, table: &DeTable<'_>, depth: usize, diagnostics: &mut Diagnostics) -> Table {
        let entries = table.iter().map(|(key, value)| {
            let entry = Entry { key: self.span(key.span()), node: self.node(value, depth - 1, diagnostics) };
            (key.get_ref().to_string(), entry)
        });
        Table(entries.collect())
    }

    fn node(&self, value: &Spanned<DeValue<'_>>, depth: usize, diagnostics: &mut Diagnostics) -> Node {
        let span = self.span(value.span());
        let mut wrong = |message: String| {
            let range = value.span();
            if !self.broken.iter().any(|at| (range.start..=range.end).contains(at)) {
                diagnostics.last_error(&span, message, None);
            }
            Data::Boolean(false)
        };
        let data = match value.get_ref() {
            DeValue::String(text) => Data::String(text.to_string()),
            DeValue::Boolean(flag) => Data::Boolean(*flag),
            DeValue::Integer(digits) => {
                let (digits, radix) = (digits.as_str(), digits.radix());
                let signed = i64::from_str_radix(digits, radix).map(Number::from);
                match signed.or_else(|error| u64::from_str_radix(digits, radix).map(Number::from).map_err(|_| error)) {
                    Ok(number) => Data::Number(number),
                    Err(error) => wrong(match error.kind() {
                        IntErrorKind::PosOverflow => format!("the number `{digits}` is too large"),
                        IntErrorKind::NegOverflow => format!("the number `{digits}` is too small"),
                        _ => format!("`{}` is not a number", &self.text[char_range(self.text, value.span())]),
                    }),
                }
            }
            DeValue::Float(digits) => match digits.as_str().parse::<f64>().ok().and_then(Number::from_f64) {
                Some(number) => Data::Number(number),
                None => wrong(format!("the number `{digits}` is not finite")),
            },
            DeValue::Datetime(date) => wrong(format!("dates are not supported: write a string, \"{date}\"")),
            DeValue::Array(_) | DeValue::Table(_) if depth == 0 => wrong("values are nested too deep".to_string()),
            DeValue::Array(list) => {
                Data::List(list.iter().map(|value| self.node(value, depth - 1, diagnostics)).collect())
            }
            DeValue::Table(table) => Data::Table(self.table(table, depth, diagnostics)),
        };
        Node { data, span }
    }
}

/// The range, limited to the text and moved to character boundaries.
fn char_range(text: &str, range: Range<usize>) -> Range<usize> {
    let boundary = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = boundary(range.start);
    start..boundary(range.end).max(start)
}

/// The range of the keys of the table whose header is at `start`. Empty if a key is at `start`.
fn table_body(text: &str, start: usize) -> Range<usize> {
    let line = text[..start].rfind('\n').map_or(0, |at| at + 1);
    if !text[line..].trim_start().starts_with('[') {
        return 0..0;
    }
    let end = text[start..].find("\n[").map_or(text.len(), |at| start + at);
    start + 1..end
}

fn lower_first(message: &str) -> String {
    let mut letters = message.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}
