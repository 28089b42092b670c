//! `limits`: what an instance may take and how often it may try. A key of every stage, and never identity.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::fields::Section;
use super::problems::Problems;
use super::settings::POOLS;
use super::text::list;
use ablate_core::base::diagnostic::nearest;

/// The key of a stage's table that holds them.
pub(crate) const KEY: &str = "limits";

/// Circumstances of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long one attempt may take.
    pub time: Option<Duration>,
    /// How often it is tried again after a failure of the world.
    pub retries: u32,
    /// The pool in which it takes a slot, where that is not the one of its kind.
    pub pool: Option<String>,
    /// GPUs that it has for itself; the one of its kind when not said.
    pub gpu: Option<usize>,
}

/// Circumstances of a stage: never identity.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsTable {
    /// How long an attempt may take: `"90s"`, `"5m"`, `"1h 30m"`, or a number of seconds.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(with = "Option<Written>")]
    time: Option<Duration>,
    /// How often it is tried again when it fails.
    #[serde(default)]
    retries: u32,
    /// The pool in which it takes a slot.
    pool: Option<String>,
    /// GPUs that it has for itself.
    gpu: Option<usize>,
}

/// Reads a stage's `limits`, and checks them against the experiment's pools.
pub(crate) fn read(section: &Section<'_>, pools: &BTreeMap<String, usize>, problems: &mut Problems) -> Option<Limits> {
    let LimitsTable { time, retries, pool, gpu } = section.read(problems)?;
    let limits = Limits { time, retries, pool, gpu };
    let mut sound = true;
    let mut wrong = |key: &str, message: String, help: Option<String>| {
        section.wrong(&[key], message, help, problems);
        sound = false;
    };
    if let Some(pool) = &limits.pool
        && !POOLS.contains(&pool.as_str())
        && !pools.contains_key(pool)
    {
        let others = pools.keys().map(String::as_str).filter(|pool| !POOLS.contains(pool));
        let known: Vec<&str> = POOLS.into_iter().chain(others).collect();
        let help = match nearest(pool, known.iter().copied()) {
            Some(near) => format!("a pool of a similar name exists: `{near}`"),
            None => format!("the pools are {}; `[settings.pools]` makes others", list(&known)),
        };
        wrong("pool", format!("there is no pool `{pool}`"), Some(help));
    }
    if limits.time == Some(Duration::ZERO) {
        wrong("time", "nothing runs in no time".to_string(), None);
    }
    if limits.gpu.is_some() && limits.pool.as_deref().is_some_and(|pool| pool != "gpu") {
        wrong("gpu", "GPUs are handed out by the pool `gpu` only".to_string(), None);
    }
    sound.then_some(limits)
}

/// A length of time as it is written.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
enum Written {
    Seconds(f64),
    Text(String),
}

/// `"90s"`, `"5m"`, `"2h"`, `"1h 30m"`, or a number of seconds.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let help = "write a number of seconds, or a time such as \"90s\", \"5m\" or \"1h 30m\"";
    let found = match Option::<Written>::deserialize(deserializer)
        .map_err(|_| D::Error::custom(format!("this is no length of time: {help}")))?
    {
        None => return Ok(None),
        Some(Written::Seconds(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
        Some(Written::Text(text)) => parse(&text),
    };
    found.map(Some).ok_or_else(|| D::Error::custom(format!("this is no length of time: {help}")))
}

fn parse(text: &str) -> Option<Duration> {
    let mut whole = Duration::ZERO;
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
        whole = whole.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        any = true;
    }
    any.then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let seconds = |text: &str| parse(text).map(|time| time.as_secs_f64());
        assert_eq!(seconds("90s"), Some(90.0));
        assert_eq!(seconds("1h 30m"), Some(5400.0));
        assert_eq!(seconds("0.5h"), Some(1800.0));
        for wrong in ["", "h", "5", "5 m", "-1s", "1e400s", "soon"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
