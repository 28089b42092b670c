//! The batches that were submitted and whose results are not stored yet: one file per batch in `replies/batches`. A file is
//! written before its batch is created, so that a batch that is paid for is always found again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::batch_client::Metadata;
use ablate_core::base::{Hash, files};

/// How often a lock that another process holds is tried.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// A submitted batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BatchState {
    /// The address of the endpoint.
    pub(super) url: String,
    /// Hash of the file of requests.
    pub(super) hash: Hash,
    pub(super) submitted: Timestamp,
    /// How often its requests were submitted, with this batch.
    pub(super) round: u32,
    /// The file at the endpoint.
    pub(super) file: String,
    /// The id of the batch; `None` until the endpoint has returned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) batch: Option<String>,
    /// The keys of its requests.
    pub(super) requests: Vec<Hash>,
}

impl BatchState {
    /// Identifies the batch at the endpoint.
    pub(super) fn metadata(&self) -> Metadata {
        let entries = [("ablate", self.hash.to_string()), ("submitted", self.submitted.to_string())];
        entries.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
    }
}

/// The folder of the states.
pub(super) struct BatchStates {
    folder: PathBuf,
}

impl BatchStates {
    /// The states in the folder of the replies.
    pub(super) fn open(replies: &Path) -> Result<BatchStates> {
        files::create_dir(replies.parent().unwrap_or(Path::new("")))?;
        files::create_private_dir(replies)?;
        let folder = replies.join("batches");
        files::create_private_dir(&folder)?;
        Ok(BatchStates { folder })
    }

    /// Locks the states. While the lock is held, no other process submits a batch.
    pub(super) async fn lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        let file = files::append_private(&path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
                Err(std::fs::TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock `{}`", path.display()));
                }
            }
        }
    }

    /// The batches at an address, oldest first.
    pub(super) fn at(&self, url: &str) -> Result<Vec<BatchState>> {
        let context = || format!("cannot read the folder `{}`", self.folder.display());
        let mut states = Vec::new();
        for entry in std::fs::read_dir(&self.folder).with_context(context)? {
            let path = entry.with_context(context)?.path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if hidden || path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let state = files::read_json::<BatchState>(&path);
            // Another process has stored its results.
            if !path.exists() {
                continue;
            }
            let state = state.with_context(|| {
                format!(
                    "cannot read the batch in `{}`; its requests may be paid for\nhelp: remove the file to submit them again",
                    path.display()
                )
            })?;
            states.push(state);
        }
        states.retain(|state| state.url == url);
        states.sort_by_key(|state| (state.submitted, state.hash));
        Ok(states)
    }

    pub(super) fn write(&self, state: &BatchState) -> Result<()> {
        files::write_private(&self.path(state), &serde_json::to_vec(state)?)
    }

    /// Removes the state of a batch whose results are stored.
    pub(super) fn remove(&self, state: &BatchState) -> Result<()> {
        let path = self.path(state);
        match files::remove_file(&path) {
            // Another process has removed it.
            Err(_) if !path.exists() => Ok(()),
            removed => removed,
        }
    }

    pub(super) fn path(&self, state: &BatchState) -> PathBuf {
        // Two endpoints may have the same requests.
        let name = Hash::of_bytes(format!("{} {}", state.url, state.hash).as_bytes());
        self.folder.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_found_by_address_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let states = BatchStates::open(&folder.path().join("replies")).unwrap();
        let state = |url: &str, second: i64, batch: Option<&str>| BatchState {
            url: url.to_string(),
            hash: Hash::of_bytes(&second.to_le_bytes()),
            submitted: Timestamp::from_second(second).unwrap(),
            round: 1,
            file: "file-1".into(),
            batch: batch.map(str::to_string),
            requests: vec![Hash::of_bytes(b"a")],
        };
        let all = [state("a", 2, Some("b2")), state("a", 1, None), state("b", 2, None)];
        for state in &all {
            states.write(state).unwrap();
        }
        assert_eq!(states.at("a").unwrap(), [all[1].clone(), all[0].clone()]);
        states.remove(&all[1]).unwrap();
        states.remove(&all[1]).unwrap();
        assert_eq!(states.at("a").unwrap(), [all[0].clone()]);
        files::write_atomic(&states.path(&all[0]), b"{").unwrap();
        let error = format!("{:#}", states.at("a").unwrap_err());
        assert!(error.contains("help: remove the file to submit them again"), "{error}");
    }
}
