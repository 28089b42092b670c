//! `graph`, `ls`, `show`, `logs`, `verify`, `pin`: looking after what is there. Runs nothing.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::args::{ExperimentArgs, Global, InstanceArgs, ListArgs, PinArgs};
use super::session::{self, Need, Session};
use super::shell::Shell;
use super::{DONE, WRONG_INPUT};
use ablate_core::base::Hash;
use ablate_core::base::escape::escape_line;
use ablate_core::stage::ManifestEntry;
use ablate_engine::{self, Graph};
use ablate_experiment::InstanceId;
use ablate_store::{Pin, Store};

#[derive(Debug, Args)]
pub(super) struct GraphArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    #[arg(long, value_enum, default_value_t = GraphFormat::Dot)]
    pub(super) format: GraphFormat,
    /// One node per instance instead of one per stage.
    #[arg(long)]
    pub(super) expanded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum GraphFormat {
    Dot,
    Mermaid,
    Json,
}

pub(super) fn graph(shell: Shell, arguments: &GraphArgs) -> Result<u8> {
    let (_, expansion) = session::load(&arguments.experiment)?;
    let format = match arguments.format {
        _ if shell.json => ablate_engine::GraphFormat::Json,
        GraphFormat::Dot => ablate_engine::GraphFormat::Dot,
        GraphFormat::Mermaid => ablate_engine::GraphFormat::Mermaid,
        GraphFormat::Json => ablate_engine::GraphFormat::Json,
    };
    shell.result(&Graph::new(&expansion).render(&expansion, format, arguments.expanded));
    Ok(DONE)
}

pub(super) fn list(shell: Shell, global: &Global, arguments: &ListArgs) -> Result<u8> {
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
    let selected = session.selected(&arguments.targets.targets)?;
    let plan = session.plan()?;
    let listed = ablate_engine::query::list(&session.id, &session.expansion, &session.store, &plan);
    let listed: Vec<_> = listed.into_iter().filter(|line| selected.contains(&line.id)).collect();
    if shell.json {
        shell.json(&listed)?;
        return Ok(DONE);
    }
    let width = listed.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in &listed {
        let size = line.size.map(bytes).unwrap_or_default();
        let seconds = line.seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default();
        let record = line.record.map(|hash| hash.short()).unwrap_or_default();
        let columns = format!("{:width$}  {:6}  {size:>9}  {seconds:>8}  {record}", line.name, line.state);
        text.push_str(columns.trim_end());
        text.push('\n');
    }
    shell.result(&text);
    Ok(DONE)
}

pub(super) fn show(shell: Shell, global: &Global, arguments: &InstanceArgs) -> Result<u8> {
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
    let id = session.one(&arguments.instance)?;
    let plan = session.plan()?;
    let shown = ablate_engine::query::show(&session.id, &session.expansion, &session.store, &plan, id);
    if shell.json {
        shell.json(&shown)?;
        return Ok(DONE);
    }
    let mut text = format!("{}  ({}, {})\n", shown.summary.name, shown.summary.kind, shown.summary.state);
    for reason in &shown.summary.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    if let Some(failure) = &shown.failure {
        text.push_str(&format!("  {}\n", failure.to_string().replace('\n', "\n  ")));
    }
    let Some(record) = &shown.record else {
        text.push_str("  no result yet\n");
        shell.result(&text);
        return Ok(DONE);
    };
    text.push_str(&format!("\nrecord {}\n", record.fingerprint));
    for entry in &record.manifest.entries {
        let value = match entry {
            ManifestEntry::Value { value, .. } => value.to_string(),
            ManifestEntry::Input { hash, .. } => format!("content {}", hash.short()),
            ManifestEntry::Seed { seed } => seed.to_string(),
        };
        text.push_str(&format!("  {} = {value}\n", entry.key()));
    }
    text.push_str("\noutputs\n");
    for (name, path) in &shown.paths {
        let artifact = &record.outputs[name];
        let (name, size, path) = (escape_line(name), bytes(artifact.size), path.display());
        text.push_str(&format!("  {name}  {}  {size}  {path}\n", artifact.kind));
    }
    text.push_str("\nsummary\n");
    for (key, value) in &record.summary.0 {
        text.push_str(&format!("  {key} = {value}\n"));
    }
    let provenance = &record.provenance;
    text.push_str(&format!(
        "\nran on {} ({}, {} threads) at {} for {:.1} s with ablate {}\n",
        provenance.host,
        provenance.device,
        provenance.threads,
        provenance.started,
        provenance.seconds,
        provenance.version
    ));
    if let Some(log) = &shown.log {
        text.push_str(&format!("log {}\n", log.display()));
    }
    shell.result(&text);
    Ok(DONE)
}

pub(super) fn logs(shell: Shell, global: &Global, arguments: &InstanceArgs) -> Result<u8> {
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
    let id = session.one(&arguments.instance)?;
    let Some(log) = ablate_engine::query::last_log(&session.id, &session.expansion, &session.store, id) else {
        bail!("`{}` has no log: it has not run in this store", session.expansion.get(id).name)
    };
    let text = ablate_engine::query::read_log(&log)?;
    if shell.json {
        shell.json(&json!({ "path": log, "text": text }))?;
    } else {
        shell.status(&log.display().to_string());
        shell.log(&text);
    }
    Ok(DONE)
}

pub(super) fn verify(shell: Shell, global: &Global) -> Result<u8> {
    let store = existing(global)?;
    let report = store.verify(true, &|_, _| {})?;
    store.save_memo();
    if shell.json {
        shell.json(&report)?;
    } else {
        for problem in &report.problems {
            let producers: Vec<String> =
                problem.producers.iter().map(|(kind, hash)| format!("{kind} {}", hash.short())).collect();
            let again =
                if producers.is_empty() { String::new() } else { format!("; to run again: {}", producers.join(", ")) };
            shell.result(&format!("{}: {}{again}", problem.path.display(), problem.what));
        }
        shell.result(&format!(
            "{} records, {} objects, {}: {} problems",
            report.records,
            report.objects,
            bytes(report.bytes),
            report.problems.len()
        ));
    }
    Ok(if report.problems.is_empty() { DONE } else { WRONG_INPUT })
}

pub(super) fn pin(shell: Shell, global: &Global, arguments: &PinArgs) -> Result<u8> {
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
    let selected = session.selected(&arguments.targets.targets)?;
    let plan = session.plan()?;
    let record = |id: &InstanceId| plan.get(*id).record.as_ref().map(|record| record.fingerprint);
    let fingerprints: BTreeSet<Hash> = selected.iter().filter_map(record).collect();
    if fingerprints.is_empty() {
        bail!("nothing of `{}` is up to date: there is no result to pin", session.experiment.name);
    }
    let pin = Pin {
        name: arguments.name.clone().unwrap_or_else(|| session.experiment.name.clone()),
        made: jiff::Timestamp::now().to_string(),
        experiment: session.experiment.name.clone(),
        fingerprints,
    };
    session.store.pin(&pin)?;
    let missing = selected.iter().filter(|id| record(id).is_none()).count();
    if shell.json {
        shell.json(&json!({ "pin": pin, "not_up_to_date": missing }))?;
    } else {
        let rest = if missing > 0 { format!("; {missing} more would have to run first") } else { String::new() };
        shell.result(&format!("`{}` keeps {} results{rest}", pin.name, pin.fingerprints.len()));
    }
    Ok(DONE)
}

pub(super) fn unpin(shell: Shell, global: &Global, name: Option<&str>) -> Result<u8> {
    let store = existing(global)?;
    if let Some(name) = name {
        store.unpin(name)?;
    }
    let pins = store.pins()?;
    if shell.json {
        shell.json(&pins)?;
    } else if name.is_none() {
        let line = |pin: &Pin| {
            format!("{}  {} results of `{}`, {}\n", pin.name, pin.fingerprints.len(), pin.experiment, pin.made)
        };
        shell.result(&pins.iter().map(line).collect::<String>());
    }
    Ok(DONE)
}

/// The store, which these commands do not make: a misspelt folder must not look like a sound store.
pub(super) fn existing(global: &Global) -> Result<Store> {
    let path = global.store();
    if !path.exists() {
        bail!("there is no store at `{}`", path.display());
    }
    Store::open(path)
}

pub(super) fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}
