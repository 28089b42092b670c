//! The text of a module: its kernels, their parameters and statements, and the data of the module.

use std::collections::BTreeMap;

use crate::inline::DeviceFunction;
use crate::memory::Buffer;

/// A module as it was loaded.
#[derive(Debug, Default)]
pub struct Module {
    pub kernels: BTreeMap<String, Kernel>,
    pub functions: BTreeMap<String, DeviceFunction>,
    /// Arrays in global and constant memory by name. Their addresses do not change.
    pub data: BTreeMap<String, Buffer>,
    /// Arrays whose initial values are not supported, with the reason.
    pub unsupported_data: BTreeMap<String, String>,
    /// Arrays in shared memory that are declared outside of kernels: name and bytes, 0 for dynamic shared memory.
    pub shared: Vec<(String, usize)>,
}

/// A kernel as text. It is translated at its first launch: a module may contain kernels that are not supported.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub body: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    pub name: String,
    pub size: usize,
    /// From the beginning of all parameters.
    pub offset: usize,
}

/// A part of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Label(String),
    /// Names that are declared until the matching `Close` are visible only there.
    Open,
    Close,
    Statement(String),
}

impl Module {
    pub fn parse(text: &str) -> Result<Module, String> {
        let lines = text.lines().map(without_comment).filter(|line| !is_header(line));
        let text: String = lines.collect::<Vec<_>>().join("\n");
        let mut module = Module::default();
        let mut rest = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        while !rest.is_empty() {
            let end = if is_data(rest) { rest.find(';') } else { rest.find([';', '{']) };
            let end = end.ok_or_else(|| format!("a declaration does not end: {}", first_line(rest)))?;
            let declaration = rest[..end].trim();
            if rest.as_bytes()[end] == b';' {
                if is_data(declaration) {
                    module.declare(declaration)?;
                } // Otherwise it is a prototype.
                rest = rest[end + 1..].trim_start();
                continue;
            }
            let close =
                matching_brace(&rest[end..]).ok_or_else(|| format!("a body does not end: {}", first_line(rest)))?;
            let body = &rest[end + 1..end + close];
            if declaration.contains(".entry") {
                let kernel = parse_kernel(declaration, body)?;
                module.kernels.insert(kernel.name.clone(), kernel);
            } else if let Some((name, params)) = parse_function(declaration) {
                module.functions.insert(name, DeviceFunction { params, body: items(body) });
            }
            rest = rest[end + close + 1..].trim_start();
        }
        Ok(module)
    }

    fn declare(&mut self, declaration: &str) -> Result<(), String> {
        let (array, values) =
            declaration.split_once('=').map_or((declaration, None), |(array, values)| (array, Some(values)));
        let (name, size, unit) = parse_array(array)?;
        if array.contains(".shared") {
            self.shared.push((name, size));
            return Ok(());
        }
        let mut bytes = Vec::new();
        let values = values.unwrap_or("").trim().trim_matches(['{', '}']).split(',').map(str::trim);
        for value in values.filter(|value| !value.is_empty()) {
            let Some(value) = parse_number(value) else {
                self.unsupported_data.insert(name, format!("the initial value `{value}` is not supported"));
                return Ok(());
            };
            bytes.extend_from_slice(&value.to_le_bytes()[..unit]);
        }
        bytes.resize(size.max(bytes.len()), 0);
        self.data.insert(name, Buffer::from_bytes(&bytes));
        Ok(())
    }
}

fn parse_kernel(declaration: &str, body: &str) -> Result<Kernel, String> {
    let (_, rest) = declaration.split_once(".entry").ok_or("no entry")?;
    let (name, params) = rest.split_once('(').unwrap_or((rest, ")"));
    let params = params.rsplit_once(')').map_or(params, |(params, _)| params);
    let mut offset = 0;
    let mut parsed = Vec::new();
    for param in params.split(',').map(str::trim).filter(|param| !param.is_empty()) {
        let (name, size, unit) = parse_array(param)?;
        let align = param.split_once(".align").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        // `.ptr .align 16` describes what a pointer points to.
        let align = if param.contains(".ptr") { unit } else { align.unwrap_or(unit) };
        offset = usize::next_multiple_of(offset, align);
        parsed.push(Param { name, size, offset });
        offset += size;
    }
    let name = name.split_whitespace().next().unwrap_or("").to_string();
    Ok(Kernel { name, params: parsed, body: items(body) })
}

/// The name and the names of results and arguments in `.func (.param .b32 result) name(.param .b32 argument)`.
fn parse_function(declaration: &str) -> Option<(String, Vec<String>)> {
    let rest = declaration.split_once(".func")?.1.trim_start();
    let (results, rest) = match rest.strip_prefix('(') {
        Some(rest) => rest.split_once(')')?,
        None => ("", rest),
    };
    let (name, arguments) = rest.split_once('(').unwrap_or((rest, ""));
    let arguments = arguments.split(')').next().unwrap_or("");
    let params = results.split(',').chain(arguments.split(',')).map(str::trim).filter(|param| !param.is_empty());
    let names = params.map(|param| parse_array(param).map(|(name, ..)| name)).collect::<Result<_, _>>().ok()?;
    Some((name.split_whitespace().next()?.to_string(), names))
}

/// Name, bytes, and bytes of an element of `.param .align 2 .b8 name[2]` or `.param .u64 name`.
pub(crate) fn parse_array(declaration: &str) -> Result<(String, usize, usize), String> {
    let unit = declaration.split_whitespace().filter_map(type_width).next_back().unwrap_or(1);
    let last = declaration.split_whitespace().next_back().ok_or("an empty declaration")?;
    match last.split_once('[') {
        Some((name, counts)) => {
            let counts = counts.split('[').map(|count| count.trim_end_matches(']').parse().unwrap_or(0));
            Ok((name.to_string(), counts.product::<usize>() * unit, unit))
        }
        None => Ok((last.to_string(), unit, unit)),
    }
}

/// Bytes of a type such as `.u64`.
fn type_width(word: &str) -> Option<usize> {
    let bits = word.strip_prefix('.')?;
    let bits = bits.strip_prefix(['u', 's', 'b', 'f'])?;
    bits.parse::<usize>().ok().map(|bits| bits / 8)
}

/// Splits a body at `;`, labels and blocks. Braces within a statement group registers.
fn items(body: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut current = String::new();
    let mut depth = 0;
    for c in body.chars() {
        let empty = current.trim().is_empty();
        match c {
            '{' if empty => items.push(Item::Open),
            '}' if empty => items.push(Item::Close),
            ';' => {
                let statement = current.split_whitespace().collect::<Vec<_>>().join(" ");
                if !statement.is_empty() {
                    items.push(Item::Statement(statement));
                }
                current.clear();
            }
            ':' if depth == 0 && !current.trim().contains(char::is_whitespace) && !current.contains('.') => {
                items.push(Item::Label(current.trim().to_string()));
                current.clear();
            }
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                current.push(c);
            }
        }
    }
    items
}

/// The bits of a number in PTX's notation: `-1`, `0x1F`, `0f3F800000`, `0d3FF0000000000000`.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    for prefix in ["0f", "0F", "0d", "0D"] {
        if let Some(bits) = text.strip_prefix(prefix) {
            return u64::from_str_radix(bits, 16).ok();
        }
    }
    let text = text.trim_end_matches('U');
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok();
    }
    text.parse::<i128>().ok().map(|value| value as u64)
}

fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// Lines without a `;` at their end.
fn is_header(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or("");
    [".version", ".target", ".address_size", ".file", ".loc"].contains(&first)
}

fn is_data(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let mut first = words.next();
    if matches!(first, Some(".visible" | ".extern" | ".weak")) {
        first = words.next();
    }
    matches!(first, Some(".global" | ".const" | ".shared"))
}

/// The position of the brace that closes the first one.
fn matching_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}
