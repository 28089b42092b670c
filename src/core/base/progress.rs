//! What a running stage says about itself. A stage emits events; only `cli` prints them.

use serde::{Deserialize, Serialize};

use super::Causes;

/// One event of a running stage. Crosses the process border as one line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Work done so far, out of `total` `unit`s (steps, items, rows, ...).
    Progress {
        done: u64,
        total: u64,
        unit: String,
        /// Latest training loss, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<f64>,
        /// Tokens per second since the stage started, where tokens are counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_per_second: Option<f64>,
    },
    /// Something worth a line in the log: a resumed checkpoint, another batch size.
    Note { text: String },
    /// Something that nobody who uses the result may miss: rows left out and why.
    Warning { text: String },
    /// The stage ended well; `summary` is what its record keeps.
    Done { summary: serde_json::Map<String, serde_json::Value> },
    /// The stage ended with an error.
    Failed(Causes),
}

/// Takes the events of one stage.
pub trait Progress: Sync {
    fn emit(&self, event: Event);

    fn note(&self, text: String) {
        self.emit(Event::Note { text });
    }

    fn step(&self, done: u64, total: u64, unit: &str) {
        self.emit(Event::Progress { done, total, unit: unit.to_string(), loss: None, tokens_per_second: None });
    }
}

/// Drops every event: for tests and for callers that do not look.
pub struct Silent;

impl Progress for Silent {
    fn emit(&self, _event: Event) {}
}
