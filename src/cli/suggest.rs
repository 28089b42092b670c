//! `suggest`: what the measured ratios of a mix say of the others, and which to try next. Runs nothing.

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::DONE;
use super::args::{ExperimentArgs, Global};
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_experiment::Simplex;
use ablate_report::input::{Selector, TableRequest};
use ablate_report::mixture::{self, MixturePoint};
use ablate_report::{self, Report};

/// A standard error in half a 95 % interval.
const HALF_INTERVAL: f64 = 1.96;

#[derive(Debug, Args)]
pub(super) struct SuggestArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// The axis of ratios; the only one with `simplex` when not said.
    #[arg(long, value_name = "AXIS")]
    pub(super) axis: Option<String>,
    /// The report whose scores count; the only one when not said.
    #[arg(long, value_name = "NAME")]
    pub(super) report: Option<String>,
    /// Only scores of these points: `prompt=cot`.
    #[arg(long, value_name = "SELECTOR")]
    pub(super) by: Option<String>,
    /// How many ratios to suggest.
    #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 3)]
    pub(super) count: usize,
}

pub(super) fn suggest(shell: Shell, global: &Global, arguments: &SuggestArgs) -> Result<u8> {
    let session = Session::read(global, &arguments.experiment, Need::All)?;
    let (axis, simplex) = axis(&session, arguments.axis.as_deref())?;
    let by = arguments.by.as_deref().unwrap_or_default();
    let built = measured(&session, axis, arguments.report.as_deref(), by)?;
    let (points, missing) = points(&session, axis, simplex, &built);
    let fit = mixture::fit(&points).with_context(|| match missing {
        0 => format!("the points of `{axis}` tell nothing"),
        missing => format!("{missing} of {} points of `{axis}` have not run", simplex.shares.len()),
    })?;
    let names: Vec<&str> = simplex.parts.iter().map(String::as_str).collect();
    if shell.json {
        let suggestions = fit.suggest(arguments.count);
        shell.json(&json!({
            "axis": axis, "parts": names, "missing": missing,
            "fit": fit, "best": fit.best(), "suggestions": suggestions,
        }))?;
        return Ok(DONE);
    }
    let scores = if by.is_empty() { "all scores".to_string() } else { format!("scores with {by}") };
    shell.result(&format!("`{axis}` by {scores}\n{}", fit.terminal(&names, arguments.count)));
    if missing > 0 {
        shell.status(&format!("note: {missing} points have not run and are left out"));
    }
    Ok(DONE)
}

/// The axis that is named, or the only one that shares a whole.
fn axis<'a>(session: &'a Session, named: Option<&str>) -> Result<(&'a str, &'a Simplex)> {
    let known = &session.experiment.simplexes;
    let found = match named {
        Some(name) => known.get_key_value(name),
        None if known.len() == 1 => known.first_key_value(),
        None => None,
    };
    let Some((name, simplex)) = found else {
        let names: Vec<String> = known.keys().map(|name| format!("`{name}`")).collect();
        match (named, names.as_slice()) {
            (_, []) => bail!("the experiment has no axis with `simplex`: there are no ratios to compare"),
            (Some(name), names) => bail!("`{name}` shares nothing: the axes with `simplex` are {}", names.join(", ")),
            (None, names) => bail!("name one of the axes with `--axis`: {}", names.join(", ")),
        }
    };
    Ok((name, simplex))
}

/// A table with one row per point of the axis, of the scores that `by` chooses.
fn measured(session: &Session, axis: &str, named: Option<&str>, by: &str) -> Result<Report> {
    let plan = session.plan()?;
    let mut input = ablate_report::gather(&session.experiment, &session.expansion, &plan, &session.store, None, named)?;
    let by = Selector::parse(by).map_err(|message| anyhow::anyhow!("`--by`: {message}"))?;
    let [request] = input.tables.as_slice() else {
        bail!("name one of the experiment's reports with `--report`: its scores are what counts")
    };
    if request.select.is_some() && by.pins.is_empty() {
        bail!("`{}` picks a point by some of its scores: say with `--by` which scores count here", request.name);
    }
    let request = TableRequest {
        name: request.name.clone(),
        stage: request.stage.clone(),
        metric: request.metric,
        rows: vec![axis.to_string()],
        ..TableRequest::default()
    };
    input.evaluations.retain(|one| by.matches(&one.point));
    if input.evaluations.is_empty() {
        bail!("no evaluation is `{by}`");
    }
    input.tables = vec![request];
    ablate_report::build(&input)
}

/// The points that were measured, and how many were not.
fn points(session: &Session, axis: &str, simplex: &Simplex, built: &Report) -> (Vec<MixturePoint>, usize) {
    let labels = session.experiment.axes.iter().find(|(name, _)| name == axis).map(|(_, labels)| labels);
    let mut points = Vec::new();
    let rows = || built.tables.iter().flat_map(|table| &table.rows);
    for (label, shares) in labels.into_iter().flatten().zip(&simplex.shares) {
        let selector = format!("{axis}={label}");
        let estimate = rows().find(|row| row.selector == selector).and_then(|row| row.cells.first()?.estimate);
        if let Some(estimate) = estimate {
            let error = (estimate.interval.high - estimate.interval.low) / (2.0 * HALF_INTERVAL);
            points.push(MixturePoint { shares: shares.clone(), mean: estimate.mean, error });
        }
    }
    let missing = simplex.shares.len() - points.len();
    (points, missing)
}
