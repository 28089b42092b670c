//! Files and folders that are nobody's business but their owner's: made with the modes 0600 and 0700, whatever the umask
//! allows. Where a folder may be written by its group, they are the group's business too (0660 and 0770): people share
//! it. The mode of what is there already is left as it is, so `chmod` lets others read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};

use super::{in_folder, plain, remove_file, rename, rename_soft, sibling, step};

/// What `path` shall be readable and writable for, as the digit `all` of each class that is let in.
fn mode(path: &Path, all: u32) -> u32 {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shared = fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o020 != 0);
    if shared { all << 6 | all << 3 } else { all << 6 }
}

/// Creates a folder of one's own below a folder that is there. One that is there already stays as it is.
pub fn create_private_dir(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(mode(path, 7)).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists || !path.is_dir() => {
            Err(error).with_context(|| format!("cannot create the folder `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// As [`super::append`], for a file of one's own.
#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
pub fn append_private(path: &Path) -> Result<File> {
    step("append");
    let open = || {
        let file = OpenOptions::new().create(true).read(true).append(true).mode(mode(path, 6)).open(path)?;
        plain::check(&file)?;
        Ok(file)
    };
    in_folder(path, open).with_context(|| format!("cannot open `{}` for appending", path.display()))
}

/// As [`super::write_atomic`], for a file of one's own.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, true)
}

/// As [`super::write_soft`], for a file of one's own.
pub fn write_private_soft(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, false)
}

#[expect(clippy::disallowed_methods, reason = "the home of file writes")]
fn write(path: &Path, bytes: &[u8], durable: bool) -> Result<()> {
    let temporary = sibling(path);
    step("create");
    let open = || OpenOptions::new().create_new(true).write(true).mode(mode(path, 6)).open(&temporary);
    let written = in_folder(path, open).and_then(|mut file| {
        if let Ok(there) = fs::metadata(path) {
            file.set_permissions(there.permissions())?;
        }
        file.write_all(bytes)?;
        step("written");
        if durable { Ok(file.sync_all()?) } else { Ok(()) }
    });
    let renamed = written.and_then(|()| if durable { rename(&temporary, path) } else { rename_soft(&temporary, path) });
    if renamed.is_err() {
        remove_file(&temporary).ok();
    }
    renamed.with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> String {
        format!("{:o}", fs::metadata(path).unwrap().permissions().mode() & 0o777)
    }

    #[expect(clippy::disallowed_methods, reason = "what a user does with `chmod`")]
    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_private_is_its_owners_and_a_mode_that_was_set_stays() {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let path = |name: &str| folder.path().join(name);
        create_private_dir(&path("own")).unwrap();
        write_private(&path("a"), b"1").unwrap();
        write_private_soft(&path("b"), b"1").unwrap();
        append_private(&path("c")).unwrap();
        let modes = ["own", "a", "b", "c"].map(|name| mode_of(&path(name)));
        assert_eq!(modes, ["700", "600", "600", "600"]);
        for name in ["own", "a", "b", "c"] {
            set_mode(&path(name), 0o755);
        }
        create_private_dir(&path("own")).unwrap();
        write_private(&path("a"), b"2").unwrap();
        write_private_soft(&path("b"), b"2").unwrap();
        append_private(&path("c")).unwrap();
        assert_eq!(["own", "a", "b", "c"].map(|name| mode_of(&path(name))), ["755"; 4]);
        assert_eq!(super::super::read_text(&path("a")).unwrap(), "2");
    }

    #[test]
    fn a_folder_that_a_group_may_write_shares_with_the_group() {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o775);
        assert_eq!(mode(&folder.path().join("x"), 6), 0o660);
        assert_eq!(mode(&folder.path().join("x"), 7), 0o770);
        set_mode(folder.path(), 0o755);
        assert_eq!(mode(&folder.path().join("x"), 7), 0o700);
    }
}
