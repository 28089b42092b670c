//! Messages: failures with cause and log, output errors, colors, missing stores, JSON of wrong files.

use std::fs::File;

use crate::support::{Project, assert_contains};

/// A stage that succeeds or fails depending on a file, and four instances downstream.
fn fan() -> Project {
    let project = Project::new();
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
    project
}

#[test]
fn failure_is_printed_once_and_by_show_and_why() {
    let project = fan();
    let run = project.fails(1, &["run", "study.toml"]);
    let skipped: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("skip ")).collect();
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert!(skipped[0].ends_with("below (4 instances): `first` failed"), "{skipped:?}");
    for arguments in [["show", "study.toml", "first"], ["why", "study.toml", "first"], ["why", "study.toml", "below"]] {
        let printed = project.ok(&arguments).stdout;
        assert_contains(&printed, &["`first` failed: ", "exit code 3"]);
        let log = printed.lines().find_map(|line| line.trim().strip_prefix("log: ")).unwrap();
        assert_contains(&project.read(&log.replace("[ROOT]/", "")), &["begins", "no good news"]);
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
    let project = fan();
    for arguments in [&["check", "study.toml"][..], &["schema"], &["--help"], &["plan", "study.toml", "--json"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let outcome = project.finish(project.command(arguments).stdout(full)).exited(1);
        if arguments != ["--help"] {
            outcome.stderr_has(&["could not be written to stdout: No space left"]);
        }
    }
    // A closed pipe is not a failure.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(project.finish(project.command(&["schema"]).stdout(writer)).exited(0).stderr, "");
}

#[test]
fn log_lines_have_no_color_by_default() {
    let project = fan();
    let log = |color: &str| {
        let mut command = project.command(&["plan", "study.toml", "-vv", "--color", color]);
        project.finish(command.env_remove("NO_COLOR").env("ABLATE_LOG", "trace")).stderr
    };
    assert!(!log("never").contains('\u{1b}') && !log("auto").contains('\u{1b}'));
}

#[test]
fn read_only_commands_create_no_store() {
    let project = fan();
    for command in ["plan", "why", "ls", "show", "logs", "report", "suggest", "pin"] {
        let stage: &[&str] = if ["why", "show", "logs"].contains(&command) { &["first"] } else { &[] };
        let printed = project.fails(2, &[&[command, "study.toml", "--store", "cahce"], stage].concat()).stderr;
        let message = "error: there is no store at `cahce`: `ablate run` with the same `--store` creates one\n";
        assert_eq!(printed, message, "{command}");
        assert!(!project.path("cahce").exists(), "{command}");
    }
    project.ok(&["plan", "study.toml"]);
}

#[test]
fn check_reports_errors_as_json() {
    let project = fan();
    project.write("bad.toml", "[stage.a]\nkind = \"comand\"\n");
    let printed = project.fails(2, &["check", "study.toml", "bad.toml"]).stderr_has(&["bad.toml:2:8"]);
    assert!(printed.stdout.starts_with("study.toml is valid: 2 stages, 5 instances"), "{printed:?}");
    let printed = project.fails(2, &["check", "bad.toml", "--json"]);
    assert_eq!(printed.stderr, "");
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
    let project = fan();
    project.write("good.txt", "good\n");
    project.append("study.toml", "[axis.file]\nkey = \"stage.first.inputs.'in.txt'\"\nvalues = [\"good.txt\"]\n");
    project.ok(&["run", "study.toml"]);
    let project = fan();
    project.write("good.txt", "good\n");
    project.ok(&["run", "study.toml", "--set", "stage.first.inputs.\"in.txt\"=good.txt"]);
    let printed = project.ablate(&["run", "study.toml", "--set", "stage.first.inputs.in.txt=good.txt"]);
    printed.stderr_has(&["help: write `stage.first.inputs.\"in.txt\"`"]);
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
    let score = serde_json::json!({ "id": "1", "dataset": "d", "prompt": "?", "gold": ["1"], "response": "1",
        "finish": "stop", "answer": "1", "compliant": true, "score": 1.0 });
    project.write("scores.jsonl", format!("{score}\n"));
    project.ok(&["run", "study.toml", "-q"]);
    // A file at the path of the output folder.
    std::fs::remove_dir_all(project.path("out")).unwrap();
    project.write("tables", "mine").write("other.toml", SCORED.replace("ARM", "OTHER"));
    let printed = project.fails(2, &["run", "other.toml", "-q", "--out", "tables"]).stderr;
    let first = printed.lines().find(|line| line.contains("report")).unwrap_or_default();
    let expected = "error: the report failed; the results are stored: try `ablate report other.toml`";
    assert_eq!(first, expected, "{printed}");
}
