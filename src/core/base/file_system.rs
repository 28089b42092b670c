//! The type of a file system.

use std::path::Path;

use anyhow::{Context, Result};

/// A file system by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Several machines can mount it.
    Shared(&'static str),
    /// A disk or the memory of one machine.
    Local(&'static str),
    /// Such as one in user space.
    Unknown(String),
}

impl FileSystem {
    pub fn name(&self) -> &str {
        match self {
            FileSystem::Shared(name) | FileSystem::Local(name) => name,
            FileSystem::Unknown(name) => name,
        }
    }
}

/// The file system of a path that exists.
#[cfg(target_os = "linux")]
pub fn of(path: &Path) -> Result<FileSystem> {
    let found =
        rustix::fs::statfs(path).with_context(|| format!("cannot look at the file system of `{}`", path.display()))?;
    // The numbers are those of statfs(2).
    Ok(match found.f_type as u32 {
        0x6969 => FileSystem::Shared("NFS"),
        0x0bd0_0bd0 => FileSystem::Shared("Lustre"),
        0x00c3_6400 => FileSystem::Shared("CephFS"),
        0x4750_4653 => FileSystem::Shared("GPFS"),
        0x1983_0326 => FileSystem::Shared("BeeGFS"),
        0xfe53_4d42 | 0xff53_4d42 => FileSystem::Shared("SMB"),
        0xef53 => FileSystem::Local("ext4"),
        0x5846_5342 => FileSystem::Local("XFS"),
        0x9123_683e => FileSystem::Local("btrfs"),
        0x2fc1_2fc1 => FileSystem::Local("ZFS"),
        0x0102_1994 => FileSystem::Local("tmpfs"),
        0x794c_7630 => FileSystem::Local("overlayfs"),
        0x6573_5546 => FileSystem::Unknown("a file system in user space (FUSE)".to_string()),
        number => FileSystem::Unknown(format!("a file system of the type {number:#x}")),
    })
}

#[cfg(not(target_os = "linux"))]
pub fn of(_: &Path) -> Result<FileSystem> {
    Ok(FileSystem::Unknown("a file system of unknown type".to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_file_system() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!of(folder.path()).unwrap().name().is_empty());
        assert!(of(Path::new("/no/such/folder")).is_err());
        #[cfg(target_os = "linux")]
        assert!(matches!(of(Path::new("/proc")).unwrap(), FileSystem::Unknown(_)));
    }
}
