//! `show`: prints the manifest, the outputs and the provenance of one instance.

use anyhow::Result;

use super::args::{Global, InstanceArgs};
use super::format::human_bytes;
use super::session::{Need, Session};
use super::shell::Shell;
use ablate_core::base::escape::escape_line;
use ablate_core::stage::ManifestEntry;
use ablate_store::Provenance;

/// Longer values of a summary are indented.
const LINE: usize = 100;

pub(super) fn show(shell: Shell, global: &Global, arguments: &InstanceArgs) -> Result<()> {
    let session = Session::read(global, &arguments.experiment, Need::Instances)?;
    let id = session.one(&arguments.instance)?;
    let plan = session.plan()?;
    let shown = session.query(&plan).show(id);
    if shell.json {
        // As a value, in which the record replaces its hash of the same name.
        return shell.json(&serde_json::to_value(&shown)?);
    }
    let mut text = format!("{}  ({}, {})\n", shown.summary.name, shown.summary.kind, shown.summary.state);
    for reason in &shown.summary.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    if let Some(failure) = &shown.failure {
        text.push_str(&format!("  {}\n", failure.to_string().replace('\n', "\n  ")));
    }
    let Some(record) = &shown.record else {
        shell.result(&(text + "  no result\n"));
        return Ok(());
    };
    text.push_str(&format!("\nrecord {}\n", record.fingerprint));
    for entry in &record.manifest.entries {
        let value = match entry {
            ManifestEntry::Value { value, .. } => value.to_string(),
            ManifestEntry::Input { role, hash } => match shown.inputs.get(role) {
                Some(source) => format!("{source} (content {})", hash.short()),
                None => format!("content {}", hash.short()),
            },
            ManifestEntry::Seed { seed } => seed.to_string(),
        };
        text.push_str(&format!("  {} = {value}\n", entry.key()));
    }
    text.push_str("\noutputs\n");
    for (name, path) in &shown.paths {
        let artifact = &record.outputs[name];
        let (name, size, path) = (escape_line(name), human_bytes(artifact.size), path.display());
        text.push_str(&format!("  {name}  {}  {size}  {path}\n", artifact.kind));
    }
    text.push_str("\nsummary\n");
    for (key, value) in &record.summary.0 {
        text.push_str(&format!("  {key} = {}\n", readable(value)));
    }
    let Provenance { host, device, version, build, threads, started, seconds, log: _ } = &record.provenance;
    let version = if build.is_unknown() { version.clone() } else { build.to_string() };
    text.push_str(&format!("\nran on {host} ({device}, {threads} threads) at {started} "));
    text.push_str(&format!("for {seconds:.1} s with ablate {version}\n"));
    if let Some(log) = &shown.log {
        text.push_str(&format!("log {}\n", log.display()));
    }
    shell.result(&text);
    Ok(())
}

/// A value on one line, or indented if that is long.
fn readable(value: &serde_json::Value) -> String {
    let line = value.to_string();
    if line.chars().count() <= LINE || !(value.is_object() || value.is_array()) {
        return line;
    }
    format!("{value:#}").replace('\n', "\n  ")
}
