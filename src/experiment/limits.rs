//! `limits`: the time, retries, pool, GPUs, memory, cores and nodes of a stage. Every kind of stage has this key. It never changes
//! a result.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::diagnostics::{Diagnostics, list};
use super::section::Section;
use super::settings::DEFAULT_POOLS;
use ablate_core::base::diagnostic::nearest;

/// The key of a stage's table.
pub(crate) const KEY: &str = "limits";

/// The limits of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The time limit of one attempt.
    pub time: Option<Duration>,
    /// The number of retries after a failure, unless wrong input caused it.
    pub retries: u32,
    /// The pool in which it takes a slot. Default: the pool of its kind.
    pub pool: Option<String>,
    /// The number of GPUs per node that it uses exclusively. Default: the number of its kind.
    pub gpu: Option<usize>,
    /// The memory per node in MiB that a job of a queue gets.
    pub memory: Option<u64>,
    /// The cores per node that a job of a queue gets.
    pub cpus: Option<usize>,
    /// The nodes that a job of a queue gets.
    pub nodes: Option<usize>,
}

/// The limits of a stage. They never change a result.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsTable {
    /// The time limit of one attempt: `"90s"`, `"5m"`, `"1h 30m"`, or a number of seconds.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(with = "Option<Written>")]
    time: Option<Duration>,
    /// The number of retries after a failure.
    #[serde(default)]
    retries: u32,
    /// The pool in which the stage takes a slot.
    pool: Option<String>,
    /// The number of GPUs that the stage uses exclusively, on each of its nodes.
    gpu: Option<usize>,
    /// The memory of the stage's job on each of its nodes, such as `"16G"`. Only a queue such as Slurm reads it.
    #[serde(default, deserialize_with = "memory")]
    #[schemars(with = "Option<String>")]
    memory: Option<u64>,
    /// The cores of the stage's job on each of its nodes. Only a queue such as Slurm reads it.
    cpus: Option<usize>,
    /// The nodes of the stage's job. Only a queue such as Slurm reads it.
    nodes: Option<usize>,
}

/// Reads `limits` of a stage and checks them against the experiment's pools.
pub(crate) fn read(
    section: &Section<'_>,
    pools: &BTreeMap<String, usize>,
    diagnostics: &mut Diagnostics,
) -> Option<Limits> {
    let LimitsTable { time, retries, pool, gpu, memory, cpus, nodes } = section.read(diagnostics)?;
    let limits = Limits { time, retries, pool, gpu, memory, cpus, nodes };
    let mut valid = true;
    let mut wrong = |key: &str, message: String, help: Option<String>| {
        section.wrong(&[key], message, help, diagnostics);
        valid = false;
    };
    if let Some(pool) = &limits.pool
        && !DEFAULT_POOLS.contains(&pool.as_str())
        && !pools.contains_key(pool)
    {
        let others = pools.keys().map(String::as_str).filter(|pool| !DEFAULT_POOLS.contains(pool));
        let known: Vec<&str> = DEFAULT_POOLS.into_iter().chain(others).collect();
        let help = match nearest(pool, known.iter().copied()) {
            Some(near) => format!("a pool of a similar name exists: `{near}`"),
            None => format!("the pools are {}; `[settings.pools]` adds others", list(&known)),
        };
        wrong("pool", format!("there is no pool `{pool}`"), Some(help));
    }
    if limits.time == Some(Duration::ZERO) {
        wrong("time", "the time limit must be longer than 0".to_string(), None);
    }
    for (key, count) in [("cpus", limits.cpus), ("nodes", limits.nodes)] {
        if count == Some(0) {
            wrong(key, "at least 1 is needed".to_string(), None);
        }
    }
    if limits.gpu.is_some() && limits.pool.as_deref().is_some_and(|pool| pool != "gpu") {
        wrong("gpu", "only the pool `gpu` has GPUs".to_string(), None);
    }
    valid.then_some(limits)
}

/// A duration as it is written in the file.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
enum Written {
    Seconds(f64),
    Text(String),
}

/// `"90s"`, `"5m"`, `"2h"`, `"1h 30m"`, or a number of seconds.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let help = "write a number of seconds, or a time such as \"90s\", \"5m\" or \"1h 30m\"";
    let found = match Option::<Written>::deserialize(deserializer)
        .map_err(|_| D::Error::custom(format!("this is not a duration: {help}")))?
    {
        None => return Ok(None),
        Some(Written::Seconds(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
        Some(Written::Text(text)) => parse(&text),
    };
    found.map(Some).ok_or_else(|| D::Error::custom(format!("this is not a duration: {help}")))
}

/// A size in MiB: `"16G"`, `"500M"` or `"1.5T"`, in powers of 1024.
pub(super) fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let error = || D::Error::custom("this is not an amount of memory: write a text such as \"16G\" or \"500M\"");
    let Some(text) = Option::<String>::deserialize(deserializer).map_err(|_| error())? else { return Ok(None) };
    parse_memory(&text).map(Some).ok_or_else(error)
}

fn parse_memory(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let number: f64 = text[..text.len() - unit.len()].parse().ok()?;
    let mebibytes = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "M" => 1.0,
        "G" => 1024.0,
        "T" => 1024.0 * 1024.0,
        _ => return None,
    };
    let size = (number * mebibytes).ceil();
    (1.0..1e12).contains(&size).then_some(size as u64)
}

fn parse(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut any = false;
    for part in text.split_whitespace() {
        let unit = part.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
        let number: f64 = part[..part.len() - unit.len()].parse().ok()?;
        let seconds = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        any = true;
    }
    any.then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_parsed() {
        assert_eq!(parse_memory("16G"), Some(16 << 10));
        assert_eq!(parse_memory("1.5GiB"), Some(1536));
        assert_eq!(parse_memory("500MB"), Some(500));
        assert_eq!(parse_memory("2T"), Some(2 << 20));
        for wrong in ["", "G", "16", "-1G", "0M", "16 g", "1e9T"] {
            assert_eq!(parse_memory(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_parsed() {
        let seconds = |text: &str| parse(text).map(|time| time.as_secs_f64());
        assert_eq!(seconds("90s"), Some(90.0));
        assert_eq!(seconds("1h 30m"), Some(5400.0));
        assert_eq!(seconds("0.5h"), Some(1800.0));
        for wrong in ["", "h", "5", "5 m", "-1s", "1e400s", "soon"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
