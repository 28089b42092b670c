//! `runs`: lists the runs of a store, newest last.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use console::measure_text_width;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::args::Global;
use super::format::duration;
use super::session::open_existing_store;
use super::shell::Shell;
use super::value_parsers::at_least_one;
use ablate_core::base::diagnostic::nearest;
use ablate_core::base::escape::escape_line;
use ablate_engine::RunPhase;
use ablate_engine::history::{self, RunSummary};
use ablate_store::Store;

#[derive(Debug, Args)]
pub(super) struct RunsArgs {
    /// Only runs of this experiment: its name or its file. The file may be removed.
    #[arg(value_name = "EXPERIMENT|FILE")]
    pub(super) experiment: Option<String>,
    /// The number of runs, from the latest.
    #[arg(short = 'n', long, value_name = "N", default_value = "20", value_parser = at_least_one)]
    pub(super) number: usize,
    /// Only runs that failed, were interrupted or were killed.
    #[arg(long)]
    pub(super) failed: bool,
}

/// Outcomes of instances in the order in which they are listed.
const OUTCOMES: [&str; 7] = ["ran", "fresh", "fetched", "failed", "skipped", "interrupted", "detached"];

pub(super) fn runs(shell: Shell, global: &Global, arguments: &RunsArgs) -> Result<()> {
    let store = open_existing_store(global)?;
    let file = arguments.experiment.as_ref().map(|name| store.experiment_id("", &PathBuf::from(name)).file);
    let is_wanted = |summary: &RunSummary| {
        let id = &summary.run.experiment;
        let named = arguments.experiment.as_ref();
        let bad = [RunPhase::Failed, RunPhase::Interrupted, RunPhase::Killed].contains(&summary.state);
        named.is_none_or(|name| id.name == *name || file.as_ref().is_some_and(|file| id.file == *file))
            && (bad || !arguments.failed)
    };
    let (listed, unreadable) = history::list(&store, arguments.number, &is_wanted)?;
    if listed.is_empty()
        && let Some(name) = &arguments.experiment
    {
        check_experiment(&store, name)?;
    }
    if !unreadable.is_empty() {
        let names = unreadable.join(", ");
        shell.warning(&format!("{} runs are not listed: their `run.json` cannot be read: {names}", unreadable.len()));
    }
    if shell.json {
        return shell.json(&json!({ "runs": listed, "unreadable": unreadable }));
    }
    let zone = TimeZone::system();
    let rows: Vec<[String; 6]> = listed.iter().map(|summary| row(summary, &zone)).collect();
    let mut text = render(&rows);
    if listed.is_empty() {
        text.push_str("no runs\n");
    }
    shell.result(&text);
    Ok(())
}

/// Fails if no run has the experiment. An experiment whose runs all have other states is not an error.
fn check_experiment(store: &Store, name: &str) -> Result<()> {
    let (all, _) = history::list(store, usize::MAX, &|_| true)?;
    let file = store.experiment_id("", &PathBuf::from(name)).file;
    if all.iter().any(|one| one.run.experiment.name == name || one.run.experiment.file == file) {
        return Ok(());
    }
    let names = all.iter().flat_map(|one| [one.run.experiment.name.as_str(), one.run.experiment.file.as_str()]);
    match nearest(name, names.filter(|name| !name.is_empty())) {
        Some(near) => bail!("no run has the experiment `{name}`\nhelp: a similar name exists: `{near}`"),
        None => bail!("no run has the experiment `{name}`\nhelp: `ablate runs` lists all runs"),
    }
}

/// Number, start, end, duration, experiment, and the rest.
fn row(summary: &RunSummary, zone: &TimeZone) -> [String; 6] {
    let run = &summary.run;
    let started = match run.started.parse::<Timestamp>() {
        Ok(time) => time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => run.started.clone(),
    };
    let counts = OUTCOMES.iter().filter_map(|outcome| Some(format!("{} {outcome}", summary.outcomes.get(*outcome)?)));
    let mut details = vec![counts.collect::<Vec<_>>().join(", ")];
    details.extend(run.headline.as_ref().map(ToString::to_string));
    details.extend(run.overrides.iter().map(|text| format!("--set {text}")));
    details.extend(run.selection.until.iter().map(|name| format!("until {name}")));
    details.extend(run.selection.only.iter().map(|name| format!("only {name}")));
    details.extend(run.force.iter().map(|name| format!("--force {name}")));
    details.retain(|detail| !detail.is_empty());
    let columns = [
        run.number.to_string(),
        started,
        summary.state.name().to_string(),
        duration(summary.elapsed),
        run.experiment.name.clone(),
        details.join("; "),
    ];
    columns.map(|column| escape_line(&column).into_owned())
}

/// Rows with aligned columns: the first and the fourth to the right.
fn render(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| measure_text_width(&row[column])).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let space = " ".repeat(width(column) - measure_text_width(cell));
            if [0, 3].contains(&column) {
                line.push_str(&format!("{space}{cell}  "));
            } else {
                line.push_str(&format!("{cell}{space}  "));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_engine::Headline;

    #[test]
    fn a_headline_has_value_and_interval() {
        let row = Headline {
            report: "main".to_string(),
            metric: "accuracy".to_string(),
            label: "dpo".to_string(),
            is_contrast: false,
            value: 0.712,
            partial: false,
            interval: Some((0.66, 0.7589)),
        };
        assert_eq!(row.to_string(), "main: dpo 71.2 % [66.0, 75.9]");
        let contrast = Headline { is_contrast: true, value: 0.012, interval: None, partial: true, ..row };
        assert_eq!(contrast.to_string(), "main: dpo +1.2 points (some instances have not run)");
    }

    #[test]
    fn columns_are_aligned_by_display_width() {
        let row = |number: &str, name: &str| [number, "t", "finished", "1.0 s", name, "2 ran"].map(str::to_string);
        let text = render(&[row("9", "日本"), row("10", "a")]);
        assert_eq!(text, " 9  t  finished  1.0 s  日本  2 ran\n10  t  finished  1.0 s  a     2 ran\n");
    }
}
