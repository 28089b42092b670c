//! Formats sizes, times, amounts of money and requests for people.

use ablate_core::base::RequestProgress;
use ablate_core::stage::Range;

pub(super) fn human_bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// A count with thousands separators: `54,000`.
pub(super) fn grouped(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}

/// A large number in short: `812`, `52.3k`, `12.5M`.
pub(super) fn short_number(number: f64) -> String {
    match number {
        _ if number >= 10_000_000.0 => format!("{:.1}M", number / 1e6),
        _ if number >= 10_000.0 => format!("{:.1}k", number / 1e3),
        _ => format!("{number:.0}"),
    }
}

/// An amount of money without its currency: two decimals, or two significant digits if it is below 0.1.
pub(super) fn amount(amount: f64) -> String {
    let decimals = if amount > 0.0 && amount < 0.1 { (1.0 - amount.log10().floor()).min(12.0) as usize } else { 2 };
    format!("{amount:.decimals$}")
}

/// An amount of money: `$1.23`, `1.23 EUR`.
pub(super) fn money(number: f64, currency: &str) -> String {
    let number = amount(number);
    if currency == "USD" { format!("${number}") } else { format!("{number} {currency}") }
}

/// An estimated amount of money: `$1.10 (0.80 to 1.50)`.
pub(super) fn money_range(range: &Range, currency: &str) -> String {
    let expected = money(range.expected, currency);
    if range.low < range.high {
        format!("{expected} ({} to {})", amount(range.low), amount(range.high))
    } else {
        expected
    }
}

/// A count with its noun: `1 reply`, `1,200 replies`.
pub(super) fn counted(count: u64, singular: &str, plural: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { singular } else { plural })
}

/// What the requests of a stage cost so far, and how fast they are. `seconds` is the time since the stage started.
pub(super) fn request_details(requests: &RequestProgress, seconds: f64) -> Vec<String> {
    let RequestProgress { received, retries, bad, tokens, cost } = requests;
    let mut details = Vec::new();
    details.extend(cost.as_ref().map(|cost| money(cost.amount, &cost.currency)));
    if *received > 0 && seconds > 0.0 {
        let rate = *received as f64 / seconds;
        details.push(match rate {
            1.0.. => format!("{rate:.1} requests/s"),
            _ => format!("{:.1} requests/min", rate * 60.0),
        });
    }
    if *tokens > 0 {
        details.push(format!("{} tokens", short_number(*tokens as f64)));
    }
    if *retries > 0 {
        details.push(counted(*retries, "retry", "retries"));
    }
    if *bad > 0 {
        details.push(format!("{} bad", grouped(*bad)));
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::Money;

    #[test]
    fn money_keeps_two_digits() {
        let amounts = [0.0, 0.000_012_3, 0.001_25, 0.099, 0.1, 1.234, 1234.5].map(amount);
        assert_eq!(amounts, ["0.00", "0.000012", "0.0013", "0.099", "0.10", "1.23", "1234.50"]);
        assert_eq!([money(1.5, "USD"), money(1.5, "EUR")], ["$1.50", "1.50 EUR"]);
    }

    #[test]
    fn details_of_requests_have_only_what_is_there() {
        assert_eq!(request_details(&RequestProgress::default(), 3.0), Vec::<String>::new());
        let cost = Some(Money { amount: 1.234, currency: "EUR".to_string() });
        let requests = RequestProgress { received: 123, retries: 7, bad: 3, tokens: 52_300, cost };
        assert_eq!(
            request_details(&requests, 30.0).join(", "),
            "1.23 EUR, 4.1 requests/s, 52.3k tokens, 7 retries, 3 bad"
        );
        let requests = RequestProgress { received: 2, retries: 1, ..RequestProgress::default() };
        assert_eq!(request_details(&requests, 60.0).join(", "), "2.0 requests/min, 1 retry");
    }
}
