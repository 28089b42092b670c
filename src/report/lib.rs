//! Reports: statistics over item scores, tables, contrasts, curves, pages. Runs no stage and knows no tensor.

pub mod input;
pub mod mixture;
pub mod statistics;
pub mod table;

mod baseline;
mod cells;
mod compute;
mod contamination;
mod credits;
mod drafts;
mod gather;
mod grid;
mod html;
mod markdown;
mod samples;
mod scores;
mod select;
mod terminal;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod guards_tests;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use serde::Serialize;

pub use credits::{CreditMap, Credits};
pub use gather::gather;
pub use input::ReportInput;
use input::{Cost, Curve, GraphNode};
pub use samples::Disagreement;
pub use table::Table;

/// What a report says, computed; the ways to show it are its methods.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub experiment: String,
    pub about: String,
    pub tables: Vec<Table>,
    /// By table title: items on which cells disagree.
    pub disagreements: Vec<(String, Vec<Disagreement>)>,
    pub curves: Vec<Curve>,
    /// Responses colored by token.
    pub credits: Vec<CreditMap>,
    pub graph: Vec<GraphNode>,
    pub costs: Vec<Cost>,
    pub provenance: Vec<(String, String)>,
    pub notes: Vec<String>,
}

/// Computes a report. An error is a score that is no number from 0 to 1, or a row, column or selector that
/// cannot be read; what has not run is a note and an empty cell.
pub fn build(input: &ReportInput) -> Result<Report> {
    let (mut tables, mut disagreements) = (Vec::new(), Vec::new());
    let read = scores::Measurements::read(&input.evaluations)?;
    for request in &input.tables {
        let place = || format!("report `{}`", request.name);
        let (shown, picked) = select::shown(&read, request, &input.images).with_context(place)?;
        let cells = cells::Cells::new(&read, &shown, &request.stage).with_context(place)?;
        let layout = compute::Layout::new(request, &cells)?;
        let mut table = compute::table(request, &cells, &layout, input.resamples)?;
        table.notes.splice(0..0, picked.into_iter().chain(contamination::note(&read, &shown, request)));
        let picked = samples::pick(request, &table, &layout, &cells, &input.images).with_context(place)?;
        if !picked.is_empty() {
            disagreements.push((table.title.clone(), picked));
        }
        tables.push(table);
    }
    Ok(Report {
        experiment: input.experiment.clone(),
        about: input.about.clone(),
        tables,
        disagreements,
        curves: input.curves.clone(),
        credits: credits::maps(&input.credits, &input.images),
        graph: input.graph.clone(),
        costs: input.costs.clone(),
        provenance: input.provenance.clone(),
        notes: input.notes.clone(),
    })
}

impl Report {
    /// Tables and contrasts in lines of at most `width` columns; `color` adds ANSI styles.
    pub fn terminal(&self, width: usize, color: bool) -> String {
        terminal::render(self, width, color)
    }

    pub fn markdown(&self) -> String {
        markdown::render(self)
    }

    /// Everything, indented. Shares are of 1, not percent.
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.unwrap_or_else(|error| panic!("BUG: a report is plain data: {error}")) + "\n"
    }

    /// One self-contained page.
    pub fn html(&self) -> String {
        html::render(self)
    }

    /// One line per cell and data set.
    pub fn csv(&self) -> String {
        markdown::csv(self)
    }
}
