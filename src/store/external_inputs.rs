//! Hashes and lists external inputs: files and folders outside the store.
//!
//! A folder is identified by the relative paths, the bytes and the executable bits of its files, in the form of a
//! store's tree, so a folder and its copy in the store have the same hash. Links are followed and count as their
//! targets, as a stage reads them. Files that [`super::ignore_rules`] excludes and folders without files are left
//! out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::file_hasher::{FileHasher, metadata_if_exists};
use super::ignore_rules::{self, IgnoreRules};
use super::object::{Tree, TreeFile};
use super::{FORMAT_NAME, Store};
use ablate_core::base::hash::OnRead;
use ablate_core::base::{Hash, files};

impl Store {
    /// The content hash of an external file or folder, through the memo; `None` if it does not exist.
    pub fn hash_external(&self, path: &Path, on_read: OnRead) -> Result<Option<Hash>> {
        hash(&FileHasher::new(&self.memo, on_read), &absolute(path)?)
    }

    /// The hash of a file's bytes without its mode, through the memo; `None` if it does not exist.
    pub fn hash_external_bytes(&self, path: &Path) -> Result<Option<Hash>> {
        let path = absolute(path)?;
        let Some(metadata) = metadata_if_exists(&path)? else { return Ok(None) };
        let hasher = FileHasher::new(&self.memo, &|_| ());
        hasher.hash_bytes(&path.to_string_lossy(), &path, &metadata).map(|(hash, _)| Some(hash))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("`{}` is not a valid path", path.display()))
}

fn hash(hasher: &FileHasher, path: &Path) -> Result<Option<Hash>> {
    let Some(metadata) = metadata_if_exists(path)? else { return Ok(None) };
    if !metadata.is_dir() {
        return hasher.hash_with_metadata(&path.to_string_lossy(), path, &metadata).map(|(hash, _)| Some(hash));
    }
    let hashed: Vec<(String, TreeFile)> = list_files(path)?
        .files
        .into_par_iter()
        .map(|(name, path)| {
            let found = hasher.hash(&path.to_string_lossy(), &path)?;
            let (hash, size) = found.with_context(|| format!("`{}` was removed while it was read", path.display()))?;
            Ok((name, TreeFile { hash, size }))
        })
        .collect::<Result<_>>()?;
    Ok(Some(Hash::of_bytes(&Tree { files: hashed.into_iter().collect() }.bytes())))
}

/// The files of an external folder.
#[derive(Debug, Default)]
pub struct FolderListing {
    /// Sorted relative paths with `/`, with links followed.
    pub files: Vec<(String, PathBuf)>,
    /// Whether an `.ablateignore` excluded a file.
    pub is_partial: bool,
}

/// Lists the files below a folder. Errors: something that is neither a file nor a folder, a link to nothing, a link
/// to a folder that contains the link, and a store.
pub fn list_files(folder: &Path) -> Result<FolderListing> {
    let mut found = FolderListing::default();
    let input = folder.to_path_buf();
    let mut rules = IgnoreRules::default();
    // Depth first; `ancestors` holds the folders that contain the current one.
    let mut ancestors = Vec::new();
    let mut pending = vec![(0, String::new(), folder.to_path_buf())];
    while let Some((depth, prefix, folder)) = pending.pop() {
        let metadata = fs::metadata(&folder).with_context(|| format!("cannot look at `{}`", folder.display()))?;
        let id = (metadata.dev(), metadata.ino());
        ancestors.truncate(depth);
        if ancestors.contains(&id) {
            bail!("`{}` is a link to a folder that contains it", folder.display());
        }
        ancestors.push(id);
        refuse_store(&folder, &input)?;
        rules.enter(depth, &folder)?;
        for (name, path, kind) in files::entries(&folder)? {
            // An editor's lock file is a dangling link. It is excluded before links are followed.
            let target = if kind.is_symlink() {
                metadata_if_exists(&path)?.map(|target| target.file_type())
            } else {
                Some(kind)
            };
            if rules.ignores(&path, target.is_some_and(|kind| kind.is_dir())) {
                found.is_partial |= rules.has_user_rules();
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

/// A store changes with every run, so a stage that reads its own store would never be fresh.
fn refuse_store(folder: &Path, input: &Path) -> Result<()> {
    let format = fs::read(folder.join(FORMAT_NAME));
    if !format.is_ok_and(|text| text.starts_with(b"ablate store ")) {
        return Ok(());
    }
    let (store, input) = (folder.display(), input.display());
    bail!(
        "`{store}` is a store of ablate inside an input. Every run changes it, so the stage would always run again\nhelp: keep the store elsewhere with `--store`, or leave it out with a line in `{input}/{}`",
        ignore_rules::FILE_NAME
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
            files::write_unsynced(&self.path(name), bytes).unwrap();
        }

        fn link(&self, target: &str, name: &str) {
            files::symlink(Path::new(target), &self.path(name)).unwrap();
        }

        /// The hash of the folder a minute from now, when its files have settled, and the bytes read for it.
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
    fn an_unchanged_folder_is_not_read_again() {
        let mut bench = Bench::new();
        let (first, read) = bench.hash();
        assert_eq!(read, 3);
        assert_eq!(bench.hash(), (first, 0));
        bench.store.save_memo();
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
        bench.store.save_memo();
        bench.store.clear_memo();
        assert_eq!(bench.hash(), (first, 3));
        assert_eq!(bench.hash(), (first, 0));
        bench.store.clear_memo();
        bench.store = Store::open(bench.store.root()).unwrap();
        assert_eq!(bench.hash(), (first, 3));
    }

    #[test]
    fn a_folder_counts_by_names_and_bytes_as_its_copy_in_the_store_does() {
        let bench = Bench::new();
        let (first, _) = bench.hash();
        let output = bench.store.root().join("work/out");
        files::write_unsynced(&output.join("a.png"), b"1").unwrap();
        files::write_unsynced(&output.join("sub/b.png"), b"22").unwrap();
        assert_eq!(bench.store.put(&output, ArtifactKind::Facts).unwrap().hash, first);
        files::rename(&bench.path("sub/b.png"), &bench.path("sub/c.png")).unwrap();
        let (renamed, _) = bench.hash();
        assert_ne!(renamed, first);
        bench.write("empty", b"");
        let (more, _) = bench.hash();
        assert!(more != renamed && more != first);
        assert_eq!(bench.store.hash_external(&bench.path("none"), &|_| ()).unwrap(), None);
        assert_eq!(bench.store.hash_external(&bench.path("a.png/none"), &|_| ()).unwrap(), None);
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
        assert_eq!(bench.error(""), "`/data/sub/dangling` is a link to a folder that contains it");
        bench.link("../../other", "sub/dangling");
        bench.link("../data/sub", "../other/back");
        assert_eq!(bench.error(""), "`/data/sub/dangling/back` is a link to a folder that contains it");
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
        assert!(!list_files(&bench.path("")).unwrap().is_partial);
        bench.write("sub/notes.txt", b"x");
        assert_ne!(bench.hash().0, first);
        bench.write(".ablateignore", b"*.txt\n");
        assert_eq!(bench.hash(), (first, 0));
        assert!(list_files(&bench.path("")).unwrap().is_partial);
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
            "`/data/sub/cache` is a store of ablate inside an input. Every run changes it, so the stage would always run again\n\
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
        files::write_unsynced(&output.join("sub/b.png"), b"22").unwrap();
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
