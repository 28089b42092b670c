//! The plan cache: data in `derived/` that can be computed again, such as compiled experiments. An entry with a bad
//! checksum, or from another build of the program, counts as missing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::Store;
use ablate_core::base::{Hash, files};

/// Bytes after the data: a hash of the program that wrote them, and the hash of the data.
const TAIL: usize = 64;

impl Store {
    /// The data cached under a name by this build of the program.
    pub fn read_cached(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = files::read_bytes(&self.cache_path(name)).ok()?;
        let (data, tail) = bytes.split_at_checked(bytes.len().checked_sub(TAIL)?)?;
        let (program, hash) = tail.split_at(TAIL / 2);
        if program != program_hash().bytes() || hash != Hash::of_bytes(data).bytes() {
            return None;
        }
        bytes.truncate(bytes.len() - TAIL);
        Some(bytes)
    }

    /// Caches data under a name. Write errors are ignored: the data is computed again.
    pub fn write_cached(&self, name: &str, data: &[u8]) {
        let bytes = [data, program_hash().bytes(), Hash::of_bytes(data).bytes()].concat();
        files::write_private_unsynced(&self.cache_path(name), &bytes).ok();
    }

    fn cache_path(&self, name: &str) -> PathBuf {
        self.root().join("derived").join(name)
    }
}

/// Identifies this build of the program. The layout of cached data may differ between builds.
fn program_hash() -> Hash {
    static PROGRAM: OnceLock<Hash> = OnceLock::new();
    *PROGRAM.get_or_init(|| {
        let metadata = std::env::current_exe().and_then(fs::metadata);
        let file = metadata.map(|found| (found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()));
        Hash::of_bytes(format!("{} {file:?}", env!("CARGO_PKG_VERSION")).as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::temp_store;

    #[test]
    fn damaged_entry_counts_as_missing() {
        let (_folder, store) = temp_store();
        assert_eq!(store.read_cached("a.plan"), None);
        store.write_cached("a.plan", b"");
        assert_eq!(store.read_cached("a.plan").as_deref(), Some(&b""[..]));
        store.write_cached("a.plan", b"data");
        assert_eq!(store.read_cached("a.plan").as_deref(), Some(&b"data"[..]));
        let path = store.cache_path("a.plan");
        let whole = files::read_bytes(&path).unwrap();
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 4;
            files::write_atomic(&path, &flipped).unwrap();
            assert_eq!(store.read_cached("a.plan"), None, "flipped at {place}");
            files::write_atomic(&path, &whole[..place]).unwrap();
            assert_eq!(store.read_cached("a.plan"), None, "cut at {place}");
        }
    }
}
