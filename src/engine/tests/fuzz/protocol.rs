//! Fuzzes the protocol between engine, supervisor and child: no line ends the process that reads it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use crate::job::{self, Job};
use crate::launcher::ExecutionContext;
use crate::stop::StopFlag;
use crate::supervisor::SpawnRequest;
use crate::tests::test_kinds::REGISTRY;
use crate::{Launcher, ProcessLauncher, Work};
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Hash, files};
use ablate_core::stage::InputPath;
use ablate_fuzz::{Edit, apply_edits, edits, fuzz};

static PIECES: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let pieces = r#"null -1 0 1e400 18446744073709551615 [] {} "" true {"event": \u0000 "ended" \ud800 stop ,"#;
    pieces.split(' ').collect()
});

/// A supervisor process.
struct Supervisor {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Supervisor {
    fn start() -> Supervisor {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "tests::process_tests::supervisor_child", "--nocapture"]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Supervisor { process, output }
    }

    /// Sends a line and waits for the result.
    fn send(&mut self, line: &[u8]) -> String {
        self.process.stdin.as_mut().unwrap().write_all(&[line, b"\n"].concat()).unwrap();
        let mut answer = String::new();
        while !answer.starts_with("{\"ended\"") {
            answer.clear();
            assert!(self.output.read_line(&mut answer).unwrap() > 0, "the supervisor is dead");
        }
        answer
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.process.stdin = None;
        self.process.wait().ok();
    }
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[ -~]{0,8}", any::<String>(), Just("A\0=".to_string())]
}

fn requests(log: PathBuf) -> impl Strategy<Value = SpawnRequest> {
    let program = prop_oneof![4 => Just("/bin/echo"), 1 => Just("/nowhere"), 1 => Just(""), 1 => Just("/bin/false")];
    let argv = prop_oneof![
        1 => Just(Vec::new()),
        9 => (program, vec(texts(), 0..3)).prop_map(|(program, arguments)| [vec![program.to_string()], arguments].concat()),
    ];
    let time = prop_oneof![Just(None), any::<u64>().prop_map(Some), Just(Some(u64::MAX)), Just(Some(0))];
    let dir = prop_oneof![4 => Just("/".to_string()), 1 => texts()];
    let input = prop_oneof![3 => Just(None), 1 => texts().prop_map(Some)];
    let options = (time, dir, input, any::<bool>());
    (argv, vec((texts(), texts()), 0..3), options).prop_map(move |(argv, env, (time, dir, input, events))| {
        let (dir, log, time) = (dir.into(), log.clone(), time.map(Duration::from_secs));
        SpawnRequest { argv, env, input, dir, log, time, events }
    })
}

#[test]
fn the_supervisor_answers_any_line() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let idle = Cell::new(None);
    let changes = prop_oneof![3 => Just(Vec::new()), 1 => edits(&PIECES)];
    fuzz("requests", &(requests(log.clone()), changes), |(request, changes)| {
        let mut line = apply_edits(&serde_json::to_vec(&request).unwrap(), &changes);
        line.retain(|byte| *byte != b'\n');
        // A request for another program or another log could do anything, so it is not sent.
        let is_safe = |changed: SpawnRequest| changed.log == log && changed.argv.first() == request.argv.first();
        if line == b"stop" || serde_json::from_slice(&line).is_ok_and(|changed| !is_safe(changed)) {
            return;
        }
        // If `send` panics, the next case starts a new supervisor.
        let mut supervisor = idle.take().unwrap_or_else(Supervisor::start);
        supervisor.send(&line);
        idle.set(Some(supervisor));
    });
}

fn job(folder: &std::path::Path) -> Job {
    let path = |name: &str| folder.join(name);
    files::write_unsynced(&path("rows"), b"\"one\"\n").unwrap();
    let input = InputPath { path: path("rows"), hash: Hash::of_bytes(b""), kind: None };
    Job {
        instance: "a".to_string(),
        kind: "text".to_string(),
        config: json!({ "folder": folder, "name": "a", "word": "x", "from": ["b@x=1"] }),
        inputs: BTreeMap::from([("from.0".to_string(), input)]),
        images: BTreeMap::from([(Hash::of_bytes(b""), path("images"))]),
        bases: BTreeMap::from([(Hash::of_bytes(b""), path("base"))]),
        out: path("out"),
        scratch: path("scratch"),
        seed: 7,
        threads: 1,
        device: "cpu".to_string(),
        replies: path("replies"),
        retry: BTreeSet::new(),
        detach: false,
        lock: path("lock"),
        variables: BTreeMap::new(),
    }
}

const OUTPUT: &str = r#"running 1 test
{"event":"progress","done":1,"total":2,"unit":"rows","loss":1.5,"tokens_per_second":3e9}
{"event":"note","text":"half\nway"}
{"event":"done","summary":{"rows":3}}
{"event":"failed","chain":["the disk is on fire"],"input":false}
{"ended":{"exited":{"code":0}}}
"#;

#[derive(Clone, Debug)]
enum Output {
    Any(Vec<u8>),
    Edited(Vec<Edit>),
}

#[test]
fn any_output_of_a_child_affects_only_its_stage() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("output");
    // Instead of a supervisor: a program that ignores its input and prints the output of the case.
    let supervisor = vec!["-c".to_string(), format!("cat '{}'", file.display())];
    let launcher = ProcessLauncher::new("/bin/sh".into(), Vec::new(), supervisor);
    let (work, stop) = (Work::BuiltIn(Box::new(job(folder.path()))), StopFlag::default());
    let any_bytes = vec(any::<u8>(), 0..300).prop_map(Output::Any);
    let outputs = prop_oneof![1 => any_bytes, 4 => edits(&PIECES).prop_map(Output::Edited)];
    fuzz("output", &outputs, |output| {
        let bytes = match output {
            Output::Any(bytes) => bytes,
            Output::Edited(edits) => apply_edits(OUTPUT.as_bytes(), &edits),
        };
        files::write_unsynced(&file, &bytes).unwrap();
        let (path, log) = (folder.path().join("job.json"), folder.path().join("log"));
        launcher.execute(&work, &ExecutionContext { job: &path, log: &log, stop: &stop, events: &|_| (), time: None });
    });
}

#[test]
fn any_job_runs_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let valid = job(folder.path());
    let text = serde_json::to_vec_pretty(&valid).unwrap();
    fuzz("jobs", &edits(&PIECES), |edits| {
        let Ok(job) = serde_json::from_slice::<Job>(&apply_edits(&text, &edits)) else { return };
        // Jobs with other paths are skipped: they could write anywhere.
        let paths = |job: &Job| (job.out.clone(), job.config.get("folder").cloned(), job.config.get("name").cloned());
        if paths(&job) == paths(&valid) {
            job::perform(&job, REGISTRY, &NoProgress).ok();
        }
    });
}
