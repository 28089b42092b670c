//! The salt of a store: random bytes that are hashed before the value of an environment variable, so that values
//! cannot be guessed from the hashes in records.

use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{Lock, Store};
use ablate_core::base::{Hash, files};

pub(super) type Salt = [u8; 32];

impl Store {
    /// The hash of an environment variable's value. An unset variable differs from an empty one. Equal values have
    /// equal hashes in one store, and different hashes in different stores.
    pub fn variable_hash(&self, value: Option<&OsStr>) -> Hash {
        // If the store cannot store a salt, no record was made with this one, so the stage counts as changed.
        let salt = self.salt.get_or_init(|| self.read_salt().unwrap_or_else(|_| random()));
        match value {
            Some(value) => Hash::of_bytes(&[salt, b"=".as_slice(), value.as_bytes()].concat()),
            None => Hash::of_bytes(salt),
        }
    }

    /// Reads the store's salt and creates it if it does not exist.
    fn read_salt(&self) -> Result<Salt> {
        let path = self.root.join("salt");
        let stored = || files::read_bytes(&path).ok()?.try_into().ok();
        if let Some(salt) = stored() {
            return Ok(salt);
        }
        let lock = self.root.join("locks/salt");
        let Some(_lock) = Lock::take_within(&lock, 500, Duration::from_millis(20))? else {
            bail!("another process holds `{}`", lock.display())
        };
        // Another process may have created it meanwhile.
        if let Some(salt) = stored() {
            return Ok(salt);
        }
        let salt = random();
        files::write_private(&path, &salt)?;
        Ok(salt)
    }
}

fn random() -> Salt {
    // The standard library seeds its hash maps from the system's random source.
    let words = (0..4).flat_map(|_| RandomState::new().build_hasher().finish().to_le_bytes());
    *Hash::of_bytes(&words.collect::<Vec<u8>>()).bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn hash_of_a_variable_depends_on_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| Store::open(&folder.path().join(name)).unwrap();
        let hash = |store: &Store, value: &str| store.variable_hash(Some(OsStr::new(value)));
        let (one, again, other) = (open("one"), open("one"), open("other"));
        assert_eq!(hash(&one, "secret"), hash(&again, "secret"));
        assert_ne!(hash(&one, "secret"), hash(&one, "secre"));
        assert_ne!(hash(&one, "secret"), hash(&other, "secret"));
        assert_ne!(hash(&one, "secret"), Hash::of_bytes(b"=secret"));
        assert_ne!(one.variable_hash(None), hash(&one, ""));
        let mode = std::fs::metadata(folder.path().join("one/salt")).unwrap().permissions().mode();
        assert_eq!(format!("{:o}", mode & 0o777), "600");
    }

    #[test]
    fn concurrent_opens_agree_on_one_salt() {
        let folder = tempfile::tempdir().unwrap();
        let store = || Store::open(&folder.path().join("cache")).unwrap();
        store();
        let hashes: Vec<Hash> = std::thread::scope(|scope| {
            let opened: Vec<_> = (0..8).map(|_| scope.spawn(|| store().variable_hash(None))).collect();
            opened.into_iter().map(|opened| opened.join().unwrap()).collect()
        });
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    }
}
