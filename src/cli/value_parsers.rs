//! Parsers of argument values. Each error states the accepted values.

use std::time::Duration;

/// A positive number.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it must be a whole number from 1".to_string()),
        Ok(number) => Ok(number),
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.filter(|time| !time.is_zero()).ok_or_else(|| "it must be a number of seconds above 0".to_string())
}

pub(super) fn gpu(text: &str) -> Result<String, String> {
    let id = text.trim();
    if id.is_empty() {
        return Err("it names no GPU: write numbers or UUIDs, such as `0,1`, or omit the option".to_string());
    }
    Ok(id.to_string())
}
