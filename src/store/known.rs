//! The memo's file: entries by sorted path, searched where they lie in it. Knows not what a stamp says.
//!
//! ```text
//! "ablate memo 2\n"
//! blake3 of the rest     the file is not synced: after a power cut it may be anything
//! entry                  88 bytes: stamp and hash
//! u32 and path           and so on, by ascending path
//! ```
//!
//! Nothing is unpacked: 100,000 entries are read and checked in a few milliseconds.

use std::path::Path;

use crate::base::{Hash, files};

/// A stamp and the hash that belongs to it.
pub(super) type Entry = [u8; 88];

const HEADER: &[u8] = b"ablate memo 2\n";
const CHECKSUM: usize = 32;
const ENTRY: usize = size_of::<Entry>();
const LENGTH: usize = size_of::<u32>();

/// What the file held when it was read; no file, or one of nonsense, holds nothing.
#[derive(Debug, Default)]
pub(super) struct Known {
    bytes: Vec<u8>,
    /// Where each entry begins.
    starts: Vec<usize>,
}

impl Known {
    /// A file that cannot be read is an empty one: it only saves time.
    pub(super) fn read(file: &Path) -> Known {
        files::read_bytes(file).ok().and_then(Known::parse).unwrap_or_default()
    }

    /// Lays entries of ascending paths out as in the file.
    pub(super) fn new<'a>(entries: impl Iterator<Item = (&'a str, &'a Entry)>) -> Known {
        let mut known = Known { bytes: [HEADER, &[0; CHECKSUM]].concat(), starts: Vec::new() };
        for (path, entry) in entries {
            known.starts.push(known.bytes.len());
            known.bytes.extend_from_slice(entry);
            known.bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
            known.bytes.extend_from_slice(path.as_bytes());
        }
        let (head, rest) = known.bytes.split_at_mut(HEADER.len() + CHECKSUM);
        head[HEADER.len()..].copy_from_slice(Hash::of_bytes(rest).bytes());
        known
    }

    /// What belongs into the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn get(&self, path: &str) -> Option<&Entry> {
        let found = self.starts.binary_search_by(|start| self.at(*start).0.cmp(path.as_bytes()));
        found.ok().map(|index| self.at(self.starts[index]).1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.starts.iter().filter_map(|start| {
            let (path, entry) = self.at(*start);
            Some((str::from_utf8(path).ok()?, entry))
        })
    }

    pub(super) fn parse(bytes: Vec<u8>) -> Option<Known> {
        let (checksum, rest) = bytes.strip_prefix(HEADER)?.split_first_chunk::<CHECKSUM>()?;
        if Hash::of_bytes(rest).bytes() != checksum {
            return None;
        }
        let mut starts = Vec::new();
        let mut start = HEADER.len() + CHECKSUM;
        while start < bytes.len() {
            starts.push(start);
            let length = bytes.get(start + ENTRY..)?.first_chunk::<LENGTH>()?;
            start += ENTRY + LENGTH + u32::from_le_bytes(*length) as usize;
        }
        (start == bytes.len()).then_some(Known { bytes, starts })
    }

    /// The path and the entry that begin there.
    fn at(&self, start: usize) -> (&[u8], &Entry) {
        let parts = self.bytes[start..].split_first_chunk::<ENTRY>().and_then(|(entry, rest)| {
            let (length, rest) = rest.split_first_chunk::<LENGTH>()?;
            Some((&rest[..u32::from_le_bytes(*length) as usize], entry))
        });
        parts.unwrap_or_else(|| panic!("BUG: the memo has no entry at {start}, where it begins one"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize) -> Vec<(String, Entry)> {
        (0..count).map(|i| (format!("/data/a folder/image-{i:06}.png"), [i as u8; ENTRY])).collect()
    }

    fn known(entries: &[(String, Entry)]) -> Known {
        Known::new(entries.iter().map(|(path, entry)| (path.as_str(), entry)))
    }

    #[test]
    fn entries_are_found_in_the_file_as_in_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memo");
        let mut entries = entries(300);
        entries.push(("/data/a line\nbreak".to_string(), [9; ENTRY]));
        entries.sort();
        let made = known(&entries);
        files::write_atomic(&file, made.bytes()).unwrap();
        for known in [made, Known::read(&file)] {
            for (path, entry) in &entries {
                assert_eq!(known.get(path), Some(entry));
            }
            assert_eq!(known.get("/data"), None);
            assert_eq!(known.get("/data/a folder/image-000300.png"), None);
            assert_eq!(known.iter().count(), 301);
        }
    }

    #[test]
    fn any_part_or_damage_of_a_file_is_an_empty_memo() {
        let sound = known(&entries(3)).bytes().to_vec();
        assert_eq!(Known::parse(sound.clone()).unwrap().starts.len(), 3);
        for length in 0..sound.len() {
            assert!(Known::parse(sound[..length].to_vec()).is_none_or(|known| known.starts.is_empty()), "{length}");
            let mut damaged = sound.clone();
            damaged[length] ^= 1;
            assert!(Known::parse(damaged).is_none(), "{length}");
        }
    }

    #[test]
    fn lengths_of_nonsense_under_a_sound_checksum_are_an_empty_memo() {
        let mut bytes = known(&entries(1)).bytes().to_vec();
        let head = HEADER.len() + CHECKSUM;
        for length in [0, 1, u32::MAX] {
            bytes[head + ENTRY..head + ENTRY + LENGTH].copy_from_slice(&length.to_le_bytes());
            let checksum = Hash::of_bytes(&bytes[head..]);
            bytes[HEADER.len()..head].copy_from_slice(checksum.bytes());
            assert!(Known::parse(bytes.clone()).is_none(), "{length}");
        }
    }
}
