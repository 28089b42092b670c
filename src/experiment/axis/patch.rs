//! The points of an axis: each is a label and the patches that it applies to stages.

use std::sync::Arc;

use crate::key_path;
use crate::removal::{self, REMOVE};
use crate::spanned_toml::{Data, Node, Table};
use ablate_core::base::{Diagnostic, Span};

/// One dimension along which stages vary.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) name: Arc<str>,
    /// The place of its table.
    pub(crate) header: Span,
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
    /// What `${axis.NAME}` stands for: an element of `values`, or else the label.
    pub(crate) value: Node,
    pub(crate) patches: Vec<Patch>,
}

/// The table that a patch changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Stage(String),
    /// `[vars]`.
    Variables,
}

impl Target {
    /// The name of the stage.
    pub(crate) fn stage(&self) -> Option<&str> {
        match self {
            Target::Stage(stage) => Some(stage),
            Target::Variables => None,
        }
    }

    /// The path of the table in the file.
    pub(super) fn path(&self) -> Vec<&str> {
        match self {
            Target::Stage(stage) => vec!["stage", stage],
            Target::Variables => vec!["vars"],
        }
    }
}

/// A change of one key of one stage, or of one variable.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    pub(crate) target: Target,
    /// The path of the key in the table.
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

impl AxisPoint {
    /// A point without patches whose value is its label. `span` is the place of the axis.
    pub(super) fn new(label: impl Into<Arc<str>>, span: &Span) -> AxisPoint {
        let label = label.into();
        let value = Node { data: Data::String(label.to_string()), span: span.clone() };
        AxisPoint { label, value, patches: Vec::new() }
    }

    /// The patches of one stage.
    pub(crate) fn patches_of(&self, stage: &str) -> impl Iterator<Item = &Patch> {
        self.patches.iter().filter(move |patch| patch.target.stage() == Some(stage))
    }
}

impl Patch {
    /// The path of the key in the file.
    pub(crate) fn dotted(&self) -> String {
        key_path::join(self.target.path().into_iter().chain(self.path.iter().map(String::as_str)))
    }

    /// Applies the patch to the table of its target.
    pub(crate) fn apply(&self, table: &mut Table) -> Result<(), Box<Diagnostic>> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let dotted = || self.dotted();
        if let Some(quoted) = removal::quoted_path(table, &path) {
            let message = format!("`{}` does not exist, but a key with dots in its name does", dotted());
            let help = format!("write `{}.{quoted}`", key_path::join(self.target.path()));
            return Err(Box::new(Diagnostic::error(message).at(self.key.clone(), "").help(help)));
        }
        match &self.change {
            Change::Set(node) => table.set(&path, &self.key, node.clone()).map_err(|blocker| {
                let message = format!(
                    "`{}` cannot be set: `{}.{blocker}` is not a table",
                    dotted(),
                    key_path::join(self.target.path())
                );
                Box::new(Diagnostic::error(message).at(self.key.clone(), ""))
            }),
            Change::Remove(_) if table.remove(&path) => Ok(()),
            Change::Remove(span) => {
                let similar = table.similar_path(&path);
                let similar =
                    similar.map(|similar| self.target.path().into_iter().map(str::to_string).chain(similar).collect());
                Err(Box::new(removal::cannot_remove(&dotted(), similar, span, &self.key)))
            }
        }
    }
}
