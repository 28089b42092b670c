//! Content hashes: blake3 of bytes, files and folders. Only this module uses the hash function.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a file that one thread hashes at a time. It is a power of two, so a chunk is a subtree of blake3's tree.
const CHUNK: u64 = 1 << 20;

/// Called with the size of every chunk of a file that was read.
pub type OnRead<'a> = &'a (dyn Fn(u64) + Sync);

/// A 256-bit blake3 hash, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    pub fn of_bytes(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }

    /// Hash of a file's bytes.
    pub fn of_file(path: &Path) -> Result<Hash> {
        let file = super::files::open_file(path)?;
        let hash = file.metadata().and_then(|metadata| Hash::of_open_file(&file, metadata.len(), &|_| ()));
        hash.with_context(|| format!("cannot read `{}`", path.display()))
    }

    /// Hash of an open file of `size` bytes, computed by all threads of the current pool. Fails with `UnexpectedEof`
    /// if the file becomes shorter during the read.
    ///
    /// Each thread reads chunks into a small buffer that stays in its cache. A memory map is not faster (2 GiB in the
    /// page cache, two cores: 0.73 s of CPU time with buffers, 0.84 s with a map, also in `b3sum`), and truncating a
    /// mapped file kills the process that reads it.
    pub fn of_open_file(file: &File, size: u64, on_read: OnRead) -> io::Result<Hash> {
        let root = if size <= CHUNK {
            // Reads to the end of the file and ignores `size`: files of `/proc` report a wrong size.
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file)?;
            on_read(hasher.count());
            hasher.finalize()
        } else {
            let (left, right) = halves(file, 0, size, on_read)?;
            hazmat::merge_subtrees_root(&left, &right, Mode::Hash)
        };
        Ok(Hash(*root.as_bytes()))
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Hash {
        Hash(bytes)
    }

    /// The first digits, for display only.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_string()
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The two subtrees of a range of more than one chunk, computed in parallel.
fn halves(file: &File, from: u64, length: u64, on_read: OnRead) -> io::Result<(ChainingValue, ChainingValue)> {
    let left = hazmat::left_subtree_len(length);
    let (left, right) =
        rayon::join(|| subtree(file, from, left, on_read), || subtree(file, from + left, length - left, on_read));
    Ok((left?, right?))
}

fn subtree(file: &File, from: u64, length: u64, on_read: OnRead) -> io::Result<ChainingValue> {
    if length > CHUNK {
        let (left, right) = halves(file, from, length, on_read)?;
        return Ok(hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(from);
    let mut buffer = vec![0; 1 << 16];
    while hasher.count() < length {
        let wanted = (length - hasher.count()).min(buffer.len() as u64);
        let block = &mut buffer[..wanted as usize];
        file.read_exact_at(block, from + hasher.count())?;
        hasher.update(block);
    }
    on_read(length);
    Ok(hasher.finalize_non_root())
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({})", self.short())
    }
}

impl FromStr for Hash {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Hash> {
        match blake3::Hash::from_hex(text) {
            Ok(hash) => Ok(Hash(*hash.as_bytes())),
            Err(_) => bail!("`{text}` is not a hash of 64 hex digits"),
        }
    }
}

/// Hex digits in human-readable formats, bytes in binary formats.
impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&blake3::Hash::from_bytes(self.0).to_hex())
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        if deserializer.is_human_readable() {
            Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            Ok(Hash(<[u8; 32]>::deserialize(deserializer)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn hash_round_trips_through_text() {
        let hash = Hash::of_bytes(b"abc");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        // The published blake3 test value for "abc".
        assert!(hash.to_string().starts_with("6437b3ac38465133ffb63b75273a8db5"));
        assert!("abc".parse::<Hash>().is_err(), "a hash of wrong length");
    }

    #[test]
    fn chunked_file_hash_equals_hash_of_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let chunk = CHUNK as usize;
        for size in [0, 1, chunk, chunk + 1, 2 * chunk - 1, 2 * chunk, 5 * chunk + 1023, 7 * chunk + 70_000] {
            let bytes: Vec<u8> = (0..size).map(|i| (i / 7 + i / 65_537) as u8).collect();
            crate::base::files::write_unsynced(file.path(), &bytes).unwrap();
            assert_eq!(Hash::of_file(file.path()).unwrap(), Hash::of_bytes(&bytes), "{size} bytes");
            let read = AtomicU64::new(0);
            let count = |bytes| {
                read.fetch_add(bytes, Ordering::Relaxed);
            };
            Hash::of_open_file(&File::open(file.path()).unwrap(), size as u64, &count).unwrap();
            assert_eq!(read.into_inner(), size as u64);
        }
    }

    #[test]
    fn truncated_file_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * CHUNK).unwrap();
        let error = Hash::of_open_file(&file, 5 * CHUNK, &|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let version = Path::new("/proc/version");
        assert_eq!(Hash::of_file(version).unwrap(), Hash::of_bytes(&std::fs::read(version).unwrap()));
    }
}
