//! `select` of a report: one value of an axis is selected by scores that the table does not show.

use std::collections::{BTreeMap, BTreeSet};

use super::checker::Checker;
use super::spec::Select;
use crate::instance::{Expansion, InstanceId, Upstream};
use crate::selector::DATASET;
use crate::tables::SelectTable;
use ablate_core::stage::ArtifactKind;

impl Checker<'_> {
    /// Checks that no item is used both for the selection and in the table. `evaluations` are the points of the
    /// report's stage.
    pub(super) fn select(
        &mut self,
        select: &SelectTable,
        evaluations: &[(&BTreeMap<String, String>, InstanceId)],
        expansion: &Expansion,
    ) -> Option<Select> {
        let axis = self.axis(&["select", "axis"], &select.axis);
        let on = self.selector(&["select", "on"], &select.on);
        let (axis, on) = (axis?, on?);
        for (key, is_dataset) in [("axis", axis == DATASET), ("on", on.dataset().is_some())] {
            if is_dataset {
                let message = format!("`{DATASET}` is not an axis: one evaluation scores all data sets");
                let help = "select on a benchmark of its own, which the table does not report".to_string();
                self.wrong(&["select", key], message, Some(help));
                return None;
            }
        }
        let items = |id: InstanceId| {
            let inputs = expansion.get(id).inputs.iter().filter_map(|input| match &input.upstream {
                Upstream::Output { instance, kind: ArtifactKind::Items, .. } => Some(*instance),
                _ => None,
            });
            inputs.collect::<BTreeSet<_>>()
        };
        let (selecting, shown): (Vec<_>, Vec<_>) = evaluations.iter().partition(|(point, _)| on.matches(point));
        let selecting: BTreeSet<InstanceId> = selecting.iter().flat_map(|(_, id)| items(*id)).collect();
        let both = shown.iter().flat_map(|(_, id)| items(*id)).find(|id| selecting.contains(id));
        if let Some(both) = both {
            let items = &expansion.get(both).name;
            let message = format!("`{axis}` would be selected on `{items}`, which the table reports");
            let help = "select on a benchmark of its own, which the table does not report".to_string();
            self.wrong(&["select", "on"], message, Some(help));
        } else if shown.is_empty() {
            let message = "all evaluations are used for the selection, so the table would be empty".to_string();
            self.wrong(&["select", "on"], message, None);
        }
        Some(Select { axis, on })
    }
}
