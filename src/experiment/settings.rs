//! `[settings]`: the device, the parallelism, the pools and the command at the end of a run. They never change a result.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::diagnostics::Diagnostics;
use super::label::name_error;
use super::section::Section;

/// The device, the parallelism, the pools and the command at the end of a run. Command line options override the first two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `auto`, `cpu`, `cuda:0` or several: `cuda:0,cuda:1`.
    pub device: String,
    /// The number of instances that run at the same time. Default: chosen from the machine's CPUs and GPUs.
    pub jobs: Option<usize>,
    /// The slots of the pools `cpu`, `gpu` and `teacher`, and of pools that stages name in `limits`.
    pub pools: BTreeMap<String, usize>,
    /// A shell command that runs when a run ends. It gets the run as JSON on stdin, and `ABLATE_RUN`, `ABLATE_EXPERIMENT`,
    /// `ABLATE_OUTCOME`, `ABLATE_SECONDS` and `ABLATE_REPORT` in its environment.
    pub notify: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { device: "auto".to_string(), jobs: None, pools: BTreeMap::new(), notify: None }
    }
}

/// The pools that exist in every experiment.
pub const DEFAULT_POOLS: [&str; 3] = ["cpu", "gpu", "teacher"];

/// The most slots of a pool.
const MAX_SLOTS: usize = 4096;

/// Reads `[settings]` and checks its values. `is_used` is whether a stage names a pool.
pub(crate) fn read(section: &Section<'_>, is_used: &dyn Fn(&str) -> bool, diagnostics: &mut Diagnostics) -> Settings {
    let Some(settings) = section.read::<Settings>(diagnostics) else { return Settings::default() };
    let device = settings.device.as_str();
    let gpu = |name: &str| name.trim().strip_prefix("cuda:").is_some_and(|number| number.parse::<u16>().is_ok());
    if !["auto", "cpu"].contains(&device) && !device.split(',').all(gpu) {
        let help = "write `auto`, `cpu`, `cuda:0` for the first GPU, or `cuda:0,cuda:1` for two".to_string();
        section.wrong(&["device"], format!("`{device}` is not a device"), Some(help), diagnostics);
    }
    match settings.jobs {
        Some(0) => section.wrong(&["jobs"], "at least one job is needed", None, diagnostics),
        Some(jobs) if jobs > MAX_SLOTS => {
            section.wrong(&["jobs"], format!("at most {MAX_SLOTS} jobs are allowed, not {jobs}"), None, diagnostics);
        }
        _ => {}
    }
    if settings.notify.as_ref().is_some_and(|command| command.trim().is_empty()) {
        let help = "write a shell command, or remove the key".to_string();
        section.wrong(&["notify"], "the command is empty", Some(help), diagnostics);
    }
    for (pool, slots) in &settings.pools {
        if let Some(message) = name_error(pool) {
            section.wrong(&["pools", pool], message, None, diagnostics);
        } else if !DEFAULT_POOLS.contains(&pool.as_str()) && !is_used(pool) {
            let help = "the pools are `cpu`, `gpu`, `teacher`, and those that stages name in `limits.pool`".to_string();
            section.wrong_key(
                &["pools", pool],
                format!("`settings.pools`: unknown key `{pool}`"),
                Some(help),
                diagnostics,
            );
        } else if *slots == 0 {
            section.wrong(&["pools", pool], "a pool needs at least one slot", None, diagnostics);
        } else if *slots > MAX_SLOTS {
            section.wrong(
                &["pools", pool],
                format!("a pool has at most {MAX_SLOTS} slots, not {slots}"),
                None,
                diagnostics,
            );
        }
    }
    settings
}
