//! `doctor --executor slurm`: the cluster, what the configuration asks of it, and whether its nodes can use the store.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::args::Global;
use super::job_lists::resources_text;
use super::session::build;
use super::shell::Shell;
use ablate_core::base::file_system::{self, FileSystem};
use ablate_engine::cluster::{self, Cluster};
use ablate_experiment::Limits;
use ablate_store::Store;

pub(super) fn doctor(shell: Shell, global: &Global, probe: bool) -> Result<()> {
    let configuration = global.configuration()?;
    let table = &configuration.executor.slurm;
    let cluster = Cluster::slurm(table)?;
    let version = cluster.queue.version()?;
    cluster.queue.ping()?;
    let partitions = cluster.queue.partitions()?;
    let resources = table.resources("", "", &Limits::default());
    let start = cluster.queue.expected_start(&resources);
    let store = Store::open(global.store())?;
    store.check_writable()?;
    let system = file_system::of(store.root())?;
    let build = build(&store);
    let node = probe.then(|| cluster::probe(&cluster, &store, &resources, &build));
    if shell.json {
        let partition = |one: &cluster::Partition| {
            let cluster::Partition { name, nodes, time_limit, is_default, is_up } = one;
            json!({ "name": name, "nodes": nodes, "time_limit": time_limit, "default": is_default, "up": is_up })
        };
        shell.json(&json!({
            "slurm": version, "configuration": configuration.files, "store": store.root(), "file_system": system.name(),
            "partitions": partitions.iter().map(partition).collect::<Vec<_>>(), "resources": resources,
            "start": start.as_ref().ok(), "node": node.as_ref().and_then(|node| node.as_ref().ok()),
        }))?;
    } else {
        let files: Vec<String> = configuration.files.iter().map(|file| file.display().to_string()).collect();
        let files = if files.is_empty() { "none: every key has its default".to_string() } else { files.join(", ") };
        let mut lines = vec![line("slurm", &version), line("config", &files)];
        for one in &partitions {
            let (default, up) =
                (if one.is_default { " (default)" } else { "" }, if one.is_up { "" } else { "not up, " });
            lines.push(line(
                "",
                &format!("partition {}{default}: {up}{}, at most {}", one.name, one.nodes, one.time_limit),
            ));
        }
        let shared = match system {
            FileSystem::Shared(_) => "shared by machines",
            FileSystem::Local(_) => "of this machine only, unless all nodes are this machine",
            FileSystem::Unknown(_) => "perhaps shared",
        };
        lines.push(line("store", &format!("{} on {}, {shared}", store.root().display(), system.name())));
        lines.push(line("job", &resources_text(&resources)));
        lines.extend(start.as_ref().ok().map(|start| line("", &format!("would start at {start}"))));
        match &node {
            None => lines.push(line("nodes", "not checked: `--probe` runs a job that looks at the store")),
            Some(Ok(node)) => {
                lines.push(line("nodes", &format!("{} sees the store, its locks and the same program", node.host)));
            }
            Some(Err(_)) => {}
        }
        shell.result(&lines.join("\n"));
    }
    if let Err(error) = start {
        bail!("a job with the resources of the configuration is refused: {error:#}");
    }
    node.transpose().map(drop)
}

/// What this node sees.
pub(super) fn answer_probe(shell: Shell, folder: &Path) -> Result<()> {
    let store = folder.parent().and_then(Path::parent).context("the folder is not in a store")?;
    let build = if store.exists() { build(&Store::open(store)?) } else { ablate_store::Build::default() };
    shell.json_line(&cluster::answer_probe(folder, build));
    Ok(())
}

fn line(name: &str, text: &str) -> String {
    format!("{name:<8}{text}")
}
