//! What the program says, where and how: failures with cause and log, outputs that cannot be written, colors, stores that
//! are not there, JSON of wrong files.

use std::fs::File;

use crate::space::Space;

/// Two stages that fail or not by a file, and many below them.
fn fan(space: &Space) {
    space.write("in.txt", "bad\n");
    space.write(
        "study.toml",
        r#"
[stage.first]
kind = "command"
run = "echo begins; grep -q good in.txt || { echo no good news >&2; exit 3; }; cp in.txt out.txt"
inputs = { "in.txt" = "in.txt" }
outputs = ["out.txt"]
[stage.below]
kind = "command"
run = "cp in.txt out.txt; echo $NUMBER"
inputs = { "in.txt" = "first" }
outputs = ["out.txt"]
[axis.number]
key = "stage.below.env"
values = [["NUMBER=1"], ["NUMBER=2"], ["NUMBER=3"], ["NUMBER=4"]]
labels = ["1", "2", "3", "4"]
"#,
    );
}

#[test]
fn a_failure_is_told_once_and_again_when_asked() {
    let space = Space::new();
    fan(&space);
    let run = space.ablate(&["run", "study.toml"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let skipped: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("skip ")).collect();
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert!(skipped[0].ends_with("below (4 instances): `first` failed"), "{skipped:?}");
    for arguments in [["show", "study.toml", "first"], ["why", "study.toml", "first"], ["why", "study.toml", "below"]] {
        let told = space.ok(&arguments).stdout;
        assert!(told.contains("`first` failed: ") && told.contains("exit code 3"), "{arguments:?}: {told}");
        let log = told.lines().find_map(|line| line.trim().strip_prefix("log: ")).unwrap();
        let log = space.read(&log.replace("[ROOT]/", ""));
        assert!(log.contains("begins") && log.contains("no good news"), "{log}");
    }
    let why = space.json(&["why", "study.toml", "first"]);
    assert_eq!(why[0]["failure"]["instance"], "first");
    // A success ends it.
    space.write("in.txt", "good\n");
    space.ok(&["run", "study.toml"]);
    assert!(!space.ok(&["show", "study.toml", "first"]).stdout.contains("failed"));
}

#[test]
fn results_that_cannot_be_written_are_a_failure() {
    let space = Space::new();
    fan(&space);
    for arguments in [&["check", "study.toml"][..], &["schema"], &["--help"], &["plan", "study.toml", "--json"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = space.command(arguments).stdout(full).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(arguments == ["--help"] || told.contains("could not be written to stdout: No space left"), "{told}");
    }
    // A reader that went away is none.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = space.command(&["schema"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn log_lines_have_no_color_unless_asked() {
    let space = Space::new();
    fan(&space);
    let told = |color: &str| {
        let mut command = space.command(&["plan", "study.toml", "-vv", "--color", color]);
        let output = command.env_remove("NO_COLOR").env("ABLATE_LOG", "trace").output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!told("never").contains('\u{1b}') && !told("auto").contains('\u{1b}'));
}

#[test]
fn commands_that_look_make_no_store() {
    let space = Space::new();
    fan(&space);
    let commands: [&[&str]; 8] = [
        &["plan", "study.toml"],
        &["why", "study.toml", "first"],
        &["ls", "study.toml"],
        &["show", "study.toml", "first"],
        &["logs", "study.toml", "first"],
        &["report", "study.toml"],
        &["suggest", "study.toml"],
        &["pin", "study.toml"],
    ];
    for arguments in commands {
        let told = space.ablate(&[arguments, &["--store", "cahce"]].concat());
        assert_eq!(told.code, Some(2), "{arguments:?}");
        let message = "error: there is no store at `cahce`: `ablate run` with the same `--store` creates one\n";
        assert_eq!(told.stderr, message, "{arguments:?}");
        assert!(!space.path("cahce").exists(), "{arguments:?}");
    }
    space.ok(&["plan", "study.toml"]);
}

#[test]
fn wrong_files_are_told_as_json_too() {
    let space = Space::new();
    fan(&space);
    space.write("bad.toml", "[stage.a]\nkind = \"comand\"\n");
    let told = space.ablate(&["check", "study.toml", "bad.toml"]);
    assert_eq!(told.code, Some(2));
    assert!(told.stdout.starts_with("study.toml is valid: 2 stages, 5 instances"), "{told:?}");
    assert!(told.stderr.contains("bad.toml:2:8"), "{told:?}");
    let told = space.ablate(&["check", "bad.toml", "--json"]);
    assert_eq!((told.code, told.stderr.as_str()), (Some(2), ""));
    expect_test::expect![[r#"
        {
          "file": "bad.toml",
          "ok": false,
          "errors": [
            {
              "message": "`stage.a.kind`: `comand` is not a kind of stage",
              "places": [
                {
                  "file": "bad.toml",
                  "line": 2,
                  "column": 8,
                  "label": ""
                }
              ],
              "help": [
                "a kind of a similar name exists: `command`"
              ]
            }
          ]
        }
    "#]]
    .assert_eq(&told.stdout);
    let told = space.ablate(&["check", "study.toml", "bad.toml", "gone.toml", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(told["ok"], false);
    let sound: Vec<&serde_json::Value> = told["files"].as_array().unwrap().iter().map(|file| &file["ok"]).collect();
    assert_eq!(sound, [true, false, false]);
}

#[test]
fn keys_with_dots_are_varied_and_overridden() {
    let space = Space::new();
    fan(&space);
    space.write("good.txt", "good\n");
    space.append("study.toml", "[axis.file]\nkey = \"stage.first.inputs.'in.txt'\"\nvalues = [\"good.txt\"]\n");
    space.ok(&["run", "study.toml"]);
    fan(&space);
    space.ok(&["run", "study.toml", "--set", "stage.first.inputs.\"in.txt\"=good.txt"]);
    let told = space.ablate(&["run", "study.toml", "--set", "stage.first.inputs.in.txt=good.txt"]);
    assert!(told.stderr.contains("help: write `stage.first.inputs.\"in.txt\"`"), "{}", told.stderr);
}

/// A stage that gives scores, and a report of them.
const SCORED: &str = r#"
[stage.eval]
kind = "command"
run = "cp in.jsonl scores.jsonl"
inputs = { "in.jsonl" = "scores.jsonl" }
outputs = { "scores.jsonl" = "scores" }
[report.main]
rows = ["arm"]
[axis.arm]
key = "stage.eval.env"
values = [["ARM=a"], ["ARM=b"]]
labels = ["a", "b"]
"#;

#[test]
fn a_report_that_fails_is_said_in_silence_too() {
    let space = Space::new();
    space.write("study.toml", SCORED);
    let score = r#"{"id": "1", "dataset": "d", "prompt": "?", "gold": ["1"], "response": "1", "finish": "stop",
        "answer": "1", "compliant": true, "score": 1.0}"#;
    space.write("scores.jsonl", score.replace('\n', " ") + "\n");
    space.ok(&["run", "study.toml", "-q"]);
    // A file where the folder of the tables would be.
    std::fs::remove_dir_all(space.path("out")).unwrap();
    space.write("tables", "mine").write("other.toml", SCORED.replace("ARM", "OTHER"));
    let told = space.ablate(&["run", "other.toml", "-q", "--out", "tables"]);
    assert_eq!(told.code, Some(2), "{told:?}");
    let first = told.stderr.lines().find(|line| line.contains("report")).unwrap_or_default();
    assert_eq!(first, "error: the report failed; the results are stored: try `ablate report other.toml`", "{told:?}");
}
