//! The store: outputs by content, records by fingerprint.
//!
//! ```text
//! cache/
//!   FORMAT                          "ablate store 2"; a store of another format is refused
//!   objects/ab/cdef...              a file, read-only, named by the blake3 of its bytes,
//!                                   or the manifest (JSON) of a tree
//!   objects/ab/cdef....tree/        the files of that tree, so that a child reads it as a plain folder
//!   records                         StageRecords by fingerprint, one per line; a stage without a record is not done
//!   notes                           last fingerprint and log by experiment and instance, for `why` and `logs`
//!   work/<fingerprint>/             a running or interrupted stage: `job.json`, `out/`, `scratch/`, `spent.json`
//!   work/<fingerprint>.<process>-<number>/   the sandbox of one attempt of a program
//!   locks/<fingerprint>.run         held by the run that executes it, released by the system when the run ends
//!   locks/<fingerprint>.child       held by the child process for its lifetime
//!   locks/<hash>.put                held while a tree is moved into place
//!   locks/pool.<name>.<number>      held by the run that uses this slot or GPU
//!   locks/store                     shared by runs, exclusive for `gc`
//!   jobs/log                        the last job of a cluster's queue by fingerprint
//!   jobs/<name>/                    one submission: script, tasks, outputs, events, and how each job ended
//!   replies/log                     replies of endpoints by the content of their requests
//!   runs/<time>-<id>/               arguments (`run.json`), events, logs
//!   run-number                      the number of the last run
//!   quarantine/                     objects whose bytes did not match their name
//!   experiments/                    experiments and their instances, for `gc`
//!   pins/<name>.json                results that `gc` keeps
//!   derived/                        the plan cache: compiled experiments and results of earlier checks
//!   transfers/                      interrupted transfers to and from a remote
//!   memo                            hashes of files by (path, size, mtime, ctime, inode, device)
//!   salt                            random bytes for the hashes of environment variables
//! ```
//!
//! A commit moves outputs from `work/` into `objects/`, syncs them, and appends the record last, so a crash leaves
//! the old state or the new one. Everything except objects and `FORMAT` is readable for its owner only. Sealed
//! objects have a fixed modification time; an edit changes it, and the next check reads the object again. Deleting
//! the whole folder is always safe.

mod experiments;
mod external_inputs;
mod file_hasher;
mod fsync;
mod gc;
mod gc_roots;
mod ignore_rules;
mod interrupted;
mod jobs;
mod lock;
mod log;
mod memo;
mod memo_index;
mod object;
mod pins;
mod plan_cache;
mod quarantine;
mod record;
mod replies;
mod salt;
#[cfg(test)]
mod tests;
mod transfer;
mod verify;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, bail};

pub use experiments::{ExperimentEntry, ExperimentId, host};
pub use external_inputs::{FolderListing, list_files};
pub use gc::GcReport;
pub use gc_roots::{Forgotten, GcRoots, GcRules};
pub use interrupted::{InterruptedStage, WorkDone};
pub use jobs::JobNote;
pub use lock::Lock;
pub use memo::{FolderHandle, Stamp};
pub use object::{ObjectState, Tree, TreeFile, tree_beside};
pub use pins::Pin;
pub use record::{Build, LatestNote, Provenance, SlimRecord, StageRecord};
pub use replies::{Fault, Replies, Reply, ReplyTotals, Usage};
pub use transfer::{ObjectFile, ReceivedFile, VerifiedFile, verify_received};
pub use verify::{Problem, VerifyReport};

use ablate_core::base::{Hash, files, regular_file};
use log::Log;
use memo::Memo;

/// The only format that this program reads and writes.
const FORMAT: &str = "ablate store 2";
const FORMAT_NAME: &str = "FORMAT";

/// A folder of objects and records. Several runs may use it at the same time.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    records: Log,
    notes: Log,
    jobs: Log,
    memo: Mutex<Memo>,
    /// The `objects` folder, opened at the first query.
    objects: OnceLock<Option<FolderHandle>>,
    salt: OnceLock<salt::Salt>,
}

impl Store {
    /// Opens the store in a folder and creates it if the folder is new or empty. Fails for a folder with other files.
    pub fn open(root: &Path) -> Result<Store> {
        let root = std::path::absolute(root).with_context(|| format!("`{}` is not a valid path", root.display()))?;
        let format = root.join(FORMAT_NAME);
        if !has_format(&root, &format)? {
            refuse_other_folder(&root, &format)?;
            let written = files::write_atomic(&format, format!("{FORMAT}\n").as_bytes());
            let made = written.and_then(|()| make_private_folders(&root));
            made.with_context(|| format!("cannot make a store in `{}`", root.display()))?;
        }
        let memo = Mutex::new(Memo::new(root.join("memo")));
        let log = |name: &str| Log::new(root.join(name));
        let (records, notes, jobs) = (log("records"), log("notes"), log("jobs/log"));
        Ok(Store { root, records, notes, jobs, memo, objects: OnceLock::new(), salt: OnceLock::new() })
    }

    /// Fails if the store is not writable or locks do not work.
    pub fn check_writable(&self) -> Result<()> {
        let probe = self.root.join(format!(".probe.{}", std::process::id()));
        let probed = files::write_atomic(&probe, b"").and_then(|()| {
            let excludes = Lock::excludes(&probe);
            files::remove_file(&probe)?;
            make_private_folders(&self.root)?;
            excludes
        });
        let excludes = probed.with_context(|| {
            format!("the store `{}` is not writable: only `plan`, `why`, `ls` and `report` work", self.root.display())
        })?;
        if !excludes {
            bail!(
                "the file system of the store `{}` does not support locks: two runs would interfere with each other\nhelp: choose another folder with `--store`",
                self.root.display()
            );
        }
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The stamps of `records` and `notes`, which change with every write; `None` if one of them is missing.
    pub fn stamps(&self) -> Option<[Stamp; 2]> {
        let stamp = |log: &Log| fs::metadata(log.path()).ok().map(|metadata| Stamp::of(&metadata));
        Some([stamp(&self.records)?, stamp(&self.notes)?])
    }

    /// The work folder of a running or interrupted stage.
    pub fn work_path(&self, fingerprint: Hash) -> PathBuf {
        self.root.join("work").join(fingerprint.to_string())
    }

    /// A new sandbox path for one attempt of a program.
    pub fn sandbox_path(&self, fingerprint: Hash) -> PathBuf {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        self.root.join("work").join(format!("{fingerprint}.{}-{count}", std::process::id()))
    }

    /// The folder left by a failed or interrupted attempt: the work folder, or the sandbox of a program.
    pub fn leftover_path(&self, fingerprint: Hash) -> Option<PathBuf> {
        let work = self.work_path(fingerprint);
        if work.exists() {
            return Some(work);
        }
        let prefix = format!("{fingerprint}.");
        let names = files::list_names(&self.root.join("work")).ok()?;
        names.iter().rev().find(|name| name.starts_with(&prefix)).map(|name| self.root.join("work").join(name))
    }

    /// Removes sandboxes of programs that no run uses any more. A run that was killed leaves them behind.
    pub fn remove_stale_sandboxes(&self) -> Result<()> {
        for name in files::list_names(&self.root.join("work"))? {
            if let Some((fingerprint, _)) = name.split_once('.')
                && let Ok(fingerprint) = fingerprint.parse()
                && let Some(_lock) = self.lock_run(fingerprint)?
            {
                // Fails while a process still writes there; the next run tries again.
                files::remove_dir(&self.root.join("work").join(name)).ok();
            }
        }
        Ok(())
    }

    /// Folder of the replies of endpoints, which all stages share.
    pub fn replies_path(&self) -> PathBuf {
        self.root.join("replies")
    }

    pub fn runs_path(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// The file with the number of the last run.
    pub fn run_number_path(&self) -> PathBuf {
        self.root.join("run-number")
    }

    /// Takes the lock of that file and waits for its holder.
    pub fn lock_run_number(&self) -> Result<Lock> {
        Lock::take(&self.root.join("locks/run-number"))
    }

    /// Takes the run lock of a fingerprint; `None` while another run holds it.
    pub fn lock_run(&self, fingerprint: Hash) -> Result<Option<Lock>> {
        Lock::try_take(&self.root.join("locks").join(format!("{fingerprint}.run")))
    }

    /// Takes the lock of a slot shared by all runs; `None` while another run holds it.
    pub fn lock_slot(&self, name: &str) -> Result<Option<Lock>> {
        Lock::try_take(&self.root.join("locks").join(format!("pool.{name}")))
    }

    /// As [`Store::lock_slot`], but waits for the holder.
    pub fn wait_for_slot(&self, name: &str) -> Result<Lock> {
        Lock::take(&self.root.join("locks").join(format!("pool.{name}")))
    }

    /// Takes the shared store lock, which excludes `gc` while a run stores objects without a record.
    pub fn lock_shared(&self) -> Result<Lock> {
        Lock::shared(&self.root.join("locks/store"))
    }

    /// The lock file that the child process of a fingerprint holds.
    pub fn child_lock_path(&self, fingerprint: Hash) -> PathBuf {
        self.root.join("locks").join(format!("{fingerprint}.child"))
    }

    /// Writes the memo to disk. Write errors are ignored.
    pub fn save_memo(&self) {
        self.memo().save();
    }

    /// Clears the memo, so that all files are read again (`--rehash`).
    pub fn clear_memo(&self) {
        self.memo().clear();
    }

    fn memo(&self) -> std::sync::MutexGuard<'_, Memo> {
        // The memo stays usable after a panic in another thread: its entries are checked against the files.
        self.memo.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Encodes a name (which may contain any characters) as a file name.
pub fn file_name(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@=,_+-".contains(&byte);
    if name.len() <= 200 && name.bytes().all(plain) {
        return name.to_string();
    }
    let mut safe = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            _ if plain(byte) => safe.push(byte as char),
            b'.' if !safe.is_empty() => safe.push('.'),
            _ => drop(write!(safe, "%{byte:02x}")),
        }
    }
    // Most file systems allow 255 bytes; suffixes such as `.log` need some of them.
    if safe.len() > 200 {
        let hash = Hash::of_bytes(name.as_bytes()).short();
        safe.truncate(180);
        safe.push('~');
        safe.push_str(&hash);
    }
    safe
}

/// Private folders with texts of experiments, programs and endpoints. `objects` is not private: the umask decides who
/// can read outputs.
const PRIVATE: &[&str] =
    &["derived", "experiments", "jobs", "locks", "pins", "quarantine", "replies", "runs", "transfers", "work"];

fn make_private_folders(root: &Path) -> Result<()> {
    PRIVATE.iter().try_for_each(|name| files::create_private_dir(&root.join(name)))
}

/// Whether a folder is a store of this format. Fails for a store of another format.
fn has_format(root: &Path, format: &Path) -> Result<bool> {
    match regular_file::read_text(format) {
        Ok(text) if text.trim_end() == FORMAT => Ok(true),
        Ok(text) => bail!(
            "the store `{}` has the format `{}`, this program reads `{FORMAT}`\nhelp: choose another folder with `--store`",
            root.display(),
            text.lines().next().unwrap_or_default()
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot read the store `{}`", root.display())),
    }
}

/// Prevents that a mistyped path turns a folder with other files into a store.
fn refuse_other_folder(root: &Path, format: &Path) -> Result<()> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot list the folder `{}`", root.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list the folder `{}`", root.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let unexpected = !name.starts_with('.') && !name.starts_with("README");
        // Another run may have created the store meanwhile.
        if unexpected && !has_format(root, format)? {
            bail!(
                "`{}` is not a store: it contains `{name}` and no `FORMAT` file\nhelp: choose an empty or new folder with `--store`",
                root.display()
            );
        }
    }
    Ok(())
}
