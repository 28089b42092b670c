//! An instruction as text, split into its guard, its name with modifiers, and its operands.

use crate::types::Type;

pub(crate) type Result<T, E = String> = std::result::Result<T, E>;

pub(crate) struct Statement {
    /// The predicate that a thread executes the instruction by, and whether it is negated.
    pub(crate) guard: Option<(String, bool)>,
    /// The name with its modifiers, such as `ld.global.f32`.
    pub(crate) code: String,
    pub(crate) operands: Vec<String>,
}

impl Statement {
    pub(crate) fn parse(text: &str) -> Statement {
        let (guard, rest) = match text.strip_prefix('@') {
            Some(rest) => {
                let (guard, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let register = guard.trim_start_matches('!');
                (Some((register.to_string(), guard.starts_with('!'))), rest.trim())
            }
            None => (None, text),
        };
        let (code, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        Statement { guard, code: code.to_string(), operands: split_list(rest) }
    }

    pub(crate) fn name(&self) -> &str {
        self.code.split('.').next().unwrap_or("")
    }

    pub(crate) fn modifiers(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.code.split_once('.').map(|(_, rest)| rest.split('.')).into_iter().flatten()
    }

    pub(crate) fn has(&self, modifier: &str) -> bool {
        self.modifiers().any(|other| other == modifier)
    }

    /// The first of the modifiers that the instruction has.
    pub(crate) fn one_of<'a>(&self, modifiers: &[&'a str]) -> Option<&'a str> {
        modifiers.iter().copied().find(|modifier| self.has(modifier))
    }

    /// An error if the instruction has a modifier that is neither a type nor in the list.
    pub(crate) fn allow(&self, allowed: &[&str]) -> Result<()> {
        match self.modifiers().find(|modifier| Type::parse(modifier).is_none() && !allowed.contains(modifier)) {
            Some(modifier) => Err(format!("the modifier `.{modifier}` of `{}` is not supported", self.name())),
            None => Ok(()),
        }
    }

    pub(crate) fn types(&self) -> Vec<Type> {
        self.modifiers().filter_map(Type::parse).collect()
    }

    /// The last type: that of the operands.
    pub(crate) fn ty(&self) -> Result<Type> {
        let found = self.modifiers().rev().find_map(Type::parse);
        found.ok_or_else(|| format!("`{}` is not supported", self.code))
    }

    pub(crate) fn operand(&self, index: usize) -> Result<&str> {
        self.operands.get(index).map(String::as_str).ok_or_else(|| "an operand is missing".to_string())
    }

    pub(crate) fn operands<const N: usize>(&self) -> Result<[&str; N]> {
        let operands: Vec<&str> = self.operands.iter().map(String::as_str).collect();
        operands.try_into().map_err(|_| format!("{N} operands are needed"))
    }

    pub(crate) fn unsupported<T>(&self) -> Result<T> {
        Err(format!("`{}` is not supported", self.code))
    }
}

/// The code of a statement without its guard.
pub(crate) fn code_of(text: &str) -> &str {
    let unguarded = if text.starts_with('@') { text.split_once(' ').map_or("", |(_, rest)| rest) } else { text };
    unguarded.split_whitespace().next().unwrap_or("")
}

/// Splits at commas outside of brackets.
pub(crate) fn split_list(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut depth = 0;
    let mut current = String::new();
    for c in text.chars() {
        depth += i32::from("{[(".contains(c)) - i32::from("}])".contains(c));
        if c == ',' && depth == 0 {
            parts.push(current.trim().to_string());
            current.clear();
        } else {
            current.push(c);
        }
    }
    if !current.trim().is_empty() {
        parts.push(current.trim().to_string());
    }
    parts
}

/// The elements of `{a, b}`, or the one operand itself.
pub(crate) fn elements(operand: &str) -> Vec<String> {
    match operand.strip_prefix('{') {
        Some(inside) => split_list(inside.trim_end_matches('}')),
        None => vec![operand.to_string()],
    }
}
