//! The memo's file: entries sorted by path, searched in place.
//!
//! ```text
//! "ablate memo 2\n"
//! blake3 of the rest    (the file is not synced: after a power cut it may have any content)
//! entry                 72 bytes: stamp and hash
//! u16, u16, bytes       length of the prefix shared with the previous path, length of the rest, the rest
//! entry ...             every 16th path is written in full: a search starts there
//! ```
//!
//! The file is not unpacked and paths share their prefixes, because reading dominates the cost: 100,000 entries are 9
//! MB.

use std::path::Path;

use ablate_core::base::{Hash, files};

/// A stamp and a hash.
pub(super) type Entry = [u8; 72];

const HEADER: &[u8] = b"ablate memo 2\n";
const HEAD: usize = HEADER.len() + 32;
const GROUP: usize = 16;

/// The content of the file. Empty if the file is missing or invalid.
#[derive(Debug, Default)]
pub(super) struct MemoIndex {
    bytes: Vec<u8>,
    /// Offset of each group of 16 entries.
    groups: Vec<usize>,
}

impl MemoIndex {
    /// Reads the file. An unreadable file counts as empty, because the memo only saves time.
    pub(super) fn read(file: &Path) -> MemoIndex {
        files::read_bytes(file).ok().and_then(MemoIndex::parse).unwrap_or_default()
    }

    /// Builds the file content from entries sorted by path.
    pub(super) fn new<'a>(entries: impl Iterator<Item = (&'a str, &'a Entry)>) -> MemoIndex {
        let mut index = MemoIndex { bytes: [HEADER, &[0; HEAD - HEADER.len()]].concat(), groups: Vec::new() };
        let mut previous = "";
        // A path longer than 65,535 bytes, which no system call accepts, is left out.
        for (number, (path, entry)) in entries.filter(|(path, _)| u16::try_from(path.len()).is_ok()).enumerate() {
            let mut shared = 0;
            if number % GROUP == 0 {
                index.groups.push(index.bytes.len());
            } else {
                shared = path.bytes().zip(previous.bytes()).take_while(|(one, other)| one == other).count();
            }
            let rest = &path.as_bytes()[shared..];
            index.bytes.extend_from_slice(entry);
            index.bytes.extend_from_slice(&(shared as u16).to_le_bytes());
            index.bytes.extend_from_slice(&(rest.len() as u16).to_le_bytes());
            index.bytes.extend_from_slice(rest);
            previous = path;
        }
        let checksum = Hash::of_bytes(&index.bytes[HEAD..]);
        index.bytes[HEADER.len()..HEAD].copy_from_slice(checksum.bytes());
        index
    }

    /// The content to write to the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn get(&self, path: &str) -> Option<&Entry> {
        let path = path.as_bytes();
        let starts_before = |start: &usize| raw_entry(&self.bytes[*start..]).is_some_and(|first| first.added <= path);
        let group = self.groups.partition_point(starts_before).checked_sub(1)?;
        let mut cursor = self.cursor(self.groups[group]);
        for _ in 0..GROUP {
            let entry = cursor.advance()?;
            if cursor.path == path {
                return Some(entry);
            }
        }
        None
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (String, Entry)> {
        let mut cursor = self.cursor(HEAD);
        std::iter::from_fn(move || {
            let entry = *cursor.advance()?;
            Some((String::from_utf8_lossy(&cursor.path).into_owned(), entry))
        })
    }

    pub(super) fn parse(bytes: Vec<u8>) -> Option<MemoIndex> {
        let (checksum, rest) = bytes.strip_prefix(HEADER)?.split_first_chunk()?;
        if Hash::of_bytes(rest) != Hash::from_bytes(*checksum) {
            return None;
        }
        let mut groups = Vec::new();
        let mut cursor = Cursor { rest, path: Vec::new() };
        for index in 0.. {
            if cursor.rest.is_empty() {
                break;
            }
            if index % GROUP == 0 {
                groups.push(bytes.len() - cursor.rest.len());
                // The first path of a group shares no prefix with the path before it.
                cursor.path.clear();
            }
            cursor.advance()?;
        }
        Some(MemoIndex { bytes, groups })
    }

    fn cursor(&self, start: usize) -> Cursor<'_> {
        Cursor { rest: self.bytes.get(start..).unwrap_or_default(), path: Vec::new() }
    }
}

/// An entry as stored in the file.
struct RawEntry<'a> {
    entry: &'a Entry,
    shared: usize,
    added: &'a [u8],
    rest: &'a [u8],
}

fn raw_entry(bytes: &[u8]) -> Option<RawEntry<'_>> {
    let (entry, rest) = bytes.split_first_chunk()?;
    let (shared, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (added, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some(RawEntry { entry, shared: usize::from(u16::from_le_bytes(*shared)), added, rest })
}

/// Iterates over the entries; `path` is the path of the last one.
struct Cursor<'a> {
    rest: &'a [u8],
    path: Vec<u8>,
}

impl<'a> Cursor<'a> {
    /// The next entry; `None` at the end or at invalid data.
    fn advance(&mut self) -> Option<&'a Entry> {
        let part = raw_entry(self.rest).filter(|part| part.shared <= self.path.len())?;
        self.path.truncate(part.shared);
        self.path.extend_from_slice(part.added);
        self.rest = part.rest;
        Some(part.entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: usize) -> Vec<(String, Entry)> {
        (0..count).map(|i| (format!("/data/a folder/image-{i:06}.png"), [i as u8; size_of::<Entry>()])).collect()
    }

    fn index(entries: &[(String, Entry)]) -> MemoIndex {
        MemoIndex::new(entries.iter().map(|(path, entry)| (path.as_str(), entry)))
    }

    #[test]
    fn entries_are_found_after_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memo");
        let mut entries = entries(300);
        entries.push(("/data/a line\nbreak".to_string(), [9; size_of::<Entry>()]));
        entries.sort();
        let made = index(&entries);
        files::write_atomic(&file, made.bytes()).unwrap();
        for index in [made, MemoIndex::read(&file)] {
            for (path, entry) in &entries {
                assert_eq!(index.get(path), Some(entry));
            }
            assert_eq!(index.get("/data"), None);
            assert_eq!(index.get("/data/a folder/image-000300.png"), None);
            assert_eq!(index.iter().count(), 301);
        }
    }

    #[test]
    fn damaged_file_is_an_empty_memo() {
        let valid = index(&entries(40)).bytes().to_vec();
        assert_eq!(MemoIndex::parse(valid.clone()).unwrap().iter().count(), 40);
        for length in 0..valid.len() {
            assert!(MemoIndex::parse(valid[..length].to_vec()).is_none_or(|index| index.groups.is_empty()), "{length}");
            let mut damaged = valid.clone();
            damaged[length] ^= 1;
            assert!(MemoIndex::parse(damaged).is_none(), "{length}");
        }
    }

    #[test]
    fn invalid_lengths_are_an_empty_memo() {
        let valid = index(&entries(1)).bytes().to_vec();
        let lengths = HEAD + size_of::<Entry>();
        for wrong in [0, 2] {
            let mut bytes = valid.clone();
            bytes[lengths + wrong] ^= 1;
            let checksum = Hash::of_bytes(&bytes[HEAD..]);
            bytes[HEADER.len()..HEAD].copy_from_slice(checksum.bytes());
            assert!(MemoIndex::parse(bytes).is_none(), "{wrong}");
        }
    }

    #[test]
    fn overlong_path_is_left_out() {
        let mut entries = entries(20);
        entries[7].0 += &"x".repeat(70_000);
        assert_eq!(index(&entries).iter().count(), 19);
    }
}
