//! Hashes of files and folders from outside the store. Knows no object and no record.
//!
//! A folder counts by the relative paths, the bytes and the executable bit of the files below it, in the form of a
//! store's tree: a folder and its copy in the store have one hash. Links are followed, as by the stage that reads the
//! folder, and count as what they lead to. What [`super::ignored`] names is no part of it, and neither is a folder
//! without files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::ignored::{self, IgnoreRules};
use super::object::{Tree, TreeFile};
use super::reader::{Reader, look};
use super::{FORMAT_NAME, Store};
use ablate_core::base::hash::Told;
use ablate_core::base::{Hash, files};

impl Store {
    /// The content hash of a file or folder outside the store, through the memo. `None` where nothing is.
    pub fn hash_outside(&self, path: &Path, told: Told) -> Result<Option<Hash>> {
        hash(&Reader::new(&self.memo, told), &absolute(path)?)
    }

    /// The hash of a file's bytes alone, through the memo. `None` where nothing is.
    pub fn hash_bytes_outside(&self, path: &Path) -> Result<Option<Hash>> {
        let path = absolute(path)?;
        let Some(metadata) = look(&path)? else { return Ok(None) };
        let reader = Reader::new(&self.memo, &|_| ());
        reader.hash_bytes(&path.to_string_lossy(), &path, &metadata).map(|(hash, _)| Some(hash))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("`{}` is no path", path.display()))
}

fn hash(reader: &Reader, path: &Path) -> Result<Option<Hash>> {
    let Some(metadata) = look(path)? else { return Ok(None) };
    if !metadata.is_dir() {
        return reader.hash_seen(&path.to_string_lossy(), path, &metadata).map(|(hash, _)| Some(hash));
    }
    let hashed: Vec<(String, TreeFile)> = files_below(path)?
        .files
        .into_par_iter()
        .map(|(name, path)| {
            let found = reader.hash(&path.to_string_lossy(), &path)?;
            let (hash, size) = found.with_context(|| format!("`{}` vanished while it was read", path.display()))?;
            Ok((name, TreeFile { hash, size }))
        })
        .collect::<Result<_>>()?;
    Ok(Some(Hash::of_bytes(&Tree { files: hashed.into_iter().collect() }.bytes())))
}

/// The files that a folder from outside consists of.
#[derive(Debug, Default)]
pub struct Listing {
    /// Sorted relative paths with `/`, links followed.
    pub files: Vec<(String, PathBuf)>,
    /// Whether an `.ablateignore` left something out.
    pub is_partial: bool,
}

/// Lists the files below a folder. What is neither a file nor a folder, a link to nothing, a link to a folder around it
/// and a store are errors.
pub fn files_below(folder: &Path) -> Result<Listing> {
    let mut found = Listing::default();
    let input = folder.to_path_buf();
    let mut rules = IgnoreRules::default();
    // Depth first: `around` are the folders that the present one lies in.
    let mut around = Vec::new();
    let mut pending = vec![(0, String::new(), folder.to_path_buf())];
    while let Some((depth, prefix, folder)) = pending.pop() {
        let metadata = fs::metadata(&folder).with_context(|| format!("cannot look at `{}`", folder.display()))?;
        let id = (metadata.dev(), metadata.ino());
        around.truncate(depth);
        if around.contains(&id) {
            bail!("`{}` is a link to a folder that it lies in", folder.display());
        }
        around.push(id);
        refuse_store(&folder, &input)?;
        rules.enter(depth, &folder)?;
        for (name, path, kind) in files::entries(&folder)? {
            // A lock of an editor is a link to nothing: it is left out before anybody follows it.
            let target = if kind.is_symlink() { look(&path)?.map(|target| target.file_type()) } else { Some(kind) };
            if rules.ignores(&path, target.is_some_and(|kind| kind.is_dir())) {
                found.is_partial |= rules.are_own();
                continue;
            }
            let kind = target.with_context(|| format!("`{}` is a link to nothing", path.display()))?;
            let relative = format!("{prefix}{name}");
            if kind.is_dir() {
                pending.push((depth + 1, relative + "/", path));
            } else if kind.is_file() {
                found.files.push((relative, path));
            } else {
                bail!("`{}` is neither a file nor a folder", path.display());
            }
        }
    }
    found.files.par_sort_unstable();
    Ok(found)
}

/// A store changes with every run, and a stage that reads its own store would never be fresh.
fn refuse_store(folder: &Path, input: &Path) -> Result<()> {
    let format = fs::read(folder.join(FORMAT_NAME));
    if !format.is_ok_and(|text| text.starts_with(b"ablate store ")) {
        return Ok(());
    }
    let (store, input) = (folder.display(), input.display());
    bail!(
        "`{store}` is a store of ablate, which no input may hold: every run changes it\nhelp: keep the store elsewhere with `--store`, or leave it out with a line in `{input}/{}`",
        ignored::NAME
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::modes;
    use ablate_core::stage::ArtifactKind;
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Bench {
        folder: tempfile::TempDir,
        store: Store,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(&folder.path().join("cache")).unwrap();
            let bench = Bench { folder, store };
            bench.write("a.png", b"1");
            bench.write("sub/b.png", b"22");
            bench
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join("data").join(name)
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            files::write_soft(&self.path(name), bytes).unwrap();
        }

        fn link(&self, target: &str, name: &str) {
            files::relink(Path::new(target), &self.path(name)).unwrap();
        }

        /// The hash of the folder a minute from now, when its files have settled, and the bytes read for it.
        fn hash(&self) -> (Hash, u64) {
            let read = AtomicU64::new(0);
            let count = |bytes| {
                read.fetch_add(bytes, Ordering::Relaxed);
            };
            let later = || jiff::Timestamp::now().as_nanosecond() + 60_000_000_000;
            let found = hash(&Reader::new(&self.store.memo, &count).at(&later), &self.path("")).unwrap();
            (found.unwrap(), read.into_inner())
        }

        fn error(&self, name: &str) -> String {
            let error = self.store.hash_outside(&self.path(name), &|_| ()).unwrap_err();
            error.to_string().replace(&self.folder.path().display().to_string(), "")
        }
    }

    #[test]
    fn an_unchanged_folder_is_not_read_again() {
        let mut bench = Bench::new();
        let (first, read) = bench.hash();
        assert_eq!(read, 3);
        assert_eq!(bench.hash(), (first, 0));
        bench.store.remember();
        bench.store = Store::open(bench.store.root()).unwrap();
        assert_eq!(bench.hash(), (first, 0));
        // A touch, or equal bytes written again, cost one file's reading and change nothing.
        std::fs::File::open(bench.path("a.png")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(bench.hash(), (first, 1));
        bench.write("sub/b.png", b"22");
        assert_eq!(bench.hash(), (first, 2));
        bench.write("sub/b.png", b"23");
        let (edited, read) = bench.hash();
        assert!(edited != first && read == 2);
    }

    #[test]
    fn what_was_forgotten_is_read_again_and_remembered_anew() {
        let mut bench = Bench::new();
        let (first, _) = bench.hash();
        bench.store.remember();
        bench.store.forget();
        assert_eq!(bench.hash(), (first, 3));
        assert_eq!(bench.hash(), (first, 0));
        bench.store.forget();
        bench.store = Store::open(bench.store.root()).unwrap();
        assert_eq!(bench.hash(), (first, 3));
    }

    #[test]
    fn a_folder_counts_by_names_and_bytes_as_its_copy_in_the_store_does() {
        let bench = Bench::new();
        let (first, _) = bench.hash();
        let output = bench.store.root().join("work/out");
        files::write_soft(&output.join("a.png"), b"1").unwrap();
        files::write_soft(&output.join("sub/b.png"), b"22").unwrap();
        assert_eq!(bench.store.put(&output, ArtifactKind::Facts).unwrap().hash, first);
        files::rename(&bench.path("sub/b.png"), &bench.path("sub/c.png")).unwrap();
        let (renamed, _) = bench.hash();
        assert_ne!(renamed, first);
        bench.write("empty", b"");
        let (more, _) = bench.hash();
        assert!(more != renamed && more != first);
        assert_eq!(bench.store.hash_outside(&bench.path("none"), &|_| ()).unwrap(), None);
        assert_eq!(bench.store.hash_outside(&bench.path("a.png/none"), &|_| ()).unwrap(), None);
    }

    #[test]
    fn a_link_counts_as_what_it_leads_to() {
        let bench = Bench::new();
        bench.write("c.png", b"1");
        bench.write("more/b.png", b"22");
        let (plain, _) = bench.hash();
        files::remove_file(&bench.path("c.png")).unwrap();
        files::remove_dir(&bench.path("more")).unwrap();
        bench.link("a.png", "c.png");
        bench.link("sub", "more");
        assert_eq!(bench.hash().0, plain);
        // An edit of what the link leads to is seen.
        bench.write("a.png", b"2");
        assert_ne!(bench.hash().0, plain);
    }

    #[test]
    fn links_that_lead_nowhere_or_round_are_errors() {
        let bench = Bench::new();
        bench.link("nothing", "sub/dangling");
        assert_eq!(bench.error(""), "`/data/sub/dangling` is a link to nothing");
        bench.link(".", "sub/dangling");
        assert_eq!(bench.error(""), "`/data/sub/dangling` is a link to a folder that it lies in");
        bench.link("../../other", "sub/dangling");
        bench.link("../data/sub", "../other/back");
        assert_eq!(bench.error(""), "`/data/sub/dangling/back` is a link to a folder that it lies in");
        bench.link("dangling", "sub/dangling");
        assert_eq!(bench.error(""), "cannot look at `/data/sub/dangling`");
    }

    #[test]
    fn what_is_ignored_counts_for_nothing_and_is_not_looked_at() {
        let bench = Bench::new();
        let (first, _) = bench.hash();
        bench.write("__pycache__/a.pyc", b"1");
        bench.link("user@host.1234:1", ".#a.png");
        bench.write(".git/HEAD", b"ref");
        files::create_dir(&bench.path("empty/deep")).unwrap();
        assert_eq!(bench.hash(), (first, 0));
        assert!(!files_below(&bench.path("")).unwrap().is_partial);
        bench.write("sub/notes.txt", b"x");
        assert_ne!(bench.hash().0, first);
        bench.write(".ablateignore", b"*.txt\n");
        assert_eq!(bench.hash(), (first, 0));
        assert!(files_below(&bench.path("")).unwrap().is_partial);
        bench.write(".ablateignore", b"a{b\n");
        assert!(bench.error("").starts_with("/data/.ablateignore:1: "), "{}", bench.error(""));
    }

    #[test]
    fn a_store_in_a_folder_is_an_error_that_names_it_unless_it_is_ignored() {
        let bench = Bench::new();
        let (first, _) = bench.hash();
        Store::open(&bench.path("sub/cache")).unwrap();
        assert_eq!(
            bench.error(""),
            "`/data/sub/cache` is a store of ablate, which no input may hold: every run changes it\n\
             help: keep the store elsewhere with `--store`, or leave it out with a line in `/data//.ablateignore`"
        );
        bench.write(".ablateignore", b"cache/\n");
        assert_eq!(bench.hash(), (first, 0));
    }

    #[test]
    fn the_executable_bit_counts_and_no_other() {
        let bench = Bench::new();
        let (first, _) = bench.hash();
        let set = |mode: u32| modes::set_mode(&bench.path("a.png"), mode).unwrap();
        set(0o600);
        assert_eq!(bench.hash().0, first);
        set(0o755);
        let (executable, _) = bench.hash();
        assert_ne!(executable, first);
        set(0o700);
        assert_eq!(bench.hash().0, executable);
        // Its copy in the store has the same hash.
        let output = bench.store.root().join("work/out");
        files::copy(&bench.path("a.png"), &output.join("a.png")).unwrap();
        files::write_soft(&output.join("sub/b.png"), b"22").unwrap();
        assert_eq!(bench.store.put(&output, ArtifactKind::File).unwrap().hash, executable);
    }

    #[test]
    fn pipes_and_sockets_are_errors_and_never_opened() {
        let bench = Bench::new();
        let _socket = UnixListener::bind(bench.path("socket")).unwrap();
        assert_eq!(bench.error(""), "`/data/socket` is neither a file nor a folder");
        files::remove_file(&bench.path("socket")).unwrap();
        assert!(Command::new("mkfifo").arg(bench.path("pipe")).status().unwrap().success());
        assert_eq!(bench.error(""), "`/data/pipe` is neither a file nor a folder");
        assert_eq!(bench.error("pipe"), "`/data/pipe` is neither a file nor a folder");
        bench.link("pipe", "a.png");
        assert_eq!(bench.error("a.png"), "`/data/a.png` is neither a file nor a folder");
    }
}
