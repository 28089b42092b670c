//! Files that are left out of an external folder: those of version control, interpreters and editors, and those that
//! an `.ablateignore` excludes, in git's syntax. Only this module uses the `ignore` crate.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use ablate_core::base::files;

/// The file with the user's rules. A line that starts with `!` includes a file again.
pub(super) const FILE_NAME: &str = ".ablateignore";

/// Excluded from every folder. They are never wanted as inputs, and programs write some of them while a stage runs.
const BUILTIN: &[&str] = &[
    ".git",
    ".hg/",
    ".svn/",
    "__pycache__/",
    ".ipynb_checkpoints/",
    ".DS_Store",
    // Swap files of vim, lock files of emacs and LibreOffice, and NFS's placeholders for open files that were
    // removed.
    "*.swp",
    ".*.sw?",
    ".#*",
    ".~lock.*#",
    ".nfs*",
];

/// The rules that apply in a folder.
#[derive(Default)]
pub(super) struct IgnoreRules {
    /// The user's rules by depth. Deeper rules have precedence.
    user_rules: Vec<(usize, Gitignore)>,
}

impl IgnoreRules {
    /// Enters a folder. `depth` is relative to the input, which has depth 0.
    pub(super) fn enter(&mut self, depth: usize, folder: &Path) -> Result<()> {
        self.user_rules.retain(|(of, _)| *of < depth);
        let path = folder.join(FILE_NAME);
        if path.is_file() {
            self.user_rules.push((depth, read(folder, &path)?));
        }
        Ok(())
    }

    /// Whether a file or folder is excluded.
    pub(super) fn ignores(&self, path: &Path, is_dir: bool) -> bool {
        for (_, rules) in self.user_rules.iter().rev() {
            match rules.matched(path, is_dir) {
                Match::None => {}
                found => return found.is_ignore(),
            }
        }
        let name = path.file_name().unwrap_or_default();
        name == FILE_NAME || builtin_rules().matched(name, is_dir).is_ignore()
    }

    /// Whether the input has an `.ablateignore`.
    pub(super) fn has_user_rules(&self) -> bool {
        !self.user_rules.is_empty()
    }
}

fn read(folder: &Path, path: &Path) -> Result<Gitignore> {
    let mut builder = GitignoreBuilder::new(folder);
    for (index, line) in files::read_text(path)?.lines().enumerate() {
        let at = |error| anyhow!("{}:{}: {error}", path.display(), index + 1);
        builder.add_line(None, line).map_err(at)?;
    }
    builder.build().map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn builtin_rules() -> &'static Gitignore {
    static RULES: OnceLock<Gitignore> = OnceLock::new();
    RULES.get_or_init(|| {
        let mut builder = GitignoreBuilder::new("");
        for line in BUILTIN {
            builder.add_line(None, line).unwrap_or_else(|error| panic!("BUG: `{line}`: {error}"));
        }
        builder.build().unwrap_or_else(|error| panic!("BUG: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_rules_exclude_tool_files() {
        let rules = IgnoreRules::default();
        let excluded = |name: &str| rules.ignores(&Path::new("/data/code").join(name), false);
        for name in [".git", "main.py.swp", ".main.py.swo", ".#main.py", ".~lock.table.ods#", ".DS_Store", FILE_NAME] {
            assert!(excluded(name), "{name}");
        }
        for name in ["main.py", ".gitattributes", "__pycache__", "git", "a.sw", ".env", "lock"] {
            assert!(!excluded(name), "{name}");
        }
        assert!(rules.ignores(Path::new("/data/code/__pycache__"), true));
        // Folders above the input do not matter.
        assert!(!rules.ignores(Path::new("/data/__pycache__/a.py"), false));
    }

    #[test]
    fn deepest_rule_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        files::write_unsynced(&path(FILE_NAME), b"# notes\n*.log\n/build/\n!__pycache__/\n").unwrap();
        files::write_unsynced(&path("deep/.ablateignore"), b"!kept.log\n").unwrap();
        let mut rules = IgnoreRules::default();
        rules.enter(0, folder.path()).unwrap();
        assert!(rules.ignores(&path("a.log"), false) && rules.ignores(&path("build"), true));
        assert!(!rules.ignores(&path("build"), false) && !rules.ignores(&path("__pycache__"), true));
        rules.enter(1, &path("deep")).unwrap();
        assert!(rules.ignores(&path("deep/a.log"), false) && !rules.ignores(&path("deep/kept.log"), false));
        assert!(!rules.ignores(&path("deep/build"), true));
        rules.enter(1, &path("other")).unwrap();
        assert!(rules.ignores(&path("other/kept.log"), false));
        files::write_unsynced(&path(FILE_NAME), b"fine\na{b\n").unwrap();
        let error = rules.enter(0, folder.path()).unwrap_err().to_string();
        let at = format!("{}:2: ", path(FILE_NAME).display());
        assert!(error.starts_with(&at), "{error}");
    }
}
