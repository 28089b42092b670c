//! Uploads and downloads of single objects. Large ones move in parts, and a transfer that was cut continues.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as ObjectPath;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use super::Remote;
use super::error::{Stopped, explain};
use super::layout::object_name;
use ablate_core::base::{Hash, files};
use ablate_store::{Lock, ObjectFile, Store, VerifiedFile, verify_received};

/// The size of the parts of a large object. S3 allows at most 10,000 parts.
pub(crate) const PART: u64 = 16 << 20;
const MAX_PARTS: u64 = 10_000;

/// The most parts of one object that move at the same time.
pub(crate) const PARTS_IN_FLIGHT: usize = 4;

/// A download asks for ranges of this size, this many at the same time.
pub(crate) const RANGE: u64 = 8 << 20;
const RANGES_IN_FLIGHT: usize = 10;

/// A download is synced to the disk in the background whenever it has grown by this much.
const SYNC_BYTES: u64 = 128 << 20;

/// The pause between two looks at a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// An upload in parts that has begun. It is kept in the store, so that a later command continues it.
#[derive(Debug, Serialize, Deserialize)]
struct Upload {
    /// The id that the server gave it.
    id: String,
    part_size: u64,
    /// What the server answered for each part; `None` for a part that is not there.
    parts: Vec<Option<String>>,
}

/// A remote object whose content does not match its name.
#[derive(Debug)]
pub(crate) struct Damaged(pub(crate) String);

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the object `{}` of the remote is damaged: its content does not match its name. It was not used",
            self.0
        )
    }
}

impl std::error::Error for Damaged {}

/// The part size of an object: larger for objects that would have too many parts.
fn part_size(size: u64) -> u64 {
    PART.max(size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20))
}

impl Remote {
    /// Uploads an object and replaces one of the same name. `file` was checked.
    pub(crate) fn upload(&self, store: &Store, file: &ObjectFile) -> Result<()> {
        let name = object_name(file.hash);
        if file.size <= PART {
            let bytes = files::read_bytes(&file.path)?;
            self.put(&name, bytes)?;
            self.meter.add(file.size);
            return Ok(());
        }
        let path = self.backend.path(&name);
        let failed = |error: &Error| explain(&format!("cannot upload `{name}` to {}", self.address), error);
        let Some(parts) = self.backend.parts.clone() else {
            return self.backend.wait(self.copy_in(&path, file))?;
        };
        let _lock = self.lock(store, file.hash)?;
        let state = store.transfers_path().join(format!("{}.{}.upload", file.hash, self.server_hash().short()));
        let mut begun: Option<Upload> = files::read_json(&state).ok();
        if begun.as_ref().is_some_and(|begun| !begun.fits(file.size)) {
            begun = None;
        }
        let is_continued = begun.is_some();
        let mut upload = match begun {
            Some(upload) => upload,
            None => self.begin(&*parts, &path)?.map_err(|error| failed(&error)).map(|id| Upload::new(id, file.size))?,
        };
        let mut result = self.send_parts(&*parts, &path, file, &mut upload, &state)?;
        if is_continued && matches!(result, Err(PartError::Server(Error::NotFound { .. }))) {
            // The server has removed the upload meanwhile.
            let id = self.begin(&*parts, &path)?.map_err(|error| failed(&error))?;
            upload = Upload::new(id, file.size);
            result = self.send_parts(&*parts, &path, file, &mut upload, &state)?;
        }
        match result {
            Ok(()) => {
                if state.exists() {
                    files::remove_file(&state)?;
                }
                Ok(())
            }
            Err(PartError::Server(error)) => Err(failed(&error)),
            Err(PartError::Here(error)) => Err(error),
        }
    }

    fn begin(&self, parts: &dyn MultipartStore, path: &ObjectPath) -> Result<Result<String, Error>> {
        self.backend.wait(parts.create_multipart(path))
    }

    /// Sends the missing parts, then makes them one object.
    fn send_parts(
        &self,
        parts: &dyn MultipartStore,
        path: &ObjectPath,
        file: &ObjectFile,
        upload: &mut Upload,
        state: &Path,
    ) -> Result<Result<(), PartError>> {
        let source = files::open_file(&file.path)?;
        let (size, id) = (upload.part_size, upload.id.clone());
        let range = |part: usize| {
            let from = part as u64 * size;
            (from, (file.size - from).min(size))
        };
        let missing: Vec<usize> = (0..upload.parts.len()).filter(|part| upload.parts[*part].is_none()).collect();
        let there = (0..upload.parts.len()).filter(|part| upload.parts[*part].is_some());
        self.meter.add(there.map(|part| range(part).1).sum());
        self.backend.wait(async {
            let send = |part: usize| {
                let (source, id) = (&source, &id);
                async move {
                    let (from, length) = range(part);
                    let _permit = self.in_flight.acquire().await.map_err(|error| PartError::Here(error.into()))?;
                    let mut bytes = vec![0; length as usize];
                    source
                        .read_exact_at(&mut bytes, from)
                        .with_context(|| format!("cannot read `{}`", file.path.display()))
                        .map_err(PartError::Here)?;
                    let sent = parts.put_part(path, id, part, PutPayload::from(bytes)).await;
                    sent.map(|sent| (part, length, sent.content_id)).map_err(PartError::Server)
                }
            };
            let mut sent = stream::iter(missing).map(send).buffer_unordered(PARTS_IN_FLIGHT);
            while let Some(result) = sent.next().await {
                let (part, length, content) = result?;
                upload.parts[part] = Some(content);
                self.meter.add(length);
                let text = serde_json::to_vec(upload).map_err(|error| PartError::Here(error.into()))?;
                files::write_private_unsynced(state, &text).map_err(PartError::Here)?;
            }
            let all = upload.parts.iter().flatten().map(|content| PartId { content_id: content.clone() }).collect();
            parts.complete_multipart(path, &id, all).await.map_err(PartError::Server)?;
            Ok(())
        })
    }

    /// Copies a large file into a shared folder.
    async fn copy_in(&self, path: &ObjectPath, file: &ObjectFile) -> Result<()> {
        let failed = |error: &Error| explain(&format!("cannot copy `{path}` into {}", self.address), error);
        let mut upload = self.backend.objects.put_multipart(path).await.map_err(|error| failed(&error))?;
        let source = files::open_file(&file.path)?;
        let copied = async {
            let mut from = 0;
            while from < file.size {
                let mut bytes = vec![0; (file.size - from).min(PART) as usize];
                source
                    .read_exact_at(&mut bytes, from)
                    .with_context(|| format!("cannot read `{}`", file.path.display()))?;
                let length = bytes.len() as u64;
                upload.put_part(PutPayload::from(bytes)).await.map_err(|error| failed(&error))?;
                self.meter.add(length);
                from += length;
            }
            upload.complete().await.map_err(|error| failed(&error))?;
            anyhow::Ok(())
        }
        .await;
        if copied.is_err() {
            upload.abort().await.ok();
        }
        copied
    }

    /// Downloads an object into a file of the store's transfers, and compares its content with its name. A file that is there is
    /// continued.
    pub(crate) fn download(&self, store: &Store, hash: Hash, size: Option<u64>) -> Result<(PathBuf, VerifiedFile)> {
        let path = store.transfers_path().join(format!("{hash}.part"));
        let size = match size {
            Some(size) => size,
            None => self.head(&object_name(hash))?.ok_or_else(|| missing(hash))?.size,
        };
        for attempt in 0..2 {
            let from = std::fs::metadata(&path).map_or(0, |found| found.len());
            if from > size {
                files::remove_file(&path)?;
                continue;
            }
            self.meter.add(from);
            self.receive(&path, hash, from, size)?;
            if let Some(verified) = verify_received(&path, hash)? {
                return Ok((path, verified));
            }
            files::remove_file(&path)?;
            // A file that was continued may have been damaged here, for example by a power cut.
            if from == 0 || attempt > 0 {
                break;
            }
        }
        self.note_damaged(hash);
        Err(Damaged(object_name(hash)).into())
    }

    /// Appends the rest of an object to its file.
    fn receive(&self, path: &Path, hash: Hash, from: u64, size: u64) -> Result<()> {
        let name = object_name(hash);
        let object = self.backend.path(&name);
        let mut file = files::append(path)?;
        let starts: Vec<u64> = (0..(size - from).div_ceil(RANGE)).map(|part| from + part * RANGE).collect();
        self.backend
            .wait(async {
                let get = |start: u64| {
                    let (objects, object) = (self.backend.objects.clone(), object.clone());
                    async move {
                        let _permit = self.in_flight.acquire().await?;
                        let range = start..size.min(start + RANGE);
                        let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
                        // On a thread of the network, while this one writes. The pieces are written as they arrived, because joining
                        // them would copy every byte. A shorter object is noticed by its hash.
                        let get = async move {
                            let pieces = objects.get_opts(&object, options).await?.into_stream();
                            pieces.try_collect::<Vec<_>>().await
                        };
                        anyhow::Ok(tokio::spawn(get).await??)
                    }
                };
                let mut parts = stream::iter(starts).map(get).buffered(RANGES_IN_FLIGHT);
                let (mut unsynced, mut sync) = (0, None::<tokio::task::JoinHandle<()>>);
                while let Some(pieces) = parts.try_next().await? {
                    for bytes in pieces {
                        file.write_all(&bytes).with_context(|| format!("cannot write `{}`", path.display()))?;
                        self.meter.add(bytes.len() as u64);
                        unsynced += bytes.len() as u64;
                    }
                    // The commit syncs the file. Most of it is on the disk by then, and an error is reported there.
                    if unsynced >= SYNC_BYTES && sync.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                        let file = file.try_clone().with_context(|| format!("cannot write `{}`", path.display()))?;
                        sync = Some(tokio::task::spawn_blocking(move || drop(file.sync_data())));
                        unsynced = 0;
                    }
                }
                anyhow::Ok(())
            })?
            .map_err(|error| match error.downcast_ref::<Error>() {
                Some(Error::NotFound { .. }) => missing(hash),
                Some(error) => explain(&format!("cannot download `{name}` from {}", self.address), error),
                None => error,
            })
    }

    /// Waits for the lock of an object's transfer.
    pub(crate) fn lock(&self, store: &Store, hash: Hash) -> Result<Lock> {
        loop {
            if let Some(lock) = store.lock_transfer(&hash.to_string())? {
                return Ok(lock);
            }
            if self.backend.is_stopped() {
                bail!(Stopped);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }
}

/// The error about an object that is not there.
pub(crate) fn missing(hash: Hash) -> anyhow::Error {
    anyhow!("the object `{}` is not at the remote, although a result names it", object_name(hash))
}

enum PartError {
    Server(Error),
    Here(anyhow::Error),
}

impl Upload {
    fn new(id: String, size: u64) -> Upload {
        let part_size = part_size(size);
        Upload { id, part_size, parts: vec![None; size.div_ceil(part_size) as usize] }
    }

    /// Whether it is an upload of an object of this size.
    fn fits(&self, size: u64) -> bool {
        self.part_size == part_size(size) && self.parts.len() as u64 == size.div_ceil(self.part_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_objects_have_at_most_ten_thousand_parts() {
        assert_eq!(part_size(1), PART);
        assert_eq!(part_size(PART * MAX_PARTS), PART);
        let huge = part_size(5 << 40);
        assert!((5_u64 << 40).div_ceil(huge) <= MAX_PARTS && huge > PART);
    }
}
