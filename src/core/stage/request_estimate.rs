//! What a stage still has to request from an endpoint, before it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use serde::Serialize;

use super::InputPath;
use crate::base::{Hash, Seed};

/// What [`super::Stage::estimate_requests`] reads. All inputs exist.
#[derive(Clone, Debug)]
pub struct EstimateContext {
    /// Inputs by role.
    pub inputs: BTreeMap<String, InputPath>,
    /// Image packs (tars) by content hash: those of every input.
    pub images: BTreeMap<Hash, PathBuf>,
    pub seed: Seed,
    /// Folder of the replies of endpoints.
    pub replies: PathBuf,
    pub threads: usize,
}

impl EstimateContext {
    /// The input of a role. A missing role is a bug of the kind, reported as an error.
    pub fn input(&self, role: &str) -> Result<&InputPath> {
        self.inputs.get(role).ok_or_else(|| anyhow!("BUG: the stage declares no input `{role}`"))
    }
}

/// The requests of a stage that runs next.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RequestEstimate {
    /// Replies that the store does not have.
    pub requests: u64,
    /// Replies that the store has.
    pub stored: u64,
    /// Tokens of the missing prompts and replies.
    pub tokens: Option<Range>,
    /// Cost of the missing replies, if the table has prices.
    pub cost: Option<Range>,
    /// Three capital letters such as `USD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// What tokens and cost are computed from.
    pub basis: String,
}

/// An estimate with its uncertainty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Range {
    pub low: f64,
    pub expected: f64,
    pub high: f64,
}

impl RequestEstimate {
    /// The requests of both. Amounts in different currencies have no sum.
    #[must_use]
    pub fn plus(&self, other: &RequestEstimate) -> RequestEstimate {
        let one_currency = self.currency == other.currency;
        RequestEstimate {
            requests: self.requests + other.requests,
            stored: self.stored + other.stored,
            tokens: Range::sum(self.tokens, other.tokens),
            cost: if one_currency { Range::sum(self.cost, other.cost) } else { None },
            currency: self.currency.clone().filter(|_| one_currency),
            basis: if self.requests > 0 { self.basis.clone() } else { other.basis.clone() },
        }
    }
}

impl Range {
    /// The sum of two estimates; of one if the other is missing.
    pub fn sum(one: Option<Range>, other: Option<Range>) -> Option<Range> {
        let (Some(one), Some(other)) = (one, other) else { return one.or(other) };
        Some(Range { low: one.low + other.low, expected: one.expected + other.expected, high: one.high + other.high })
    }
}
