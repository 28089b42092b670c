//! `report`: prints the tables and writes them as files.

use std::path::Path;

use anyhow::{Result, bail};

use super::args::{Global, ReportArgs};
use super::report_files;
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_engine::RunReport;
use ablate_report::Report;

pub(super) fn report(shell: Shell, global: &Global, arguments: &ReportArgs) -> Result<()> {
    let session = Session::read(global, &arguments.experiment, Need::All)?;
    let only = arguments.report.as_deref();
    if session.experiment.reports.is_empty() {
        bail!("`{}` has no report: add a table `[report.main]`", arguments.experiment.file.display());
    }
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("out").join(&session.experiment.name));
    if shell.json {
        let report = build(&session, None, only)?;
        report_files::write(&report, &folder)?;
        shell.result(&report.json());
        return Ok(());
    }
    print(shell, &session, &folder, None, only)
}

/// Prints all reports of the experiment, or the one whose name is `only`, and writes their files into `folder`.
pub(super) fn print(
    shell: Shell,
    session: &Session,
    folder: &Path,
    ran: Option<&RunReport>,
    only: Option<&str>,
) -> Result<()> {
    if session.experiment.reports.is_empty() {
        return Ok(());
    }
    let report = build(session, ran, only)?;
    report_files::write(&report, folder)?;
    shell.styled(&report.terminal(shell.width, shell.color));
    shell.status(&format!("wrote {}", folder.join("report.{html,md,json,csv,tex}").display()));
    Ok(())
}

fn build(session: &Session, ran: Option<&RunReport>, only: Option<&str>) -> Result<Report> {
    let plan = session.plan()?;
    let input = ablate_report::load_input(&session.experiment, &session.expansion, &plan, &session.store, ran, only)?;
    ablate_report::build(&input)
}
