//! Helpers of the end-to-end tests: temporary projects, HTTP endpoints, processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A temporary project folder.
pub(crate) struct Project {
    folder: TempDir,
}

/// The result of one call of the program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Project {
    pub(crate) fn new() -> Project {
        Project { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Project {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Removes a folder, including read-only ones.
    pub(crate) fn remove(&self, name: &str) {
        let open = Command::new("chmod").args(["-R", "u+w"]).arg(self.path(name)).status().unwrap();
        assert!(open.success());
        fs::remove_dir_all(self.path(name)).unwrap();
    }

    /// Appends to a file.
    pub(crate) fn append(&self, name: &str, text: &str) -> &Project {
        self.write(name, self.read(name) + text)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Copies a shipped experiment into this folder.
    pub(crate) fn with_experiment(&self, name: &str) -> &Project {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments").join(name);
        self.write(name, fs::read_to_string(from).unwrap())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ablate"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_remove("ABLATE_STORE").env_remove("ABLATE_LOG").env("NO_COLOR", "1");
        command
    }

    /// Runs `ablate` here and waits for its end.
    pub(crate) fn ablate(&self, arguments: &[&str]) -> Outcome {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| {
            // The folder's name is random, so it is removed from messages.
            String::from_utf8(bytes).unwrap().replace(&self.folder.path().display().to_string(), "[ROOT]")
        };
        Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs `ablate` here. Panics if it fails.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.ablate(arguments);
        assert_eq!(outcome.code, Some(0), "ablate {arguments:?}\n{}\n{}", outcome.stdout, outcome.stderr);
        outcome
    }

    /// Runs `ablate --json` here and parses its output. Panics if it fails.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let outcome = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
    }

    /// Starts `ablate` here and discards its output.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Every output of an experiment: name and bytes.
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

    /// Writes `study.toml`. `$RAN NAME;` at the start of a command records that the stage ran.
    pub(crate) fn write_study(&self, text: &str) -> &Project {
        let log = self.path("ran").display().to_string();
        // The name is an argument of a shell function, so the stage's environment does not change.
        self.write("study.toml", text.replace("$RAN", &format!("t() {{ echo $1 >> {log}; }}; t")))
    }

    /// The sorted names of the stages that ran since the last call.
    pub(crate) fn take_ran(&self) -> String {
        let names = self.run_counts().into_iter().flat_map(|(name, count)| std::iter::repeat_n(name, count));
        let names: Vec<String> = names.collect();
        fs::remove_file(self.path("ran")).ok();
        names.join(" ")
    }

    /// How often each stage ran.
    pub(crate) fn run_counts(&self) -> BTreeMap<String, usize> {
        let text = fs::read_to_string(self.path("ran")).unwrap_or_default();
        let mut tally = BTreeMap::new();
        for name in text.lines() {
            *tally.entry(name.to_string()).or_default() += 1;
        }
        tally
    }

    /// Runs `study.toml` and returns the sorted names of the stages that ran. Panics if the run fails.
    pub(crate) fn ran(&self) -> String {
        self.take_ran();
        self.ok(&["run", "study.toml"]);
        self.take_ran()
    }

    /// The path of the object of an output of `study.toml`.
    pub(crate) fn object(&self, output: &str) -> PathBuf {
        fs::canonicalize(self.path("out/study").join(output)).unwrap()
    }

    /// Panics if `verify` finds a problem.
    pub(crate) fn assert_store_is_valid(&self) {
        let printed = self.ok(&["verify"]).stdout;
        assert!(printed.contains(" 0 problems"), "{printed}");
    }

    /// Waits until a file has a complete line, with a time limit, and returns its text.
    pub(crate) fn wait_for_file(&self, name: &str) -> String {
        let written = || fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with('\n'));
        wait_until(name, &|| written().is_some());
        written().unwrap_or_default().trim().to_string()
    }
}

/// Starts an HTTP endpoint on this machine that answers a number of requests. `respond` gets the body of each request and
/// returns status and body of the response. The thread returns the bodies of all requests.
pub(crate) fn endpoint(
    requests: usize,
    mut respond: impl FnMut(&Value) -> (&'static str, String) + Send + 'static,
) -> (String, JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let mut answer = move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
        let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
        let mut body = vec![0; length.unwrap()];
        stream.read_exact(&mut body).unwrap();
        let request = serde_json::from_slice(&body).unwrap();
        let (status, body) = respond(&request);
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
        request
    };
    let all = move || {
        let mut bodies = Vec::new();
        while bodies.len() < requests {
            bodies.push(answer());
        }
        bodies
    };
    (url, std::thread::spawn(all))
}

/// A successful response of a chat endpoint.
pub(crate) fn chat_response(content: impl Into<Value>) -> (&'static str, String) {
    let choice = json!({ "message": { "content": content.into() }, "finish_reason": "stop" });
    ("200 OK", json!({ "choices": [choice] }).to_string())
}

/// The text with the hash of the record replaced. The hash depends on the path of the project.
pub(crate) fn without_record(text: &str) -> String {
    let record = text.split("record ").nth(1).and_then(|rest| rest.split_whitespace().next());
    text.replace(record.unwrap_or("?"), "[RECORD]")
}

/// Waits until a condition holds, for at most two minutes.
pub(crate) fn wait_until(what: &str, condition: &dyn Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(120), "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process is alive; false for a zombie.
pub(crate) fn is_alive(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|after| after.split_whitespace().next()).is_some_and(|state| state != "Z")
}

/// Whether this process, and so the programs that it starts, ignores a signal: shells start background jobs with
/// SIGINT ignored.
pub(crate) fn ignores_signal(signal: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    u64::from_str_radix(digits, 16).unwrap() >> (signal - 1) & 1 != 0
}

pub(crate) fn kill(id: u32) {
    let id = rustix::process::Pid::from_raw(id as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
}

/// Changes a sealed file. With `keep_time` its old modification time is restored.
pub(crate) fn corrupt_file(path: &Path, change: &dyn Fn(&mut Vec<u8>), keep_time: bool) {
    let metadata = fs::metadata(path).unwrap();
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    if keep_time {
        fs::File::open(path).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
        fs::set_permissions(path, metadata.permissions()).unwrap();
    }
}

/// Command stages: a root and chains of ten stages below it. Each records that it ran and writes its name and inputs.
pub(crate) fn chains_of_stages(name: &str, chains: std::ops::Range<usize>) -> String {
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
