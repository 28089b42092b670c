//! `report`: prints the tables and writes Markdown, JSON, CSV and one HTML page. Runs nothing.

use std::path::Path;

use anyhow::{Result, bail};

use super::DONE;
use super::args::{Global, ReportArgs};
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_core::base::files;
use ablate_engine::RunReport;
use ablate_report::{self, Report};

pub(super) fn report(shell: Shell, global: &Global, arguments: &ReportArgs) -> Result<u8> {
    let session = Session::read(global, &arguments.experiment, Need::All)?;
    let only = arguments.report.as_deref();
    if session.experiment.reports.is_empty() {
        bail!("`{}` declares no report: add a table `[report.main]`", arguments.experiment.file.display());
    }
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("out").join(&session.experiment.name));
    if shell.json {
        let built = gather(&session, None, only)?;
        write(&built, &folder)?;
        shell.result(&built.json());
    } else {
        print(shell, &session, &folder, None, only)?;
    }
    Ok(DONE)
}

/// Prints every report of the experiment and writes its files into `folder`.
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
    let built = gather(session, ran, only)?;
    write(&built, folder)?;
    shell.styled(&built.terminal(shell.width, shell.color));
    shell.status(&format!("wrote {}", folder.join("report.{html,md,json,csv}").display()));
    Ok(())
}

fn gather(session: &Session, ran: Option<&RunReport>, only: Option<&str>) -> Result<Report> {
    let plan = session.plan()?;
    let input = ablate_report::gather(&session.experiment, &session.expansion, &plan, &session.store, ran, only)?;
    ablate_report::build(&input)
}

fn write(report: &Report, folder: &Path) -> Result<()> {
    let texts = [("html", report.html()), ("md", report.markdown()), ("json", report.json()), ("csv", report.csv())];
    for (extension, text) in texts {
        files::write_atomic(&folder.join(format!("report.{extension}")), text.as_bytes())?;
    }
    Ok(())
}
