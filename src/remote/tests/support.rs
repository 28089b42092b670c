//! A server in memory that fails on purpose, and stores with results.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::backend::Backend;
use crate::layout::object_name;
use crate::{Address, Remote};
use ablate_core::base::{Hash, files};
use ablate_core::stage::{ArtifactKind, Manifest, Summary};
use ablate_store::{Provenance, StageRecord, Store};

/// A server in memory.
#[derive(Debug, Default)]
pub(super) struct Server {
    memory: InMemory,
    /// How many parts of uploads still succeed; `None` for all.
    pub(super) parts_left: Mutex<Option<usize>>,
    /// Ranges from this byte on fail; `None` for none.
    pub(super) gets_below: Mutex<Option<u64>>,
    /// The number of ranges that were asked for.
    pub(super) gets: AtomicUsize,
    pub(super) parts_sent: AtomicUsize,
    /// Whether conditional puts overwrite, as some servers do.
    pub(super) ignores_conditions: AtomicBool,
    /// How much older files are than they seem, until they are written again.
    ages: Mutex<BTreeMap<Path, Duration>>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("server")
    }
}

fn cut() -> Error {
    Error::Generic { store: "server", source: "the connection was cut".into() }
}

/// Counts down. False when nothing is left.
fn take(left: &Mutex<Option<usize>>) -> bool {
    match &mut *left.lock().unwrap() {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}

impl Server {
    fn aged(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(age) = self.ages.lock().unwrap().get(&meta.location) {
            meta.last_modified -= *age;
        }
        meta
    }

    /// Makes all files old.
    pub(super) fn age_everything(&self, days: u64) {
        let age = Duration::from_secs(days * 24 * 3600);
        let ages = self.names().into_iter().map(|name| (Path::from(name), age));
        *self.ages.lock().unwrap() = ages.collect();
    }

    /// The names of all files.
    pub(super) fn names(&self) -> Vec<String> {
        let listed = futures_util::future::FutureExt::now_or_never(self.memory.list(None).try_collect::<Vec<_>>());
        let mut names: Vec<String> =
            listed.unwrap().unwrap().into_iter().map(|meta| meta.location.to_string()).collect();
        names.sort();
        names
    }

    /// The names of the files below a folder of the remote.
    pub(super) fn names_in(&self, folder: &str) -> Vec<String> {
        self.names().into_iter().filter(|name| name.starts_with(&format!("team/{folder}"))).collect()
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        let path = Path::from(format!("team/{name}"));
        let put = self.memory.put(&path, PutPayload::from(bytes.to_vec()));
        futures_util::future::FutureExt::now_or_never(put).unwrap().unwrap();
    }

    pub(super) fn remove(&self, name: &str) {
        let path = Path::from(format!("team/{name}"));
        futures_util::future::FutureExt::now_or_never(self.memory.delete(&path)).unwrap().unwrap();
    }
}

#[async_trait]
impl ObjectStore for Server {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if self.ignores_conditions.load(Ordering::Relaxed) {
            options.mode = PutMode::Overwrite;
        }
        let put = self.memory.put_opts(path, payload, options).await?;
        self.ages.lock().unwrap().remove(path);
        Ok(put)
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(GetRange::Bounded(range)) = &options.range {
            self.gets.fetch_add(1, Ordering::Relaxed);
            if self.gets_below.lock().unwrap().is_some_and(|limit| range.start >= limit) {
                return Err(cut());
            }
        }
        let mut got = self.memory.get_opts(path, options).await?;
        got.meta = self.aged(got.meta);
        Ok(got)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.memory.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let ages = self.ages.lock().unwrap().clone();
        let aged = move |mut meta: ObjectMeta| {
            if let Some(age) = ages.get(&meta.location) {
                meta.last_modified -= *age;
            }
            meta
        };
        self.memory.list(prefix).map_ok(aged).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for Server {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.memory.create_multipart(path).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part: usize, data: PutPayload) -> Result<PartId> {
        if !take(&self.parts_left) {
            return Err(cut());
        }
        self.parts_sent.fetch_add(1, Ordering::Relaxed);
        // As S3 answers for an upload that it does not have.
        let lost = |error: Error| Error::NotFound { path: path.to_string(), source: Box::new(error) };
        self.memory.put_part(path, id, part, data).await.map_err(lost)
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let put = self.memory.complete_multipart(path, id, parts).await?;
        self.ages.lock().unwrap().remove(path);
        Ok(put)
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.memory.abort_multipart(path, id).await
    }
}

/// Opens the remote of a server, as a new process does.
pub(super) fn open(server: &Arc<Server>) -> Remote {
    let backend =
        Backend::new(server.clone(), server.clone(), Some(server.clone()), "team", "memory".into(), Arc::default());
    let address = Address::S3 { bucket: "memory".into(), prefix: "team".into() };
    Remote::with_backend(address, backend.unwrap(), true).unwrap()
}

/// A store in a temporary folder.
pub(super) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    (folder, store)
}

/// Commits a result with one output of these files; a plain file if it has no name.
pub(super) fn commit(store: &Store, fingerprint: &str, files: &[(&str, &[u8])]) -> Hash {
    let path = store.root().join("work/out");
    for (name, bytes) in files {
        let file = if name.is_empty() { path.clone() } else { path.join(name) };
        ablate_core::base::files::write_unsynced(&file, bytes).unwrap();
    }
    let record = StageRecord {
        fingerprint: Hash::of_bytes(fingerprint.as_bytes()),
        manifest: Manifest::new("toy", 1),
        outputs: [("out".to_string(), store.put(&path, ArtifactKind::File).unwrap())].into(),
        summary: Summary::default(),
        provenance: Provenance::default(),
    };
    store.commit(std::slice::from_ref(&record)).unwrap();
    record.fingerprint
}

/// Fetches results and returns how many were fetched, and the errors of the others.
pub(super) fn fetch(remote: &Remote, store: &Store, fingerprints: &[Hash]) -> (usize, Vec<String>) {
    let found = remote.find(fingerprints).unwrap().into_iter().filter_map(|found| match found {
        crate::Found::Record(record) => Some(*record),
        _ => None,
    });
    let results = remote.fetch(store, &found.collect::<Vec<_>>()).unwrap();
    let errors: Vec<String> =
        results.iter().filter_map(|result| Some(format!("{:#}", result.as_ref().err()?))).collect();
    (results.len() - errors.len(), errors)
}

/// The name of the object of some bytes.
pub(super) fn object_of(bytes: &[u8]) -> String {
    object_name(Hash::of_bytes(bytes))
}

/// Bytes of more than three parts.
pub(super) fn large() -> Vec<u8> {
    (0..3 * crate::transfer::PART + 12_345).map(|at| (at % 251) as u8).collect()
}

/// The files in the store's folder of transfers.
pub(super) fn transfers(store: &Store) -> Vec<String> {
    files::list_names(&store.transfers_path()).unwrap_or_default()
}
