//! `[settings]`: where and how wide an experiment runs. Never part of any identity.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::fields::Section;
use super::problems::Problems;

const POOLS: [&str; 3] = ["cpu", "gpu", "teacher"];

/// Circumstances that the file prefers; the command line has the last word.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Instances that may run at once; what the machine allows when not given.
    pub jobs: Option<usize>,
    /// Slots of the pools `cpu`, `gpu` and `teacher`.
    pub pools: BTreeMap<String, usize>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { device: "auto".to_string(), jobs: None, pools: BTreeMap::new() }
    }
}

/// Reads `[settings]`, and checks the values that are not free.
pub(crate) fn read(section: &Section<'_>, problems: &mut Problems) -> Settings {
    let Some(settings) = section.read::<Settings>(problems) else { return Settings::default() };
    let device = settings.device.as_str();
    let ordinal = device.strip_prefix("cuda:").is_some_and(|number| number.parse::<u16>().is_ok());
    if !ordinal && !["auto", "cpu"].contains(&device) {
        let help = "write `auto`, `cpu`, or `cuda:0` for the first GPU".to_string();
        section.wrong(&["device"], format!("`{device}` is not a device"), Some(help), problems);
    }
    if settings.jobs == Some(0) {
        section.wrong(&["jobs"], "with no job nothing can run", None, problems);
    }
    for (pool, slots) in &settings.pools {
        if !POOLS.contains(&pool.as_str()) {
            let help = "the pools are `cpu`, `gpu`, `teacher`".to_string();
            section.wrong(&["pools", pool], format!("unknown key `{pool}`"), Some(help), problems);
        } else if *slots == 0 {
            section.wrong(&["pools", pool], "a pool without slots runs nothing", None, problems);
        }
    }
    settings
}
