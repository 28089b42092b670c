//! `check`: reports every error of experiment files with its location. Needs no store.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::args::ExperimentArgs;
use super::inspect;
use super::session;
use super::shell::Shell;
use super::{SUCCESS, WRONG_INPUT, print_error};
use ablate_core::base::{Diagnostic, Sources};
use ablate_experiment::{Expansion, Experiment, LoadError, budget_notes};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// More experiments.
    #[arg(value_name = "FILE")]
    pub(super) more: Vec<std::path::PathBuf>,
}

pub(super) fn check(shell: Shell, arguments: &CheckArgs) -> Result<u8> {
    let ExperimentArgs { file: first, overrides } = &arguments.experiment;
    let mut worst = SUCCESS;
    let mut documents = Vec::new();
    for file in [first].into_iter().chain(&arguments.more) {
        let experiment = ExperimentArgs { file: file.clone(), overrides: overrides.clone() };
        let file = file.display().to_string();
        let loaded = session::load(&experiment).and_then(|(loaded, expansion)| {
            inspect::inspect(shell, &experiment, &expansion, expansion.ids())?;
            let notes = budget_notes(&loaded.reports, &expansion)?;
            Ok((loaded, expansion, notes))
        });
        match loaded {
            Ok((loaded, expansion, notes)) if shell.json => {
                documents.push(summary_json(&file, &loaded, &expansion, &notes));
            }
            Ok((loaded, expansion, notes)) => {
                inspect::print_notes(shell, &notes, &loaded);
                shell.result(&summary(&file, &loaded, &expansion));
            }
            Err(error) => {
                worst = WRONG_INPUT;
                if shell.json {
                    documents.push(json!({ "file": file, "ok": false, "errors": errors_json(&error) }));
                } else {
                    print_error(shell, &error);
                }
            }
        }
    }
    match documents.as_slice() {
        [] => {}
        [single] => shell.json(single)?,
        several => shell.json(&json!({ "ok": worst == SUCCESS, "files": several }))?,
    }
    Ok(worst)
}

fn stages(expansion: &Expansion) -> Vec<&str> {
    let mut stages: Vec<&str> = expansion.instances.iter().map(|instance| instance.stage.as_str()).collect();
    stages.sort_unstable();
    stages.dedup();
    stages
}

fn summary_json(file: &str, experiment: &Experiment, expansion: &Expansion, notes: &[Diagnostic]) -> Value {
    let reports: Vec<&str> = experiment.reports.iter().map(|report| report.name.as_str()).collect();
    let instances: Vec<&str> = expansion.instances.iter().map(|instance| instance.name.as_str()).collect();
    json!({
        "file": file, "ok": true, "experiment": experiment.name, "stages": stages(expansion),
        "instances": instances, "reports": reports, "notes": diagnostics_json(notes, &experiment.sources),
    })
}

fn summary(file: &str, experiment: &Experiment, expansion: &Expansion) -> String {
    let (stages, instances, reports) = (stages(expansion).len(), expansion.instances.len(), experiment.reports.len());
    let all = instances + expansion.aliases.len();
    let shared = if all > instances { format!(" ({all} before sharing)") } else { String::new() };
    format!("{file} is valid: {stages} stages, {instances} instances{shared}, {reports} reports")
}

/// The errors as JSON: message, locations, help. The first location is that of the error.
fn errors_json(error: &anyhow::Error) -> Vec<Value> {
    let Some(LoadError { diagnostics, sources }) = error.downcast_ref::<LoadError>() else {
        return vec![json!({ "message": format!("{error:#}"), "places": [], "help": [] })];
    };
    diagnostics_json(diagnostics, sources)
}

fn diagnostics_json(diagnostics: &[Diagnostic], sources: &Sources) -> Vec<Value> {
    let to_json = |diagnostic: &Diagnostic| {
        let places = diagnostic.labels.iter().map(|(origin, label)| {
            let (line, column) = sources.line_column(origin);
            json!({ "file": sources.get(origin.source).name, "line": line, "column": column, "label": label })
        });
        json!({ "message": diagnostic.message, "places": places.collect::<Vec<_>>(), "help": diagnostic.help })
    };
    diagnostics.iter().map(to_json).collect()
}
