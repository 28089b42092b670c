//! The names of what a remote holds, and the form of its files.

use anyhow::{Context, Result, bail};

use ablate_core::base::Hash;
use ablate_store::StageRecord;

/// The only format that this program reads and writes.
pub(crate) const FORMAT: &str = "ablate remote 1";
pub(crate) const FORMAT_NAME: &str = "FORMAT";

pub(crate) const OBJECTS: &str = "objects";
pub(crate) const RECORDS: &str = "records";
pub(crate) const ROOTS: &str = "roots";
/// Small files that ask the server for its time, and how it handles conditions. They are removed immediately.
pub(crate) const PROBES: &str = "probes";

pub(crate) fn object_name(hash: Hash) -> String {
    hash_name(OBJECTS, hash)
}

pub(crate) fn record_name(fingerprint: Hash) -> String {
    hash_name(RECORDS, fingerprint)
}

fn hash_name(folder: &str, hash: Hash) -> String {
    let digits = hash.to_string();
    format!("{folder}/{}/{digits}", &digits[..2])
}

/// The hash in a name such as `objects/ab/abcd...`; `None` for another name.
pub(crate) fn hash_of_name(folder: &str, name: &str) -> Option<Hash> {
    let hash: Hash = name.rsplit('/').next()?.parse().ok()?;
    (hash_name(folder, hash) == name).then_some(hash)
}

/// The file of a record: a line with the record, and a line with its hash.
pub(crate) fn record_file(record: &StageRecord) -> Result<Vec<u8>> {
    let line = serde_json::to_string(record).context("BUG: a record is plain data")?;
    Ok(format!("{line}\n\"{}\"\n", Hash::of_bytes(line.as_bytes())).into_bytes())
}

/// Parses the file of a record.
pub(crate) fn parse_record(fingerprint: Hash, bytes: &[u8]) -> Result<StageRecord> {
    let text = str::from_utf8(bytes).context("it is not text")?;
    let (line, check) = text.split_once('\n').context("it is cut")?;
    if check.trim_end() != format!("\"{}\"", Hash::of_bytes(line.as_bytes())) {
        bail!("its content does not match its hash");
    }
    let record: StageRecord = serde_json::from_str(line).context("this program cannot read it")?;
    if record.fingerprint != fingerprint {
        bail!("it belongs to another result");
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hashes() {
        let hash = Hash::of_bytes(b"");
        let name = object_name(hash);
        assert_eq!(hash_of_name(OBJECTS, &name), Some(hash));
        assert_eq!(hash_of_name(RECORDS, &name), None);
        for other in ["objects/ab", "objects/zz/x", &format!("objects/00/{hash}"), &format!("{name}#1")] {
            assert_eq!(hash_of_name(OBJECTS, other), None, "{other}");
        }
    }
}
