//! A remote: results that machines share, in a bucket of S3 or in a folder.
//!
//! ```text
//! FORMAT                     "ablate remote 1"; a remote of another format is refused
//! objects/ab/<hash>          the bytes of a file, or the manifest of a folder, under the name of its object in a store
//! records/ab/<fingerprint>   a StageRecord as one line of JSON, and a line with the hash of that line
//! roots/<id>                 the current results of an experiment on one machine, for `gc`
//! probes/                    empty most of the time
//! ```
//!
//! Objects are named by their content, so that two writers of one name write the same bytes. A record is written when all objects
//! that it names are there. There is no lock. Reading order: [`Address`], `backend` (the connection), `layout`, `transfer` (one
//! object), `push`, `fetch`, `gc`.

mod address;
mod backend;
mod conditional;
mod credentials;
mod error;
mod fetch;
mod gc;
mod layout;
mod meter;
mod parallel;
mod push;
mod records;
mod roots;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::sync::Semaphore;

pub use address::Address;
pub use error::{is_no_remote, is_stopped, is_unreachable};
pub use fetch::Found;
pub use gc::{GcReport, GcRules};
pub use meter::Meter;
pub use push::PushReport;
pub use roots::Root;

use ablate_core::base::Hash;
use backend::Backend;
use conditional::Conditional;
use error::{NoRemote, Unreachable, explain};
use layout::{FORMAT, FORMAT_NAME, OBJECTS, PROBES, RECORDS, ROOTS};

/// How long `gc` keeps what no root names, by default. A push renews what is older than half of it.
pub const GRACE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Number of objects that move at the same time.
const TRANSFERS: usize = 8;

/// The most parts of large objects that are in memory at the same time.
const PARTS_IN_MEMORY: usize = 16;

/// The longest wait for the first answer of a server.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// An open remote. Its functions wait for the network; several threads may use it.
pub struct Remote {
    address: Address,
    backend: Backend,
    meter: Meter,
    in_flight: Semaphore,
    conditional: OnceLock<Conditional>,
    /// A time of the server's clock, and when it was read.
    clock: Mutex<Option<(Timestamp, Instant)>>,
    /// Objects that this process found or wrote, and that `gc` will not remove soon.
    known: Mutex<BTreeSet<Hash>>,
    /// Objects whose content did not match their name.
    damaged: Mutex<BTreeSet<Hash>>,
}

impl Remote {
    /// Opens a remote. With `create`, an empty place becomes a remote; otherwise there must be one. `stop` ends transfers early.
    pub fn open(address: &Address, create: bool, stop: Arc<AtomicBool>) -> Result<Remote> {
        let backend = Backend::connect(address, create, stop)?;
        Remote::with_backend(address.clone(), backend, create)
    }

    fn with_backend(address: Address, backend: Backend, create: bool) -> Result<Remote> {
        let remote = Remote {
            address,
            backend,
            meter: Meter::default(),
            in_flight: Semaphore::new(PARTS_IN_MEMORY),
            conditional: OnceLock::new(),
            clock: Mutex::default(),
            known: Mutex::default(),
            damaged: Mutex::default(),
        };
        remote.check_format(create)?;
        Ok(remote)
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The bytes that were moved, and those that will be.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Identifies server, bucket and prefix, for files in the store.
    fn server_hash(&self) -> Hash {
        Hash::of_bytes(format!("{} {}", self.backend.server, self.address).as_bytes())
    }

    /// Refuses a remote of another format, and a place with other files.
    fn check_format(&self, create: bool) -> Result<()> {
        let address = &self.address;
        let doing = format!("cannot use the remote {address}");
        let first = self.backend.wait(async {
            let get = async {
                let found = self.backend.impatient.get(&self.backend.path(FORMAT_NAME)).await?;
                found.bytes().await
            };
            tokio::time::timeout(FIRST_ANSWER, get).await
        })?;
        let late = || anyhow::Error::from(Unreachable("it does not answer".to_string())).context(doing.clone());
        let answer = first.map_err(|_| late())?;
        match answer {
            Ok(bytes) if bytes.trim_ascii_end() == FORMAT.as_bytes() => Ok(()),
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let line: String = text.lines().next().unwrap_or_default().chars().take(80).collect();
                bail!("the remote {address} has the format `{line}`, this program reads `{FORMAT}`")
            }
            // A missing bucket has another code than a missing object.
            Err(Error::NotFound { source, .. }) if !format!("{source:?}").contains("NoSuchBucket") => {
                let listed = self.backend.wait(async {
                    let root = self.backend.path("");
                    self.backend.impatient.list_with_delimiter(Some(&root)).await
                })?;
                let listed = listed.map_err(|error| explain(&doing, &error))?;
                let names = listed.common_prefixes.iter().chain(listed.objects.iter().map(|object| &object.location));
                let names = names.filter_map(|path| self.backend.name(path));
                let ours = [OBJECTS, RECORDS, ROOTS, PROBES, FORMAT_NAME];
                let hidden = |name: &&str| name.starts_with('.') || name.starts_with("README");
                if let Some(name) = names.into_iter().filter(|name| !hidden(name)).find(|name| !ours.contains(name)) {
                    bail!(
                        "{address} is not a remote of ablate: it contains `{name}` and no `{FORMAT_NAME}`\nhelp: choose an empty prefix or folder"
                    );
                }
                if !create {
                    return Err(NoRemote(address.to_string()).into());
                }
                self.put(FORMAT_NAME, format!("{FORMAT}\n").into_bytes())
            }
            Err(error) => Err(explain(&doing, &error)),
        }
    }

    /// Reads a small file; `None` if it does not exist.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.backend.path(name);
        let got = self.backend.wait(async { self.backend.objects.get(&path).await?.bytes().await })?;
        match got {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(explain(&format!("cannot read `{name}` from {}", self.address), &error)),
        }
    }

    /// Writes a small file and replaces one of the same name.
    fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let path = self.backend.path(name);
        let put = self.backend.wait(self.backend.objects.put(&path, PutPayload::from(bytes)))?;
        put.map(|_| ()).map_err(|error| explain(&format!("cannot write `{name}` to {}", self.address), &error))
    }

    /// Size and time of a file; `None` if it does not exist.
    fn head(&self, name: &str) -> Result<Option<ObjectMeta>> {
        let path = self.backend.path(name);
        match self.backend.wait(self.backend.objects.head(&path))? {
            Ok(meta) => Ok(Some(meta)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(explain(&format!("cannot look at `{name}` of {}", self.address), &error)),
        }
    }

    /// Removes a file. One that does not exist is not an error.
    fn delete(&self, name: &str) -> Result<()> {
        let path = self.backend.path(name);
        match self.backend.wait(self.backend.objects.delete(&path))? {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(explain(&format!("cannot remove `{name}` from {}", self.address), &error)),
        }
    }

    /// The time of the server's clock: ages are counted on it, because the clock of this machine may be wrong.
    fn server_time(&self) -> Result<Timestamp> {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if clock.is_none() {
            let name = probe_name();
            self.put(&name, Vec::new())?;
            let found = self.head(&name)?.context("a file that was just written to the remote is not there")?;
            self.delete(&name)?;
            *clock = Some((time_of(&found), Instant::now()));
        }
        let (time, since) = clock.unwrap_or_else(|| panic!("BUG: the clock was read"));
        let elapsed = jiff::SignedDuration::try_from(since.elapsed()).unwrap_or_default();
        Ok(time.checked_add(elapsed).unwrap_or(time))
    }

    /// How long ago a file was written, on the server's clock.
    fn age(&self, meta: &ObjectMeta) -> Result<Duration> {
        let age = self.server_time()?.duration_since(time_of(meta));
        Ok(Duration::try_from(age).unwrap_or_default())
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<Hash>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an object is damaged: the next push replaces it.
    fn note_damaged(&self, hash: Hash) {
        self.known().remove(&hash);
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
    }

    fn is_damaged(&self, hash: Hash) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }
}

/// When a file was written, on the server's clock.
fn time_of(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or(Timestamp::MAX)
}

/// A name that no other process uses.
fn probe_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = Timestamp::now().as_nanosecond();
    let unique = format!("{} {} {now} {count}", ablate_store::host(), std::process::id());
    format!("{PROBES}/{}", Hash::of_bytes(unique.as_bytes()))
}
