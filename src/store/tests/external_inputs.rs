//! Tests of hashing and listing external inputs.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Store;
use crate::external_inputs::{hash, list_files};
use crate::file_hasher::FileHasher;
use ablate_core::base::{Hash, files, modes};
use ablate_core::stage::ArtifactKind;

struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Fixture {
        let (folder, store) = super::support::temp_store();
        let fixture = Fixture { folder, store };
        fixture.write("a.png", b"1");
        fixture.write("sub/b.png", b"22");
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("data").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        files::write_unsynced(&self.path(name), bytes).unwrap();
    }

    fn link(&self, target: &str, name: &str) {
        files::symlink(Path::new(target), &self.path(name)).unwrap();
    }

    /// The hash of the folder, one minute later when its files have settled, and the bytes read for it.
    fn hash(&self) -> (Hash, u64) {
        let read = AtomicU64::new(0);
        let count = |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        };
        let later = || jiff::Timestamp::now().as_nanosecond() + 60_000_000_000;
        let found = hash(&FileHasher::new(&self.store.memo, &count).with_clock(&later), &self.path("")).unwrap();
        (found.unwrap(), read.into_inner())
    }

    fn error(&self, name: &str) -> String {
        let error = self.store.hash_external(&self.path(name), &|_| ()).unwrap_err();
        error.to_string().replace(&self.folder.path().display().to_string(), "")
    }
}

#[test]
fn unchanged_folder_is_not_read_again() {
    let mut fixture = Fixture::new();
    let (first, read) = fixture.hash();
    assert_eq!(read, 3);
    assert_eq!(fixture.hash(), (first, 0));
    fixture.store.save_memo();
    fixture.store = Store::open(fixture.store.root()).unwrap();
    assert_eq!(fixture.hash(), (first, 0));
    // A touch, or the same bytes written again, costs one read of the file and changes nothing.
    std::fs::File::open(fixture.path("a.png")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(fixture.hash(), (first, 1));
    fixture.write("sub/b.png", b"22");
    assert_eq!(fixture.hash(), (first, 2));
    fixture.write("sub/b.png", b"23");
    let (edited, read) = fixture.hash();
    assert!(edited != first && read == 2);
}

#[test]
fn cleared_memo_causes_one_read() {
    let mut fixture = Fixture::new();
    let (first, _) = fixture.hash();
    fixture.store.save_memo();
    fixture.store.clear_memo();
    assert_eq!(fixture.hash(), (first, 3));
    assert_eq!(fixture.hash(), (first, 0));
    fixture.store.clear_memo();
    fixture.store = Store::open(fixture.store.root()).unwrap();
    assert_eq!(fixture.hash(), (first, 3));
}

#[test]
fn folder_and_its_stored_copy_have_one_hash() {
    let fixture = Fixture::new();
    let (first, _) = fixture.hash();
    let output = fixture.store.root().join("work/out");
    files::write_unsynced(&output.join("a.png"), b"1").unwrap();
    files::write_unsynced(&output.join("sub/b.png"), b"22").unwrap();
    assert_eq!(fixture.store.put(&output, ArtifactKind::Facts).unwrap().hash, first);
    files::rename(&fixture.path("sub/b.png"), &fixture.path("sub/c.png")).unwrap();
    let (renamed, _) = fixture.hash();
    assert_ne!(renamed, first);
    fixture.write("empty", b"");
    let (more, _) = fixture.hash();
    assert!(more != renamed && more != first);
    assert_eq!(fixture.store.hash_external(&fixture.path("none"), &|_| ()).unwrap(), None);
    assert_eq!(fixture.store.hash_external(&fixture.path("a.png/none"), &|_| ()).unwrap(), None);
}

#[test]
fn link_counts_as_its_target() {
    let fixture = Fixture::new();
    fixture.write("c.png", b"1");
    fixture.write("more/b.png", b"22");
    let (plain, _) = fixture.hash();
    files::remove_file(&fixture.path("c.png")).unwrap();
    files::remove_dir(&fixture.path("more")).unwrap();
    fixture.link("a.png", "c.png");
    fixture.link("sub", "more");
    assert_eq!(fixture.hash().0, plain);
    // An edit of the link's target is noticed.
    fixture.write("a.png", b"2");
    assert_ne!(fixture.hash().0, plain);
}

#[test]
fn dangling_and_cyclic_links_are_errors() {
    let fixture = Fixture::new();
    fixture.link("nothing", "sub/dangling");
    assert_eq!(fixture.error(""), "`/data/sub/dangling` is a link to nothing");
    fixture.link(".", "sub/dangling");
    assert_eq!(fixture.error(""), "`/data/sub/dangling` is a link to a folder that contains it");
    fixture.link("../../other", "sub/dangling");
    fixture.link("../data/sub", "../other/back");
    assert_eq!(fixture.error(""), "`/data/sub/dangling/back` is a link to a folder that contains it");
    fixture.link("dangling", "sub/dangling");
    assert_eq!(fixture.error(""), "cannot look at `/data/sub/dangling`");
}

#[test]
fn ignored_files_do_not_change_the_hash() {
    let fixture = Fixture::new();
    let (first, _) = fixture.hash();
    fixture.write("__pycache__/a.pyc", b"1");
    fixture.link("user@host.1234:1", ".#a.png");
    fixture.write(".git/HEAD", b"ref");
    files::create_dir(&fixture.path("empty/deep")).unwrap();
    assert_eq!(fixture.hash(), (first, 0));
    assert!(!list_files(&fixture.path("")).unwrap().is_partial);
    fixture.write("sub/notes.txt", b"x");
    assert_ne!(fixture.hash().0, first);
    fixture.write(".ablateignore", b"*.txt\n");
    assert_eq!(fixture.hash(), (first, 0));
    assert!(list_files(&fixture.path("")).unwrap().is_partial);
    fixture.write(".ablateignore", b"a{b\n");
    assert!(fixture.error("").starts_with("/data/.ablateignore:1: "), "{}", fixture.error(""));
}

#[test]
fn store_inside_a_folder_is_an_error() {
    let fixture = Fixture::new();
    let (first, _) = fixture.hash();
    Store::open(&fixture.path("sub/cache")).unwrap();
    assert_eq!(
        fixture.error(""),
        "`/data/sub/cache` is a store of ablate inside an input. Every run changes it, so the stage would always run again\n\
         help: keep the store elsewhere with `--store`, or leave it out with a line in `/data//.ablateignore`"
    );
    fixture.write(".ablateignore", b"cache/\n");
    assert_eq!(fixture.hash(), (first, 0));
}

#[test]
fn only_the_executable_bit_counts() {
    let fixture = Fixture::new();
    let (first, _) = fixture.hash();
    let set = |mode: u32| modes::set_mode(&fixture.path("a.png"), mode).unwrap();
    set(0o600);
    assert_eq!(fixture.hash().0, first);
    set(0o755);
    let (executable, _) = fixture.hash();
    assert_ne!(executable, first);
    set(0o700);
    assert_eq!(fixture.hash().0, executable);
    // Its copy in the store has the same hash.
    let output = fixture.store.root().join("work/out");
    files::copy(&fixture.path("a.png"), &output.join("a.png")).unwrap();
    files::write_unsynced(&output.join("sub/b.png"), b"22").unwrap();
    assert_eq!(fixture.store.put(&output, ArtifactKind::File).unwrap().hash, executable);
}

#[test]
fn pipes_and_sockets_are_errors() {
    let fixture = Fixture::new();
    let _socket = UnixListener::bind(fixture.path("socket")).unwrap();
    assert_eq!(fixture.error(""), "`/data/socket` is neither a file nor a folder");
    files::remove_file(&fixture.path("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(fixture.path("pipe")).status().unwrap().success());
    assert_eq!(fixture.error(""), "`/data/pipe` is neither a file nor a folder");
    assert_eq!(fixture.error("pipe"), "`/data/pipe` is neither a file nor a folder");
    fixture.link("pipe", "a.png");
    assert_eq!(fixture.error("a.png"), "`/data/a.png` is neither a file nor a folder");
}
