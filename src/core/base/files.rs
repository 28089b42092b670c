//! The only home of file writes: every write is atomic or into a private folder, every error names its path.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{modes, plain};

mod private;
mod reading;

pub use private::{append_private, create_private_dir, write_private, write_private_soft};
pub use reading::{open, open_plain, read_bytes, read_json, read_text};

/// Bytes that are as good as none.
const LITTLE: u64 = 64 << 10;

/// Creates a folder and those above it.
#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create the folder `{}`", path.display()))
}

/// Creates a file for writing, replacing one that is there. For private folders: a reader may see half of it.
#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn create(path: &Path) -> Result<File> {
    step("create");
    in_folder(path, || File::create(path)).with_context(|| format!("cannot create `{}`", path.display()))
}

/// Opens a file for appending, creating it if need be.
#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn append(path: &Path) -> Result<File> {
    step("append");
    let open = || {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        plain::check(&file)?;
        Ok(file)
    };
    in_folder(path, open).with_context(|| format!("cannot open `{}` for appending", path.display()))
}

/// Does something in the folder of a path, which is made first where it is not there.
fn in_folder<T>(path: &Path, attempt: impl Fn() -> std::io::Result<T>) -> Result<T> {
    match (attempt(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == std::io::ErrorKind::NotFound => {
            create_dir(folder)?;
            Ok(attempt()?)
        }
        (result, _) => Ok(result?),
    }
}

/// Writes a whole file so that a reader, a crash or a power cut sees the old content or the new, never a part.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = |file: &mut File| file.write_all(bytes).map_err(Into::into);
    write_atomic_with(path, written)
}

/// The same for a file that is written piece by piece.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let temporary = sibling(path);
    let mut file = create(&temporary)?;
    let written = write(&mut file).and_then(|()| {
        step("written");
        Ok(file.sync_all()?)
    });
    drop(file);
    if let Err(error) = written {
        remove_file(&temporary).ok();
        return Err(error).with_context(|| format!("cannot write `{}`", path.display()));
    }
    rename(&temporary, path)
}

/// Writes a whole file so that a reader sees the old content or the new. A power cut may lose it: for what can be
/// made again.
#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn write_soft(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = sibling(path);
    let context = || format!("cannot write `{}`", path.display());
    let written = create(&temporary)?.write_all(bytes).and_then(|()| {
        step("written");
        fs::rename(&temporary, path)
    });
    if written.is_err() {
        remove_file(&temporary).ok();
    }
    written.with_context(context)
}

/// Writes a value as indented JSON, atomically.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text =
        serde_json::to_string_pretty(value).with_context(|| format!("cannot serialize `{}`", path.display()))?;
    text.push('\n');
    write_atomic(path, text.as_bytes())
}

/// Renames a file or folder and makes the new name durable.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    rename_soft(from, to)?;
    step("renamed");
    if let Some(folder) = to.parent() {
        sync_dir(folder)?;
    }
    Ok(())
}

/// Renames a file or folder. A power cut may undo it, until [`sync_dir`] of the new folder returns.
#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn rename_soft(from: &Path, to: &Path) -> Result<()> {
    step("rename");
    let renamed = in_folder(to, || fs::rename(from, to));
    renamed.with_context(|| format!("cannot rename `{}` to `{}`", from.display(), to.display()))
}

/// Whether the file system of a path has no room left to speak of.
pub fn is_full(path: &Path) -> bool {
    let left = |found: rustix::fs::StatVfs| found.f_bavail.saturating_mul(found.f_frsize);
    rustix::fs::statvfs(path).is_ok_and(|found| left(found) < LITTLE)
}

/// Makes a file's bytes durable.
pub fn sync_file(path: &Path) -> Result<()> {
    step("sync file");
    File::open(path).and_then(|file| file.sync_all()).with_context(|| format!("cannot sync `{}`", path.display()))
}

/// Makes everything durable that was written to the file system of a path. False where the system cannot do that.
pub fn sync_file_system(path: &Path) -> Result<bool> {
    step("sync file system");
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

/// Makes the entries of a folder durable.
pub fn sync_dir(folder: &Path) -> Result<()> {
    step("sync folder");
    File::open(folder)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("cannot sync the folder `{}`", folder.display()))
}

#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn remove_file(path: &Path) -> Result<()> {
    step("remove file");
    fs::remove_file(path).with_context(|| format!("cannot remove `{}`", path.display()))
}

/// Removes a folder and everything in it, whatever its owner may do there; a folder that is not there is no error.
#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn remove_dir(path: &Path) -> Result<()> {
    step("remove folder");
    let mut removed = fs::remove_dir_all(path);
    if removed.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
        modes::open_folders(path).ok();
        removed = fs::remove_dir_all(path);
    }
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("cannot remove the folder `{}`", path.display())),
    }
}

/// Removes the folders below a folder that hold no file, and gives their relative paths.
pub fn remove_empty_dirs(folder: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for (name, path, kind) in entries(folder)? {
        if kind.is_dir() {
            removed.extend(remove_empty_dirs(&path)?.into_iter().map(|below| format!("{name}/{below}")));
            // Fails for one that holds something.
            if fs::remove_dir(&path).is_ok() {
                removed.push(name);
            }
        }
    }
    Ok(removed)
}

/// Makes a file share the blocks of another. False where the file system cannot do that.
pub fn share_blocks(from: &Path, to: &Path) -> Result<bool> {
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

/// Copies a file's bytes; on file systems that can, both share their blocks.
#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        create_dir(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy `{}` to `{}`", from.display(), to.display()))?;
    Ok(())
}

/// Makes `link` a symbolic link to `target`, replacing a link that is there. A power cut may lose it.
#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn relink(target: &Path, link: &Path) -> Result<()> {
    step("link");
    if in_folder(link, || std::os::unix::fs::symlink(target, link)).is_ok() {
        return Ok(());
    }
    // Something has the name already.
    let temporary = sibling(link);
    std::os::unix::fs::symlink(target, &temporary)
        .and_then(|()| fs::rename(&temporary, link))
        .with_context(|| format!("cannot link `{}` to `{}`", link.display(), target.display()))
}

/// What lies in a folder, sorted, whatever the names are; nothing when there is no folder.
pub fn paths_if_there(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let context = || format!("cannot list the folder `{}`", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        paths.push(entry.with_context(context)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Whether something failed because links lead round in a circle.
pub fn is_circle(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    code == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// The name of a path as text.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The sorted names in a folder; none when there is no folder.
pub fn list_if_there(folder: &Path) -> Result<Vec<String>> {
    Ok(paths_if_there(folder)?.iter().map(|path| name_of(path)).collect())
}

/// What lies in a folder, whatever the names are. Follows no links.
pub fn children(folder: &Path) -> Result<Vec<(PathBuf, FileType)>> {
    let context = || format!("cannot list the folder `{}`", folder.display());
    let found = fs::read_dir(folder).with_context(context)?.map(|entry| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?))
    });
    found.collect::<std::io::Result<_>>().with_context(context)
}

/// What lies in a folder: names, paths and kinds. Follows no links.
pub fn entries(folder: &Path) -> Result<Vec<(String, PathBuf, FileType)>> {
    let context = || format!("cannot list the folder `{}`", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            bail!("the name of `{}` is not UTF-8", path.display());
        };
        let kind = entry.file_type().with_context(|| format!("cannot look at `{}`", path.display()))?;
        found.push((name, path, kind));
    }
    Ok(found)
}

/// What lies below a folder and is no folder, as sorted relative paths with `/`, the folder's own name left out.
/// Follows no links: a link is listed as itself, whatever it leads to.
pub fn walk(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut pending = vec![(String::new(), folder.to_path_buf())];
    while let Some((prefix, folder)) = pending.pop() {
        for (name, path, kind) in entries(&folder)? {
            let relative = format!("{prefix}{name}");
            if kind.is_dir() {
                pending.push((relative + "/", path));
            } else {
                found.push((relative, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

static ON_STEP: OnceLock<fn(&str)> = OnceLock::new();

/// A moment between two changes of the file system, at which a crash leaves a state of its own. Does nothing unless
/// [`on_step`] was called.
pub fn step(what: &str) {
    if let Some(observe) = ON_STEP.get() {
        observe(what);
    }
}

/// Calls `observe` at every step of this process from now on. For crash tests, which abort the process there.
pub fn on_step(observe: fn(&str)) {
    let _ = ON_STEP.set(observe);
}

/// A name beside `path` that no other process uses.
fn sibling(path: &Path) -> PathBuf {
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
    fn an_atomic_write_replaces_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/name.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(read_text(&path).unwrap(), "two");
        assert_eq!(walk(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_walk_follows_no_links() {
        let folder = tempfile::tempdir().unwrap();
        write_atomic(&folder.path().join("deep/file"), b"").unwrap();
        relink(Path::new("."), &folder.path().join("deep/round")).unwrap();
        relink(Path::new("nowhere"), &folder.path().join("dangling")).unwrap();
        let names: Vec<String> = walk(folder.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["dangling", "deep/file", "deep/round"]);
    }

    #[test]
    fn errors_name_the_path() {
        let error = read_text(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read `/nowhere/at/all`");
    }
}
