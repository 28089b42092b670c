//! Derived data: what could be computed again, kept because that takes time. Any doubt about it, and it is not there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::Store;
use ablate_core::base::{Hash, files};

/// Bytes after the data: the program that wrote them, and the hash of the data.
const TAIL: usize = 64;

impl Store {
    /// What was kept under a name, by this very program.
    pub fn derived(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = files::read_bytes(&self.derived_path(name)).ok()?;
        let (data, tail) = bytes.split_at_checked(bytes.len().checked_sub(TAIL)?)?;
        let (program, hash) = tail.split_at(TAIL / 2);
        if program != this_program().bytes() || hash != Hash::of_bytes(data).bytes() {
            return None;
        }
        bytes.truncate(bytes.len() - TAIL);
        Some(bytes)
    }

    /// Keeps data under a name. A store that cannot be written computes it again.
    pub fn keep_derived(&self, name: &str, data: &[u8]) {
        let bytes = [data, this_program().bytes(), Hash::of_bytes(data).bytes()].concat();
        files::write_private_soft(&self.derived_path(name), &bytes).ok();
    }

    fn derived_path(&self, name: &str) -> PathBuf {
        self.root().join("derived").join(name)
    }
}

/// What tells this build of the program from every other: the layout of derived data is nobody else's business.
fn this_program() -> Hash {
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

    #[test]
    fn only_what_is_whole_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        assert_eq!(store.derived("a.plan"), None);
        store.keep_derived("a.plan", b"");
        assert_eq!(store.derived("a.plan").as_deref(), Some(&b""[..]));
        store.keep_derived("a.plan", b"data");
        assert_eq!(store.derived("a.plan").as_deref(), Some(&b"data"[..]));
        let path = store.derived_path("a.plan");
        let whole = files::read_bytes(&path).unwrap();
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 4;
            files::write_atomic(&path, &flipped).unwrap();
            assert_eq!(store.derived("a.plan"), None, "flipped at {place}");
            files::write_atomic(&path, &whole[..place]).unwrap();
            assert_eq!(store.derived("a.plan"), None, "cut at {place}");
        }
    }
}
