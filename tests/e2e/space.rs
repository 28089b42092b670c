//! A folder of its own for each scenario, and the real binary run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub(crate) struct Space {
    folder: TempDir,
}

/// What one call of the program did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Space {
    pub(crate) fn new() -> Space {
        Space { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Space {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Adds to the end of a file.
    pub(crate) fn append(&self, name: &str, text: &str) -> &Space {
        self.write(name, self.read(name) + text)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Copies an experiment of the project and gives its name here.
    pub(crate) fn with_experiment(&self, name: &str) -> &Space {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments").join(name);
        self.write(name, fs::read_to_string(from).unwrap())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ablate"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_remove("ABLATE_STORE").env_remove("ABLATE_LOG").env("NO_COLOR", "1");
        command
    }

    /// Runs `ablate` here to its end.
    pub(crate) fn ablate(&self, arguments: &[&str]) -> Outcome {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| {
            // The folder's name is random: messages are compared without it.
            String::from_utf8(bytes).unwrap().replace(&self.folder.path().display().to_string(), "[ROOT]")
        };
        Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs `ablate` here and insists that it succeeds.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.ablate(arguments);
        assert_eq!(outcome.code, Some(0), "ablate {arguments:?}\n{}\n{}", outcome.stdout, outcome.stderr);
        outcome
    }

    /// Runs `ablate --json` here and reads what it prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let outcome = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
    }
}
