//! Replaces `${name}` in strings with the values of `[vars]`.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostics::{Diagnostics, SpanKey, known_names, span_key};
use super::spanned_toml::{Data, Entry, MAX_DEPTH, Node, Table};
use super::varying::{AXIS, Dependencies, Piece, Varying, pieces};
use ablate_core::base::Span;

/// The most bytes that are copied out of variables: 64 MiB. Variables may use variables, so a small file could grow
/// exponentially.
const MAX_SIZE: usize = 1 << 26;

/// The longest chain of variables that use each other.
const MAX_CHAIN: usize = 16;

/// Replaces every `${name}` in the tree, and removes `[vars]` from it. Strings that depend on the point of a stage, through
/// `${axis.NAME}` or a variable that an axis changes, are left as they are: the templates replace them later.
pub(crate) fn interpolate(tree: &mut Table, diagnostics: &mut Diagnostics) -> Templates {
    let vars = match tree.0.remove("vars").map(|entry| entry.node) {
        None => Table::default(),
        Some(Node { data: Data::Table(table), .. }) => table,
        Some(node) => {
            let message = format!("`vars`: wrong type: {}, expected a table", node.type_name());
            diagnostics.error(&node.span, message, None);
            return Templates::default();
        }
    };
    let varying = Varying::of(tree, &vars);
    let mut places = BTreeSet::new();
    let mut interpolation = Vars { places: Some(&mut places), ..Vars::new(&vars, &varying, BTreeMap::new()) };
    for (name, entry) in &vars.0 {
        interpolation.resolve(name, &entry.node, diagnostics);
    }
    let table = std::mem::take(tree);
    *tree = interpolation.root(&table, diagnostics);
    Templates { vars, varying, places }
}

/// The strings that depend on the point of a stage.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    /// The table `[vars]` as written.
    vars: Table,
    varying: Varying,
    places: BTreeSet<SpanKey>,
}

/// The values at one point.
#[derive(Default)]
pub(crate) struct PointValues<'a> {
    /// By axis.
    pub(crate) axes: BTreeMap<&'a str, Node>,
    /// The path of a variable, or of a value in it, with its value and the place where the axis names it.
    pub(crate) variables: Vec<(&'a [String], &'a Node, &'a Span)>,
}

impl Templates {
    /// The names of the variables.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> + Clone {
        self.vars.0.keys().map(String::as_str)
    }

    /// Whether no string depends on a point.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds what the templates in a value depend on.
    pub(crate) fn add_dependencies(&self, node: &Node, found: &mut Dependencies) {
        self.each_template(node, &mut |text| self.varying.dependencies(text, &self.vars, found));
    }

    fn each_template(&self, node: &Node, visit: &mut dyn FnMut(&str)) {
        match &node.data {
            Data::String(text) if self.places.contains(&span_key(&node.span)) => visit(text),
            Data::List(nodes) => nodes.iter().for_each(|node| self.each_template(node, visit)),
            Data::Table(table) => table.0.values().for_each(|entry| self.each_template(&entry.node, visit)),
            Data::String(_) | Data::Number(_) | Data::Boolean(_) => {}
        }
    }

    /// Replaces the templates in a stage's table. False after reporting an error.
    pub(crate) fn resolve(&self, table: &mut Table, values: PointValues<'_>, diagnostics: &mut Diagnostics) -> bool {
        let mut depends = Dependencies::default();
        table.0.values().for_each(|entry| self.add_dependencies(&entry.node, &mut depends));
        if depends.axes.iter().any(|axis| !values.axes.contains_key(axis.as_str())) {
            // The axis has an error, which is already reported.
            return false;
        }
        let mut vars = self.vars.clone();
        for (path, node, key) in values.variables {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            if let Err(blocker) = vars.set(&path, key, node.clone()) {
                diagnostics.error(key, format!("`vars.{blocker}` is not a table, so it has no key to set"), None);
                return false;
            }
        }
        let constant = Varying::default();
        let mut interpolation = Vars { only: Some(&self.places), ..Vars::new(&vars, &constant, values.axes) };
        *table = interpolation.table_of(table, diagnostics);
        interpolation.failures == 0
    }
}

struct Vars<'a> {
    table: &'a Table,
    varying: &'a Varying,
    /// The values of axes by name.
    axes: BTreeMap<&'a str, Node>,
    /// Collects the places of templates.
    places: Option<&'a mut BTreeSet<SpanKey>>,
    /// Only strings at these places are replaced.
    only: Option<&'a BTreeSet<SpanKey>>,
    /// Whether a template may stand at the current place.
    in_stage: bool,
    /// Resolved variables with their size and depth; `None` for a template or a variable with an error.
    values: BTreeMap<&'a str, Option<(Node, usize, usize)>>,
    /// Variables that are being resolved, outermost first.
    open: Vec<&'a str>,
    /// The bytes that were copied out of variables, as counted by [`measure`].
    copied: usize,
    /// The number of strings with an error.
    failures: usize,
}

impl<'a> Vars<'a> {
    fn new(table: &'a Table, varying: &'a Varying, axes: BTreeMap<&'a str, Node>) -> Vars<'a> {
        Vars {
            table,
            varying,
            axes,
            places: None,
            only: None,
            in_stage: false,
            values: BTreeMap::new(),
            open: Vec::new(),
            copied: 0,
            failures: 0,
        }
    }

    /// The whole tree. Templates may stand in stages, except in `kind` and `when`, and in the variants of axes.
    fn root(&mut self, tree: &Table, diagnostics: &mut Diagnostics) -> Table {
        self.entries(tree, diagnostics, |vars, section, node, diagnostics| {
            let Data::Table(table) = &node.data else { return vars.node_of(node, diagnostics) };
            let table = vars.entries(table, diagnostics, |vars, _, node, diagnostics| {
                let Data::Table(table) = &node.data else { return vars.node_of(node, diagnostics) };
                let table = vars.entries(table, diagnostics, |vars, key, node, diagnostics| {
                    vars.in_stage = match section {
                        "stage" => !["kind", "when"].contains(&key),
                        "axis" => key == "variants",
                        _ => false,
                    };
                    let node = vars.node_of(node, diagnostics);
                    vars.in_stage = false;
                    node
                });
                Node { data: Data::Table(table), span: node.span.clone() }
            });
            Node { data: Data::Table(table), span: node.span.clone() }
        })
    }

    fn entries(
        &mut self,
        table: &Table,
        diagnostics: &mut Diagnostics,
        of: impl Fn(&mut Self, &str, &Node, &mut Diagnostics) -> Node,
    ) -> Table {
        let entries = table.0.iter().map(|(key, entry)| {
            (key.clone(), Entry { key: entry.key.clone(), node: of(self, key, &entry.node, diagnostics) })
        });
        Table(entries.collect())
    }

    fn table_of(&mut self, table: &Table, diagnostics: &mut Diagnostics) -> Table {
        self.entries(table, diagnostics, |vars, _, node, diagnostics| vars.node_of(node, diagnostics))
    }

    fn node_of(&mut self, node: &Node, diagnostics: &mut Diagnostics) -> Node {
        let data = match &node.data {
            Data::String(text) if text.contains("${") && self.is_replaced(node) => {
                return self.string_of(text, node, diagnostics);
            }
            Data::List(nodes) => Data::List(nodes.iter().map(|node| self.node_of(node, diagnostics)).collect()),
            Data::Table(table) => Data::Table(self.table_of(table, diagnostics)),
            data => data.clone(),
        };
        Node { data, span: node.span.clone() }
    }

    /// Whether a string with `${` is replaced. Strings from resolved variables have other places.
    fn is_replaced(&self, node: &Node) -> bool {
        !self.open.is_empty() || self.only.is_none_or(|places| places.contains(&span_key(&node.span)))
    }

    fn string_of(&mut self, text: &str, node: &Node, diagnostics: &mut Diagnostics) -> Node {
        let mut depends = Dependencies::default();
        self.varying.dependencies(text, self.table, &mut depends);
        if depends != Dependencies::default() {
            return self.template(node, &depends, diagnostics);
        }
        let pieces = pieces(text);
        let mut replaced = String::new();
        for piece in &pieces {
            match *piece {
                Piece::Text(text) => replaced.push_str(text),
                Piece::Escape => replaced.push_str("${"),
                Piece::Unclosed => {
                    let help = "close it with `}`, or write `$${` for the characters themselves";
                    return self.refuse(node, "a `${` is not closed", Some(help.to_string()), diagnostics);
                }
                Piece::Variable(name) => {
                    let value = match self.variable(name, diagnostics) {
                        Ok(value) => value,
                        Err(Some((message, help))) => return self.refuse(node, &message, help, diagnostics),
                        Err(None) => {
                            // The error is already reported at the variable.
                            self.failures += 1;
                            diagnostics.silence(&node.span);
                            return node.clone();
                        }
                    };
                    if pieces.len() == 1 {
                        return Node { data: value.data, span: node.span.clone() };
                    }
                    match &value.data {
                        Data::String(text) => replaced.push_str(text),
                        Data::Number(number) => replaced.push_str(&number.to_string()),
                        Data::Boolean(flag) => replaced.push_str(&flag.to_string()),
                        Data::List(_) | Data::Table(_) => {
                            let what = value.type_name();
                            let of = match name.strip_prefix(AXIS).filter(|axis| self.axes.contains_key(axis)) {
                                Some(axis) => format!("the value of the axis `{axis}`"),
                                None => format!("the variable `{name}`"),
                            };
                            let message = format!("{of} is {what}, which cannot be part of a string");
                            return self.refuse(node, &message, None, diagnostics);
                        }
                    }
                }
            }
        }
        Node { data: Data::String(replaced), span: node.span.clone() }
    }

    /// Leaves a string that depends on the point of a stage as it is.
    fn template(&mut self, node: &Node, depends: &Dependencies, diagnostics: &mut Diagnostics) -> Node {
        if !self.open.is_empty() {
            // A variable. Whoever uses it is a template too.
            self.failures += 1;
            return node.clone();
        }
        if !self.in_stage {
            let name = depends.axes.first().map(|axis| format!("{AXIS}{axis}")).or(depends.variables.first().cloned());
            let message =
                format!("`${{{}}}` varies along an axis, so only stages can use it", name.unwrap_or_default());
            let help = "not in `kind` and `when`, and outside of stages only in the `variants` of an axis".to_string();
            return self.refuse(node, &message, Some(help), diagnostics);
        }
        if let Some(places) = &mut self.places {
            places.insert(span_key(&node.span));
        }
        node.clone()
    }

    fn refuse(&mut self, node: &Node, message: &str, help: Option<String>, diagnostics: &mut Diagnostics) -> Node {
        self.failures += 1;
        diagnostics.last_error(&node.span, message, help);
        node.clone()
    }

    /// A copy of a variable's value. The error is a message and a help, or `None` if it is already reported.
    fn variable(
        &mut self,
        name: &str,
        diagnostics: &mut Diagnostics,
    ) -> Result<Node, Option<(String, Option<String>)>> {
        let table = self.table;
        let Some((name, entry)) = table.0.get_key_value(name) else {
            if let Some(axis) = name.strip_prefix(AXIS) {
                return self.axes.get(axis).cloned().ok_or_else(|| Some(self.no_axis(axis)));
            }
            let help = if table.0.is_empty() {
                "the experiment has no `[vars]`".to_string()
            } else {
                known_names("variable", name, table.0.keys().map(String::as_str))
            };
            return Err(Some((format!("the variable `{name}` is not defined"), Some(help))));
        };
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let path: Vec<&str> = self.open[start..].iter().copied().chain([name.as_str()]).collect();
            return Err(Some((format!("variables use each other in a circle: `{}`", path.join(" -> ")), None)));
        }
        if self.open.len() >= MAX_CHAIN {
            return Err(Some(("the chain of variables is too long".to_string(), None)));
        }
        self.resolve(name, &entry.node, diagnostics);
        let (value, size, depth) = self.values.get(name.as_str()).and_then(Option::as_ref).ok_or(None)?;
        self.copied = self.copied.saturating_add(*size);
        if self.copied > MAX_SIZE || *depth >= MAX_DEPTH - 1 {
            return Err(Some(("the values of the variables are too large".to_string(), None)));
        }
        Ok(value.clone())
    }

    /// The message and help about `${axis.NAME}` without such an axis.
    fn no_axis(&self, axis: &str) -> (String, Option<String>) {
        let help = match axis {
            "seed" => "a program reads its seed from the environment variable `ABLATE_SEED`".to_string(),
            _ if self.varying.axes.is_empty() => "the experiment has no `[axis]`".to_string(),
            _ => known_names("axis", axis, self.varying.axes.iter().map(String::as_str)),
        };
        (format!("the axis `{axis}` is not defined"), Some(help))
    }

    fn resolve(&mut self, name: &'a str, node: &Node, diagnostics: &mut Diagnostics) {
        if self.values.contains_key(name) {
            return;
        }
        self.open.push(name);
        let before = self.failures;
        let value = self.node_of(node, diagnostics);
        self.open.pop();
        let (size, depth) = measure(&value);
        self.values.insert(name, (self.failures == before).then_some((value, size, depth)));
    }
}

/// The approximate size of a value in bytes, and its nesting depth.
fn measure(node: &Node) -> (usize, usize) {
    let below: Vec<(usize, usize)> = match &node.data {
        Data::String(text) => return (text.len() + 64, 1),
        Data::List(nodes) => nodes.iter().map(measure).collect(),
        Data::Table(table) => table.0.values().map(|entry| measure(&entry.node)).collect(),
        Data::Number(_) | Data::Boolean(_) => Vec::new(),
    };
    let size = below.iter().map(|(size, _)| size).sum::<usize>() + 64;
    (size, below.iter().map(|(_, depth)| depth).max().unwrap_or(&0) + 1)
}
