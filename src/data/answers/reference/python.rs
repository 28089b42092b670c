//! Python's `float(text)`, which defines what the evaluators accept as a number.

use crate::answers::markup::digit_value;

/// The number that Python parses, including infinity and NaN; `None` if it raises `ValueError`.
pub(super) fn float(text: &str) -> Option<f64> {
    let ascii = |c: char| digit_value(c).and_then(|value| char::from_digit(value, 10)).unwrap_or(c);
    let text: String = text.trim().chars().map(ascii).collect();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" => return Some(sign * f64::INFINITY),
        "nan" => return Some(f64::NAN),
        _ => {}
    }
    // `_` is allowed between digits, as in `1_000`.
    let bytes = unsigned.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let between_digits = |at: usize| at > 0 && digit(at - 1) && digit(at + 1);
    let places = unsigned.match_indices('_').map(|(at, _)| at);
    if !places.clone().all(between_digits) || !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    unsigned.replace('_', "").parse::<f64>().ok().map(|value| sign * value)
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn numbers_are_parsed_as_in_python() {
        let read = [" 12 ", "1_000", "1e5", ".5", "5.", "-3", "+4", "Infinity", "-inf"].map(float);
        let inf = f64::INFINITY;
        assert_eq!(read, [12.0, 1000.0, 1e5, 0.5, 5.0, -3.0, 4.0, inf, -inf].map(Some));
        assert_eq!(["", "1,000", "_1", "1__0", "1_", "12 cm", "--1", "1/2", ".", "e5"].map(float), [None; 10]);
        assert!(float("nan").is_some_and(f64::is_nan));
    }
}
