//! Modes of files and folders: sealed ones, executable ones, and what a program left without permission to touch it.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::{files, plain};

/// Permissions of the owner.
const READ: u32 = 0o400;
const ALL: u32 = 0o700;

/// Whether a file may be executed by its owner: the one bit of a mode that counts, as in git.
pub fn is_executable(metadata: &Metadata) -> bool {
    metadata.mode() & 0o100 != 0
}

/// Lets nobody write a file any more, gives it a time of modification, and tells its size. Who may read it stays, or
/// execute it where `executable`; any other bit of its mode goes.
pub fn seal(path: &Path, modified: SystemTime, executable: bool) -> Result<u64> {
    files::step("seal");
    let seal = || -> std::io::Result<u64> {
        let read = fs::symlink_metadata(path)?.mode() & 0o444 | READ;
        // Before the file is opened: its owner may have lost the right to do that.
        set(path, if executable { read | read >> 2 } else { read })?;
        let file = plain::open(path)?;
        file.set_modified(modified)?;
        Ok(file.metadata()?.len())
    };
    seal().with_context(|| format!("cannot seal `{}`", path.display()))
}

/// Lets nobody add to a folder, or to one below it.
pub fn seal_folders(folder: &Path) -> Result<()> {
    for (_, path, kind) in files::entries(folder)? {
        if kind.is_dir() {
            seal_folders(&path)?;
        }
    }
    files::step("seal folder");
    let seal = || set(folder, fs::symlink_metadata(folder)?.mode() & 0o555 | READ | 0o100);
    seal().with_context(|| format!("cannot seal the folder `{}`", folder.display()))
}

/// Makes a folder and those below it ones that their owner can list and change. Follows no links.
pub fn open_folders(folder: &Path) -> Result<()> {
    open_folder(folder)?;
    for (path, kind) in files::children(folder)? {
        if kind.is_dir() {
            open_folders(&path)?;
        }
    }
    Ok(())
}

/// Makes one folder such.
pub fn open_folder(folder: &Path) -> Result<()> {
    let open = || match fs::symlink_metadata(folder)?.mode() {
        mode if mode & ALL != ALL => set(folder, mode & 0o777 | ALL),
        _ => Ok(()),
    };
    open().with_context(|| format!("cannot make the folder `{}` writable", folder.display()))
}

/// Gives a file of one's own the mode of a new one.
pub fn set_plain(path: &Path, executable: bool) -> Result<()> {
    let mode = if executable { 0o755 } else { 0o644 };
    set(path, mode).with_context(|| format!("cannot set the mode of `{}`", path.display()))
}

/// Gives a file or folder its permissions. Follows links.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    set(path, mode).with_context(|| format!("cannot change the permissions of `{}`", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "the home of modes")]
fn set(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_sealed_file_keeps_its_readers_and_one_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        files::write_soft(&path, b"four").unwrap();
        for (before, executable, after) in [
            (0o644, false, 0o444),
            (0o600, false, 0o400),
            (0o4755, true, 0o555),
            (0o700, true, 0o500),
            (0, false, 0o400),
        ] {
            set(&path, before).unwrap();
            assert_eq!(seal(&path, UNIX_EPOCH, executable).unwrap(), 4);
            assert_eq!(mode(&path), after, "{before:o}");
        }
    }

    #[test]
    fn sealed_folders_are_opened_again_before_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (top, deep) = (folder.path().join("top"), folder.path().join("top/deep"));
        files::write_soft(&deep.join("file"), b"").unwrap();
        seal_folders(&top).unwrap();
        assert_eq!((mode(&top), mode(&deep)), (0o555, 0o555));
        open_folders(&top).unwrap();
        assert_eq!((mode(&top), mode(&deep)), (0o755, 0o755));
        set(&deep, 0).unwrap();
        seal_folders(&folder.path().join("top/deep")).ok();
        set(&deep, 0).unwrap();
        files::remove_dir(&top).unwrap();
        assert!(!top.exists());
    }
}
