//! Fuzzing of the store's files: from any content of a log or a memo, undamaged entries are read and nothing else.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::log::Log;
use crate::memo_index::{Entry, MemoIndex};
use ablate_core::base::{Hash, files};
use ablate_fuzz::{Edit, apply_edits, edits, fuzz};

const PIECES: &[&str] = &["\n", " ", "0", "ablate log 1\n", "ablate memo 2\n", "\0\0\0\0", "ü", "{", "\r\n"];

/// The content of a file.
#[derive(Clone, Debug)]
enum Content {
    Any(Vec<u8>),
    Edited(Vec<Edit>),
}

fn content() -> impl Strategy<Value = Content> {
    let any_bytes = vec(any::<u8>(), 0..400).prop_map(Content::Any);
    prop_oneof![1 => any_bytes, 3 => edits(PIECES).prop_map(Content::Edited)]
}

impl Content {
    fn bytes(&self, valid: &[u8]) -> Vec<u8> {
        match self {
            Content::Any(bytes) => bytes.clone(),
            Content::Edited(edits) => apply_edits(valid, edits),
        }
    }
}

#[test]
fn any_file_can_be_read_as_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records");
    let key = |name: usize| Hash::of_bytes(&[name as u8]);
    let texts = ["{}", "", "{\"a\": 1}", "ü", "a text that is a little longer than the others are"];
    let lines: Vec<(Hash, String)> = texts.iter().enumerate().map(|(at, text)| (key(at), text.to_string())).collect();
    Log::new(path.clone()).append(&lines, false).unwrap();
    let valid = files::read_bytes(&path).unwrap();
    fuzz("log", &(content(), any::<bool>()), |(content, rewrite)| {
        files::write_unsynced(&path, &content.bytes(&valid)).unwrap();
        let (log, other) = (Log::new(path.clone()), Log::new(path.clone()));
        // Every line is the one that was written, or missing.
        let check = |log: &Log| {
            for (key, text) in &lines {
                assert!(log.get(*key).is_none_or(|found| found == *text));
            }
            for (key, text) in log.scan().unwrap().entries {
                assert!(lines.contains(&(key, text.clone())) || text == "new");
                assert_eq!(log.get(key), Some(text));
            }
        };
        check(&log);
        let whole = log.scan().unwrap().entries;
        if rewrite {
            other.rewrite(&|_, _| true).unwrap();
            assert_eq!(log.scan().unwrap().damaged, [0; 0]);
        }
        other.append(&[(key(9), "new".to_string())], false).unwrap();
        for log in [&log, &other, &Log::new(path.clone())] {
            check(log);
            assert_eq!(log.get(key(9)).as_deref(), Some("new"));
            assert!(whole.iter().all(|(key, text)| log.get(*key).as_ref() == Some(text)));
        }
    });
}

#[test]
fn any_file_can_be_read_as_a_memo() {
    let paths = ["", "/a", "/data/a folder/image-1.png", "/ü"];
    let memo = MemoIndex::new(paths.iter().map(|path| (*path, &[7; size_of::<Entry>()])));
    let body = &memo.bytes()[46..];
    fuzz("memo", &(content(), any::<bool>()), |(content, seal)| {
        let mut bytes = if seal { content.bytes(body) } else { content.bytes(memo.bytes()) };
        if seal {
            // Invalid lengths under a correct checksum.
            bytes = [&memo.bytes()[..14], Hash::of_bytes(&bytes).bytes(), &bytes].concat();
        }
        let Some(memo) = MemoIndex::parse(bytes) else { return };
        for (path, _) in memo.iter() {
            memo.get(&path);
        }
        assert_eq!(memo.get("/nowhere/at/all"), None);
    });
}
