//! The parts that all forms of an axis share: the keys that they name, and the labels of their points.

use std::collections::BTreeMap;

use super::patch::Target;
use crate::diagnostics::{Diagnostics, known_names};
use crate::key_path;
use crate::label::label_error;
use crate::section::Section;
use crate::spanned_toml::Node;
use crate::tables::AxisTable;
use crate::vars::Templates;
use ablate_core::base::Span;

/// The table of one axis.
pub(super) struct AxisReader<'a> {
    pub(super) section: Section<'a>,
    pub(super) table: AxisTable,
    /// The tables of all stages by name.
    pub(super) stages: &'a BTreeMap<&'a str, &'a Node>,
    pub(super) templates: &'a Templates,
}

impl AxisReader<'_> {
    /// The table and the path in it of a key such as `stage.mix.sources.cot` or `vars.lr`.
    pub(super) fn target(
        &self,
        key: &str,
        span: &Span,
        diagnostics: &mut Diagnostics,
    ) -> Option<(Target, Vec<String>)> {
        let parts =
            key_path::parse(key).filter(|(_, end)| *end == key.len()).map(|(parts, _)| parts).unwrap_or_default();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let mut wrong = |message: String, help: String| {
            diagnostics.error(span, message, Some(help));
            None
        };
        match parts.as_slice() {
            ["stage", stage, path @ ..] if !path.is_empty() => {
                if !self.stages.contains_key(stage) {
                    let help = known_names("stage", stage, self.stages.keys().copied());
                    return wrong(format!("stage `{stage}` is not defined"), help);
                }
                if path == ["kind"] {
                    let help = "write a stage of each kind".to_string();
                    return wrong("the kind of a stage cannot vary along an axis".to_string(), help);
                }
                Some((Target::Stage((*stage).to_string()), path.iter().map(|part| (*part).to_string()).collect()))
            }
            ["vars", path @ ..] if !path.is_empty() => {
                let names = self.templates.variables();
                if !names.clone().any(|name| name == path[0]) {
                    let help = match names.clone().next() {
                        Some(_) => known_names("variable", path[0], names),
                        None => "the experiment has no `[vars]`".to_string(),
                    };
                    return wrong(format!("the variable `{}` is not defined", path[0]), help);
                }
                Some((Target::Variables, path.iter().map(|part| (*part).to_string()).collect()))
            }
            _ => {
                let help = "write `\"stage.mix.sources.direct\"`, in quotes: the stage, then the path in its table; or \
                            `\"vars.NAME\"`";
                wrong(format!("`{key}` is not the path of a key of a stage, or of a variable"), help.to_string())
            }
        }
    }

    /// Checks that `labels` has one valid label per point.
    pub(super) fn check_labels(&self, points: usize, diagnostics: &mut Diagnostics) -> Option<()> {
        let labels = self.table.labels.as_deref().unwrap_or_default();
        if self.table.labels.is_some() && labels.len() != points {
            let message = format!("{points} values need {points} labels, not {}", labels.len());
            return self.section.refuse(&["labels"], message, None, diagnostics);
        }
        for (index, label) in labels.iter().enumerate() {
            if let Some(message) = label_error(label) {
                self.section.wrong(&["labels", &index.to_string()], message, None, diagnostics);
            }
        }
        Some(())
    }

    /// The label of a point: from `labels`, or the default.
    pub(super) fn label(&self, index: usize, default: impl FnOnce() -> String) -> String {
        self.table.labels.as_ref().and_then(|labels| labels.get(index).cloned()).unwrap_or_else(default)
    }
}
