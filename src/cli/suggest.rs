//! `suggest`: predicts the scores of unmeasured mix ratios from the measured ones, and suggests ratios to measure next.

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::args::{ExperimentArgs, Global};
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_experiment::{GroupBy, ReportSpec, Selector, Simplex};
use ablate_report::mixture::{self, MixturePoint};
use ablate_report::{Origin, Report};

#[derive(Debug, Args)]
pub(super) struct SuggestArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// The axis of the mix ratios [default: the only axis with `simplex`].
    #[arg(long, value_name = "AXIS")]
    pub(super) axis: Option<String>,
    /// The report whose scores are used [default: the only report].
    #[arg(long, value_name = "NAME")]
    pub(super) report: Option<String>,
    /// Use the scores of these points only, for example `prompt=cot`.
    #[arg(long, value_name = "SELECTOR")]
    pub(super) by: Option<String>,
    /// Number of ratios to suggest.
    #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 3)]
    pub(super) count: usize,
}

pub(super) fn suggest(shell: Shell, global: &Global, arguments: &SuggestArgs) -> Result<()> {
    let session = Session::read(global, &arguments.experiment, Need::All)?;
    let (axis, simplex) = axis(&session, arguments.axis.as_deref())?;
    let by = arguments.by.as_deref().unwrap_or_default();
    let report = measured_report(&session, axis, arguments.report.as_deref(), by)?;
    let (points, missing) = points(&session, axis, simplex, &report);
    let fit = mixture::fit(&points).with_context(|| match missing {
        0 => format!("cannot fit a model to the points of `{axis}`"),
        missing => format!("{missing} of {} points of `{axis}` have not run", simplex.shares.len()),
    })?;
    let names: Vec<&str> = simplex.parts.iter().map(String::as_str).collect();
    if shell.json {
        return shell.json(&json!({
            "axis": axis, "parts": names, "missing": missing,
            "fit": fit, "best": fit.best(), "suggestions": fit.suggest(arguments.count),
        }));
    }
    let scores = if by.is_empty() { "all scores".to_string() } else { format!("scores with {by}") };
    shell.result(&format!("`{axis}` by {scores}\n{}", fit.terminal(&names, arguments.count)));
    if missing > 0 {
        shell.status(&format!("note: {missing} points have not run and are not used"));
    }
    Ok(())
}

/// The named axis, or the only axis with `simplex`.
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
            (_, []) => bail!("the experiment has no axis with `simplex`: add one for the mix ratios"),
            (Some(name), names) => bail!("`{name}` is not an axis with `simplex`: name one of {}", names.join(", ")),
            (None, names) => bail!("several axes have `simplex`: name one of {} with `--axis`", names.join(", ")),
        }
    };
    Ok((name, simplex))
}

/// A report whose table has one row per value of the axis, from the scores that `by` selects.
fn measured_report(session: &Session, axis: &str, named: Option<&str>, by: &str) -> Result<Report> {
    let plan = session.plan()?;
    let Session { experiment, expansion, store, .. } = session;
    let mut input = ablate_report::load_input(experiment, expansion, &plan, store, &Origin::default(), named)?;
    let by = Selector::parse(by).map_err(|message| anyhow::anyhow!("`--by`: {message}"))?;
    let [spec] = input.specs.as_slice() else {
        bail!("name one of the experiment's reports with `--report`: its scores are used")
    };
    if spec.select.is_some() && by.values.is_empty() {
        bail!("the report `{}` has a `select`: name the scores to use with `--by`", spec.name);
    }
    let spec = ReportSpec {
        name: spec.name.clone(),
        stage: spec.stage.clone(),
        metric: spec.metric,
        rows: GroupBy::Axes(vec![axis.to_string()]),
        ..ReportSpec::default()
    };
    input.evaluations.retain(|one| by.matches(&one.point));
    if input.evaluations.is_empty() {
        bail!("`--by`: no evaluation matches `{by}`");
    }
    input.specs = vec![spec];
    input.answer_bytes = 0;
    ablate_report::build(&input)
}

/// The measured points, and the number of points that have not run.
fn points(session: &Session, axis: &str, simplex: &Simplex, report: &Report) -> (Vec<MixturePoint>, usize) {
    let labels = session.experiment.axes.iter().find(|(name, _)| name == axis).map(|(_, labels)| labels);
    let mut points = Vec::new();
    let rows = || report.tables.iter().flat_map(|table| &table.rows);
    for (label, shares) in labels.into_iter().flatten().zip(&simplex.shares) {
        let selector = format!("{axis}={label}");
        let estimate = rows().find(|row| row.selector == selector).and_then(|row| row.cells.first()?.estimate);
        if let Some(estimate) = estimate {
            points.push(MixturePoint::measured(shares.clone(), &estimate));
        }
    }
    let missing = simplex.shares.len() - points.len();
    (points, missing)
}
