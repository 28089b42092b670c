//! Helpers of the end-to-end tests: temporary projects, HTTP endpoints, processes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
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
    arguments: Vec<OsString>,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Panics unless the program ended with this code.
    #[track_caller]
    pub(crate) fn exited(self, code: i32) -> Outcome {
        assert_eq!(self.code, Some(code), "ablate {:?}\n{}\n{}", self.arguments, self.stdout, self.stderr);
        self
    }

    /// Panics unless stderr has each of these texts.
    #[track_caller]
    pub(crate) fn stderr_has(self, parts: &[&str]) -> Outcome {
        assert_contains(&self.stderr, parts);
        self
    }

    /// The lines on stderr with an error or a cause.
    pub(crate) fn errors(&self) -> String {
        let is_error = |line: &&str| line.starts_with("error") || line.starts_with("  because");
        self.stderr.lines().filter(is_error).collect::<Vec<_>>().join("\n")
    }

    /// The text on stderr from the first error to the name of a log.
    pub(crate) fn error_text(&self) -> String {
        let lines = self.stderr.lines().skip_while(|line| !line.starts_with("error"));
        let lines = lines.take_while(|line| !line.starts_with("  log:") && !line.contains(" failed in "));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Panics unless a text has each of these parts.
#[track_caller]
pub(crate) fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
}

impl Project {
    pub(crate) fn new() -> Project {
        Project { folder: tempfile::tempdir().unwrap() }
    }

    /// A project with this `study.toml`.
    pub(crate) fn with_study(text: &str) -> Project {
        let project = Project::new();
        project.write_study(text);
        project
    }

    /// A project with the default experiment in miniature, `smoke.toml`.
    pub(crate) fn smoke() -> Project {
        let project = Project::new();
        for name in ["reasoner.toml", "smoke.toml"] {
            project.write(name, fs::read(repository("experiments").join(name)).unwrap());
        }
        project
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

    /// Replaces the first occurrence of a text in a file.
    #[track_caller]
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) -> &Project {
        let text = self.read(name);
        assert_contains(&text, &[from]);
        self.write(name, text.replacen(from, to, 1))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ablate"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        // The configuration of the user who runs the tests.
        command.env_remove("ABLATE_CONFIG").env("XDG_CONFIG_HOME", self.path("config"));
        command.env_remove("ABLATE_STORE").env_remove("ABLATE_REMOTE").env_remove("ABLATE_LOG").env("NO_COLOR", "1");
        command
    }

    /// Runs `ablate` here and waits for its end.
    pub(crate) fn ablate(&self, arguments: &[&str]) -> Outcome {
        self.finish(&mut self.command(arguments))
    }

    /// Runs a command and waits for its end.
    pub(crate) fn finish(&self, command: &mut Command) -> Outcome {
        let output = command.output().unwrap();
        self.outcome(command, output)
    }

    fn outcome(&self, command: &Command, output: Output) -> Outcome {
        let text = |bytes: Vec<u8>| {
            // The folder's name is random, so it is removed from messages.
            String::from_utf8(bytes).unwrap().replace(&self.folder.path().display().to_string(), "[ROOT]")
        };
        let arguments = command.get_args().map(ToOwned::to_owned).collect();
        Outcome { arguments, code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs `ablate` here. Panics if it fails.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> Outcome {
        self.ablate(arguments).exited(0)
    }

    /// Runs `ablate` here. Panics unless it ends with this code.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> Outcome {
        self.ablate(arguments).exited(code)
    }

    /// Runs `ablate --json` here and parses its output. Panics if it fails.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let outcome = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
    }

    /// Starts `ablate` here and discards its output.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs a command, and calls `look` with the ids of the command and of the processes below it until it ends.
    pub(crate) fn watch(&self, command: &mut Command, mut look: impl FnMut(&[u32])) -> Outcome {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let root = child.id();
        let output = std::thread::spawn(|| child.wait_with_output().unwrap());
        while !output.is_finished() {
            look(&[vec![root], descendants(root)].concat());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.outcome(command, output.join().unwrap())
    }

    /// Every output of an experiment: name and bytes.
    pub(crate) fn outputs(&self, experiment: &str) -> BTreeMap<String, Vec<u8>> {
        let root = self.path("out").join(experiment);
        let name = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
        files_below(&root).iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
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

    /// Runs an experiment and returns the sorted names of the instances that ran. Panics if the run fails.
    #[track_caller]
    pub(crate) fn ran_instances(&self, arguments: &[&str]) -> Vec<String> {
        let mut names = instances_that_ran(&self.ok(&[&["run"], arguments, &["--json"]].concat()).stdout);
        names.sort();
        names
    }

    /// The path of the object of an output of `study.toml`.
    pub(crate) fn object(&self, output: &str) -> PathBuf {
        fs::canonicalize(self.path("out/study").join(output)).unwrap()
    }

    /// Panics if `verify` finds a problem.
    pub(crate) fn assert_store_is_valid(&self) {
        assert_contains(&self.ok(&["verify"]).stdout, &[" 0 problems"]);
    }

    /// Waits until a file has a complete line, with a time limit, and returns its text.
    pub(crate) fn wait_for_file(&self, name: &str) -> String {
        let written = || fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with('\n'));
        wait_until(name, &|| written().is_some());
        written().unwrap_or_default().trim().to_string()
    }
}

/// Prints why a test is skipped.
#[allow(clippy::print_stderr, reason = "a skipped test prints the reason")]
pub(crate) fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("skipped: {}", why.trim());
    None
}

/// Prints the figures of a measurement, for `--nocapture`.
#[allow(clippy::print_stderr, reason = "tests print to stderr")]
pub(crate) fn print_figures(figures: &str) {
    eprintln!("{figures}");
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A path in the repository.
pub(crate) fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The paths of the entries of a folder.
pub(crate) fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
}

/// All files below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let (folders, mut files): (Vec<_>, Vec<_>) = entries(folder).partition(|path| path.is_dir());
    files.retain(|path| path.is_file());
    files.extend(folders.iter().flat_map(|folder| files_below(folder)));
    files
}

/// The names of the instances that a run with `--json` executed, in order.
pub(crate) fn instances_that_ran(stdout: &str) -> Vec<String> {
    let events = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ran = events.filter(|event| event["event"] == "finished" && event["of"]["outcome"] == "ran");
    ran.map(|event| event["instance"].as_str().unwrap().to_string()).collect()
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

/// The one-letter state of a process, or an empty text.
pub(crate) fn process_state(id: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|after| after.split_whitespace().next()).unwrap_or_default().to_string()
}

/// The processes below a process.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let below = children(root);
    let further: Vec<u32> = below.iter().flat_map(|id| descendants(*id)).collect();
    [below, further].concat()
}

/// Processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()));
    ids.filter(|id| {
        let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after = status.rsplit(')').next().unwrap_or_default();
        after.split_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}

/// Whether a process is alive; false for a zombie.
pub(crate) fn is_alive(id: &str) -> bool {
    !["", "Z"].contains(&process_state(id).as_str())
}

/// Whether this process, and so the programs that it starts, ignores a signal: shells start background jobs with
/// SIGINT ignored.
pub(crate) fn ignores_signal(signal: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    u64::from_str_radix(digits, 16).unwrap() >> (signal - 1) & 1 != 0
}

/// Kills a process that this one started, and waits for its end.
pub(crate) fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
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

/// A command stage. Its line records that it ran, see `write_study`.
pub(crate) fn command_stage(name: &str, inputs: &str, line: &str, outputs: &str) -> String {
    format!(
        "[stage.{name}]\nkind = 'command'\ninputs = {{ {inputs} }}\nrun = '''$RAN {name}; {line}'''\noutputs = [{outputs}]\n"
    )
}

/// A study of command stages: name, inputs, command line, outputs.
pub(crate) fn command_stages(stages: &[(&str, &str, &str, &str)]) -> String {
    let stages = stages.iter().map(|(name, inputs, line, outputs)| command_stage(name, inputs, line, outputs));
    "name = 'study'\n".to_string() + &stages.collect::<String>()
}

/// Command stages: a root and chains of ten stages below it. Each writes its name and its inputs.
pub(crate) fn chains_of_stages(name: &str, chains: std::ops::Range<usize>) -> String {
    let mut text = format!("name = '{name}'\n") + &command_stage("root", "", "echo root > out.txt", "'out.txt'");
    for chain in chains {
        let mut inputs = "'in.txt' = 'root'".to_string();
        for link in 0..10 {
            let name = format!("stage-{chain}-{link}");
            text += &command_stage(&name, &inputs, &format!("(echo {name}; cat in.txt) > out.txt"), "'out.txt'");
            inputs = format!("'in.txt' = '{name}'");
        }
    }
    text
}
