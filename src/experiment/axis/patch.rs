//! The points of an axis: each is a label and the patches that it applies to stages.

use std::sync::Arc;

use crate::key_path;
use crate::removal::{self, REMOVE};
use crate::spanned_toml::{Node, Table};
use ablate_core::base::{Diagnostic, Span};

/// One dimension along which stages vary.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) name: Arc<str>,
    pub(crate) points: Vec<AxisPoint>,
    /// The shares of the points, if the axis is written with `simplex`.
    pub(crate) simplex: Option<Simplex>,
}

/// The points of an axis as vectors of shares that add up to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Simplex {
    /// The names of the shares: for each key the part of its path that differs between the keys.
    pub parts: Vec<String>,
    /// Per point, in the order of `parts`.
    pub shares: Vec<Vec<f64>>,
}

#[derive(Clone, Debug)]
pub(crate) struct AxisPoint {
    pub(crate) label: Arc<str>,
    pub(crate) patches: Vec<Patch>,
}

/// A change of one key of one stage.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    pub(crate) stage: String,
    /// The path of the key in the stage's table.
    pub(crate) path: Vec<String>,
    pub(crate) change: Change,
    /// The place where the axis names the key.
    pub(crate) key: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Set(Node),
    /// Remove the key. The place is that of the value `"remove"`.
    Remove(Span),
}

impl Change {
    /// The change to a value of the file.
    pub(super) fn to(value: &Node) -> Change {
        match value.as_str() {
            Some(REMOVE) => Change::Remove(value.span.clone()),
            _ => Change::Set(value.clone()),
        }
    }
}

impl Patch {
    /// Applies the patch to the stage's table.
    pub(crate) fn apply(&self, table: &mut Table) -> Result<(), Box<Diagnostic>> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let dotted = || key_path::join(["stage", &self.stage].into_iter().chain(path.iter().copied()));
        if let Some(quoted) = removal::quoted_path(table, &path) {
            let message = format!("`{}` does not exist, but a key with dots in its name does", dotted());
            let help = format!("write `stage.{}.{quoted}`", self.stage);
            return Err(Box::new(Diagnostic::error(message).at(self.key.clone(), "").help(help)));
        }
        match &self.change {
            Change::Set(node) => table.set(&path, &self.key, node.clone()).map_err(|blocker| {
                let message = format!("`{}` cannot be set: `stage.{}.{blocker}` is not a table", dotted(), self.stage);
                Box::new(Diagnostic::error(message).at(self.key.clone(), ""))
            }),
            Change::Remove(_) if table.remove(&path) => Ok(()),
            Change::Remove(span) => {
                let similar = table.similar_path(&path);
                let similar =
                    similar.map(|similar| [&["stage".to_string(), self.stage.clone()], &similar[..]].concat());
                Err(Box::new(removal::cannot_remove(&dotted(), similar, span, &self.key)))
            }
        }
    }
}
