//! `[settings]`: where and how wide an experiment runs. Never part of any identity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fields::Section;
use super::label::name_problem;
use super::problems::Problems;

/// Circumstances that the file prefers; the command line has the last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `auto`, `cpu`, `cuda:0` or several: `cuda:0,cuda:1`.
    pub device: String,
    /// Instances that may run at once; what the machine allows when not given.
    pub jobs: Option<usize>,
    /// Slots of the pools `cpu`, `gpu` and `teacher`, and of others that stages name in their `limits`.
    pub pools: BTreeMap<String, usize>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { device: "auto".to_string(), jobs: None, pools: BTreeMap::new() }
    }
}

/// The pools that are there without being asked for.
pub(crate) const POOLS: [&str; 3] = ["cpu", "gpu", "teacher"];

/// Slots of a pool at most.
const MOST_SLOTS: usize = 4096;

/// Reads `[settings]`, and checks the values that are not free. `named` tells whether a stage names a pool.
pub(crate) fn read(section: &Section<'_>, named: &dyn Fn(&str) -> bool, problems: &mut Problems) -> Settings {
    let Some(settings) = section.read::<Settings>(problems) else { return Settings::default() };
    let device = settings.device.as_str();
    let gpu = |name: &str| name.trim().strip_prefix("cuda:").is_some_and(|number| number.parse::<u16>().is_ok());
    if !["auto", "cpu"].contains(&device) && !device.split(',').all(gpu) {
        let help = "write `auto`, `cpu`, `cuda:0` for the first GPU, or `cuda:0,cuda:1` for two".to_string();
        section.wrong(&["device"], format!("`{device}` is not a device"), Some(help), problems);
    }
    match settings.jobs {
        Some(0) => section.wrong(&["jobs"], "with no job nothing can run", None, problems),
        Some(jobs) if jobs > MOST_SLOTS => {
            section.wrong(&["jobs"], format!("at most {MOST_SLOTS} jobs run at once, not {jobs}"), None, problems);
        }
        _ => {}
    }
    for (pool, slots) in &settings.pools {
        if let Some(message) = name_problem(pool) {
            section.wrong(&["pools", pool], message, None, problems);
        } else if !POOLS.contains(&pool.as_str()) && !named(pool) {
            let help = "the pools are `cpu`, `gpu`, `teacher`, and those that stages name in `limits.pool`".to_string();
            section.wrong(&["pools", pool], format!("unknown key `{pool}`"), Some(help), problems);
        } else if *slots == 0 {
            section.wrong(&["pools", pool], "a pool without slots runs nothing", None, problems);
        } else if *slots > MOST_SLOTS {
            section.wrong(
                &["pools", pool],
                format!("a pool has at most {MOST_SLOTS} slots, not {slots}"),
                None,
                problems,
            );
        }
    }
    settings
}
