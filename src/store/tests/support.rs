//! Helpers of the store's tests.

use crate::Store;

/// An empty store in a temporary folder.
pub(crate) fn temp_store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    (folder, store)
}
