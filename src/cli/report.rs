//! `report`: prints the tables and writes them as files.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use super::args::{ExperimentArgs, Global};
use super::report_files;
use super::session::{Need, Session, open_existing_store};
use super::shell::Shell;
use ablate_core::base::Hash;
use ablate_engine::history::{self, PastRun};
use ablate_engine::links::output_folder;
use ablate_engine::past_plan::{PastPlan, past_plan};
use ablate_engine::{GitState, RunReport};
use ablate_report::{Origin, Report};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// Only the report of this name.
    #[arg(long, value_name = "NAME")]
    pub(super) report: Option<String>,
    /// The results of a past run instead of the current ones: its number in `ablate runs`, `latest~1`, or the beginning of
    /// its name. The run's `--set` is used again. The tables are those of today's file; a note says if it has changed since.
    #[arg(long, value_name = "RUN", conflicts_with = "overrides")]
    pub(super) run: Option<String>,
    /// Folder for the files [default: out/<experiment>; with `--set` its folder `set-<changed keys>`, with `--run` its folder
    /// `run-<number>`].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

pub(super) fn report(shell: Shell, global: &Global, arguments: &ReportArgs) -> Result<()> {
    let ExperimentArgs { file, overrides } = &arguments.experiment;
    let past = arguments.run.as_deref().map(|run| past_run(global, run)).transpose()?;
    let overrides = past.as_ref().map_or(overrides, |past| &past.overrides).clone();
    let session =
        Session::read(global, &ExperimentArgs { file: file.clone(), overrides: overrides.clone() }, Need::All)?;
    if session.experiment.reports.is_empty() {
        bail!("`{}` has no report: add a table `[report.main]`", file.display());
    }
    let mut folder = output_folder(Path::new("out"), &session.experiment.name, &overrides);
    let only = arguments.report.as_deref();
    let report = match past {
        Some(past) => {
            folder =
                output_folder(Path::new("out"), &session.experiment.name, &[]).join(format!("run-{}", past.number));
            of_past_run(&session, past, only)?
        }
        None => of_current_results(&session, overrides, only)?,
    };
    write_and_print(shell, &report, arguments.out.as_deref().unwrap_or(&folder))?;
    Ok(())
}

/// Writes and prints all reports of the experiment after a run, which reads its folder.
pub(super) fn print(shell: Shell, session: &Session, folder: &Path, ran: &RunReport) -> Result<Report> {
    let past = history::read(&session.store, &ran.run)?;
    let origin = Origin { overrides: ran.overrides.clone(), git: ran.git.clone(), run: Some(past) };
    let report = build(session, &session.plan()?, &origin, Vec::new(), None)?;
    write_and_print(shell, &report, folder)?;
    Ok(report)
}

/// The report of an experiment as it is now, or of a past run.
pub(super) fn load(global: &Global, file: &Path, run: Option<&str>) -> Result<(Session, Report)> {
    let past = run.map(|run| past_run(global, run)).transpose()?;
    let overrides = past.as_ref().map(|past| past.overrides.clone()).unwrap_or_default();
    let experiment = ExperimentArgs { file: file.to_path_buf(), overrides: overrides.clone() };
    let session = Session::read(global, &experiment, Need::All)?;
    let report = match past {
        Some(past) => of_past_run(&session, past, None)?,
        None => of_current_results(&session, overrides, None)?,
    };
    Ok((session, report))
}

fn of_current_results(session: &Session, overrides: Vec<String>, only: Option<&str>) -> Result<Report> {
    let origin = Origin { overrides, git: GitState::of_file(&session.experiment.path), run: None };
    build(session, &session.plan()?, &origin, Vec::new(), only)
}

/// The run that `--run` names. It must have ended, because only then its results are listed.
fn past_run(global: &Global, name: &str) -> Result<PastRun> {
    let store = open_existing_store(global)?;
    let status = history::status(&store, &history::find(&store, name)?)?;
    let (past, state) = (status.run, status.state);
    if past.end().is_none() {
        bail!(
            "run {} is {}, so its results are not listed\nhelp: without `--run` the report shows the current results",
            past.number,
            state.name()
        );
    }
    Ok(past)
}

fn of_past_run(session: &Session, past: PastRun, only: Option<&str>) -> Result<Report> {
    let (ran, id) = (&past.experiment, &session.id);
    if ran.name != id.name || (!ran.file.is_empty() && ran.file != id.file) {
        let file = if ran.file.is_empty() { String::new() } else { format!(" of `{}`", ran.file) };
        bail!(
            "run {} ran the experiment `{}`{file}, not `{}` of `{}`\nhelp: name its file, or another run of `ablate runs`",
            past.number,
            ran.name,
            id.name,
            id.file
        );
    }
    let PastPlan { plan, removed, unknown, added } = past_plan(&session.expansion, &session.store, &past)?;
    let number = past.number;
    let mut notes = vec![format!("these are the results of run {number} ({})", past.run)];
    if past.files.is_empty() {
        notes.push(format!("run {number} did not store which text its file had: the tables are those of today's file"));
    } else if sorted_hashes(&past.files) != sorted_hashes(&session.experiment.texts) {
        notes.push(format!(
            "the experiment's file has changed since run {number}: the tables are those of today's file"
        ));
    }
    let mut count = |names: &[String], one: &str, many: &str| match names {
        [] => {}
        [name] => notes.push(format!("`{name}` {one}")),
        [name, ..] => notes.push(format!("{} instances, such as `{name}`, {many}", names.len())),
    };
    count(
        &removed,
        "counts as missing: `gc` has removed its result",
        "count as missing: `gc` has removed their results",
    );
    count(&unknown, "is not shown: today's file does not have it", "are not shown: today's file does not have them");
    count(&added, "counts as missing: the run did not have it", "count as missing: the run did not have them");
    let origin = Origin { overrides: past.overrides.clone(), git: past.git.clone(), run: Some(past) };
    build(session, &plan, &origin, notes, only)
}

fn sorted_hashes(files: &[(PathBuf, Hash)]) -> Vec<Hash> {
    let mut hashes: Vec<Hash> = files.iter().map(|(_, hash)| *hash).collect();
    hashes.sort();
    hashes
}

fn build(
    session: &Session,
    plan: &ablate_engine::Plan,
    origin: &Origin,
    notes: Vec<String>,
    only: Option<&str>,
) -> Result<Report> {
    let Session { experiment, expansion, store, .. } = session;
    let mut input = ablate_report::load_input(experiment, expansion, plan, store, origin, only)?;
    input.notes.splice(0..0, notes);
    ablate_report::build(&input)
}

fn write_and_print(shell: Shell, report: &Report, folder: &Path) -> Result<()> {
    report_files::write(report, folder)?;
    if shell.json {
        shell.result(&report.json());
        return Ok(());
    }
    shell.styled(&report.terminal(shell.width, shell.color));
    shell.status(&format!("wrote {}", folder.join("report.{html,md,json,csv,tex}").display()));
    Ok(())
}
