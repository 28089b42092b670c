//! `check`: every mistake of experiment files, at its place. Runs nothing and needs no store.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::args::ExperimentArgs;
use super::outside;
use super::session;
use super::shell::Shell;
use super::{DONE, WRONG_INPUT, tell};
use ablate_core::base::Diagnostic;
use ablate_experiment::{Expansion, Experiment, LoadError};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// More experiments.
    #[arg(value_name = "FILE")]
    pub(super) more: Vec<std::path::PathBuf>,
}

pub(super) fn check(shell: Shell, arguments: &CheckArgs) -> Result<u8> {
    let overrides = &arguments.experiment.overrides;
    let more = arguments.more.iter().map(|file| ExperimentArgs { file: file.clone(), overrides: overrides.clone() });
    let first = ExperimentArgs { file: arguments.experiment.file.clone(), overrides: overrides.clone() };
    let mut worst = DONE;
    let mut documents = Vec::new();
    for experiment in [first].into_iter().chain(more) {
        let file = experiment.file.display();
        let loaded = session::load(&experiment).and_then(|(loaded, expansion)| {
            outside::inspect(shell, &experiment, &expansion, expansion.ids())?;
            Ok((loaded, expansion))
        });
        match loaded {
            Ok((loaded, expansion)) if shell.json => documents.push(sound(&file.to_string(), &loaded, &expansion)),
            Ok((loaded, expansion)) => shell.result(&words(&file.to_string(), &loaded, &expansion)),
            Err(error) => {
                worst = WRONG_INPUT;
                if shell.json {
                    documents.push(json!({ "file": file.to_string(), "ok": false, "errors": mistakes(&error) }));
                } else {
                    tell(shell, &error);
                }
            }
        }
    }
    match documents.as_slice() {
        [] => {}
        [one] => shell.json(one)?,
        several => shell.json(&json!({ "ok": worst == DONE, "files": several }))?,
    }
    Ok(worst)
}

fn stages(expansion: &Expansion) -> Vec<&str> {
    let mut stages: Vec<&str> = expansion.instances.iter().map(|instance| instance.stage.as_str()).collect();
    stages.sort_unstable();
    stages.dedup();
    stages
}

fn sound(file: &str, experiment: &Experiment, expansion: &Expansion) -> Value {
    let reports: Vec<&str> = experiment.reports.iter().map(|report| report.name.as_str()).collect();
    let instances: Vec<&str> = expansion.instances.iter().map(|instance| instance.name.as_str()).collect();
    json!({
        "file": file, "ok": true, "experiment": experiment.name, "stages": stages(expansion),
        "instances": instances, "reports": reports,
    })
}

fn words(file: &str, experiment: &Experiment, expansion: &Expansion) -> String {
    let shared = expansion.aliases.len();
    let shared =
        if shared > 0 { format!(" ({} before sharing)", expansion.instances.len() + shared) } else { String::new() };
    format!(
        "{file} is well-formed: {} stages, {} instances{shared}, {} reports",
        stages(expansion).len(),
        expansion.instances.len(),
        experiment.reports.len()
    )
}

/// The mistakes as data: what is wrong, where, and what helps. The first place is that of the mistake.
fn mistakes(error: &anyhow::Error) -> Vec<Value> {
    let Some(LoadError { diagnostics, sources }) = error.downcast_ref::<LoadError>() else {
        return vec![json!({ "message": format!("{error:#}"), "places": [], "help": [] })];
    };
    let one = |diagnostic: &Diagnostic| {
        let places = diagnostic.labels.iter().map(|(origin, label)| {
            let (line, column) = sources.line_column(origin);
            json!({ "file": sources.get(origin.source).name, "line": line, "column": column, "label": label })
        });
        json!({ "message": diagnostic.message, "places": places.collect::<Vec<_>>(), "help": diagnostic.help })
    };
    diagnostics.iter().map(one).collect()
}
