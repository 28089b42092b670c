//! Opens plain files only. A named pipe in the place of a file keeps whoever opens it waiting for a writer, and a device
//! has no end: both are errors here. Writes nothing.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{Error, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a file for reading; links are followed.
#[expect(clippy::disallowed_methods, reason = "opens for reading only, with a flag that `File::open` cannot give")]
pub(super) fn open(path: &Path) -> Result<File> {
    // Without this flag the call itself waits for a pipe's other end. It changes nothing for plain files.
    let opened = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let file = opened.map_err(|error| match fs::metadata(path) {
        // A socket cannot be opened at all.
        Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => no_file(&metadata),
        _ => error,
    })?;
    check(&file)?;
    Ok(file)
}

/// Reads a text file.
pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Fails for an open file that is none.
pub(super) fn check(file: &File) -> Result<()> {
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok(()) } else { Err(no_file(&metadata)) }
}

fn no_file(metadata: &Metadata) -> Error {
    if metadata.is_dir() {
        return Errno::ISDIR.into();
    }
    Error::other(format!("it is {}, not a file", kind(metadata.file_type())))
}

/// What something is that is neither a file nor a folder.
pub fn kind(kind: fs::FileType) -> &'static str {
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
    fn pipes_sockets_devices_and_folders_are_errors_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let [pipe, socket] = ["pipe", "socket"].map(|name| folder.path().join(name));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let _listener = UnixListener::bind(&socket).unwrap();
        let told = |path: &Path| open(path).unwrap_err().to_string();
        assert_eq!(told(&pipe), "it is a named pipe, not a file");
        assert_eq!(told(&socket), "it is a socket, not a file");
        assert_eq!(told(Path::new("/dev/zero")), "it is a device, not a file");
        assert_eq!(told(folder.path()), "Is a directory (os error 21)");
        assert_eq!(told(&folder.path().join("none")), "No such file or directory (os error 2)");
        assert!(open(Path::new("/proc/self/stat")).is_ok());
    }
}
