//! Roots: the current results of an experiment on one machine, which `gc` keeps at the remote.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Remote;
use super::layout::ROOTS;
use ablate_core::base::Hash;

/// The current results of an experiment in one store. Each push replaces the root of its experiment and store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    pub experiment: String,
    /// The experiment's file.
    pub file: String,
    pub host: String,
    /// The folder of the store.
    pub store: String,
    /// The values of `--set`.
    #[serde(default)]
    pub overrides: Vec<String>,
    /// Fingerprints of the current results.
    pub fingerprints: Vec<Hash>,
}

impl Root {
    /// The name of its file.
    pub(crate) fn name(&self) -> String {
        let Root { experiment, file, host, store, overrides, fingerprints: _ } = self;
        let id = serde_json::json!([experiment, file, host, store, overrides]).to_string();
        format!("{ROOTS}/{}", Hash::of_bytes(id.as_bytes()))
    }
}

impl Remote {
    /// Replaces the root of an experiment and a store.
    pub fn put_root(&self, root: &Root) -> Result<()> {
        self.put(&root.name(), serde_json::to_vec(root)?)
    }
}
