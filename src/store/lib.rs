//! The store: outputs by content, records by fingerprint. Knows no experiment, no graph and no kind.
//!
//! ```text
//! cache/
//!   FORMAT                          "ablate store 2"; a store of another format is refused
//!   objects/ab/cdef...              a file, read-only, named by the blake3 of its bytes,
//!                                   or the manifest (JSON) of a tree
//!   objects/ab/cdef....tree/        the files of that tree, so that a child reads it as a plain folder
//!   records                         StageRecords by fingerprint, a line each: no record, not done
//!   notes                           last fingerprint and log by experiment and instance: for `why` and `logs` only
//!   work/<fingerprint>/             a running or interrupted stage: `job.json`, `out/`, `scratch/`, `spent.json`
//!   work/<fingerprint>.<process>-<number>/   the clean folder of a program, which is never used again
//!   locks/<fingerprint>.run         held by the run that works on it, freed by the system when the run dies
//!   locks/<fingerprint>.child       held by the child process for its lifetime
//!   locks/<hash>.put                held while a tree is put in its place
//!   locks/pool.<name>.<number>      held by the run of which a stage has this slot, or this GPU
//!   locks/store                     shared by runs, taken alone by `gc`
//!   runs/<time>-<id>/               what was asked, what happened, logs
//!   quarantine/                     objects whose bytes did not match their name
//!   experiments/                    which experiments there are, and their instances: what `gc` keeps follows from it
//!   pins/<name>.json                results that `gc` leaves alone
//!   derived/                        what could be computed again: compiled experiments and what runs found
//!   memo                            hashes of files by (path, size, mtime, ctime, inode, device)
//!   salt                            random bytes for the hashes of variables of the environment
//! ```
//!
//! A commit moves outputs from `work/` into `objects/`, syncs them, and appends the record last, so a crash at any
//! instruction leaves the old state or the new one. All but the objects is readable for its owner alone. Objects get a fixed modification time when they are sealed:
//! an edit gives them another one, and the next look reads them again. Deleting the whole folder is always safe.

mod clean;
mod derived;
mod durable;
mod experiments;
#[cfg(test)]
mod fuzz;
mod ignored;
mod interrupted;
mod kept;
mod known;
mod limits;
mod lock;
mod log;
mod memo;
mod object;
mod outside;
mod pins;
mod quarantine;
mod reader;
mod record;
mod salt;
mod verify;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, bail};

pub use clean::Freed;
pub use experiments::{ExperimentId, KnownExperiment, host};
pub use interrupted::{Interrupted, Spent};
pub use kept::{Forgotten, GcRules, Kept};
pub use lock::Lock;
pub use memo::{Folder, Stamp};
pub use object::{ObjectState, Tree, TreeFile};
pub use outside::{Listing, files_below};
pub use pins::Pin;
pub use record::{Committed, LatestNote, Provenance, StageRecord};
pub use verify::{Problem, VerifyReport};

use ablate_core::base::{Hash, files, plain};
use log::Log;
use memo::Memo;

/// The one format this program reads and writes.
const FORMAT: &str = "ablate store 2";
const FORMAT_NAME: &str = "FORMAT";

/// A folder of objects and records. Many runs may use one at the same time.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    records: Log,
    notes: Log,
    memo: Mutex<Memo>,
    /// The folder of the objects, opened at the first look at one.
    objects: OnceLock<Option<Folder>>,
    salt: OnceLock<salt::Salt>,
}

impl Store {
    /// Opens the store in a folder, making one where there is none. Fails for a folder that holds something else.
    pub fn open(root: &Path) -> Result<Store> {
        let root = std::path::absolute(root).with_context(|| format!("`{}` is no path", root.display()))?;
        let format = root.join(FORMAT_NAME);
        if !has_format(&root, &format)? {
            refuse_strange_folder(&root, &format)?;
            let written = files::write_atomic(&format, format!("{FORMAT}\n").as_bytes());
            written
                .and_then(|()| make_private_folders(&root))
                .with_context(|| format!("cannot make a store in `{}`", root.display()))?;
        }
        let memo = Mutex::new(Memo::new(root.join("memo")));
        let (records, notes) = (Log::new(root.join("records")), Log::new(root.join("notes")));
        Ok(Store { root, records, notes, memo, objects: OnceLock::new(), salt: OnceLock::new() })
    }

    /// Fails when nothing can be written here, before any work is done.
    pub fn check_writable(&self) -> Result<()> {
        let probe = self.root.join(format!(".probe.{}", std::process::id()));
        let probed = files::write_atomic(&probe, b"").and_then(|()| {
            let excludes = Lock::excludes(&probe);
            files::remove_file(&probe)?;
            make_private_folders(&self.root)?;
            excludes
        });
        let excludes = probed.with_context(|| {
            format!(
                "the store `{}` cannot be written: it serves `plan`, `why`, `ls` and `report` only",
                self.root.display()
            )
        })?;
        if !excludes {
            bail!(
                "the file system of the store `{}` knows no locks: two runs would not see each other\nhelp: name another place with `--store`",
                self.root.display()
            );
        }
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What records and notes look like: whatever is done to them changes it. `None` where one of them is missing.
    pub fn stamps(&self) -> Option<[Stamp; 2]> {
        let stamp = |log: &Log| fs::metadata(log.path()).ok().map(|metadata| Stamp::of(&metadata));
        Some([stamp(&self.records)?, stamp(&self.notes)?])
    }

    /// Where a running or interrupted stage has its files.
    pub fn work_path(&self, fingerprint: Hash) -> PathBuf {
        self.root.join("work").join(fingerprint.to_string())
    }

    /// A folder for one attempt of a program, which has no other's name.
    pub fn room_path(&self, fingerprint: Hash) -> PathBuf {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        self.root.join("work").join(format!("{fingerprint}.{}-{count}", std::process::id()))
    }

    /// What an attempt that did not end well has left: the folder that it goes on from, or the one of its program.
    pub fn left_behind(&self, fingerprint: Hash) -> Option<PathBuf> {
        let own = self.work_path(fingerprint);
        if own.exists() {
            return Some(own);
        }
        let prefix = format!("{fingerprint}.");
        let names = files::list_if_there(&self.root.join("work")).ok()?;
        names.iter().rev().find(|name| name.starts_with(&prefix)).map(|name| self.root.join("work").join(name))
    }

    /// Removes the folders of programs that nobody runs any more: a run that was killed could not.
    pub fn sweep(&self) -> Result<()> {
        for name in files::list_if_there(&self.root.join("work"))? {
            let Some(fingerprint) = name.split_once('.').and_then(|(fingerprint, _)| fingerprint.parse().ok()) else {
                continue;
            };
            if let Some(_lock) = self.lock_run(fingerprint)? {
                // Something may still be writing there: then it stays for the next time.
                files::remove_dir(&self.root.join("work").join(name)).ok();
            }
        }
        Ok(())
    }

    pub fn runs_path(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Tries to become the only run that works on a fingerprint. `None` while another one does.
    pub fn lock_run(&self, fingerprint: Hash) -> Result<Option<Lock>> {
        Lock::try_take(&self.root.join("locks").join(format!("{fingerprint}.run")))
    }

    /// Tries to take a slot that all runs share. `None` while another one has it.
    pub fn lock_slot(&self, name: &str) -> Result<Option<Lock>> {
        Lock::try_take(&self.root.join("locks").join(format!("pool.{name}")))
    }

    /// The same, waiting for whoever has it.
    pub fn lock_slot_wait(&self, name: &str) -> Result<Lock> {
        Lock::take(&self.root.join("locks").join(format!("pool.{name}")))
    }

    /// Keeps `gc` away while a run makes things that no record names yet.
    pub fn share(&self) -> Result<Lock> {
        Lock::share(&self.root.join("locks/store"))
    }

    /// Where the child process of a fingerprint holds its own lock.
    pub fn child_lock_path(&self, fingerprint: Hash) -> PathBuf {
        self.root.join("locks").join(format!("{fingerprint}.child"))
    }

    /// Keeps what was learned about files for the next invocation. A store that cannot be written just forgets it.
    pub fn remember(&self) {
        self.memo().save();
    }

    /// Forgets every remembered hash, so that files are read again (`--rehash`).
    pub fn forget(&self) {
        self.memo().forget();
    }

    fn memo(&self) -> std::sync::MutexGuard<'_, Memo> {
        // A panic elsewhere leaves the memo usable: its entries are checked against the files anyway.
        self.memo.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A name of the user's (with `@`, `=`, `,` and whatever else) as the name of one file.
pub fn file_name(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@=,_+-".contains(&byte);
    if name.len() <= 200 && name.bytes().all(plain) {
        return name.to_string();
    }
    let mut safe = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'@' | b'=' | b',' | b'_' | b'+' | b'-' => {
                safe.push(byte as char);
            }
            b'.' if !safe.is_empty() => safe.push('.'),
            _ => drop(write!(safe, "%{byte:02x}")),
        }
    }
    // Most file systems take 255 bytes; a suffix such as `.log` needs some of them.
    if safe.len() > 200 {
        let hash = Hash::of_bytes(name.as_bytes()).short();
        safe.truncate(180);
        safe.push('~');
        safe.push_str(&hash);
    }
    safe
}

/// Folders with what experiments, programs and endpoints say. Objects are not among them: outputs are for those whom the
/// umask lets read them.
const PRIVATE: &[&str] = &["derived", "experiments", "locks", "pins", "quarantine", "runs", "work"];

fn make_private_folders(root: &Path) -> Result<()> {
    PRIVATE.iter().try_for_each(|name| files::create_private_dir(&root.join(name)))
}

/// Whether a folder says that it is a store. Fails for one of another format.
fn has_format(root: &Path, format: &Path) -> Result<bool> {
    match plain::read_text(format) {
        Ok(text) if text.trim_end() == FORMAT => Ok(true),
        Ok(text) => bail!(
            "the store `{}` has the format `{}`, this program reads `{FORMAT}`\nhelp: give another folder with `--store`",
            root.display(),
            text.lines().next().unwrap_or_default()
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read the store `{}`", root.display())),
    }
}

/// A folder with someone's files in it must not become a store by a slip of the keyboard.
fn refuse_strange_folder(root: &Path, format: &Path) -> Result<()> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot list the folder `{}`", root.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list the folder `{}`", root.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let strange = !name.starts_with('.') && !name.starts_with("README");
        // Another run may have made a store of it meanwhile.
        if strange && !has_format(root, format)? {
            bail!(
                "`{}` is not a store: it has no `FORMAT` but holds `{name}`\nhelp: name an empty or new folder with `--store`",
                root.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_another_format_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        files::write_atomic(&folder.path().join("FORMAT"), b"ablate store 9\n").unwrap();
        let error = Store::open(folder.path()).unwrap_err().to_string();
        let path = folder.path().display();
        assert_eq!(
            error,
            format!(
                "the store `{path}` has the format `ablate store 9`, this program reads `ablate store 2`\n\
                 help: give another folder with `--store`"
            )
        );
    }

    #[test]
    fn a_folder_with_other_files_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        files::write_atomic(&folder.path().join("README.md"), b"").unwrap();
        files::write_atomic(&folder.path().join(".gitignore"), b"").unwrap();
        files::write_atomic(&folder.path().join("thesis.tex"), b"").unwrap();
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is not a store: it has no `FORMAT` but holds `thesis.tex`"), "{error}");
        files::remove_file(&folder.path().join("thesis.tex")).unwrap();
        Store::open(folder.path()).unwrap();
    }

    #[test]
    fn many_make_a_store_at_once() {
        for _ in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join("cache");
            std::thread::scope(|scope| {
                let open = || Store::open(&root).map(drop);
                let opened: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
                for opened in opened {
                    opened.join().unwrap().unwrap();
                }
            });
        }
    }

    #[test]
    fn a_store_that_cannot_be_made_says_where() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        files::write_atomic(&file, b"").unwrap();
        let error = Store::open(&file.join("cache")).unwrap_err().to_string();
        assert_eq!(error, format!("cannot read the store `{}`", file.join("cache").display()));
    }

    #[test]
    fn names_become_file_names() {
        assert_eq!(file_name("eval@model=dpo,prompt=cot"), "eval@model=dpo,prompt=cot");
        assert_eq!(file_name("../a b/ü"), "%2e.%2fa%20b%2f%c3%bc");
        assert_eq!(file_name(&"x".repeat(300)).len(), 191);
        assert_ne!(file_name(&"x".repeat(300)), file_name(&"x".repeat(301)));
    }
}
