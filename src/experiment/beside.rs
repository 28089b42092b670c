//! What a report has beside its own cells: numbers that others published, and a point that other scores pick. Reads no
//! score.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::instance::{Expansion, InstanceId, Upstream};
use super::report::{Checks, DATASET};
use super::selector::Selector;
use ablate_core::stage::ArtifactKind;

/// Numbers from a publication, to stand beside our own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Published {
    pub source: String,
    /// Selectors of what stands below each other in `rows`.
    pub columns: Vec<String>,
    /// Selectors of rows to percent, one number a column.
    pub rows: BTreeMap<String, Vec<f64>>,
}

/// The value of an axis that does best on some of the scores; the table shows it on the others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    pub axis: String,
    /// Selector of the scores that decide, which the table does not show.
    pub on: String,
}

impl Checks<'_> {
    /// What others published, its selectors checked.
    pub(super) fn published(&mut self, published: Published) -> Published {
        let Published { source, columns, rows } = published;
        let wanted = columns.len();
        let columns = columns.iter().enumerate();
        let columns =
            columns.map(|(at, text)| self.selector(&["published", "columns", &at.to_string()], text)).collect();
        let mut checked = BTreeMap::new();
        for (text, values) in rows {
            if values.len() != wanted {
                let message = format!("{wanted} columns need as many numbers, not {}", values.len());
                self.wrong(&["published", "rows", &text], message, None);
            }
            let plain = self.plain(&text).unwrap_or_else(|(message, help)| {
                let message = format!("`{}.published.rows`: {message}", self.section.path);
                self.section.wrong_key(&["published", "rows", &text], message, help, self.problems);
                text.clone()
            });
            checked.insert(plain, values);
        }
        Published { source, columns, rows: checked }
    }

    /// What is picked, and by which scores. Scores of items that the table shows too cannot pick.
    pub(super) fn select(
        &mut self,
        select: &Select,
        found: &[(BTreeMap<String, String>, InstanceId)],
        expansion: &Expansion,
    ) -> Select {
        let axis = self.axis(&["select", "axis"], &select.axis);
        let on = self.selector(&["select", "on"], &select.on);
        let Ok(selector) = Selector::parse(&on) else { return Select { axis, on } };
        // One evaluation scores all data sets: they are no points to choose from.
        for (key, named) in [("axis", axis == DATASET), ("on", selector.0.contains_key(DATASET))] {
            if named {
                let help = "a benchmark of its own for what decides, beside the one that is reported".to_string();
                self.wrong(&["select", key], format!("`{DATASET}` is no axis that can pick or be picked"), Some(help));
                return Select { axis, on };
            }
        }
        let items = |id: InstanceId| {
            let inputs = expansion.get(id).inputs.iter().filter_map(|input| match &input.upstream {
                Upstream::Output { instance, kind: ArtifactKind::Items, .. } => Some(*instance),
                _ => None,
            });
            inputs.collect::<BTreeSet<_>>()
        };
        let (on_items, shown): (Vec<_>, Vec<_>) = found.iter().partition(|(point, _)| selector.matches(point));
        let decide: BTreeSet<InstanceId> = on_items.iter().flat_map(|(_, id)| items(*id)).collect();
        let both = shown.iter().flat_map(|(_, id)| items(*id)).find(|id| decide.contains(id));
        if let Some(both) = both {
            let items = &expansion.get(both).name;
            let message = format!("`{axis}` would be picked on `{items}`, which the table reports");
            let help = "pick on items of their own: a benchmark `dev` beside the one that is reported".to_string();
            self.wrong(&["select", "on"], message, Some(help));
        } else if shown.is_empty() {
            self.wrong(&["select", "on"], "the table would show nothing else".to_string(), None);
        }
        Select { axis, on }
    }
}
