//! What processes say to each other: no line, however wrong, ends the one that hears it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use crate::executor::Desk;
use crate::job::{self, Job};
use crate::toys::REGISTRY;
use crate::warden::Order;
use crate::{Executor, ProcessExecutor, Work};
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Hash, files};
use ablate_core::stage::InputPath;
use ablate_fuzz::{Edit, apply_edits, edits, fuzz};

const PIECES: &[&str] = &[
    "null",
    "-1",
    "0",
    "1e400",
    "18446744073709551615",
    "[]",
    "{}",
    "\"\"",
    "true",
    "{\"event\":",
    "\\u0000",
    "\"ended\"",
    "\\ud800",
    "stop",
    ",",
];

/// A warden as its engine sees it.
struct Warden {
    process: Child,
    words: BufReader<ChildStdout>,
}

impl Warden {
    fn start() -> Warden {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "process::tests::warden_side", "--nocapture"]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let words = BufReader::new(process.stdout.take().unwrap());
        Warden { process, words }
    }

    /// Sends a line and waits for the end that it leads to.
    fn send(&mut self, line: &[u8]) -> String {
        self.process.stdin.as_mut().unwrap().write_all(&[line, b"\n"].concat()).unwrap();
        let mut answer = String::new();
        while !answer.starts_with("{\"ended\"") {
            answer.clear();
            assert!(self.words.read_line(&mut answer).unwrap() > 0, "the warden is dead");
        }
        answer
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.process.stdin = None;
        self.process.wait().ok();
    }
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[ -~]{0,8}", any::<String>(), Just("A\0=".to_string())]
}

fn orders(log: PathBuf) -> impl Strategy<Value = Order> {
    let program = prop_oneof![4 => Just("/bin/echo"), 1 => Just("/nowhere"), 1 => Just(""), 1 => Just("/bin/false")];
    let argv = prop_oneof![
        1 => Just(Vec::new()),
        9 => (program, vec(words(), 0..3)).prop_map(|(program, words)| [vec![program.to_string()], words].concat()),
    ];
    let time = prop_oneof![Just(None), any::<u64>().prop_map(Some), Just(Some(u64::MAX)), Just(Some(0))];
    let dir = prop_oneof![4 => Just("/".to_string()), 1 => words()];
    let input = prop_oneof![3 => Just(None), 1 => words().prop_map(Some)];
    let circumstances = (time, dir, input, any::<bool>());
    (argv, vec((words(), words()), 0..3), circumstances).prop_map(move |(argv, env, (time, dir, input, events))| {
        Order { argv, env, input, dir: dir.into(), log: log.clone(), time: time.map(Duration::from_secs), events }
    })
}

#[test]
fn any_line_is_answered_by_the_warden() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let warden = Cell::new(None);
    let changes = prop_oneof![3 => Just(Vec::new()), 1 => edits(PIECES)];
    fuzz("orders", &(orders(log.clone()), changes), |(order, changes)| {
        let mut line = apply_edits(&serde_json::to_vec(&order).unwrap(), &changes);
        line.retain(|byte| *byte != b'\n');
        // An order that was changed into another one may do anything.
        let sound = |changed: Order| changed.log == log && changed.argv.first() == order.argv.first();
        if line == b"stop" || serde_json::from_slice(&line).is_ok_and(|changed| !sound(changed)) {
            return;
        }
        // One that a line has killed is not asked again.
        let mut asked = warden.take().unwrap_or_else(Warden::start);
        asked.send(&line);
        warden.set(Some(asked));
    });
}

fn job(folder: &std::path::Path) -> Job {
    let path = |name: &str| folder.join(name);
    files::write_unsynced(&path("rows"), b"\"one\"\n").unwrap();
    let input = InputPath { path: path("rows"), hash: Hash::of_bytes(b""), kind: None };
    Job {
        instance: "a".to_string(),
        kind: "toy".to_string(),
        config: json!({ "folder": folder, "name": "a", "word": "x", "from": ["b@x=1"] }),
        inputs: BTreeMap::from([("from.0".to_string(), input)]),
        images: BTreeMap::from([(Hash::of_bytes(b""), path("images"))]),
        out: path("out"),
        scratch: path("scratch"),
        seed: 7,
        threads: 1,
        device: "cpu".to_string(),
        lock: path("lock"),
        variables: BTreeMap::new(),
    }
}

const WORDS: &str = r#"running 1 test
{"event":"progress","done":1,"total":2,"unit":"rows","loss":1.5,"tokens_per_second":3e9}
{"event":"note","text":"half\nway"}
{"event":"done","summary":{"rows":3}}
{"event":"failed","chain":["the disk is on fire"],"input":false}
{"ended":{"exited":{"code":0}}}
"#;

#[derive(Clone, Debug)]
enum Said {
    Any(Vec<u8>),
    Edited(Vec<Edit>),
}

#[test]
fn any_words_of_a_child_end_its_stage_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words");
    // In the place of a warden: a program that says what a case has for it, whatever it is asked.
    let warden = vec!["-c".to_string(), format!("cat '{}'", file.display())];
    let executor = ProcessExecutor::new("/bin/sh".into(), Vec::new(), warden);
    let (work, stop) = (Work::Own(Box::new(job(folder.path()))), AtomicBool::new(false));
    let any_bytes = vec(any::<u8>(), 0..300).prop_map(Said::Any);
    let said = prop_oneof![1 => any_bytes, 4 => edits(PIECES).prop_map(Said::Edited)];
    fuzz("words", &said, |said| {
        let bytes = match said {
            Said::Any(bytes) => bytes,
            Said::Edited(edits) => apply_edits(WORDS.as_bytes(), &edits),
        };
        files::write_unsynced(&file, &bytes).unwrap();
        let (path, log) = (folder.path().join("job.json"), folder.path().join("log"));
        executor.execute(&work, &Desk { job: &path, log: &log, stop: &stop, events: &|_| (), time: None });
    });
}

#[test]
fn any_job_is_done_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sound = job(folder.path());
    let text = serde_json::to_vec_pretty(&sound).unwrap();
    fuzz("jobs", &edits(PIECES), |edits| {
        let Ok(job) = serde_json::from_slice::<Job>(&apply_edits(&text, &edits)) else { return };
        // Where it writes is not for it to say here.
        let paths = |job: &Job| (job.out.clone(), job.config.get("folder").cloned(), job.config.get("name").cloned());
        if paths(&job) == paths(&sound) {
            job::perform(&job, REGISTRY, &NoProgress).ok();
        }
    });
}
