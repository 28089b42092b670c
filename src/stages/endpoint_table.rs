//! The keys of a table that describes a model behind an endpoint, for all kinds that have one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::teacher::{Budget, Prices};

/// Why a reply makes no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BadReply {
    /// It has no text.
    Empty,
    /// The model declined to answer.
    Refused,
    /// A content filter removed the text or a part of it.
    Filtered,
    /// The text was cut at the token limit.
    Cut,
    /// It is not a chat completion.
    Malformed,
    /// It is longer than `max_tokens` can explain.
    TooLong,
    /// The endpoint rejected this request, and answered others.
    Rejected,
    /// The text does not have the form that the stage needs.
    Form,
}

impl BadReply {
    /// The name in tables and on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            BadReply::Empty => "empty",
            BadReply::Refused => "refused",
            BadReply::Filtered => "filtered",
            BadReply::Cut => "cut",
            BadReply::Malformed => "malformed",
            BadReply::TooLong => "too-long",
            BadReply::Rejected => "rejected",
            BadReply::Form => "form",
        }
    }
}

/// A field of a request that is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Omitted {
    Temperature,
    MaxTokens,
}

/// How images are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SentImages {
    /// As data URLs.
    #[default]
    Data,
    /// As files of this machine, by `file://` URLs.
    File,
}

/// The keys of [`endpoint_table`] that do not have a default of their own in each kind.
#[derive(Clone, Debug, Default)]
pub(super) struct EndpointKeys {
    pub(super) url: Option<String>,
    pub(super) model: Option<String>,
    pub(super) revision: Option<String>,
    pub(super) parameters: Option<Map<String, Value>>,
    pub(super) omit: Option<BTreeSet<Omitted>>,
    pub(super) retry: Option<BTreeSet<BadReply>>,
    pub(super) images: Option<SentImages>,
    pub(super) key_env: Option<String>,
    pub(super) api_version: Option<String>,
    pub(super) concurrency: Option<usize>,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) patience_seconds: Option<u64>,
    pub(super) requests_per_minute: Option<f64>,
    pub(super) tokens_per_minute: Option<f64>,
    pub(super) prices: Option<Prices>,
    pub(super) budget: Option<Budget>,
    pub(super) batch: Option<bool>,
    pub(super) batch_poll_seconds: Option<u64>,
}

/// Declares the table of a model behind an endpoint: its own keys and those of every endpoint. A macro, since a struct with
/// serde's `flatten` cannot refuse unknown keys.
macro_rules! endpoint_table {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident { $($own_keys:tt)* }) => {
        $(#[$attribute])*
        #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        $visibility struct $name {
            $($own_keys)*
            url: Option<String>,
            model: Option<String>,
            /// A name of your own for the weights that the endpoint serves.
            revision: Option<String>,
            temperature: Option<f64>,
            max_tokens: Option<u32>,
            system: Option<String>,
            /// More fields of the requests.
            parameters: Option<serde_json::Map<String, serde_json::Value>>,
            /// Fields of the requests that are not sent.
            omit: Option<std::collections::BTreeSet<$crate::stages::endpoint_table::Omitted>>,
            /// Kinds of bad replies that are requested once more.
            retry: Option<std::collections::BTreeSet<$crate::stages::endpoint_table::BadReply>>,
            /// How images are sent.
            images: Option<$crate::stages::endpoint_table::SentImages>,
            key_env: Option<String>,
            /// Azure's `api-version`.
            api_version: Option<String>,
            concurrency: Option<usize>,
            timeout_seconds: Option<u64>,
            /// How long a request is repeated after failures.
            patience_seconds: Option<u64>,
            requests_per_minute: Option<f64>,
            tokens_per_minute: Option<f64>,
            /// Prices per million tokens.
            prices: Option<$crate::teacher::Prices>,
            /// The stage stops before it exceeds one of these limits.
            budget: Option<$crate::teacher::Budget>,
            /// Whether requests are sent as batches, which cost less and take up to a day.
            batch: Option<bool>,
            /// The pause between two looks at a batch.
            batch_poll_seconds: Option<u64>,
        }

        impl $name {
            fn endpoint_keys(&self) -> $crate::stages::endpoint_table::EndpointKeys {
                $crate::stages::endpoint_table::EndpointKeys {
                    url: self.url.clone(),
                    model: self.model.clone(),
                    revision: self.revision.clone(),
                    parameters: self.parameters.clone(),
                    omit: self.omit.clone(),
                    retry: self.retry.clone(),
                    images: self.images,
                    key_env: self.key_env.clone(),
                    api_version: self.api_version.clone(),
                    concurrency: self.concurrency,
                    timeout_seconds: self.timeout_seconds,
                    patience_seconds: self.patience_seconds,
                    requests_per_minute: self.requests_per_minute,
                    tokens_per_minute: self.tokens_per_minute,
                    prices: self.prices.clone(),
                    budget: self.budget.clone(),
                    batch: self.batch,
                    batch_poll_seconds: self.batch_poll_seconds,
                }
            }
        }
    };
}
pub(super) use endpoint_table;

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::stage::BAD_REPLIES;

    #[test]
    fn command_line_has_the_kinds_of_the_tables() {
        let parse = |name: &&str| serde_json::from_value::<BadReply>((*name).into()).unwrap();
        let all: BTreeSet<BadReply> = BAD_REPLIES.iter().map(parse).collect();
        assert_eq!(all.len(), 8);
        assert!(all.into_iter().all(|bad| BAD_REPLIES.contains(&bad.name())));
    }
}
