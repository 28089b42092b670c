//! Checks the user's input files before anything runs and reports findings with the keys that name the files.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;

use super::args::ExperimentArgs;
use super::session::{self, Session};
use super::shell::Shell;
use ablate_core::base::Diagnostic;
use ablate_core::stage::Finding;
use ablate_experiment::{Expansion, Experiment, Instance, InstanceId, LoadError, Upstream, budget_notes};

/// Checks the external inputs of these instances: prints warnings, and fails if a stage would fail.
pub(super) fn inspect(
    shell: Shell,
    arguments: &ExperimentArgs,
    expansion: &Expansion,
    ids: impl Iterator<Item = InstanceId>,
) -> Result<()> {
    let ids: Vec<InstanceId> = ids.collect();
    if ids.iter().all(|id| findings(expansion.get(*id)).is_empty()) {
        return Ok(());
    }
    // Load the experiment again: a cached plan has no source locations.
    let names: BTreeSet<&str> = ids.iter().map(|id| expansion.get(*id).name.as_str()).collect();
    let (experiment, expansion) = session::load(arguments)?;
    let instances = expansion.instances.iter().filter(|instance| names.contains(instance.name.as_str()));
    report(shell, &experiment, instances)
}

/// Prints the notes about training budgets, if some report has any.
pub(super) fn report_budgets(shell: Shell, arguments: &ExperimentArgs, session: &Session) -> Result<()> {
    if !session.has_reports || shell.json {
        return Ok(());
    }
    let loaded;
    let (experiment, expansion) = if session.experiment.reports.is_empty() {
        // A cached plan has no reports.
        loaded = session::load(arguments)?;
        (&loaded.0, &loaded.1)
    } else {
        (&session.experiment, &session.expansion)
    };
    print_notes(shell, &budget_notes(&experiment.reports, expansion)?, experiment);
    Ok(())
}

/// Prints notes with their places in the file.
pub(super) fn print_notes(shell: Shell, notes: &[Diagnostic], experiment: &Experiment) {
    for note in notes {
        shell.styled_status(&note.render(&experiment.sources, shell.error_color));
    }
}

fn report<'a>(shell: Shell, experiment: &Experiment, instances: impl Iterator<Item = &'a Instance>) -> Result<()> {
    let mut reported = BTreeSet::new();
    let mut errors = Vec::new();
    for instance in instances {
        for Finding { role, message, fatal } in findings(instance) {
            if !reported.insert((instance.stage.clone(), message.clone())) {
                continue;
            }
            let key = format!("stage.{}.{role}", instance.stage);
            let text = format!("`{key}`: {message}");
            let mut diagnostic = if fatal { Diagnostic::error(text) } else { Diagnostic::warning(text) };
            let origin = instance.spans.get(&role).or_else(|| instance.spans.get(""));
            if let Some(origin) = origin {
                diagnostic = diagnostic.at(origin.clone(), "");
            }
            if fatal {
                errors.push(diagnostic);
            } else {
                shell.status(&diagnostic.render(&experiment.sources, shell.color));
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(LoadError { diagnostics: errors, sources: experiment.sources.clone() }.into())
}

/// The findings of an instance's stage about its external inputs.
fn findings(instance: &Instance) -> Vec<Finding> {
    let path_of = |role: &str| -> Option<PathBuf> {
        instance.inputs.iter().find(|input| &*input.role == role).and_then(|input| match &input.upstream {
            Upstream::External { path } => Some(path.clone()),
            Upstream::Output { .. } | Upstream::Environment { .. } => None,
        })
    };
    if !instance.inputs.iter().any(|input| matches!(input.upstream, Upstream::External { .. })) {
        return Vec::new();
    }
    instance.parsed().map(|stage| stage.inspect(&path_of)).unwrap_or_default()
}
