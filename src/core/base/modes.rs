//! Permissions of files and folders: read-only, executable, and those that a program removed.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::crash_point::crash_point;
use super::{listing, regular_file};

/// Permission bits of the owner.
const READ: u32 = 0o400;
const ALL: u32 = 0o700;

/// Whether the owner may execute a file. As in git, this is the only bit of a mode that matters.
pub fn is_executable(metadata: &Metadata) -> bool {
    metadata.mode() & 0o100 != 0
}

/// Makes a file read-only, sets its modification time, and returns its size. Read permissions stay; execute
/// permissions follow `executable`; all other bits are cleared.
pub fn seal(path: &Path, modified: SystemTime, executable: bool) -> Result<u64> {
    crash_point("seal");
    let seal = || -> std::io::Result<u64> {
        let read = fs::symlink_metadata(path)?.mode() & 0o444 | READ;
        // Before the file is opened, because its owner may lack the permission to read it.
        set(path, if executable { read | read >> 2 } else { read })?;
        let file = regular_file::open(path)?;
        file.set_modified(modified)?;
        Ok(file.metadata()?.len())
    };
    seal().with_context(|| format!("cannot seal `{}`", path.display()))
}

/// Makes a folder and those below it read-only.
pub fn seal_folders(folder: &Path) -> Result<()> {
    for (_, path, kind) in listing::entries(folder)? {
        if kind.is_dir() {
            seal_folders(&path)?;
        }
    }
    crash_point("seal folder");
    let seal = || set(folder, fs::symlink_metadata(folder)?.mode() & 0o555 | READ | 0o100);
    seal().with_context(|| format!("cannot seal the folder `{}`", folder.display()))
}

/// Makes a folder and those below it readable and writable for their owner. Does not follow links.
pub fn make_folders_writable(folder: &Path) -> Result<()> {
    make_folder_writable(folder)?;
    for (path, kind) in listing::children(folder)? {
        if kind.is_dir() {
            make_folders_writable(&path)?;
        }
    }
    Ok(())
}

/// Makes one folder readable and writable for its owner.
pub fn make_folder_writable(folder: &Path) -> Result<()> {
    let open = || match fs::symlink_metadata(folder)?.mode() {
        mode if mode & ALL != ALL => set(folder, mode & 0o777 | ALL),
        _ => Ok(()),
    };
    open().with_context(|| format!("cannot make the folder `{}` writable", folder.display()))
}

/// Sets the mode of a new file.
pub fn set_default(path: &Path, executable: bool) -> Result<()> {
    let mode = if executable { 0o755 } else { 0o644 };
    set(path, mode).with_context(|| format!("cannot set the mode of `{}`", path.display()))
}

/// Sets the mode of a file or folder. Follows links.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    set(path, mode).with_context(|| format!("cannot change the permissions of `{}`", path.display()))
}

#[expect(clippy::disallowed_methods, reason = "this module sets modes")]
fn set(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::files;
    use std::time::UNIX_EPOCH;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn sealing_keeps_read_and_execute_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        files::write_unsynced(&path, b"four").unwrap();
        let data = [(0o644, false, 0o444), (0o600, false, 0o400), (0, false, 0o400)];
        let programs = [(0o4755, true, 0o555), (0o700, true, 0o500)];
        for (before, executable, after) in data.into_iter().chain(programs) {
            set(&path, before).unwrap();
            assert_eq!(seal(&path, UNIX_EPOCH, executable).unwrap(), 4);
            assert_eq!(mode(&path), after, "{before:o}");
        }
    }

    #[test]
    fn sealed_folders_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (top, deep) = (folder.path().join("top"), folder.path().join("top/deep"));
        files::write_unsynced(&deep.join("file"), b"").unwrap();
        seal_folders(&top).unwrap();
        assert_eq!((mode(&top), mode(&deep)), (0o555, 0o555));
        make_folders_writable(&top).unwrap();
        assert_eq!((mode(&top), mode(&deep)), (0o755, 0o755));
        set(&deep, 0).unwrap();
        seal_folders(&folder.path().join("top/deep")).ok();
        set(&deep, 0).unwrap();
        files::remove_dir(&top).unwrap();
        assert!(!top.exists());
    }
}
