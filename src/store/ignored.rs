//! What a folder from outside does not consist of: files of version control, of interpreters and of editors, and what
//! an `.ablateignore` in it names, in git's syntax. Reads no other file. The only home of `ignore`.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use ablate_core::base::files;

/// The file that names more; a line with `!` in front takes back.
pub(super) const NAME: &str = ".ablateignore";

/// Left out of every folder. Nobody means them, and programs write some of them while a stage runs.
const ALWAYS: &[&str] = &[
    ".git",
    ".hg/",
    ".svn/",
    "__pycache__/",
    ".ipynb_checkpoints/",
    ".DS_Store",
    // Swap files of vim, locks of emacs and LibreOffice, what NFS leaves of an open file that was removed.
    "*.swp",
    ".*.sw?",
    ".#*",
    ".~lock.*#",
    ".nfs*",
];

/// The rules that hold in a folder.
#[derive(Default)]
pub(super) struct IgnoreRules {
    /// By depth: deeper ones decide first.
    own: Vec<(usize, Gitignore)>,
}

impl IgnoreRules {
    /// Goes into a folder at a depth below the input, the input itself being 0.
    pub(super) fn enter(&mut self, depth: usize, folder: &Path) -> Result<()> {
        self.own.retain(|(of, _)| *of < depth);
        let path = folder.join(NAME);
        if path.is_file() {
            self.own.push((depth, read(folder, &path)?));
        }
        Ok(())
    }

    /// Whether something in the folder is left out.
    pub(super) fn ignores(&self, path: &Path, is_dir: bool) -> bool {
        for (_, rules) in self.own.iter().rev() {
            match rules.matched(path, is_dir) {
                Match::None => {}
                found => return found.is_ignore(),
            }
        }
        let name = path.file_name().unwrap_or_default();
        name == NAME || always().matched(name, is_dir).is_ignore()
    }
}

impl IgnoreRules {
    /// Whether the input has rules of its own.
    pub(super) fn are_own(&self) -> bool {
        !self.own.is_empty()
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

fn always() -> &'static Gitignore {
    static RULES: OnceLock<Gitignore> = OnceLock::new();
    RULES.get_or_init(|| {
        let mut builder = GitignoreBuilder::new("");
        for line in ALWAYS {
            builder.add_line(None, line).unwrap_or_else(|error| panic!("BUG: `{line}`: {error}"));
        }
        builder.build().unwrap_or_else(|error| panic!("BUG: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_editors_interpreters_and_version_control_are_left_out() {
        let rules = IgnoreRules::default();
        let out = |name: &str| rules.ignores(&Path::new("/data/code").join(name), false);
        for name in [".git", "main.py.swp", ".main.py.swo", ".#main.py", ".~lock.table.ods#", ".DS_Store", NAME] {
            assert!(out(name), "{name}");
        }
        for name in ["main.py", ".gitattributes", "__pycache__", "git", "a.sw", ".env", "lock"] {
            assert!(!out(name), "{name}");
        }
        assert!(rules.ignores(Path::new("/data/code/__pycache__"), true));
        // What lies around the input has no say.
        assert!(!rules.ignores(Path::new("/data/__pycache__/a.py"), false));
    }

    #[test]
    fn rules_of_a_folder_hold_below_it_and_the_deepest_decides() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        files::write_soft(&path(NAME), b"# notes\n*.log\n/build/\n!__pycache__/\n").unwrap();
        files::write_soft(&path("deep/.ablateignore"), b"!kept.log\n").unwrap();
        let mut rules = IgnoreRules::default();
        rules.enter(0, folder.path()).unwrap();
        assert!(rules.ignores(&path("a.log"), false) && rules.ignores(&path("build"), true));
        assert!(!rules.ignores(&path("build"), false) && !rules.ignores(&path("__pycache__"), true));
        rules.enter(1, &path("deep")).unwrap();
        assert!(rules.ignores(&path("deep/a.log"), false) && !rules.ignores(&path("deep/kept.log"), false));
        assert!(!rules.ignores(&path("deep/build"), true));
        rules.enter(1, &path("other")).unwrap();
        assert!(rules.ignores(&path("other/kept.log"), false));
        files::write_soft(&path(NAME), b"fine\na{b\n").unwrap();
        let error = rules.enter(0, folder.path()).unwrap_err().to_string();
        let at = format!("{}:2: ", path(NAME).display());
        assert!(error.starts_with(&at), "{error}");
    }
}
