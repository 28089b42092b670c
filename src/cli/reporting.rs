//! `report`: prints the tables and writes Markdown, JSON, CSV and one HTML page. Runs nothing.

use std::path::Path;

use anyhow::{Result, bail};

use super::DONE;
use super::args::{Global, ReportArgs};
use super::session::Session;
use super::shell::Shell;
use crate::base::diagnostic::nearest;
use crate::base::files;
use crate::report::{self, Report};

pub(super) fn report(shell: Shell, global: &Global, arguments: &ReportArgs) -> Result<u8> {
    let mut session = Session::open(global, &arguments.experiment)?;
    let reports = &mut session.experiment.reports;
    if let Some(name) = &arguments.report
        && !reports.iter().any(|report| report.name == *name)
    {
        let near = nearest(name, reports.iter().map(|report| report.name.as_str()));
        let help = near.map(|near| format!("\nhelp: a similar name exists: `{near}`")).unwrap_or_default();
        bail!("the experiment has no report `{name}`{help}");
    }
    reports.retain(|report| arguments.report.as_ref().is_none_or(|name| report.name == *name));
    if reports.is_empty() {
        bail!("`{}` declares no report: add a table `[report.main]`", arguments.experiment.file.display());
    }
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("out").join(&session.experiment.name));
    if shell.json {
        let built = gather(&session)?;
        write(&built, &folder)?;
        shell.result(&built.json());
    } else {
        print(shell, &session, &folder)?;
    }
    Ok(DONE)
}

/// Prints every report of the experiment and writes its files into `folder`.
pub(super) fn print(shell: Shell, session: &Session, folder: &Path) -> Result<()> {
    if session.experiment.reports.is_empty() {
        return Ok(());
    }
    let built = gather(session)?;
    write(&built, folder)?;
    shell.result(&built.terminal(shell.width, shell.color));
    shell.status(&format!("wrote {}", folder.join("report.{html,md,json,csv}").display()));
    Ok(())
}

fn gather(session: &Session) -> Result<Report> {
    let plan = session.plan()?;
    report::gather(&session.experiment, &session.expansion, &session.store, &plan)
}

fn write(report: &Report, folder: &Path) -> Result<()> {
    let texts = [("html", report.html()), ("md", report.markdown()), ("json", report.json()), ("csv", report.csv())];
    for (extension, text) in texts {
        files::write_atomic(&folder.join(format!("report.{extension}")), text.as_bytes())?;
    }
    Ok(())
}
