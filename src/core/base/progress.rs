//! Progress events of a running stage. A stage emits events; only `cli` prints them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ErrorChain;

/// One event of a running stage. A child process sends it to the engine as one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum StageEvent {
    /// Work done so far, out of `total` `unit`s (steps, items, rows, ...).
    Progress {
        done: u64,
        total: u64,
        unit: String,
        /// Latest training loss, if the stage has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<f64>,
        /// Tokens per second since the stage started, if the stage counts tokens.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_per_second: Option<f64>,
        /// What the requests to an endpoint have cost so far, if the stage sends requests.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requests: Option<RequestProgress>,
    },
    /// A line for the log, such as a resumed checkpoint or a changed batch size.
    Note { text: String },
    /// A line for the terminal and the log: a choice that the stage made from the content of its inputs, such as the format of
    /// a file.
    Choice { text: String },
    /// A fact that users of the result must see, such as rows that were left out and why.
    Warning { text: String },
    /// The stage succeeded; its record keeps `summary`.
    Done { summary: serde_json::Map<String, serde_json::Value> },
    /// The stage ended although an endpoint still works on its requests, see [`super::Detached`].
    Detached { waits_for: String },
    /// The stage failed.
    Failed(ErrorChain),
}

/// The requests that a stage has sent to an endpoint in this run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestProgress {
    /// Replies received.
    pub received: u64,
    /// Failed attempts that were repeated.
    pub retries: u64,
    /// Replies without a usable text.
    pub bad: u64,
    /// Tokens of prompts and replies, as the endpoint counts them.
    pub tokens: u64,
    /// Cost of the replies, if the table has prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Money>,
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Money {
    pub amount: f64,
    /// Three capital letters such as `USD`.
    pub currency: String,
}

/// Receives the events of one stage.
pub trait Progress: Sync {
    fn emit(&self, event: StageEvent);

    /// Whether the stage should save its work and end.
    fn stop_requested(&self) -> bool {
        false
    }

    /// Sets how long the stage takes to end by itself when that is requested. At first it is zero: its process ends immediately.
    fn allow_time_to_stop(&self, _time: Duration) {}

    fn note(&self, text: String) {
        self.emit(StageEvent::Note { text });
    }

    fn choice(&self, text: String) {
        self.emit(StageEvent::Choice { text });
    }

    fn step(&self, done: u64, total: u64, unit: &str) {
        self.emit(StageEvent::Progress {
            done,
            total,
            unit: unit.to_string(),
            loss: None,
            tokens_per_second: None,
            requests: None,
        });
    }
}

/// Drops every event.
pub struct NoProgress;

impl Progress for NoProgress {
    fn emit(&self, _event: StageEvent) {}
}
