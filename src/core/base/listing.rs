//! Lists folders.

use std::fs::{self, FileType};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The sorted paths in a folder, including names that are not UTF-8. Empty if there is no folder.
pub fn list_paths(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let context = || format!("cannot list the folder `{}`", folder.display());
    let paths = fs::read_dir(folder).with_context(context)?.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<std::io::Result<_>>().with_context(context)?;
    paths.sort();
    Ok(paths)
}

/// The last component of a path as text.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The sorted names in a folder. Empty if there is no folder.
pub fn list_names(folder: &Path) -> Result<Vec<String>> {
    Ok(list_paths(folder)?.iter().map(|path| name_of(path)).collect())
}

/// The paths and file types in a folder, including names that are not UTF-8. Does not follow links.
pub fn children(folder: &Path) -> Result<Vec<(PathBuf, FileType)>> {
    let context = || format!("cannot list the folder `{}`", folder.display());
    let found = fs::read_dir(folder).with_context(context)?.map(|entry| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?))
    });
    found.collect::<std::io::Result<_>>().with_context(context)
}

/// The names, paths and file types in a folder. A name that is not UTF-8 is an error. Does not follow links.
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

/// Everything below a folder except folders, as sorted relative paths with `/`. Does not follow links: a link is
/// listed itself.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::files::{symlink, write_atomic};

    #[test]
    fn walk_does_not_follow_links() {
        let folder = tempfile::tempdir().unwrap();
        write_atomic(&folder.path().join("deep/file"), b"").unwrap();
        symlink(Path::new("."), &folder.path().join("deep/round")).unwrap();
        symlink(Path::new("nowhere"), &folder.path().join("dangling")).unwrap();
        let names: Vec<String> = walk(folder.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["dangling", "deep/file", "deep/round"]);
    }
}
