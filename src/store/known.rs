//! The memo's file: entries by ascending path, searched where they lie in it. Knows not what a stamp says.
//!
//! ```text
//! "ablate memo 2\n"
//! blake3 of the rest    the file is not synced: after a power cut it may be anything
//! entry                 72 bytes: stamp and hash
//! u16, u16, bytes       how much of the path before this path begins with, how much follows, and that
//! entry ...             every 16th path is written out whole: a search begins there
//! ```
//!
//! Nothing is unpacked and paths share their beginnings, because reading is what costs: 100,000 entries are 9 MB.

use std::path::Path;

use ablate_core::base::{Hash, files};

/// A stamp and the hash that belongs to it.
pub(super) type Entry = [u8; 72];

const HEADER: &[u8] = b"ablate memo 2\n";
const HEAD: usize = HEADER.len() + 32;
const GROUP: usize = 16;

/// What the file held when it was read; no file, or one of nonsense, holds nothing.
#[derive(Debug, Default)]
pub(super) struct Known {
    bytes: Vec<u8>,
    /// Where each group begins.
    groups: Vec<usize>,
}

impl Known {
    /// A file that cannot be read is an empty one: it only saves time.
    pub(super) fn read(file: &Path) -> Known {
        files::read_bytes(file).ok().and_then(Known::parse).unwrap_or_default()
    }

    /// Lays entries of ascending paths out as in the file.
    pub(super) fn new<'a>(entries: impl Iterator<Item = (&'a str, &'a Entry)>) -> Known {
        let mut known = Known { bytes: [HEADER, &[0; HEAD - HEADER.len()]].concat(), groups: Vec::new() };
        let mut before = "";
        // A path too long for its length's 16 bits, longer than any system call takes, is left out.
        for (index, (path, entry)) in entries.filter(|(path, _)| u16::try_from(path.len()).is_ok()).enumerate() {
            let mut shared = 0;
            if index % GROUP == 0 {
                known.groups.push(known.bytes.len());
            } else {
                shared = path.bytes().zip(before.bytes()).take_while(|(one, other)| one == other).count();
            }
            let rest = &path.as_bytes()[shared..];
            known.bytes.extend_from_slice(entry);
            known.bytes.extend_from_slice(&(shared as u16).to_le_bytes());
            known.bytes.extend_from_slice(&(rest.len() as u16).to_le_bytes());
            known.bytes.extend_from_slice(rest);
            before = path;
        }
        let checksum = Hash::of_bytes(&known.bytes[HEAD..]);
        known.bytes[HEADER.len()..HEAD].copy_from_slice(checksum.bytes());
        known
    }

    /// What belongs into the file.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn get(&self, path: &str) -> Option<&Entry> {
        let path = path.as_bytes();
        let begins_before = |start: &usize| part(&self.bytes[*start..]).is_some_and(|first| first.added <= path);
        let group = self.groups.partition_point(begins_before).checked_sub(1)?;
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

    pub(super) fn parse(bytes: Vec<u8>) -> Option<Known> {
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
                // Whatever shares something with the path before does not begin a group.
                cursor.path.clear();
            }
            cursor.advance()?;
        }
        Some(Known { bytes, groups })
    }

    fn cursor(&self, start: usize) -> Cursor<'_> {
        Cursor { rest: self.bytes.get(start..).unwrap_or_default(), path: Vec::new() }
    }
}

/// An entry as it lies in the file.
struct Part<'a> {
    entry: &'a Entry,
    shared: usize,
    added: &'a [u8],
    rest: &'a [u8],
}

fn part(bytes: &[u8]) -> Option<Part<'_>> {
    let (entry, rest) = bytes.split_first_chunk()?;
    let (shared, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (added, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some(Part { entry, shared: usize::from(u16::from_le_bytes(*shared)), added, rest })
}

/// Goes from entry to entry; `path` is that of the entry it came by last.
struct Cursor<'a> {
    rest: &'a [u8],
    path: Vec<u8>,
}

impl<'a> Cursor<'a> {
    /// The next entry; `None` at the end, or where nothing sensible follows.
    fn advance(&mut self) -> Option<&'a Entry> {
        let part = part(self.rest).filter(|part| part.shared <= self.path.len())?;
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

    fn known(entries: &[(String, Entry)]) -> Known {
        Known::new(entries.iter().map(|(path, entry)| (path.as_str(), entry)))
    }

    #[test]
    fn entries_are_found_in_the_file_as_in_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memo");
        let mut entries = entries(300);
        entries.push(("/data/a line\nbreak".to_string(), [9; size_of::<Entry>()]));
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
        let sound = known(&entries(40)).bytes().to_vec();
        assert_eq!(Known::parse(sound.clone()).unwrap().iter().count(), 40);
        for length in 0..sound.len() {
            assert!(Known::parse(sound[..length].to_vec()).is_none_or(|known| known.groups.is_empty()), "{length}");
            let mut damaged = sound.clone();
            damaged[length] ^= 1;
            assert!(Known::parse(damaged).is_none(), "{length}");
        }
    }

    #[test]
    fn lengths_of_nonsense_under_a_sound_checksum_are_an_empty_memo() {
        let sound = known(&entries(1)).bytes().to_vec();
        let lengths = HEAD + size_of::<Entry>();
        for wrong in [0, 2] {
            let mut bytes = sound.clone();
            bytes[lengths + wrong] ^= 1;
            let checksum = Hash::of_bytes(&bytes[HEAD..]);
            bytes[HEADER.len()..HEAD].copy_from_slice(checksum.bytes());
            assert!(Known::parse(bytes).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_path_of_absurd_length_is_left_out() {
        let mut entries = entries(20);
        entries[7].0 += &"x".repeat(70_000);
        assert_eq!(known(&entries).iter().count(), 19);
    }
}
