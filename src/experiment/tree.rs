//! The spanned value tree: TOML values, each with the place where it was written. Knows no key of the language.

use std::collections::BTreeMap;
use std::num::IntErrorKind;
use std::ops::Range;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problems::Problems;
use ablate_core::base::{Diagnostic, SourceId, Sources, Span};

/// Tables and lists may nest this deep: far beyond any use, far below what a stack can walk.
pub(crate) const MAX_DEPTH: usize = 32;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) data: Data,
    pub(crate) origin: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Data {
    String(String),
    Number(Number),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
}

/// Keys in alphabetical order, so that moving a line changes nothing below.
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

    /// What the value is, as a message says it.
    pub(crate) fn type_name(&self) -> &'static str {
        match &self.data {
            Data::String(_) => "a string",
            Data::Number(_) => "a number",
            Data::Boolean(_) => "a boolean",
            Data::List(_) => "a list",
            Data::Table(_) => "a table",
        }
    }

    /// Whether a string in it, at any depth, is `text`.
    pub(crate) fn says(&self, text: &str) -> bool {
        match &self.data {
            Data::String(own) => own == text,
            Data::List(nodes) => nodes.iter().any(|node| node.says(text)),
            Data::Table(table) => table.0.values().any(|entry| entry.node.says(text)),
            Data::Number(_) | Data::Boolean(_) => false,
        }
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

    /// Entries in the order in which they were written.
    pub(crate) fn written(&self) -> Vec<(&str, &Entry)> {
        let mut entries: Vec<(&str, &Entry)> = self.0.iter().map(|(key, entry)| (key.as_str(), entry)).collect();
        entries.sort_by_key(|(_, entry)| (entry.key.source, entry.key.range.start));
        entries
    }

    /// The keys that a path leads through, where its parts are those of a key with dots.
    pub(crate) fn keys<T: AsRef<str>>(&self, path: &[T]) -> Vec<String> {
        let mut keys = Vec::new();
        let (mut table, mut rest) = (Some(self), path);
        while let Some((first, below)) = rest.split_first() {
            let found = table.and_then(|table| table.first_of(first.as_ref(), below));
            let used = found.map_or(0, |(_, used)| used);
            keys.push(rest[..=used].iter().map(AsRef::as_ref).collect::<Vec<_>>().join("."));
            table = found.and_then(|(entry, _)| entry.node.as_table());
            rest = &below[used..];
        }
        keys
    }

    /// The value at a path of keys.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Node> {
        let (first, rest) = path.split_first()?;
        let (entry, used) = self.first_of(first, rest)?;
        let rest = &rest[used..];
        if rest.is_empty() { Some(&entry.node) } else { entry.node.as_table()?.at(rest) }
    }

    /// The entry that a path begins with, and how many of its further parts belong to the key: a key may hold dots
    /// (`"a.txt"`), and a dotted path does not tell them apart.
    pub(crate) fn first_of<T: AsRef<str>>(&self, first: &str, rest: &[T]) -> Option<(&Entry, usize)> {
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

    /// Puts a value at a path, creating tables on the way. The part of the path that is no table is the error.
    pub(crate) fn set(&mut self, path: &[&str], key: &Span, node: Node) -> Result<(), String> {
        let Some((first, rest)) = path.split_first() else { return Ok(()) };
        if rest.is_empty() {
            self.0.insert((*first).to_string(), Entry { key: key.clone(), node });
            return Ok(());
        }
        let entry = self.0.entry((*first).to_string()).or_insert_with(|| Entry {
            key: key.clone(),
            node: Node { data: Data::Table(Table::default()), origin: key.clone() },
        });
        let Data::Table(inner) = &mut entry.node.data else { return Err((*first).to_string()) };
        inner.set(rest, key, node).map_err(|below| format!("{first}.{below}"))
    }

    /// Takes the value at a path out. False when there is none.
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

    /// Lays `over` on top: a table merges key by key, anything else replaces.
    pub(crate) fn merge(&mut self, over: Table) {
        for (name, entry) in over.0 {
            match (self.0.get_mut(&name), entry.node.data) {
                (Some(Entry { key, node: Node { data: Data::Table(below), origin } }), Data::Table(above)) => {
                    *key = entry.key;
                    *origin = entry.node.origin;
                    below.merge(above);
                }
                (_, data) => {
                    let node = Node { data, origin: entry.node.origin };
                    self.0.insert(name, Entry { key: entry.key, node });
                }
            }
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(key, entry)| (key.clone(), entry.node.to_json())).collect::<Map<_, _>>())
    }

    /// Where each dotted key below was written.
    pub(crate) fn origins(&self, prefix: &str, into: &mut BTreeMap<String, Span>) {
        for (key, entry) in &self.0 {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            if let Data::Table(inner) = &entry.node.data {
                inner.origins(&path, into);
            }
            into.insert(path, entry.node.origin.clone());
        }
    }
}

/// Reads a TOML document. Every syntax error becomes a problem, and then there is no tree.
pub(crate) fn parse_document(source: SourceId, sources: &Sources, problems: &mut Problems) -> Option<Table> {
    let text = sources.get(source).text.as_str();
    let (table, errors) = DeTable::parse_recoverable(text);
    let sound = errors.iter().all(|error| error.message() == "duplicate key");
    // What stands in a table that is written twice is written twice only because the table is.
    let mut echo = 0..0;
    let mut broken = Vec::new();
    for error in errors {
        let range = visible(text, error.span().unwrap_or(text.len()..text.len()));
        if echo.contains(&range.start) {
            continue;
        }
        let message = match error.message() {
            "duplicate key" => {
                echo = twice(text, range.start);
                format!("the name `{}` is given twice", text[range.clone()].trim())
            }
            message => {
                broken.push(range.start);
                // What the parser says where it wants no more.
                lower_first(message.strip_suffix(", expected nothing").unwrap_or(message))
            }
        };
        problems.push(Diagnostic::error(message).at(Span { source, range }, ""));
    }
    let reader = Reader { source, text, offset: 0, broken };
    let table = reader.table(table.get_ref(), MAX_DEPTH, problems);
    sound.then_some(table)
}

/// Reads what stands behind the `=` of an override: a TOML value, else the text itself.
pub(crate) fn parse_value(source: SourceId, sources: &Sources, range: Range<usize>, problems: &mut Problems) -> Node {
    let all = sources.get(source).text.as_str();
    let text = &all[range.clone()];
    let reader = Reader { source, text, offset: range.start, broken: Vec::new() };
    if let Ok(value) = DeValue::parse(text) {
        return reader.node(&value, MAX_DEPTH, problems);
    }
    Node { data: Data::String(text.to_string()), origin: Span { source, range } }
}

struct Reader<'a> {
    source: SourceId,
    text: &'a str,
    /// Where `text` starts in its source.
    offset: usize,
    /// Where syntax errors were found: what stands in for a value that has one is not told of again.
    broken: Vec<usize>,
}

impl Reader<'_> {
    fn origin(&self, span: Range<usize>) -> Span {
        let range = visible(self.text, span);
        Span { source: self.source, range: range.start + self.offset..range.end + self.offset }
    }

    fn table(&self, table: &DeTable<'_>, depth: usize, problems: &mut Problems) -> Table {
        let entries = table.iter().map(|(key, value)| {
            let entry = Entry { key: self.origin(key.span()), node: self.node(value, depth - 1, problems) };
            (key.get_ref().to_string(), entry)
        });
        Table(entries.collect())
    }

    fn node(&self, value: &Spanned<DeValue<'_>>, depth: usize, problems: &mut Problems) -> Node {
        let origin = self.origin(value.span());
        let mut wrong = |message: String| {
            let span = value.span();
            if !self.broken.iter().any(|at| (span.start..=span.end).contains(at)) {
                problems.poison(Diagnostic::error(message).at(origin.clone(), ""));
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
                        _ => format!("`{}` is no number", &self.text[visible(self.text, value.span())]),
                    }),
                }
            }
            DeValue::Float(digits) => match digits.as_str().parse::<f64>().ok().and_then(Number::from_f64) {
                Some(number) => Data::Number(number),
                None => wrong(format!("the number `{digits}` is not finite")),
            },
            DeValue::Datetime(date) => wrong(format!("a date means nothing here: write it as a string, \"{date}\"")),
            DeValue::Array(_) | DeValue::Table(_) if depth == 0 => wrong("values are nested too deep".to_string()),
            DeValue::Array(list) => {
                Data::List(list.iter().map(|value| self.node(value, depth - 1, problems)).collect())
            }
            DeValue::Table(table) => Data::Table(self.table(table, depth, problems)),
        };
        Node { data, origin }
    }
}

/// A stretch of the text that can be shown: within it, on character boundaries.
fn visible(text: &str, range: Range<usize>) -> Range<usize> {
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

/// The part of the text that belongs to a table header at `start`; nothing when a key stands there.
fn twice(text: &str, start: usize) -> Range<usize> {
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
