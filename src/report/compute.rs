//! Computes a table: the estimates and tests of all cells and contrasts.

use std::collections::{BTreeMap, BTreeSet};

use super::estimates::{PendingCell, SeriesSet};
use super::layout::{Header, Layout, is_compared};
use super::score_matrix::{CellSource, ScoreMatrix};
use super::statistics::{ENOUGH_SEEDS, PairedTest, holm};
use super::table::{ContrastResult, Dataset, Row, Table};
use ablate_core::base::Seed;
use ablate_experiment::{DATASET, GroupBy, ReportSpec, Selector};

pub(super) fn compute_table(spec: &ReportSpec, matrix: &ScoreMatrix, layout: &Layout) -> Table {
    // A constant seed: the same scores always give the same report.
    let seed = Seed(0).derive("report");
    let published = spec.published.iter().flat_map(|published| &published.cells);
    let published = published.map(|(selector, share)| (matrix.select(selector), *share));
    // A selector can match no evaluation, for example when its data set has no scores.
    let published = published.filter(|(source, _)| !source.evaluations.is_empty());
    let mut series = SeriesSet::new(matrix, published.collect());
    let with_mean = layout.columns.len() > 1;
    let mut pending: Vec<Vec<PendingCell>> = Vec::new();
    for row in &layout.rows {
        let sources_of = |line: &Header| -> Vec<CellSource> {
            layout.columns.iter().map(|column| matrix.select(&line.selector.and(&column.selector))).collect()
        };
        let sources = sources_of(row);
        let base = layout.baseline.as_ref().map(sources_of);
        let mut cells = Vec::new();
        let mut add_cell = |selector: &Selector, source: &CellSource, base: Option<&CellSource>| {
            let base = base.filter(|base| is_compared(base, source));
            cells.push(series.cell(selector.to_string(), source, base, spec.metric));
        };
        for (index, column) in layout.columns.iter().enumerate() {
            let base = base.as_ref().map(|base| &base[index]);
            add_cell(&row.selector.and(&column.selector), &sources[index], base);
        }
        if with_mean {
            let base = base.map(|base| union(&base));
            add_cell(&row.selector, &union(&sources), base.as_ref());
        }
        pending.push(cells);
    }
    let contrasts: Vec<_> = spec.contrasts.iter().map(|contrast| series.contrast(contrast, spec.metric)).collect();

    let estimates = series.estimates(seed);

    let differences: Vec<_> = pending.iter().flatten().map(|cell| cell.difference).collect();
    let tests = estimates.paired_tests(&differences);
    let mut corrected = holm_corrected(&tests);
    let family_size = tests.iter().flatten().count();
    let mut tests = tests.into_iter();
    let rows: Vec<Row> = layout
        .rows
        .iter()
        .zip(pending)
        .map(|(line, pending)| {
            let cells = pending.into_iter().map(|cell| {
                let test = tests.next().flatten();
                estimates.cell(cell, test, &mut corrected, family_size)
            });
            Row { label: line.label.clone(), selector: line.selector.to_string(), cells: cells.collect() }
        })
        .collect();

    let tests = estimates.paired_tests(&contrasts.iter().map(|one| Some(one.view)).collect::<Vec<_>>());
    let mut corrected = holm_corrected(&tests);
    let measured = tests.iter().flatten().count();
    let contrasts: Vec<ContrastResult> = contrasts
        .into_iter()
        .zip(tests)
        .map(|(contrast, test)| estimates.contrast(contrast, test, &mut corrected, measured))
        .collect();

    let mut notes = notes(matrix, &rows, &contrasts);
    notes.extend(averaged_axes(matrix, layout));
    let datasets = matrix.datasets.iter().zip(matrix.items.datasets());
    let mut columns: Vec<String> = layout.columns.iter().map(|line| line.label.clone()).collect();
    if with_mean {
        columns.push("mean".to_string());
    }
    Table {
        name: spec.name.clone(),
        title: if spec.title.is_empty() { spec.name.clone() } else { spec.title.clone() },
        stage: spec.stage.clone(),
        metric: spec.metric,
        row_axes: axes(&spec.rows),
        column_axes: axes(&spec.columns),
        columns,
        rows,
        baseline: layout.baseline.as_ref().map(|line| line.label.clone()),
        family_size,
        datasets: datasets.map(|(name, range)| Dataset { name: name.clone(), items: range.len() }).collect(),
        breakdown: matrix.datasets.len() > 1 && !spec.rows.has_axis(DATASET) && !spec.columns.has_axis(DATASET),
        seeds: matrix.seeds.clone(),
        clusters: matrix.clusters(),
        contrasts,
        budget: None,
        source: spec.published.as_ref().map(|published| published.source.clone()),
        notes,
    }
}

fn axes(groups: &GroupBy) -> String {
    match groups {
        GroupBy::Axes(axes) => axes.join(" · "),
        GroupBy::Selectors(_) => String::new(),
    }
}

/// All cells of a row as one cell. It is empty if one of the cells is empty, because it would not be a mean over all
/// columns.
fn union(sources: &[CellSource]) -> CellSource {
    if sources.iter().any(|source| source.evaluations.is_empty()) {
        return CellSource::default();
    }
    let mut all: Vec<usize> = sources.iter().flat_map(|source| &source.evaluations).copied().collect();
    all.sort_unstable();
    all.dedup();
    // If all columns have the same data set, so has their mean.
    let dataset = sources.first().and_then(|first| first.dataset);
    let same = sources.iter().all(|source| source.dataset == dataset);
    CellSource { evaluations: all, dataset: dataset.filter(|_| same) }
}

/// The Holm-Bonferroni corrected p-values of the tests that exist, in their order.
fn holm_corrected(tests: &[Option<PairedTest>]) -> std::vec::IntoIter<f64> {
    holm(&tests.iter().flatten().map(|test| test.p_value).collect::<Vec<_>>()).into_iter()
}

/// A note about axes that no row or column names, although they vary within a cell.
fn averaged_axes(matrix: &ScoreMatrix, layout: &Layout) -> Option<String> {
    let mut averaged: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in &layout.rows {
        for column in &layout.columns {
            let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for point in matrix.points(&matrix.select(&row.selector.and(&column.selector))) {
                let others = point.iter().filter(|(axis, _)| *axis != "seed");
                others.for_each(|(axis, label)| labels.entry(axis.as_str()).or_default().extend([label.as_str()]));
            }
            for (axis, labels) in labels.into_iter().filter(|(_, labels)| labels.len() > 1) {
                averaged.entry(axis).or_default().extend(labels);
            }
        }
    }
    let list = |(axis, labels): (&str, BTreeSet<&str>)| {
        let shown: Vec<&str> = labels.iter().copied().take(6).collect();
        let more = if labels.len() > shown.len() { ", ..." } else { "" };
        format!("`{axis}` ({}{more})", shown.join(", "))
    };
    let axes: Vec<String> = averaged.into_iter().map(list).collect();
    (!axes.is_empty()).then(|| format!("cells average over {}", axes.join(" and ")))
}

fn notes(matrix: &ScoreMatrix, rows: &[Row], contrasts: &[ContrastResult]) -> Vec<String> {
    let mut notes = Vec::new();
    let cells = || rows.iter().flat_map(|row| &row.cells);
    let mut missing: Vec<&String> = cells().flat_map(|cell| &cell.missing).collect();
    missing.extend(contrasts.iter().flat_map(|contrast| &contrast.missing));
    missing.sort_unstable();
    missing.dedup();
    match missing[..] {
        [] => {}
        [only] => notes.push(format!("not run yet: `{only}`")),
        [first, ..] => notes.push(format!("not run yet: {} instances, for example `{first}`", missing.len())),
    }
    let estimates = || cells().filter_map(|cell| cell.estimate);
    if estimates().next().is_none() {
        return notes;
    }
    let most = estimates().map(|estimate| estimate.seeds).max().unwrap_or(0);
    if estimates().any(|estimate| estimate.seeds < ENOUGH_SEEDS) {
        let which = if most < ENOUGH_SEEDS { "every cell has" } else { "some cells have" };
        notes.push(format!(
            "{which} fewer than {ENOUGH_SEEDS} seeds: their intervals and tests are about these training runs, and not about \
             the recipe"
        ));
    }
    if let Some(clusters) = matrix.clusters() {
        notes.push(format!("items share images: intervals and tests count {clusters} images"));
    }
    if matrix.datasets.len() > 1 {
        notes.push("averages give every data set the same weight".to_string());
    }
    notes
}
