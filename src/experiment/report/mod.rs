//! `[report.NAME]`: from a table of the file to a checked [`ReportSpec`].

mod baseline;
mod checker;

use std::collections::{BTreeMap, BTreeSet};

use crate::declaration::Declaration;
use crate::diagnostics::{Diagnostics, list};
use crate::instance::Expansion;
use crate::label::name_error;
use crate::report_spec::{Contrast, GroupBy, ReportSpec};
use crate::section::Section;
use crate::selector::Selector;
use crate::spanned_toml::Entry;
use crate::tables::{ContrastTable, ReportTable};
use ablate_core::base::Span;
use ablate_core::base::diagnostic::nearest;
use ablate_core::stage::ArtifactKind;

use checker::Checker;

/// Reads a report. `None` after reporting what is wrong.
pub(crate) fn read(
    name: &str,
    entry: &Entry,
    declaration: &Declaration<'_>,
    expansion: &Expansion,
    diagnostics: &mut Diagnostics,
) -> Option<ReportSpec> {
    let path = format!("report.{name}");
    let section = Section::of(&path, &entry.node, diagnostics)?;
    if let Some(message) = name_error(name) {
        section.wrong(&[], message, None, diagnostics);
    }
    let report: ReportTable = section.read(diagnostics)?;
    let stage = stage_of(&section, report.stage.as_deref(), declaration, expansion, diagnostics)?;
    let evaluations: Vec<_> = expansion.points_of(&stage).collect();
    let points: Vec<&BTreeMap<String, String>> = evaluations.iter().map(|(point, _)| *point).collect();
    if points.is_empty() {
        if diagnostics.is_empty() {
            let message = format!("`{stage}` does not run: it is not in `targets`, and no target reads it");
            section.wrong(&["stage"], message, None, diagnostics);
        }
        // Otherwise the stage could not be expanded, which is already reported.
        return None;
    }
    let spans = spans(&section, report.contrasts.len());
    let mut checker = Checker { section, stage: &stage, points: &points, diagnostics };
    let columns = checker.group_by("columns", &report.columns);
    let rows = match &report.rows {
        Some(rows) => checker.group_by("rows", rows),
        None => checker.remaining_axes(&columns),
    };
    for line in both(&rows, &columns) {
        checker.wrong(&["columns"], format!("`{line}` cannot make both rows and columns"), None);
    }
    let baseline = report.baseline.and_then(|text| checker.selector(&["baseline"], &text));
    let contrasts = report.contrasts.into_iter().enumerate();
    let contrasts = contrasts.map(|(index, table)| contrast(&mut checker, index, table)).collect();
    let mut labels: BTreeMap<String, (Selector, String)> = BTreeMap::new();
    for (text, label) in report.labels {
        if let Some(selector) = checker.selector_key(&["labels"], &text) {
            labels.insert(selector.to_string(), (selector, label));
        }
    }
    let published = report.published.map(|published| checker.published(published));
    let selects = report.select.is_some();
    let select = report.select.and_then(|select| checker.select(&select, &evaluations, expansion));
    // With `select`, the rows of the table are known only after a run.
    if let (Some(baseline), false) = (&baseline, selects) {
        checker.baseline(baseline, &rows, &columns);
    }
    Some(ReportSpec {
        name: name.to_string(),
        title: report.title.unwrap_or_else(|| name.to_string()),
        stage,
        rows,
        columns,
        baseline,
        metric: report.metric,
        contrasts,
        labels: labels.into_values().collect(),
        published,
        select,
        spans,
    })
}

/// The places of `baseline` and of the names of the contrasts.
fn spans(section: &Section<'_>, contrasts: usize) -> BTreeMap<String, Span> {
    let value = |path: &[&str]| section.locate(&path.iter().map(ToString::to_string).collect::<Vec<_>>()).1;
    let names = (0..contrasts).map(|index| {
        let index = index.to_string();
        (format!("contrasts.{index}"), value(&["contrasts", &index, "name"]))
    });
    names.chain([("baseline".to_string(), value(&["baseline"]))]).collect()
}

/// Axes or selectors that make rows as well as columns.
fn both(rows: &GroupBy, columns: &GroupBy) -> Vec<String> {
    match (rows, columns) {
        (GroupBy::Axes(rows), _) => rows.iter().filter(|axis| columns.has_axis(axis)).cloned().collect(),
        (GroupBy::Selectors(rows), GroupBy::Selectors(columns)) => {
            rows.iter().filter(|row| columns.contains(row)).map(ToString::to_string).collect()
        }
        (GroupBy::Selectors(_), GroupBy::Axes(_)) => Vec::new(),
    }
}

fn contrast(checker: &mut Checker<'_>, index: usize, table: ContrastTable) -> Contrast {
    let index = index.to_string();
    let mut side = |name: &str, texts: &[String]| {
        if texts.is_empty() {
            let message = "a contrast needs at least one selector on each side".to_string();
            checker.wrong(&["contrasts", &index, name], message, None);
        }
        let texts = texts.iter().enumerate();
        let selector =
            |(place, text): (usize, &String)| checker.selector(&["contrasts", &index, name, &place.to_string()], text);
        texts.filter_map(selector).collect()
    };
    let (plus, minus) = (side("plus", &table.plus), side("minus", &table.minus));
    let ContrastTable { name, about, sum, margin, .. } = table;
    if sum && table.plus.len() != table.minus.len() {
        let message = format!(
            "`sum` needs as many selectors in `plus` as in `minus`, not {} and {}",
            table.plus.len(),
            table.minus.len()
        );
        checker.wrong(&["contrasts", &index, "sum"], message, None);
    }
    if let Some(points) = margin.filter(|points| !(*points > 0.0 && *points < 100.0)) {
        let message = format!("`margin` is in percentage points, above 0 and below 100, not {points}");
        checker.wrong(&["contrasts", &index, "margin"], message, None);
    }
    Contrast { name, about, plus, minus, sum, margin: margin.map(|points| points / 100.0) }
}

/// The stage that a report names, or the only one that gives scores.
fn stage_of(
    section: &Section<'_>,
    named: Option<&str>,
    declaration: &Declaration<'_>,
    expansion: &Expansion,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    let scoring: Vec<&str> = declaration
        .stages
        .iter()
        .filter(|stage| {
            // A command declares its outputs in its table, so its kind does not list them.
            let instances = expansion.instances.iter().filter(|instance| *instance.stage == *stage.name);
            let declared = instances.flat_map(|instance| instance.outputs.iter());
            stage.kind.outputs.iter().chain(declared).any(|spec| spec.kind == ArtifactKind::Scores)
        })
        .map(|stage| &*stage.name)
        .collect();
    let Some(name) = named else {
        // Only stages that are expanded can be the default.
        let expanded: BTreeSet<&str> = expansion.instances.iter().map(|instance| instance.stage.as_str()).collect();
        let mut scoring = scoring;
        if declaration.targets.is_some() {
            scoring.retain(|stage| expanded.contains(stage));
        }
        if let [only] = scoring.as_slice() {
            return Some((*only).to_string());
        }
        // Without an expanded stage, the error is already reported at `targets`.
        if declaration.invalid_stages.is_empty() && !expanded.is_empty() {
            let help = match scoring.as_slice() {
                [] => "no stage gives scores".to_string(),
                several => format!("the stages that give scores are {}", list(several)),
            };
            section.wrong(&[], "the key `stage` is missing", Some(help), diagnostics);
        }
        return None;
    };
    if declaration.invalid_stages.contains(name) {
        return None;
    }
    if scoring.contains(&name) {
        return Some(name.to_string());
    }
    let exists = declaration.stages.iter().any(|stage| &*stage.name == name);
    let message = if exists { format!("`{name}` gives no scores") } else { format!("stage `{name}` is not defined") };
    let help = match nearest(name, scoring.iter().copied()) {
        Some(near) => Some(format!("a stage of a similar name exists: `{near}`")),
        None if scoring.is_empty() => None,
        None => Some(format!("the stages that give scores are {}", list(scoring))),
    };
    section.wrong(&["stage"], message, help, diagnostics);
    None
}
