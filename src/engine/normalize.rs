//! Makes a stage's outputs fit for the store: folders that can be entered, files with bytes and permissions of their own.
//! Knows no type of output.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use ablate_core::base::{files, modes};
use ablate_core::stage::OutputSpec;

/// Permissions that the owner of a folder, and of a file, needs here.
const FOLDER: u32 = 0o700;
const FILE: u32 = 0o400;

/// Every mode but these bits is taken away: set-user-ID, set-group-ID and sticky bits have no place in a store.
const KEPT: u32 = 0o777;

/// Goes through the declared outputs in a stage's folder. Links are left as they are: the check refuses them.
pub(super) fn normalize(folder: &Path, outputs: &[OutputSpec]) -> Result<()> {
    let around = fs::symlink_metadata(folder).with_context(|| format!("cannot look at `{}`", folder.display()))?;
    give(folder, &around, FOLDER)?;
    for output in outputs {
        let mut path = folder.to_path_buf();
        let mut parts = output.name.split('/').peekable();
        while let Some(part) = parts.next() {
            path.push(part);
            // What is not there is told by the check.
            let Ok(metadata) = fs::symlink_metadata(&path) else { break };
            if parts.peek().is_none() {
                whole(&path, &metadata)?;
            } else if metadata.is_dir() {
                give(&path, &metadata, FOLDER)?;
            } else {
                break;
            }
        }
    }
    Ok(())
}

/// One output: a file, or a folder with all that is in it.
fn whole(path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return one_file(path, metadata);
    }
    if !metadata.is_dir() {
        return Ok(());
    }
    give(path, metadata, FOLDER)?;
    let mut pending = vec![path.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for (_, path, kind) in files::entries(&folder)? {
            let look = || fs::symlink_metadata(&path).with_context(|| format!("cannot look at `{}`", path.display()));
            if kind.is_dir() {
                give(&path, &look()?, FOLDER)?;
                pending.push(path);
            } else if kind.is_file() {
                one_file(&path, &look()?)?;
            }
        }
    }
    Ok(())
}

/// A file with several names is one file: to seal it would seal what the other name belongs to, a file of the user's or
/// an object of the store. So it is copied first.
fn one_file(path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.nlink() == 1 {
        return give(path, metadata, FILE);
    }
    let mut copy = path.as_os_str().to_os_string();
    copy.push(".copy.tmp");
    let copy = Path::new(&copy);
    // The output is the user's file then, which may be unreadable to them: that is their answer.
    files::copy(path, copy).context("the output is a hard link, and its bytes cannot be copied")?;
    let copied = fs::symlink_metadata(copy).with_context(|| format!("cannot look at `{}`", copy.display()))?;
    give(copy, &copied, FILE)?;
    files::rename_unsynced(copy, path)
}

fn give(path: &Path, metadata: &Metadata, needed: u32) -> Result<()> {
    let old = metadata.mode() & 0o7777;
    let new = old & KEPT | needed;
    if old == new { Ok(()) } else { modes::set_mode(path, new) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::stage::ArtifactKind;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    const OUTPUTS: &[OutputSpec] =
        &[OutputSpec::new("deep/rows", ArtifactKind::File), OutputSpec::new("tree", ArtifactKind::File)];

    #[test]
    fn folders_can_be_entered_and_files_are_plain_and_readable() {
        let folder = tempfile::tempdir().unwrap();
        let [out, deep, rows] = ["out", "out/deep", "out/deep/rows"].map(|name| folder.path().join(name));
        let [tree, below, file] =
            ["out/tree", "out/tree/below", "out/tree/below/file"].map(|name| folder.path().join(name));
        files::write_atomic(&rows, b"").unwrap();
        files::write_atomic(&file, b"").unwrap();
        for (path, mode) in [(&rows, 0o4755), (&file, 0o000), (&below, 0o000), (&tree, 0o2555), (&deep, 0), (&out, 0)] {
            modes::set_mode(path, mode).unwrap();
        }
        normalize(&out, OUTPUTS).unwrap();
        let modes = [&out, &deep, &rows, &tree, &below, &file].map(|path| mode(path));
        assert_eq!(modes, [0o700, 0o700, 0o755, 0o755, 0o700, 0o400]);
    }

    #[test]
    fn a_hard_link_becomes_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("mine");
        files::write_atomic(&mine, b"data").unwrap();
        modes::set_mode(&mine, 0o644).unwrap();
        for name in ["out/deep/rows", "out/tree/file"] {
            let path = folder.path().join(name);
            files::create_dir(path.parent().unwrap()).unwrap();
            fs::hard_link(&mine, &path).unwrap();
        }
        normalize(&folder.path().join("out"), OUTPUTS).unwrap();
        assert_eq!(fs::metadata(&mine).unwrap().nlink(), 1);
        let names: Vec<String> = files::walk(&folder.path().join("out")).unwrap().into_iter().map(|f| f.0).collect();
        assert_eq!(names, ["deep/rows", "tree/file"]);
        assert_eq!(files::read_text(&folder.path().join("out/tree/file")).unwrap(), "data");
    }
}
