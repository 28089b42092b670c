//! Copies of input files for a program: real files, so that a script is where the program looks for what lies beside
//! it, and a program that writes to its input changes nobody's file. Knows no stage and no store.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use ablate_core::base::{files, modes};

/// Bytes that are copied for one program where the file system cannot share blocks. Scripts and settings are far below
/// that; files beyond it are data, and become links.
pub(super) const BOUND: u64 = 256 << 20;

/// A file that is wanted in a place.
pub(super) struct Wanted {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
    /// Whether it is a file of the user's, which can change while the program runs.
    pub(super) outside: bool,
}

/// Puts files in their places, the smallest first, as copies up to `bound` bytes in all. A larger one shares its blocks
/// with the file that it is of, or else is a link to it.
pub(super) fn lay_out(wanted: Vec<Wanted>, bound: u64, note: &dyn Fn(String)) -> Result<()> {
    let mut sized = Vec::with_capacity(wanted.len());
    for one in wanted {
        let metadata = fs::metadata(&one.from).with_context(|| format!("cannot look at `{}`", one.from.display()))?;
        sized.push((metadata.len(), modes::is_executable(&metadata), one));
    }
    sized.sort_by_key(|(size, ..)| *size);
    let (mut left, mut links) = (bound, Vec::new());
    for (size, executable, Wanted { from, to, outside }) in &sized {
        if *size <= left {
            files::copy(from, to)?;
            left -= size;
        } else {
            // All that follow are larger.
            left = 0;
            if let Some(folder) = to.parent() {
                files::create_dir(folder)?;
            }
            if !files::reflink(from, to)? {
                files::symlink(&absolute(from)?, to)?;
                links.extend(outside.then_some((*size, from)));
                continue;
            }
        }
        modes::set_default(to, *executable)?;
    }
    if let Some((_, first)) = links.first() {
        let (count, bytes) = (links.len(), links.iter().map(|(size, _)| size).sum::<u64>());
        note(format!(
            "{count} input files of {bytes} bytes are links, for copies end at {bound} bytes: the first is `{}`",
            first.display()
        ));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("`{}` is no path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn small_files_are_copies_and_large_ones_links_that_are_noted() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let names = ["large.bin", "script.py", "tool.sh"];
        for (name, size) in names.into_iter().zip([1000, 10, 20]) {
            files::write_unsynced(&path(name), &vec![b'x'; size]).unwrap();
        }
        modes::set_default(&path("tool.sh"), true).unwrap();
        let wanted = |name| Wanted { from: path(name), to: path(&format!("room/in/{name}")), outside: true };
        let copies = names.map(wanted).into_iter().collect();
        let notes = RefCell::new(Vec::new());
        lay_out(copies, 100, &|text| notes.borrow_mut().push(text)).unwrap();
        for name in names {
            let place = path(&format!("room/in/{name}"));
            assert_eq!(files::read_bytes(&place).unwrap(), files::read_bytes(&path(name)).unwrap());
            assert_eq!(modes::is_executable(&fs::metadata(&place).unwrap()), name == "tool.sh");
        }
        assert!(!path("room/in/script.py").is_symlink());
        // Where blocks can be shared, no file is a link.
        if path("room/in/large.bin").is_symlink() {
            let first = path("large.bin");
            let told = "1 input files of 1000 bytes are links, for copies end at 100 bytes: the first is";
            assert_eq!(notes.into_inner(), [format!("{told} `{}`", first.display())]);
        }
    }
}
