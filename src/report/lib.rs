//! Reports: statistics over item scores, tables, contrasts, curves and pages. A report runs no stage.

pub mod html;
pub mod input;
pub mod mixture;
pub mod statistics;
pub mod sweeps;
pub mod table;

mod answers;
pub mod budget;
mod budget_table;
pub mod comparison;
mod compute;
mod compute_budget;
mod contamination;
mod csv;
mod detail_tables;
mod disagreements;
mod estimates;
mod headline;
mod latex;
mod layout;
mod load;
mod load_side;
pub mod made_by;
mod markdown;
pub mod model_card;
pub mod results;
mod score_matrix;
mod scores;
mod select;
mod stage_details;
mod tensorboard;
mod terminal;
mod text_table;
mod thinking;
mod thumbnails;
mod token_credit;
mod verdict;

#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use serde::Serialize;

use ablate_engine::Headline;
use answers::Answers;
pub use disagreements::Disagreement;
use html::ServedPage;
use input::{Cost, Curve, GraphNode, StageDetails};
pub use input::{CreditedInstance, ReportInput};
pub use load::{ANSWER_BYTES, load_input, load_results};
pub use load_side::{LoadedSide, drop_identical, load_run, load_side, with_images};
use made_by::MadeBy;
pub use made_by::Origin;
use sweeps::Sweep;
pub use table::Table;
pub use tensorboard::FILE as EVENT_FILE;
pub use token_credit::CreditMap;

/// A computed report. Its methods render it in several formats.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    pub experiment: String,
    pub about: String,
    pub tables: Vec<Table>,
    /// By table title: items on which cells disagree.
    pub disagreements: Vec<(String, Vec<Disagreement>)>,
    pub curves: Vec<Curve>,
    /// Responses with a credit per token.
    pub credits: Vec<CreditMap>,
    pub graph: Vec<GraphNode>,
    pub costs: Vec<Cost>,
    /// What made the report.
    pub made_by: MadeBy,
    /// The same as names and values.
    pub provenance: Vec<(String, String)>,
    pub notes: Vec<String>,
    /// The plots of each table.
    #[serde(skip)]
    pub sweeps: Vec<Vec<Sweep>>,
    #[serde(skip)]
    pub stages: Vec<StageDetails>,
    /// None without answers, or without room for them.
    #[serde(skip)]
    pub answers: Option<Answers>,
}

/// Computes a report. Instances that have not run give empty cells and a note.
///
/// Errors: a score outside [0, 1], an item that is scored twice, a baseline that overlaps with rows, or a `select` on
/// items that the table reports.
pub fn build(input: &ReportInput) -> Result<Report> {
    let (mut tables, mut disagreements, mut sweeps) = (Vec::new(), Vec::new(), Vec::new());
    let scores = scores::Scores::read(&input.evaluations)?;
    for spec in &input.specs {
        let context = || format!("report `{}`", spec.name);
        let (shown, selected) = select::select_evaluations(&scores, spec, &input.images).with_context(context)?;
        let matrix = score_matrix::ScoreMatrix::new(&scores, &shown, &spec.stage).with_context(context)?;
        let layout = layout::Layout::new(spec, &matrix).with_context(context)?;
        let mut table = compute::compute_table(spec, &matrix, &layout);
        table.notes.splice(0..0, selected.into_iter().chain(contamination::note(&scores, &shown, spec)));
        let evaluations = shown.iter().map(|&index| scores.evaluations[index].evaluation);
        let evaluations = evaluations.filter(|one| one.stage == spec.stage).collect();
        compute_budget::Budgets::new(&input.trainings, evaluations).add_to(&mut table, spec);
        let samples = disagreements::sample(spec, &table, &layout, &matrix, &input.images).with_context(context)?;
        if !samples.is_empty() {
            disagreements.push((table.title.clone(), samples));
        }
        sweeps.push(sweeps::sweeps(spec, &table, &layout, &input.mixtures));
        tables.push(table);
    }
    let cells = answers::cells::of_tables(&tables, &scores);
    let answers = answers::pack(&scores, &cells, &input.images, input.answer_bytes)?;
    Ok(Report {
        experiment: input.experiment.clone(),
        about: input.about.clone(),
        tables,
        disagreements,
        curves: input.curves.clone(),
        credits: token_credit::maps(&input.credits, &input.images),
        graph: input.graph.clone(),
        costs: input.costs.clone(),
        made_by: input.made_by.clone(),
        provenance: input.provenance.clone(),
        notes: input.notes.clone(),
        sweeps,
        stages: input.stages.clone(),
        answers,
    })
}

/// Quotes a text for a cell of a CSV file. Formulas of spreadsheets are marked as text.
pub fn csv_cell(text: &str) -> String {
    csv::quote(text)
}

/// Escapes a text for a cell of a Markdown table.
pub fn markdown_cell(text: &str) -> String {
    markdown::escape(text)
}

impl Report {
    /// Tables and contrasts in lines of at most `width` columns. `color` adds ANSI styles.
    pub fn terminal(&self, width: usize, color: bool) -> String {
        terminal::render(self, width, color)
    }

    /// The number by which the run is remembered; `None` without a value.
    pub fn headline(&self) -> Option<Headline> {
        headline::of(self)
    }

    pub fn markdown(&self) -> String {
        markdown::render(self)
    }

    /// The whole report as indented JSON. Shares are numbers from 0 to 1, not percent.
    pub fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.unwrap_or_else(|error| panic!("BUG: a report is plain data: {error}")) + "\n"
    }

    /// One self-contained page.
    pub fn html(&self) -> String {
        html::render(self, None)
    }

    /// The page as a server sends it: with parts of the server, and without a content security policy of its own, which
    /// the server sends as a header ([`html::policy_hashes`]).
    pub fn served_html(&self, served: &ServedPage) -> String {
        html::render(self, Some(served))
    }

    /// One line per cell and data set, with a column per axis.
    pub fn csv(&self) -> String {
        csv::tables(self)
    }

    /// One line per contrast, data set and seed.
    pub fn contrasts_csv(&self) -> String {
        csv::contrasts(self)
    }

    /// One `table` per table, for a document of LaTeX.
    pub fn latex(&self) -> String {
        latex::render(self)
    }

    /// An event file of TensorBoard per training curve, by the name of the instance.
    pub fn event_files(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        self.curves.iter().map(|curve| (curve.instance.as_str(), tensorboard::events(curve)))
    }
}
