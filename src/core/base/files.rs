//! Reads and writes files. All other code writes files through this module (clippy's `disallowed-methods`). Every
//! write is atomic or into a private folder, every error names its path, and a pipe or a device in place of a file is an error.

#![expect(clippy::disallowed_methods, reason = "this module writes files")]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{modes, regular_file};

pub use super::crash_point::{crash_point, on_crash_point};
pub use super::listing::{children, entries, list_names, list_paths, name_of, walk};

/// A file system with less free space than this many bytes counts as full.
const FULL_BELOW: u64 = 64 << 10;

pub fn read_text(path: &Path) -> Result<String> {
    regular_file::read_text(path).with_context(|| format!("cannot read `{}`", path.display()))
}

pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = regular_file::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(bytes)
}

/// Opens a file for buffered reading.
pub fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::with_capacity(1 << 18, open_file(path)?))
}

/// Opens a file for unbuffered reading. A pipe or a device is an error.
pub fn open_file(path: &Path) -> Result<File> {
    regular_file::open(path).with_context(|| format!("cannot open `{}`", path.display()))
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    serde_json::from_str(&text).with_context(|| format!("`{}` does not contain the expected JSON", path.display()))
}

/// Creates a folder and those above it.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create the folder `{}`", path.display()))
}

/// Creates or truncates a file for writing. Not atomic: for private folders only, because another reader can see
/// partial content.
pub fn create(path: &Path) -> Result<File> {
    crash_point("create");
    in_folder(path, || File::create(path)).with_context(|| format!("cannot create `{}`", path.display()))
}

/// Opens a file for appending and creates it if it does not exist.
pub fn append(path: &Path) -> Result<File> {
    append_with_mode(path, || 0o666)
}

/// As [`append`], for a private file (mode 0600).
pub fn append_private(path: &Path) -> Result<File> {
    append_with_mode(path, || private_mode(path, 6))
}

/// `mode` is that of a new file, before the umask.
fn append_with_mode(path: &Path, mode: impl Fn() -> u32) -> Result<File> {
    crash_point("append");
    let open = || {
        let file = OpenOptions::new().create(true).read(true).append(true).mode(mode()).open(path)?;
        regular_file::check(&file)?;
        Ok(file)
    };
    in_folder(path, open).with_context(|| format!("cannot open `{}` for appending", path.display()))
}

/// Runs `attempt`. If it fails because the path's folder does not exist, creates the folder and retries.
fn in_folder<T>(path: &Path, attempt: impl Fn() -> std::io::Result<T>) -> Result<T> {
    match (attempt(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == std::io::ErrorKind::NotFound => {
            create_dir(folder)?;
            Ok(attempt()?)
        }
        (result, _) => Ok(result?),
    }
}

/// Writes a whole file atomically: after a crash or a power cut it has either the old or the new content.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| Ok(file.write_all(bytes)?))
}

/// As [`write_atomic`], for content that `write` produces in pieces.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let temporary = temporary_path(path);
    let mut file = create(&temporary)?;
    let written = write(&mut file).and_then(|()| {
        crash_point("written");
        Ok(file.sync_all()?)
    });
    drop(file);
    if let Err(error) = written {
        remove_file(&temporary).ok();
        return Err(error).with_context(|| format!("cannot write `{}`", path.display()));
    }
    rename(&temporary, path)
}

/// Writes a whole file atomically without fsync. A power cut may lose it: for data that can be computed again.
pub fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_path(path);
    let written = create(&temporary)?.write_all(bytes).and_then(|()| {
        crash_point("written");
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        remove_file(&temporary).ok();
    }
    written.with_context(|| format!("cannot write `{}`", path.display()))
}

/// Writes a value as indented JSON, atomically.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).with_context(|| format!("cannot serialize `{}`", path.display()))?;
    write_atomic(path, (text + "\n").as_bytes())
}

/// Renames a file or folder and syncs the new parent folder.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    rename_unsynced(from, to)?;
    crash_point("renamed");
    to.parent().map_or(Ok(()), sync_dir)
}

/// Renames a file or folder. A power cut may undo the rename until [`sync_dir`] of the new parent folder returns.
pub fn rename_unsynced(from: &Path, to: &Path) -> Result<()> {
    crash_point("rename");
    let renamed = in_folder(to, || fs::rename(from, to));
    renamed.with_context(|| format!("cannot rename `{}` to `{}`", from.display(), to.display()))
}

/// Whether the file system of a path is full.
pub fn is_disk_full(path: &Path) -> bool {
    let free = |found: rustix::fs::StatVfs| found.f_bavail.saturating_mul(found.f_frsize);
    rustix::fs::statvfs(path).is_ok_and(|found| free(found) < FULL_BELOW)
}

/// Syncs a file's bytes to disk.
pub fn sync_file(path: &Path) -> Result<()> {
    crash_point("sync file");
    File::open(path).and_then(|file| file.sync_all()).with_context(|| format!("cannot sync `{}`", path.display()))
}

/// Syncs the whole file system of a path. False where the system does not support that.
pub fn sync_file_system(path: &Path) -> Result<bool> {
    crash_point("sync file system");
    #[cfg(target_os = "linux")]
    {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        rustix::fs::syncfs(file).with_context(|| format!("cannot sync the file system of `{}`", path.display()))?;
        Ok(true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        Ok(false)
    }
}

/// Syncs the entries of a folder to disk.
pub fn sync_dir(folder: &Path) -> Result<()> {
    crash_point("sync folder");
    // The parent of a plain name.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("cannot sync the folder `{}`", folder.display()))
}

pub fn remove_file(path: &Path) -> Result<()> {
    crash_point("remove file");
    fs::remove_file(path).with_context(|| format!("cannot remove `{}`", path.display()))
}

/// Removes a folder with its content, also where the owner has no permission to list or change it. A missing folder
/// is not an error.
pub fn remove_dir(path: &Path) -> Result<()> {
    crash_point("remove folder");
    let mut removed = fs::remove_dir_all(path);
    if removed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
        modes::make_folders_writable(path).ok();
        removed = fs::remove_dir_all(path);
    }
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("cannot remove the folder `{}`", path.display())),
    }
}

/// Removes the folders below `folder` that contain no file, and returns their relative paths.
pub fn remove_empty_dirs(folder: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for (name, path, kind) in entries(folder)? {
        if kind.is_dir() {
            removed.extend(remove_empty_dirs(&path)?.into_iter().map(|below| format!("{name}/{below}")));
            // Fails for a folder that is not empty.
            if fs::remove_dir(&path).is_ok() {
                removed.push(name);
            }
        }
    }
    Ok(removed)
}

/// Copies a file by sharing its blocks (reflink). False where the file system does not support that.
pub fn reflink(from: &Path, to: &Path) -> Result<bool> {
    #[cfg(target_os = "linux")]
    {
        let source = File::open(from).with_context(|| format!("cannot open `{}`", from.display()))?;
        if rustix::fs::ioctl_ficlone(create(to)?, source).is_ok() {
            return Ok(true);
        }
        remove_file(to)?;
    }
    let _ = (from, to);
    Ok(false)
}

/// Copies a file. File systems that support it share the blocks.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        create_dir(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy `{}` to `{}`", from.display(), to.display()))?;
    Ok(())
}

/// Makes `link` a symbolic link to `target` and replaces an existing link. Not synced: a power cut may lose it.
pub fn symlink(target: &Path, link: &Path) -> Result<()> {
    crash_point("link");
    if in_folder(link, || std::os::unix::fs::symlink(target, link)).is_ok() {
        return Ok(());
    }
    // The name already exists.
    let temporary = temporary_path(link);
    std::os::unix::fs::symlink(target, &temporary)
        .and_then(|()| fs::rename(&temporary, link))
        .with_context(|| format!("cannot link `{}` to `{}`", link.display(), target.display()))
}

/// The mode of a private file or folder at `path`. `all` is the permission digit: 6 for files, 7 for folders. A
/// folder that its group may write is shared, so its private files get the same permissions for the group.
fn private_mode(path: &Path, all: u32) -> u32 {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shared = fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o020 != 0);
    if shared { all << 6 | all << 3 } else { all << 6 }
}

/// Creates a private folder (mode 0700, whatever the umask) in an existing folder. An existing folder keeps its mode,
/// so users can open it with `chmod`.
pub fn create_private_dir(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(private_mode(path, 7)).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists || !path.is_dir() => {
            Err(error).with_context(|| format!("cannot create the folder `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// As [`write_atomic`], for a private file (mode 0600). An existing file keeps its mode.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write_private_with(path, &|file| Ok(file.write_all(bytes)?))
}

/// As [`write_private`], for content that `write` produces in pieces.
pub fn write_private_with(path: &Path, write: &dyn Fn(&mut File) -> Result<()>) -> Result<()> {
    write_private_synced(path, write, true)
}

/// As [`write_unsynced`], for a private file (mode 0600). An existing file keeps its mode.
pub fn write_private_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    write_private_synced(path, &|file| Ok(file.write_all(bytes)?), false)
}

fn write_private_synced(path: &Path, write: &dyn Fn(&mut File) -> Result<()>, sync: bool) -> Result<()> {
    let temporary = temporary_path(path);
    crash_point("create");
    let open = || OpenOptions::new().create_new(true).write(true).mode(private_mode(path, 6)).open(&temporary);
    let written = in_folder(path, open).and_then(|mut file| {
        if let Ok(there) = fs::metadata(path) {
            file.set_permissions(there.permissions())?;
        }
        write(&mut file)?;
        crash_point("written");
        if sync { Ok(file.sync_all()?) } else { Ok(()) }
    });
    let rename = if sync { rename } else { rename_unsynced };
    let renamed = written.and_then(|()| rename(&temporary, path));
    if renamed.is_err() {
        remove_file(&temporary).ok();
    }
    renamed.with_context(|| format!("cannot write `{}`", path.display()))
}

/// Whether an error is a loop of symbolic links.
pub fn is_symlink_loop(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    code == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// A path in the same folder that no other process uses.
fn temporary_path(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/name.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read_text(&path).unwrap(), "two");
        assert_eq!(walk(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn errors_contain_the_path() {
        let error = read_text(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read `/nowhere/at/all`");
    }

    fn mode_of(path: &Path) -> String {
        format!("{:o}", fs::metadata(path).unwrap().permissions().mode() & 0o777)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn private_files_keep_a_mode_set_later() {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let path = |name: &str| folder.path().join(name);
        create_private_dir(&path("own")).unwrap();
        write_private(&path("a"), b"1").unwrap();
        write_private_unsynced(&path("b"), b"1").unwrap();
        append_private(&path("c")).unwrap();
        let modes = ["own", "a", "b", "c"].map(|name| mode_of(&path(name)));
        assert_eq!(modes, ["700", "600", "600", "600"]);
        for name in ["own", "a", "b", "c"] {
            set_mode(&path(name), 0o755);
        }
        create_private_dir(&path("own")).unwrap();
        write_private(&path("a"), b"2").unwrap();
        write_private_unsynced(&path("b"), b"2").unwrap();
        append_private(&path("c")).unwrap();
        assert_eq!(["own", "a", "b", "c"].map(|name| mode_of(&path(name))), ["755"; 4]);
        assert_eq!(read_text(&path("a")).unwrap(), "2");
    }

    #[test]
    fn group_writable_folders_share_private_files() {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o775);
        assert_eq!(private_mode(&folder.path().join("x"), 6), 0o660);
        assert_eq!(private_mode(&folder.path().join("x"), 7), 0o770);
        set_mode(folder.path(), 0o755);
        assert_eq!(private_mode(&folder.path().join("x"), 7), 0o700);
    }
}
