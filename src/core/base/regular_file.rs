//! Opens regular files only. Opening a named pipe blocks until a writer appears, and a device may have no end, so
//! both are errors.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{Error, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a file for reading. Follows links.
#[expect(clippy::disallowed_methods, reason = "opens for reading only, with a flag that `File::open` cannot give")]
pub(super) fn open(path: &Path) -> Result<File> {
    // Without this flag the call blocks on a pipe. The flag has no effect on regular files.
    let opened = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let file = opened.map_err(|error| match fs::metadata(path) {
        // A socket cannot be opened at all.
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => not_a_file(&metadata),
        _ => error,
    })?;
    check(&file)?;
    Ok(file)
}

pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Fails if an open file is not a regular file.
pub(super) fn check(file: &File) -> Result<()> {
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok(()) } else { Err(not_a_file(&metadata)) }
}

fn not_a_file(metadata: &Metadata) -> Error {
    if metadata.is_dir() {
        return Errno::ISDIR.into();
    }
    Error::other(format!("it is {}, not a file", type_name(metadata.file_type())))
}

/// The name of a file type other than file and folder.
pub fn type_name(kind: fs::FileType) -> &'static str {
    match kind {
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_symlink() => "a link",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    #[test]
    fn special_files_and_folders_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let [pipe, socket] = ["pipe", "socket"].map(|name| folder.path().join(name));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let _listener = UnixListener::bind(&socket).unwrap();
        let message = |path: &Path| open(path).unwrap_err().to_string();
        assert_eq!(message(&pipe), "it is a named pipe, not a file");
        assert_eq!(message(&socket), "it is a socket, not a file");
        assert_eq!(message(Path::new("/dev/zero")), "it is a device, not a file");
        assert_eq!(message(folder.path()), "Is a directory (os error 21)");
        assert_eq!(message(&folder.path().join("none")), "No such file or directory (os error 2)");
        assert!(open(Path::new("/proc/self/stat")).is_ok());
    }
}
