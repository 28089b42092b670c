//! Tokens and cost of requests before they are sent, with their uncertainty.

use crate::teacher::{Prices, Tokens};
use ablate_core::stage::{Range, RequestEstimate};
use ablate_store::Usage;

/// With fewer replies in the store nothing is learned from them.
const FEWEST_REPLIES: usize = 3;

/// Estimates requests. `missing` has, of every request, the estimated tokens of its prompt and the number of missing replies;
/// `known` has, of every stored reply, the estimated tokens of its prompt and what the endpoint counted.
pub(super) fn estimate(
    missing: &[(u64, u64)],
    known: &[(u64, Usage)],
    max_tokens: u32,
    prices: Option<&Prices>,
) -> RequestEstimate {
    let requests: u64 = missing.iter().map(|(_, samples)| samples).sum();
    let prompt: f64 = missing.iter().map(|(tokens, _)| *tokens as f64).sum();
    let counted: Vec<&(u64, Usage)> = known.iter().filter(|(_, usage)| usage.prompt_tokens > 0).collect();
    let (prompt, reply, basis) = if counted.len() < FEWEST_REPLIES {
        let (all, max) = (requests as f64, f64::from(max_tokens));
        let prompt = Range { low: prompt / 2.0, expected: prompt, high: prompt * 2.0 };
        let reply = Range { low: 0.0, expected: all * max / 2.0, high: all * max };
        (prompt, reply, "from the length of the prompts and `max_tokens`; the first replies make it exact")
    } else {
        let ratios = counted.iter().map(|(tokens, usage)| usage.prompt_tokens as f64 / (*tokens).max(1) as f64);
        let prompt_ratio = interval(&ratios.collect::<Vec<_>>(), missing.len() as f64);
        let replies = counted.iter().map(|(_, usage)| usage.reply_tokens as f64);
        let reply = interval(&replies.collect::<Vec<_>>(), requests as f64);
        (scaled(prompt_ratio, prompt), scaled(reply, requests as f64), "from the replies in the store, 95 % interval")
    };
    let cost = |prompt: f64, reply: f64| {
        let tokens = Tokens { prompt: prompt as u64, cached: 0, reply: reply as u64 };
        prices.map_or(0.0, |prices| prices.cost(tokens))
    };
    let of_both = |f: &dyn Fn(f64, f64) -> f64| Range {
        low: f(prompt.low, reply.low),
        expected: f(prompt.expected, reply.expected),
        high: f(prompt.high, reply.high),
    };
    RequestEstimate {
        requests,
        stored: known.len() as u64,
        tokens: (requests > 0).then(|| of_both(&|prompt, reply| prompt + reply)),
        cost: prices.filter(|_| requests > 0).map(|_| of_both(&cost)),
        currency: prices.map(|prices| prices.currency.clone()),
        basis: basis.to_string(),
    }
}

/// Mean of a sample, with the 95 % interval of the mean of `count` further values.
fn interval(values: &[f64], count: f64) -> Range {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = 1.96 * (variance * (1.0 / n + 1.0 / count.max(1.0))).sqrt();
    Range { low: (mean - half).max(0.0), expected: mean, high: mean + half }
}

fn scaled(range: Range, factor: f64) -> Range {
    Range { low: range.low * factor, expected: range.expected * factor, high: range.high * factor }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: u64, reply_tokens: u64) -> Usage {
        Usage { prompt_tokens, reply_tokens, ..Usage::default() }
    }

    #[test]
    fn without_replies_the_limits_are_the_estimate() {
        let prices = Prices { input: 1.0, cached_input: None, output: 10.0, batch: 0.5, currency: "EUR".into() };
        let found = estimate(&[(100, 1), (300, 2)], &[], 50, Some(&prices));
        assert_eq!(found.tokens, Some(Range { low: 200.0, expected: 475.0, high: 950.0 }));
        let cost = found.cost.unwrap();
        assert!((cost.high - (800.0 + 1500.0) / 1e6).abs() < 1e-12 && (cost.low - 200.0 / 1e6).abs() < 1e-12);
        assert_eq!((found.requests, found.currency.as_deref()), (3, Some("EUR")));
    }

    #[test]
    fn replies_in_the_store_narrow_the_estimate() {
        let known: Vec<(u64, Usage)> = (0..100).map(|at| (100, usage(120, 40 + at % 3))).collect();
        let found = estimate(&[(50, 1); 100], &known, 1000, None);
        let Range { low, expected, high } = found.tokens.unwrap();
        assert!((expected - (6000.0 + 4100.0)).abs() < 20.0, "{expected}");
        assert!(expected - low < 50.0 && high - expected < 50.0 && low < expected);
        assert_eq!((found.stored, found.cost), (100, None));
        assert_eq!(estimate(&[], &known, 1000, None).tokens, None);
    }
}
