//! Whether a server creates a file only if it does not exist. Some servers ignore the condition without an error, some refuse it,
//! and some are wrong when several clients write at the same time, so each server is tried once.

use anyhow::Result;
use object_store::{Error, ObjectStore, PutMode, PutPayload};
use serde::{Deserialize, Serialize};

use super::error::explain;
use super::parallel;
use super::{Remote, probe_name};
use ablate_store::Store;

/// Clients that create one file at the same time.
const RACERS: usize = 8;

/// What a server does with the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Conditional {
    /// One of several writers wins.
    Works,
    /// The condition is ignored.
    Ignored,
    /// The server answers with an error.
    Refused,
    /// Several writers of one name win.
    Racy,
}

/// The result of a conditional put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    New,
    /// A file of this name exists already.
    Exists,
}

impl Remote {
    /// What the server does with the condition. The answer is kept in the store.
    pub(crate) fn conditional(&self, store: &Store) -> Result<Conditional> {
        if let Some(known) = self.conditional.get() {
            return Ok(*known);
        }
        let cached = format!("remote-conditional-{}", self.server_hash().short());
        let known = store.read_cached(&cached).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let found = if let Some(known) = known {
            known
        } else {
            let found = self.probe_conditional()?;
            store.write_cached(&cached, &serde_json::to_vec(&found)?);
            tracing::debug!(remote = %self.address, ?found, "conditional put");
            found
        };
        Ok(*self.conditional.get_or_init(|| found))
    }

    fn probe_conditional(&self) -> Result<Conditional> {
        let name = probe_name();
        let first = self.create(&name, b"1".to_vec());
        let second = self.create(&name, b"2".to_vec());
        self.delete(&name)?;
        match (first?, second?) {
            (Err(_), _) | (_, Err(_)) => return Ok(Conditional::Refused),
            (Ok(Created::New), Ok(Created::Exists)) => {}
            _ => return Ok(Conditional::Ignored),
        }
        let name = probe_name();
        let racers: Vec<u8> = (0..RACERS as u8).collect();
        let created = parallel::try_map(&racers, RACERS, |racer| self.create(&name, vec![*racer]));
        self.delete(&name)?;
        let won = created?.into_iter().filter(|created| matches!(created, Ok(Created::New))).count();
        Ok(if won == 1 { Conditional::Works } else { Conditional::Racy })
    }

    /// Puts a file if there is none of this name. The inner error is that of a server that refuses the condition.
    pub(crate) fn create(&self, name: &str, bytes: Vec<u8>) -> Result<Result<Created, Error>> {
        let path = self.backend.path(name);
        let put = self.backend.impatient.put_opts(&path, PutPayload::from(bytes), PutMode::Create.into());
        match self.backend.wait(put)? {
            Ok(_) => Ok(Ok(Created::New)),
            Err(Error::AlreadyExists { .. }) => Ok(Ok(Created::Exists)),
            Err(error @ (Error::NotImplemented { .. } | Error::NotSupported { .. } | Error::Generic { .. })) => {
                Ok(Err(error))
            }
            Err(error) => Err(explain(&format!("cannot write `{name}` to {}", self.address), &error)),
        }
    }
}
