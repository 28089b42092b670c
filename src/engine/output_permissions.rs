//! Normalizes the permissions of outputs before they enter the store: folders can be entered, files can be read, and no
//! file shares its bytes with another one.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use ablate_core::base::{files, modes};
use ablate_core::stage::OutputSpec;

/// Permissions that are added to folders and files.
const FOLDER: u32 = 0o700;
const FILE: u32 = 0o400;

/// Mode bits that are kept. Set-user-ID, set-group-ID and sticky bits are removed.
const KEPT: u32 = 0o777;

/// Normalizes the declared outputs in a stage's folder. Symbolic links are not changed; the output check refuses them.
pub(super) fn normalize_permissions(folder: &Path, outputs: &[OutputSpec]) -> Result<()> {
    add_permissions(folder, &stat(folder)?, FOLDER)?;
    for output in outputs {
        let mut path = folder.to_path_buf();
        let mut parts = output.name.split('/').peekable();
        while let Some(part) = parts.next() {
            path.push(part);
            // The output check reports missing outputs.
            let Ok(metadata) = fs::symlink_metadata(&path) else { break };
            if parts.peek().is_none() {
                normalize_output(&path, &metadata)?;
            } else if metadata.is_dir() {
                add_permissions(&path, &metadata, FOLDER)?;
            } else {
                break;
            }
        }
    }
    Ok(())
}

/// Normalizes a file, or a folder and everything in it.
fn normalize_output(path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return normalize_file(path, metadata);
    }
    if !metadata.is_dir() {
        return Ok(());
    }
    add_permissions(path, metadata, FOLDER)?;
    let mut pending = vec![path.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for (_, path, kind) in files::entries(&folder)? {
            if kind.is_dir() {
                add_permissions(&path, &stat(&path)?, FOLDER)?;
                pending.push(path);
            } else if kind.is_file() {
                normalize_file(&path, &stat(&path)?)?;
            }
        }
    }
    Ok(())
}

/// Copies a file with several hard links first, because sealing it would also seal the file behind the other links.
fn normalize_file(path: &Path, metadata: &Metadata) -> Result<()> {
    if metadata.nlink() == 1 {
        return add_permissions(path, metadata, FILE);
    }
    let mut copy = path.as_os_str().to_os_string();
    copy.push(".copy.tmp");
    let copy = Path::new(&copy);
    files::copy(path, copy).context("the output is a hard link, and its bytes cannot be copied")?;
    add_permissions(copy, &stat(copy)?, FILE)?;
    files::rename_unsynced(copy, path)
}

fn add_permissions(path: &Path, metadata: &Metadata, needed: u32) -> Result<()> {
    let old = metadata.mode() & 0o7777;
    let new = old & KEPT | needed;
    if old == new { Ok(()) } else { modes::set_mode(path, new) }
}

fn stat(path: &Path) -> Result<Metadata> {
    fs::symlink_metadata(path).with_context(|| format!("cannot read the metadata of `{}`", path.display()))
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
    fn folders_become_enterable_and_files_readable() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let [deep, rows, tree] = ["deep", "deep/rows", "tree"].map(|name| out.join(name));
        let [below, file] = ["tree/below", "tree/below/file"].map(|name| out.join(name));
        files::write_atomic(&rows, b"").unwrap();
        files::write_atomic(&file, b"").unwrap();
        for (path, mode) in [(&rows, 0o4755), (&file, 0o000), (&below, 0o000), (&tree, 0o2555), (&deep, 0), (&out, 0)] {
            modes::set_mode(path, mode).unwrap();
        }
        normalize_permissions(&out, OUTPUTS).unwrap();
        let modes = [&out, &deep, &rows, &tree, &below, &file].map(|path| mode(path));
        assert_eq!(modes, [0o700, 0o700, 0o755, 0o755, 0o700, 0o400]);
    }

    #[test]
    fn a_hard_link_is_replaced_by_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let mine = folder.path().join("mine");
        files::write_atomic(&mine, b"data").unwrap();
        modes::set_mode(&mine, 0o644).unwrap();
        for name in ["out/deep/rows", "out/tree/file"] {
            let path = folder.path().join(name);
            files::create_dir(path.parent().unwrap()).unwrap();
            fs::hard_link(&mine, &path).unwrap();
        }
        normalize_permissions(&folder.path().join("out"), OUTPUTS).unwrap();
        assert_eq!(fs::metadata(&mine).unwrap().nlink(), 1);
        let names: Vec<String> = files::walk(&folder.path().join("out")).unwrap().into_iter().map(|f| f.0).collect();
        assert_eq!(names, ["deep/rows", "tree/file"]);
        assert_eq!(files::read_text(&folder.path().join("out/tree/file")).unwrap(), "data");
    }
}
