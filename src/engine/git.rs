//! The git commit of the working tree that holds an experiment's file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::environment;
use ablate_core::base::files;

/// The state of a git working tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitState {
    pub commit: String,
    /// Whether a tracked file differs from the commit, or the experiment's file is not tracked. `None` without the program
    /// `git`.
    #[serde(default)]
    pub dirty: Option<bool>,
}

impl GitState {
    /// The state of the working tree with this file. `None` outside of a working tree and before the first commit.
    pub fn of_file(file: &Path) -> Option<GitState> {
        let file = std::path::absolute(file).ok()?;
        let folder = file.parent()?;
        GitState::from_program(folder, &file).or_else(|| GitState::from_files(folder))
    }

    fn from_program(folder: &Path, file: &Path) -> Option<GitState> {
        let commit = git(folder, &["rev-parse", "--verify", "HEAD"])?.trim().to_string();
        let changed = git(folder, &["status", "--porcelain", "--untracked-files=no"]);
        let name = file.to_str();
        let tracked =
            name.and_then(|name| git(folder, &["ls-files", "--", name])).map(|names| !names.trim().is_empty());
        let dirty = changed.zip(tracked).map(|(changed, tracked)| !changed.trim().is_empty() || !tracked);
        Some(GitState { commit, dirty })
    }

    /// Reads the files of `.git`, without the program.
    fn from_files(folder: &Path) -> Option<GitState> {
        let git = folder.ancestors().map(|folder| folder.join(".git")).find(|git| git.exists())?;
        let git = if git.is_dir() { git } else { linked_folder(&git)? };
        let head = read_line(&git.join("HEAD"))?;
        let commit = match head.strip_prefix("ref:") {
            Some(name) => read_reference(&git, name.trim())?,
            None => head,
        };
        commit.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(GitState { commit, dirty: None })
    }

    /// The first digits of the commit.
    pub fn short(&self) -> &str {
        self.commit.get(..12).unwrap_or(&self.commit)
    }
}

/// The output of a git command; `None` if it fails.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // No hook runs and nothing is written: the configuration of the tree may be foreign.
    command.args(["-c", "core.fsmonitor=false", "-C"]).arg(folder).args(arguments);
    command.env_clear().envs(environment::for_helper()).env("GIT_OPTIONAL_LOCKS", "0");
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder that the file `.git` of a linked working tree or of a submodule names.
fn linked_folder(file: &Path) -> Option<PathBuf> {
    let line = read_line(file)?;
    Some(file.parent()?.join(line.strip_prefix("gitdir:")?.trim()))
}

fn read_reference(git: &Path, name: &str) -> Option<String> {
    // A linked working tree shares its references with the main one.
    let common = read_line(&git.join("commondir")).map(|common| git.join(common));
    let folders = [Some(git.to_path_buf()), common];
    folders.into_iter().flatten().find_map(|folder| {
        let packed = || {
            let text = files::read_text(&folder.join("packed-refs")).ok()?;
            let line = text.lines().find_map(|line| line.split_once(' ').filter(|(_, known)| *known == name));
            line.map(|(commit, _)| commit.to_string())
        };
        read_line(&folder.join(name)).or_else(packed)
    })
}

fn read_line(file: &Path) -> Option<String> {
    let text = files::read_text(file).ok()?;
    text.lines().next().map(|line| line.trim().to_string()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_read_without_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| files::write_unsynced(&folder.path().join(name), text.as_bytes()).unwrap();
        let study = folder.path().join("deep/study");
        files::create_dir(&study).unwrap();
        assert_eq!(GitState::from_files(&study), None);
        write(".git/HEAD", "ref: refs/heads/main\n");
        assert_eq!(GitState::from_files(&study), None, "there is no commit yet");
        write(".git/packed-refs", "# pack-refs\n0123abcd refs/heads/other\n4567abcd refs/heads/main\n");
        let state = |commit: &str| Some(GitState { commit: commit.to_string(), dirty: None });
        assert_eq!(GitState::from_files(&study), state("4567abcd"));
        write(".git/refs/heads/main", "89ab\n");
        assert_eq!(GitState::from_files(&study), state("89ab"));
        write(".git/HEAD", "cdef\n");
        assert_eq!(GitState::from_files(&study), state("cdef"));
        write(".git/HEAD", "not a commit\n");
        assert_eq!(GitState::from_files(&study), None);
        // A linked working tree.
        write(".git/worktrees/tree/HEAD", "ref: refs/heads/main\n");
        write(".git/worktrees/tree/commondir", "../..\n");
        write("tree/.git", &format!("gitdir: {}\n", folder.path().join(".git/worktrees/tree").display()));
        assert_eq!(GitState::from_files(&folder.path().join("tree")), state("89ab"));
    }
}
