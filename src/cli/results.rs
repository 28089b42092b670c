//! `results`: all scores of experiments as one table, for other programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::args::{ExperimentArgs, Global};
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_core::base::files;
use ablate_report::results::{self, ResultTable};

#[derive(Debug, Args)]
pub(super) struct ResultsArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// Further experiment files, whose rows follow.
    #[arg(value_name = "FILE")]
    pub(super) more: Vec<PathBuf>,
    /// One row per item instead of one per evaluation and data set.
    #[arg(long)]
    pub(super) items: bool,
    /// The file to write, by its extension as CSV, JSON or Parquet [default: CSV on stdout].
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// The format, if the extension does not say it.
    #[arg(long, value_enum)]
    pub(super) format: Option<ResultsFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ResultsFormat {
    Csv,
    Json,
    Parquet,
}

pub(super) fn results(shell: Shell, global: &Global, arguments: &ResultsArgs) -> Result<()> {
    let format = format(shell, arguments)?;
    let files = std::iter::once(&arguments.experiment.file).chain(&arguments.more);
    let (mut experiments, mut missing, mut all) = (Vec::new(), 0, 0);
    for file in files {
        let overrides = arguments.experiment.overrides.clone();
        let session = Session::read(global, &ExperimentArgs { file: file.clone(), overrides }, Need::All)?;
        let plan = session.plan()?;
        let (results, without) =
            ablate_report::load_results(&session.experiment, &session.expansion, &plan, &session.store);
        if results.evaluations.is_empty() {
            bail!("`{}` has no stage that gives scores", file.display());
        }
        missing += without;
        all += results.evaluations.len();
        experiments.push(results);
    }
    let table = results::table(&experiments, arguments.items)?;
    if missing > 0 {
        shell.warning(&format!("{missing} of {all} evaluations have no rows: they have not run, or are out of date"));
    }
    match &arguments.out {
        None => print(shell, &table, format),
        Some(path) => {
            write(&table, format, path)?;
            shell.status(&format!("wrote {} rows to {}", table.rows(), path.display()));
            Ok(())
        }
    }
}

/// The format that `--format`, `--json` or the extension of `--out` asks for.
fn format(shell: Shell, arguments: &ResultsArgs) -> Result<ResultsFormat> {
    let extension = arguments.out.as_deref().map(|path| path.extension().unwrap_or_default().to_string_lossy());
    let by_extension = extension.as_deref().map(|extension| ResultsFormat::from_str(extension, true));
    match (arguments.format, by_extension) {
        (Some(ResultsFormat::Parquet), None) => {
            bail!("Parquet is binary: write it into a file with `--out FILE.parquet`")
        }
        (Some(format), _) | (None, Some(Ok(format))) => Ok(format),
        (None, Some(Err(_))) => {
            let extension = extension.unwrap_or_default();
            bail!("no format has the extension `{extension}`: use `.csv`, `.json` or `.parquet`, or give `--format`")
        }
        (None, None) if shell.json => Ok(ResultsFormat::Json),
        (None, None) => Ok(ResultsFormat::Csv),
    }
}

fn print(shell: Shell, table: &ResultTable, format: ResultsFormat) -> Result<()> {
    match format {
        ResultsFormat::Json => shell.json(&table.json())?,
        ResultsFormat::Csv | ResultsFormat::Parquet => shell.result(&table.csv()),
    }
    Ok(())
}

fn write(table: &ResultTable, format: ResultsFormat, path: &Path) -> Result<()> {
    let bytes = match format {
        ResultsFormat::Csv => table.csv().into_bytes(),
        ResultsFormat::Json => serde_json::to_vec_pretty(&table.json()).context("BUG: a table is plain data")?,
        ResultsFormat::Parquet => table.parquet()?,
    };
    files::write_atomic(path, &bytes)
}
