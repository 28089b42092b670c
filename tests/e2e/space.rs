//! A folder of its own for each scenario, and the real binary run in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

    /// Removes a folder, whatever its modes.
    pub(crate) fn remove(&self, name: &str) {
        let open = Command::new("chmod").args(["-R", "u+w"]).arg(self.path(name)).status().unwrap();
        assert!(open.success());
        fs::remove_dir_all(self.path(name)).unwrap();
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
    /// Starts `ablate` here; what it says is lost.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Every output of an experiment by its name, with its bytes.
    pub(crate) fn outputs(&self, experiment: &str) -> BTreeMap<String, Vec<u8>> {
        fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(root, &path, found);
                } else if path.is_file() {
                    let name = path.strip_prefix(root).unwrap().display().to_string();
                    found.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        let root = self.path("out").join(experiment);
        let mut found = BTreeMap::new();
        walk(&root, &root, &mut found);
        found
    }

    /// Writes an experiment whose command stages can tell, with `$RAN NAME;` in front of their lines, that they ran.
    pub(crate) fn study(&self, text: &str) -> &Space {
        let told = self.path("ran").display().to_string();
        // An argument of a function of the shell's is no part of the environment: nothing else reaches the stage.
        self.write("study.toml", text.replace("$RAN", &format!("t() {{ echo $1 >> {told}; }}; t")))
    }

    /// Names of the stages that told that they ran since the last question, sorted.
    pub(crate) fn told(&self) -> String {
        let names = self.tally().into_iter().flat_map(|(name, count)| std::iter::repeat_n(name, count));
        let names: Vec<String> = names.collect();
        fs::remove_file(self.path("ran")).ok();
        names.join(" ")
    }

    /// How often each stage told that it ran.
    pub(crate) fn tally(&self) -> BTreeMap<String, usize> {
        let text = fs::read_to_string(self.path("ran")).unwrap_or_default();
        let mut tally = BTreeMap::new();
        for name in text.lines() {
            *tally.entry(name.to_string()).or_default() += 1;
        }
        tally
    }

    /// Runs `study.toml`, insists that it succeeds, and gives the names of the stages that told that they ran.
    pub(crate) fn ran(&self) -> String {
        self.told();
        self.ok(&["run", "study.toml"]);
        self.told()
    }

    /// The object behind the name of an output of `study.toml`.
    pub(crate) fn object(&self, output: &str) -> PathBuf {
        fs::canonicalize(self.path("out/study").join(output)).unwrap()
    }

    /// Insists that the store has no damage.
    pub(crate) fn is_sound(&self) {
        let told = self.ok(&["verify"]).stdout;
        assert!(told.contains(" 0 problems"), "{told}");
    }

    /// Waits until a file is there, not for ever, and gives its text without the last line break.
    pub(crate) fn until_written(&self, name: &str) -> String {
        let written = || fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with('\n'));
        until(name, &|| written().is_some());
        written().unwrap_or_default().trim().to_string()
    }
}

/// A text without the name of the record that it speaks of, which depends on where the space is.
pub(crate) fn without_record(text: &str) -> String {
    let record = text.split("record ").nth(1).and_then(|rest| rest.split_whitespace().next());
    text.replace(record.unwrap_or("?"), "[RECORD]")
}

/// Waits until something is so, not for ever.
pub(crate) fn until(what: &str, is_so: &dyn Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(120), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process of this number lives; one that has ended and was not waited for does not.
pub(crate) fn lives(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|after| after.split_whitespace().next()).is_some_and(|state| state != "Z")
}

/// Whether this process, and so the programs that it starts, ignores a signal: a shell starts what runs in its background
/// so that it ignores SIGINT.
pub(crate) fn ignores(signal: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    u64::from_str_radix(digits, 16).unwrap() >> (signal - 1) & 1 != 0
}

pub(crate) fn kill(id: u32) {
    let id = rustix::process::Pid::from_raw(id as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
}

/// Writes over a file that is sealed, and gives it back the time that it had where `secretly`.
pub(crate) fn damage(path: &Path, change: &dyn Fn(&mut Vec<u8>), secretly: bool) {
    let metadata = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    if secretly {
        fs::File::open(path).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
        fs::set_permissions(path, metadata.permissions()).unwrap();
    }
}

/// Command stages in rows: a root, and below it chains of ten. Each tells that it ran, and writes its name and inputs.
pub(crate) fn rows_of_stages(name: &str, chains: std::ops::Range<usize>) -> String {
    let mut text = format!("name = \"{name}\"\n");
    let mut stage = |name: &str, above: Option<&str>| {
        let inputs = above.map(|above| format!("inputs = {{ \"in.txt\" = \"{above}\" }}\n")).unwrap_or_default();
        let read = above.map_or("true", |_| "cat in.txt >> out.txt");
        text.push_str(&format!(
            "[stage.{name}]\nkind = \"command\"\n{inputs}run = '$RAN {name}; echo {name} > out.txt; {read}'\noutputs = [\"out.txt\"]\n"
        ));
    };
    stage("root", None);
    for chain in chains {
        let mut above = "root".to_string();
        for link in 0..10 {
            let name = format!("stage-{chain}-{link}");
            stage(&name, Some(&above));
            above = name;
        }
    }
    text
}
