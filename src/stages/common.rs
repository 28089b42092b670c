//! What several kinds need: threads, checks of numbers, inputs by reference. Knows no kind.

use anyhow::{Context, Result};

use crate::stage::{ArtifactKind, ConfigError, Input, InputSource, Reference};

/// Runs `work` with this many threads for parallel iterators.
pub(super) fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build().context("cannot start the threads")?;
    Ok(pool.install(work))
}

/// An input that is another stage's output.
pub(super) fn input(role: impl Into<String>, reference: &Reference, accepts: &'static [ArtifactKind]) -> Input {
    Input { role: role.into(), source: InputSource::Stage { reference: reference.clone(), accepts } }
}

/// Adds a mistake unless `value` is a number from `low` to `high`.
pub(super) fn check_range(errors: &mut Vec<ConfigError>, key: &str, value: f64, low: f64, high: f64) {
    if !(low..=high).contains(&value) {
        let range = if high.is_infinite() { format!("at least {low}") } else { format!("from {low} to {high}") };
        errors.push(ConfigError::at(key, format!("`{value}` is out of range: it is a number {range}")));
    }
}

/// A share of a whole as people read it.
pub(super) fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Fails a stage that was given nothing to work on.
pub(super) fn not_empty<T>(rows: &[T], role: &str) -> Result<()> {
    if rows.is_empty() {
        anyhow::bail!("`{role}` holds no rows");
    }
    Ok(())
}
