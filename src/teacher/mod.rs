//! Sources of replies: a client of OpenAI-compatible endpoints, and the oracle, which repeats an item's own rationale.
//!
//! [`Dispatcher`] sends many requests through one [`Client`]: it limits their number and rate, retries failed attempts, and stops
//! before a [`Budget`] is exceeded. [`Batches`] submits them as batches instead.

mod api_key;
mod backoff;
mod batch;
mod batch_client;
mod batch_file;
mod batch_line;
mod batch_states;
mod budget;
mod calls;
mod client;
mod completion;
mod dispatch;
mod failure;
mod health;
mod network;
pub mod oracle;
mod rate_limit;
mod request;
#[cfg(test)]
mod tests;

pub use batch::{BatchConfig, Batches, KeyedAnswer, KeyedRequests};
pub use batch_file::BatchLimits;
pub use budget::{Budget, Prices, Spending};
pub use client::{Client, ClientConfig};
pub use completion::{Choice, Tokens};
pub use dispatch::{Answer, DispatchConfig, Dispatcher, RequestList, SampledRequests};
pub use request::{ChatRequest, ContentPart, ImageUrls, Sampling};
