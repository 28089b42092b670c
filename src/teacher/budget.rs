//! What requests cost, and the limit that stops a stage before it is exceeded.

use std::collections::BTreeMap;

use anyhow::anyhow;
use serde::Deserialize;

use super::completion::Tokens;
use ablate_core::base::wrong_input;
use ablate_store::Usage;

/// Prices per million tokens.
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Of prompts.
    pub input: f64,
    /// Of the part of a prompt that the endpoint has in its cache; that of `input` if it is not given.
    pub cached_input: Option<f64>,
    /// Of replies.
    pub output: f64,
    /// Factor of the other prices for replies that come by a batch.
    #[serde(default = "half")]
    pub batch: f64,
    /// Three capital letters.
    #[serde(default = "dollars")]
    pub currency: String,
}

fn half() -> f64 {
    0.5
}

fn dollars() -> String {
    "USD".to_string()
}

impl Prices {
    /// The prices of replies that come by a batch.
    #[must_use]
    pub fn of_batch(&self) -> Prices {
        let Prices { input, cached_input, output, batch, currency } = self;
        Prices {
            input: input * batch,
            cached_input: cached_input.map(|price| price * batch),
            output: output * batch,
            batch: *batch,
            currency: currency.clone(),
        }
    }

    /// The cost of these tokens.
    pub fn cost(&self, tokens: Tokens) -> f64 {
        let cached = tokens.cached.min(tokens.prompt);
        let input = (tokens.prompt - cached) as f64 * self.input;
        let cached = cached as f64 * self.cached_input.unwrap_or(self.input);
        (input + cached + tokens.reply as f64 * self.output) / 1e6
    }

    /// The usage of these tokens with their cost.
    pub fn usage(prices: Option<&Prices>, tokens: Tokens) -> Usage {
        let cost = prices.map(|prices| (prices.currency.clone(), prices.cost(tokens)));
        Usage {
            prompt_tokens: tokens.prompt,
            reply_tokens: tokens.reply,
            cost: cost.into_iter().collect::<BTreeMap<_, _>>(),
        }
    }
}

/// Limits of everything that the requests of a stage cost, over all of its attempts.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    pub requests: Option<u64>,
    /// Tokens of prompts and replies.
    pub tokens: Option<u64>,
    /// In the currency of the prices.
    pub cost: Option<f64>,
}

/// What was spent, and what the requests in flight may cost at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spending {
    pub requests: u64,
    pub tokens: u64,
    pub cost: f64,
}

impl Spending {
    pub fn add(&mut self, other: &Spending) {
        self.requests = self.requests.saturating_add(other.requests);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.cost += other.cost;
    }

    pub(super) fn subtract(&mut self, other: &Spending) {
        self.requests = self.requests.saturating_sub(other.requests);
        self.tokens = self.tokens.saturating_sub(other.tokens);
        self.cost = (self.cost - other.cost).max(0.0);
    }
}

impl Budget {
    /// The limit that this much more would exceed, as text.
    pub(super) fn exceeded(&self, spent: &Spending, more: &Spending, currency: &str) -> Option<String> {
        let Budget { requests, tokens, cost } = self;
        if let Some(limit) = requests.filter(|limit| spent.requests.saturating_add(more.requests) > *limit) {
            return Some(format!("{} of {limit} requests", spent.requests));
        }
        if let Some(limit) = tokens.filter(|limit| spent.tokens.saturating_add(more.tokens) > *limit) {
            return Some(format!("{} of {limit} tokens, and the next request may need {}", spent.tokens, more.tokens));
        }
        let limit = cost.filter(|limit| spent.cost + more.cost > *limit)?;
        let (spent, more) = (spent.cost, more.cost);
        Some(format!("{spent:.4} of {limit} {currency}, and the next request may cost {more:.4} {currency}"))
    }
}

/// The error of a stage that the budget stops after `done` of `total` replies.
pub(super) fn budget_error(limit: &str, done: u64, total: u64) -> anyhow::Error {
    wrong_input(anyhow!(
        "the budget is spent after {done} of {total} replies: {limit}\nhelp: all replies are kept; with a larger `budget` the same \
         command continues"
    ))
}

/// Estimates the prompt tokens of requests. It learns from the numbers that the endpoint returns.
#[derive(Debug, Default)]
pub(super) struct PromptTokens {
    /// The largest ratio of counted to estimated tokens.
    ratio: Option<f64>,
}

impl PromptTokens {
    /// At most this many, if the requests so far are typical. Without any, half more than estimated.
    pub(super) fn at_most(&self, estimate: u64) -> u64 {
        (estimate as f64 * self.ratio.unwrap_or(1.5)).ceil() as u64
    }

    pub(super) fn learn(&mut self, estimate: u64, counted: u64) {
        if counted > 0 {
            let ratio = counted as f64 / estimate.max(1) as f64;
            self.ratio = Some(self.ratio.map_or(ratio, |known| known.max(ratio)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> Prices {
        Prices { input: 2.0, cached_input: Some(1.0), output: 10.0, batch: 0.5, currency: "EUR".into() }
    }

    #[test]
    fn cost_counts_cached_prompts_at_their_price() {
        let tokens = Tokens { prompt: 1_000_000, cached: 500_000, reply: 100_000 };
        assert!((prices().cost(tokens) - (1.0 + 0.5 + 1.0)).abs() < 1e-12);
        let without = Prices { cached_input: None, ..prices() };
        assert!((without.cost(tokens) - 3.0).abs() < 1e-12);
        assert_eq!(Prices::usage(Some(&prices()), tokens).cost.keys().collect::<Vec<_>>(), ["EUR"]);
        assert_eq!(Prices::usage(None, tokens).cost, BTreeMap::new());
        assert!((prices().of_batch().cost(tokens) - 1.25).abs() < 1e-12);
    }

    #[test]
    fn budget_names_the_limit_that_would_be_exceeded() {
        let spent = Spending { requests: 9, tokens: 900, cost: 0.9 };
        let more = Spending { requests: 1, tokens: 200, cost: 0.2 };
        let exceeded = |budget: Budget| budget.exceeded(&spent, &more, "EUR");
        assert_eq!(exceeded(Budget::default()), None);
        assert_eq!(exceeded(Budget { requests: Some(10), tokens: Some(1100), cost: Some(1.2) }), None);
        assert_eq!(exceeded(Budget { requests: Some(9), ..Budget::default() }).as_deref(), Some("9 of 9 requests"));
        let tokens = exceeded(Budget { tokens: Some(1000), ..Budget::default() });
        assert_eq!(tokens.as_deref(), Some("900 of 1000 tokens, and the next request may need 200"));
        let cost = exceeded(Budget { cost: Some(1.0), ..Budget::default() });
        assert_eq!(cost.as_deref(), Some("0.9000 of 1 EUR, and the next request may cost 0.2000 EUR"));
    }

    #[test]
    fn estimates_follow_the_counts_of_the_endpoint() {
        let mut tokens = PromptTokens::default();
        assert_eq!(tokens.at_most(100), 150);
        tokens.learn(100, 90);
        tokens.learn(100, 0);
        assert_eq!(tokens.at_most(100), 90);
        tokens.learn(100, 200);
        tokens.learn(100, 50);
        assert_eq!(tokens.at_most(100), 200);
    }
}
