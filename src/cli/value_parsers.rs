//! Parsers of argument values. Each error states the accepted values.

use std::time::Duration;

use ablate_core::base::diagnostic::nearest;
use ablate_core::stage::ArtifactKind;
use ablate_nn::Precision;

pub(super) const SECONDS_PER_DAY: f64 = 24.0 * 3600.0;

/// A positive number.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it must be a whole number from 1".to_string()),
        Ok(number) => Ok(number),
    }
}

/// The number types of a computation, as in a stage's table.
pub(super) fn precision(text: &str) -> Result<Precision, String> {
    serde_json::from_value(text.into()).map_err(|_| "it must be `f32`, `tf32` or `bf16`".to_string())
}

/// The type of an output, as a `command` stage names it.
pub(super) fn output_type(text: &str) -> Result<ArtifactKind, String> {
    serde_json::from_value(text.into()).map_err(|_| {
        let names: Vec<String> = ArtifactKind::ALL.iter().map(|kind| format!("`{}`", kind.name())).collect();
        let near = nearest(text, ArtifactKind::ALL.iter().map(|kind| kind.name()));
        let near = near.map(|near| format!("a type of a similar name is `{near}`; ")).unwrap_or_default();
        format!("{near}the types are {}", names.join(", "))
    })
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.filter(|time| !time.is_zero()).ok_or_else(|| "it must be a number of seconds above 0".to_string())
}

/// A time such as `90s`, `45min`, `2h 30m` or `1d`.
pub(super) fn time_span(text: &str) -> Result<Duration, String> {
    let time = text.parse::<jiff::SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    time.filter(|time| !time.is_zero())
        .ok_or_else(|| "it must be a time above 0 with units, such as `90min` or `2h 30m`".to_string())
}

/// A number that is not negative.
pub(super) fn amount(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "it must be a number from 0".to_string())
}

pub(super) fn gpu(text: &str) -> Result<String, String> {
    let id = text.trim();
    if id.is_empty() {
        return Err("it names no GPU: write numbers or UUIDs, such as `0,1`, or omit the option".to_string());
    }
    Ok(id.to_string())
}

/// A number of days, whole or not.
pub(super) fn days(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|days: f64| Duration::try_from_secs_f64(days * SECONDS_PER_DAY).ok());
    time.ok_or_else(|| "it must be a number of days, at least 0, such as `14` or `0.5`".to_string())
}

/// A size in bytes: `500MB` (powers of 1000) or `20GiB` (powers of 1024).
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let prefixes = ["", "k", "m", "g", "t", "p"];
    let power =
        |base: f64, rest: &str| prefixes.iter().position(|prefix| *prefix == rest).map(|power| base.powi(power as i32));
    let factor = match unit.strip_suffix("ib") {
        Some(rest) => power(1024.0, rest),
        None => power(1000.0, unit.strip_suffix('b').unwrap_or(&unit)),
    };
    let count = digits.trim().parse::<f64>().ok().filter(|count| count.is_finite() && *count >= 0.0);
    let bytes = count.zip(factor).map(|(count, factor)| (count * factor) as u64);
    bytes.ok_or_else(|| "it must be a number with a unit, such as `500MB` or `20GiB`".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_numbers_from_0() {
        let hours = ["0", "14", "0.5"].map(|text| days(text).unwrap().as_secs() / 3600);
        assert_eq!(hours, [0, 14 * 24, 12]);
        for wrong in ["", "soon", "-1", "14d", "inf", "nan", "1e300"] {
            let error = days(wrong).unwrap_err();
            assert_eq!(error, "it must be a number of days, at least 0, such as `14` or `0.5`", "{wrong}");
        }
    }

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        let sizes = ["0", "12", "12B", "1.5kB", "500MB", "500 MB", "20GiB", "2T"].map(|text| bytes(text).unwrap());
        assert_eq!(sizes, [0, 12, 12, 1500, 500_000_000, 500_000_000, 20 << 30, 2_000_000_000_000]);
        for wrong in ["", "GB", "-1MB", "1XB", "1e", "infGB"] {
            let error = bytes(wrong).unwrap_err();
            assert_eq!(error, "it must be a number with a unit, such as `500MB` or `20GiB`", "{wrong}");
        }
    }
}
