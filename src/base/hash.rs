//! Content hashes: blake3 of bytes, files and folders. The only home of the hash function.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A 256-bit blake3 hash, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    pub fn of_bytes(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }

    /// Hash of a file's bytes, read in one pass.
    pub fn of_file(path: &Path) -> Result<Hash> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).with_context(|| format!("cannot read `{}`", path.display()))?;
        Ok(Hash(*hasher.finalize().as_bytes()))
    }

    /// The first digits, for people; never for identity.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_string()
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
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

/// As hex digits where people read it, as bytes elsewhere.
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

    #[test]
    fn a_hash_survives_text() {
        let hash = Hash::of_bytes(b"abc");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        // The published blake3 test value for "abc".
        assert!(hash.to_string().starts_with("6437b3ac38465133ffb63b75273a8db5"));
    }

    #[test]
    fn a_hash_of_the_wrong_length_is_an_error() {
        assert!("abc".parse::<Hash>().is_err());
    }
}
