//! Messages: failures with cause and log, output errors, colors, missing stores, JSON of wrong files.

use std::fs::File;

use crate::support::Project;

/// A stage that succeeds or fails depending on a file, and four instances downstream.
fn fan(project: &Project) {
    project.write("in.txt", "bad\n");
    project.write(
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
fn failure_is_printed_once_and_by_show_and_why() {
    let project = Project::new();
    fan(&project);
    let run = project.ablate(&["run", "study.toml"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let skipped: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("skip ")).collect();
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert!(skipped[0].ends_with("below (4 instances): `first` failed"), "{skipped:?}");
    for arguments in [["show", "study.toml", "first"], ["why", "study.toml", "first"], ["why", "study.toml", "below"]] {
        let printed = project.ok(&arguments).stdout;
        assert!(printed.contains("`first` failed: ") && printed.contains("exit code 3"), "{arguments:?}: {printed}");
        let log = printed.lines().find_map(|line| line.trim().strip_prefix("log: ")).unwrap();
        let log = project.read(&log.replace("[ROOT]/", ""));
        assert!(log.contains("begins") && log.contains("no good news"), "{log}");
    }
    let why = project.json(&["why", "study.toml", "first"]);
    assert_eq!(why[0]["failure"]["instance"], "first");
    // A success clears the failure.
    project.write("in.txt", "good\n");
    project.ok(&["run", "study.toml"]);
    assert!(!project.ok(&["show", "study.toml", "first"]).stdout.contains("failed"));
}

#[test]
fn unwritable_stdout_is_a_failure() {
    let project = Project::new();
    fan(&project);
    for arguments in [&["check", "study.toml"][..], &["schema"], &["--help"], &["plan", "study.toml", "--json"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = project.command(arguments).stdout(full).output().unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {printed}");
        assert!(
            arguments == ["--help"] || printed.contains("could not be written to stdout: No space left"),
            "{printed}"
        );
    }
    // A closed pipe is not a failure.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = project.command(&["schema"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn log_lines_have_no_color_by_default() {
    let project = Project::new();
    fan(&project);
    let log = |color: &str| {
        let mut command = project.command(&["plan", "study.toml", "-vv", "--color", color]);
        let output = command.env_remove("NO_COLOR").env("ABLATE_LOG", "trace").output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!log("never").contains('\u{1b}') && !log("auto").contains('\u{1b}'));
}

#[test]
fn read_only_commands_create_no_store() {
    let project = Project::new();
    fan(&project);
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
        let printed = project.ablate(&[arguments, &["--store", "cahce"]].concat());
        assert_eq!(printed.code, Some(2), "{arguments:?}");
        let message = "error: there is no store at `cahce`: `ablate run` with the same `--store` creates one\n";
        assert_eq!(printed.stderr, message, "{arguments:?}");
        assert!(!project.path("cahce").exists(), "{arguments:?}");
    }
    project.ok(&["plan", "study.toml"]);
}

#[test]
fn check_reports_errors_as_json() {
    let project = Project::new();
    fan(&project);
    project.write("bad.toml", "[stage.a]\nkind = \"comand\"\n");
    let printed = project.ablate(&["check", "study.toml", "bad.toml"]);
    assert_eq!(printed.code, Some(2));
    assert!(printed.stdout.starts_with("study.toml is valid: 2 stages, 5 instances"), "{printed:?}");
    assert!(printed.stderr.contains("bad.toml:2:8"), "{printed:?}");
    let printed = project.ablate(&["check", "bad.toml", "--json"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(2), ""));
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
    .assert_eq(&printed.stdout);
    let printed = project.ablate(&["check", "study.toml", "bad.toml", "gone.toml", "--json"]);
    let printed: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(printed["ok"], false);
    let ok: Vec<&serde_json::Value> = printed["files"].as_array().unwrap().iter().map(|file| &file["ok"]).collect();
    assert_eq!(ok, [true, false, false]);
}

#[test]
fn keys_with_dots_can_be_overridden() {
    let project = Project::new();
    fan(&project);
    project.write("good.txt", "good\n");
    project.append("study.toml", "[axis.file]\nkey = \"stage.first.inputs.'in.txt'\"\nvalues = [\"good.txt\"]\n");
    project.ok(&["run", "study.toml"]);
    fan(&project);
    project.ok(&["run", "study.toml", "--set", "stage.first.inputs.\"in.txt\"=good.txt"]);
    let printed = project.ablate(&["run", "study.toml", "--set", "stage.first.inputs.in.txt=good.txt"]);
    assert!(printed.stderr.contains("help: write `stage.first.inputs.\"in.txt\"`"), "{}", printed.stderr);
}

/// A stage that writes scores, and a report.
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
fn report_failure_is_printed_with_quiet() {
    let project = Project::new();
    project.write("study.toml", SCORED);
    let score = r#"{"id": "1", "dataset": "d", "prompt": "?", "gold": ["1"], "response": "1", "finish": "stop",
        "answer": "1", "compliant": true, "score": 1.0}"#;
    project.write("scores.jsonl", score.replace('\n', " ") + "\n");
    project.ok(&["run", "study.toml", "-q"]);
    // A file at the path of the output folder.
    std::fs::remove_dir_all(project.path("out")).unwrap();
    project.write("tables", "mine").write("other.toml", SCORED.replace("ARM", "OTHER"));
    let printed = project.ablate(&["run", "other.toml", "-q", "--out", "tables"]);
    assert_eq!(printed.code, Some(2), "{printed:?}");
    let first = printed.stderr.lines().find(|line| line.contains("report")).unwrap_or_default();
    assert_eq!(
        first, "error: the report failed; the results are stored: try `ablate report other.toml`",
        "{printed:?}"
    );
}
