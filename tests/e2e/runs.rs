//! `runs`, `report --run`, what made a report, and the command at the end of a run.

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Project, assert_contains, ignores_signal, kill, wait_until};

/// Two arms: the score of `good` is the number in `data.txt`, that of `bad` is 0.
const SCORED: &str = r#"
[axis.arm]
values = ["good", "bad"]

[stage.eval]
kind    = "command"
inputs  = { "data.txt" = "data.txt" }
run     = """
score=0; [ ${axis.arm} = bad ] || score=$(cat data.txt)
for id in 1 2 3 4; do echo '{"id":"'$id'","dataset":"d","score":'$score'}'; done > scores.jsonl
"""
outputs = { "scores.jsonl" = "scores" }

[report.main]
rows = ["arm"]
"#;

fn scored() -> Project {
    let project = Project::with_study(SCORED);
    project.write("data.txt", "1\n");
    project
}

/// A stage that runs until the file `go` exists.
fn waiting(name: &str) -> String {
    format!(
        "name = '{name}'\n[stage.it]\nkind = 'command'\noutputs = ['out.txt']\n\
         run = '''until [ -e $GO ]; do sleep 0.01; done; echo {name} > out.txt'''\nenv = ['GO']\n"
    )
}

/// Starts a run of a [`waiting`] stage and waits until it runs.
fn start_waiting(project: &Project, name: &str) -> std::process::Child {
    project.write(&format!("{name}.toml"), waiting(name));
    let mut command = project.command(&["run", &format!("{name}.toml")]);
    let run = command.env("GO", project.path("go")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the stage runs", &|| {
        let runs = project.ablate(&["runs", name, "--json", "-n", "1"]).stdout;
        let run = serde_json::from_str::<Value>(&runs).unwrap_or_default()["runs"][0]["run"].clone();
        run.as_str().is_some_and(|run| project.json(&["status", run])["running"][0]["instance"] == "it")
    });
    run
}

fn report(project: &Project, page: &str) -> Value {
    serde_json::from_str(&project.read(page)).unwrap()
}

#[test]
fn runs_have_numbers_results_and_overrides() {
    let project = scored();
    project.ok(&["run", "study.toml"]);
    project.ok(&["run", "study.toml"]).stderr_has(&["nothing to run"]);
    project.ok(&["run", "study.toml", "--set", "axis.arm.values=[\"good\"]", "--force", "eval"]);
    let listed = project.json(&["runs"])["runs"].clone();
    let fields = |run: &Value| json!([run["number"], run["state"], run["experiment"], run["file"], run["outcomes"]]);
    assert_eq!(fields(&listed[0]), json!([1, "finished", "study", "study.toml", { "ran": 2 }]));
    assert_eq!(fields(&listed[1]), json!([2, "finished", "study", "study.toml", { "ran": 1 }]));
    assert_eq!(listed.as_array().unwrap().len(), 2, "a run with nothing to do is not listed");
    let headline = &listed[0]["headline"];
    assert_eq!(json!([headline["report"], headline["label"], headline["value"]]), json!(["main", "good", 1.0]));
    assert_eq!(listed[1]["overrides"], json!(["axis.arm.values=[\"good\"]"]));
    assert_eq!(listed[1]["force"], json!(["eval"]));
    assert_eq!(listed[0]["build"]["version"], env!("CARGO_PKG_VERSION"));

    let started = listed[0]["started"].as_str().unwrap()[..19].replace('T', " ");
    let in_zone = |zone: &str| project.finish(project.command(&["runs"]).env("TZ", zone)).exited(0).stdout;
    let text = in_zone("UTC");
    assert_contains(&text, &[&format!("1  {started}  finished"), "2 ran; main: good 100.0 %", "--set axis.arm.values"]);
    assert!(!in_zone("AAA-13").contains(&started), "times are local");
    assert_eq!(project.ok(&["runs", "-n", "1"]).stdout.lines().count(), 1);
    for name in ["study", "study.toml", "./study.toml"] {
        assert_eq!(project.ok(&["runs", name]).stdout.lines().count(), 2, "{name}");
    }
    assert_eq!(project.ok(&["runs", "--failed"]).stdout, "no runs\n");
    project.fails(2, &["runs", "studi"]).stderr_has(&["no run has the experiment `studi`", "exists: `study`"]);
    assert_contains(&project.ok(&["status", "1"]).stdout, &["run 1, ", "(study) has finished"]);
    assert_contains(&project.ok(&["diff", "1", "2"]).stdout, &["eval@arm=bad: only in the first run (ran)"]);
    project.fails(2, &["status", "3"]).stderr_has(&["there is no run `3`"]);

    project.remove("cache/runs");
    project.write("data.txt", "0.5\n");
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.json(&["runs"])["runs"][0]["number"], 3, "a number is not given twice");
}

#[test]
fn ends_of_runs_are_distinguished() {
    let project = Project::new();
    let failing = "[stage.it]\nkind = 'command'\noutputs = ['out.txt']\nrun = 'exit 3'\n";
    project.write("failing.toml", failing);
    project.fails(1, &["run", "failing.toml"]);
    let mut killed = start_waiting(&project, "killed");
    kill(&mut killed);
    let interrupted = start_waiting(&project, "interrupted");
    let signal = if ignores_signal(2) { Signal::TERM } else { Signal::INT };
    kill_process(Pid::from_child(&interrupted), signal).unwrap();
    assert_eq!(interrupted.wait_with_output().unwrap().status.code(), Some(130));
    let mut running = start_waiting(&project, "running");
    let listed = project.json(&["runs"])["runs"].clone();
    let states: Vec<&Value> = listed.as_array().unwrap().iter().map(|run| &run["state"]).collect();
    assert_eq!(states, ["failed", "killed", "interrupted", "running"]);
    let words = [
        "has failed; the same command continues it",
        "was killed; the same command resumes it",
        "was interrupted; the same command resumes it",
        "is running",
    ];
    for (number, words) in (1..).zip(words) {
        assert_contains(&project.ok(&["status", &format!("{number}")]).stdout, &[words]);
    }
    assert_eq!(project.ok(&["runs", "--failed"]).stdout.lines().count(), 3);
    project.write("go", "");
    assert_eq!(running.wait().unwrap().code(), Some(0));
    assert_eq!(project.json(&["status", "latest"])["state"], "finished");
}

#[test]
fn status_shows_all_runs_that_go_on() {
    let project = Project::new();
    let mut runs = ["one", "other"].map(|name| start_waiting(&project, name));
    let both = project.ok(&["status"]).stdout;
    assert_contains(&both, &["(one) is running", "(other) is running", "  running it, "]);
    let lines = project.ok(&["status", "--json"]).stdout;
    let numbers: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["number"].clone()).collect();
    assert_eq!(numbers, [1, 2]);
    let follow = project.command(&["status", "--follow", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    project.write("go", "");
    for run in &mut runs {
        assert_eq!(run.wait().unwrap().code(), Some(0));
    }
    let followed = String::from_utf8(follow.wait_with_output().unwrap().stdout).unwrap();
    let states: Vec<Value> = followed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for number in [1, 2] {
        let last = states.iter().rfind(|state| state["number"] == number).unwrap();
        assert_eq!(last["state"], "finished");
    }
    assert_contains(&project.ok(&["status"]).stdout, &["(other) has finished"]);
}

#[test]
fn report_of_a_past_run_shows_its_results() {
    let project = scored();
    project.ok(&["run", "study.toml"]);
    project.write("data.txt", "0.5\n");
    project.ok(&["run", "study.toml"]);
    let current = project.read("out/study/report.json");
    let score = |report: &Value| report["tables"][0]["rows"][0]["cells"][0]["estimate"]["mean"].clone();
    let notes = |report: &Value| serde_json::to_string(&report["notes"]).unwrap();
    assert_eq!(score(&report(&project, "out/study/report.json")), 0.5);

    project.ok(&["report", "study.toml", "--run", "1"]);
    let past = report(&project, "out/study/run-1/report.json");
    assert_eq!((score(&past), &past["made_by"]["run"]["number"]), (json!(1.0), &json!(1)));
    assert_contains(&notes(&past), &["these are the results of run 1"]);
    assert!(!notes(&past).contains("changed"), "{}", notes(&past));
    assert_eq!(project.read("out/study/report.json"), current, "the current page stays");

    // The file changes: another title, one instance more, one less.
    project.edit("study.toml", "[\"good\", \"bad\"]", "[\"good\", \"better\"]");
    let past = project.json(&["report", "study.toml", "--run", "latest~1"]);
    assert_eq!(score(&past), 1.0);
    let expected = [
        "the experiment's file has changed since run 1: the tables are those of today's file",
        "`eval@arm=bad` is not shown: today's file does not have it",
        "`eval@arm=better` counts as missing: the run did not have it",
    ];
    assert_contains(&notes(&past), &expected);

    project.edit("study.toml", "better", "bad");
    project.ok(&["gc", "--keep-runs", "0"]);
    let past = project.json(&["report", "study.toml", "--run", "1"]);
    assert_contains(
        &notes(&past),
        &["2 instances, such as `eval@arm=good`, count as missing: `gc` has removed their results"],
    );
    assert_eq!(score(&past), Value::Null);

    project.write("other.toml", SCORED);
    let error = project.fails(2, &["report", "other.toml", "--run", "1"]);
    error.stderr_has(&["run 1 ran the experiment `study` of `study.toml`, not `other` of `other.toml`"]);
    project.fails(2, &["report", "study.toml", "--run", "9"]).stderr_has(&["there is no run `9`"]);
    let mut killed = start_waiting(&project, "killed");
    kill(&mut killed);
    let error = project.fails(2, &["report", "killed.toml", "--run", "latest"]);
    error.stderr_has(&["run 3 is killed, so its results are not listed"]);
}

#[test]
fn overrides_have_a_page_of_their_own() {
    let project = scored();
    project.ok(&["run", "study.toml"]);
    let page = project.read("out/study/report.html");
    let set = ["--set", "stage.eval.inputs.\"data.txt\"=half.txt"];
    project.write("half.txt", "0.5\n");
    let run = project.ok(&[&["run", "study.toml"], &set[..]].concat());
    let folder = "out/study/set-stage.eval.inputs.%22data.txt%22=half.txt";
    run.stderr_has(&[&format!("wrote {folder}/report.")]);
    assert_eq!(project.read("out/study/report.html"), page);
    assert_contains(&project.read("out/study/eval@arm=good/scores.jsonl"), &["\"score\":0.5"]);
    let made = report(&project, &format!("{folder}/report.json"))["made_by"].clone();
    assert_eq!(made["overrides"], json!([set[1]]));
    let changed = "study.toml --set 'stage.eval.inputs.\"data.txt\"=half.txt'";
    let command = format!("ablate run {changed} eval && ablate report {changed} --report main");
    assert_eq!(made["commands"][0], json!({ "makes": "main", "command": command }));
    // A plain run has nothing to do and links its results again; `report` with the same keys writes the same page.
    project.ok(&["run", "study.toml"]).stderr_has(&["nothing to run"]);
    assert_contains(&project.read("out/study/eval@arm=good/scores.jsonl"), &["\"score\":1}"]);
    let before = project.read(&format!("{folder}/report.csv"));
    project.remove(folder);
    project.ok(&[&["report", "study.toml"], &set[..]].concat());
    assert_eq!(project.read(&format!("{folder}/report.csv")), before);
    // The report of that run uses its keys again.
    let past = project.json(&["report", "study.toml", "--run", "2"]);
    assert_eq!(past["made_by"]["overrides"], json!([set[1]]));
}

#[test]
fn a_report_says_what_made_it() {
    let project = scored();
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments).current_dir(project.path(""));
        command.output().is_ok_and(|output| output.status.success())
    };
    let has_git = git(&["init", "-q"]) && git(&["add", "study.toml"]) && git(&["commit", "-qm", "one"]);
    let printed = project.ok(&["run", "study.toml"]).stdout;
    let made = report(&project, "out/study/report.json")["made_by"].clone();
    assert_eq!(made["varies"], json!([{ "axis": "arm", "values": ["good", "bad"] }]));
    let input = &made["inputs"][0];
    assert_eq!(json!([input["path"], input["size"], input["read_by"]]), json!(["data.txt", 2, ["eval"]]));
    assert_eq!(made["run"]["number"], 1);
    assert_eq!((&made["devices"], made["builds"].as_array().unwrap().len()), (&json!(["cpu"]), 1));
    assert_eq!(made["commands"][1]["command"], "ablate results study.toml --items");
    assert_contains(&printed, &["made by: run 1, ", "ablate 0.1.0, cpu on "]);
    let page = project.read("out/study/report.md");
    assert_contains(
        &page,
        &["## What made this report", "- values of arm: good, bad", "- data data.txt: 2 bytes, hash "],
    );
    assert_contains(&project.read("out/study/report.html"), &["<dt>arm</dt><dd>good, bad</dd>"]);
    if has_git {
        assert_eq!((made["git"]["commit"].as_str().unwrap().len(), &made["git"]["dirty"]), (40, &json!(false)));
        project.append("study.toml", "# more\n");
        let made = project.json(&["report", "study.toml"])["made_by"].clone();
        assert_eq!((&made["git"]["dirty"], &made["run"]), (&json!(true), &Value::Null));
    }
    // The program `git` is not necessary.
    let mut command = project.command(&["report", "study.toml", "--json"]);
    let without: Value = serde_json::from_str(&project.finish(command.env("PATH", "")).exited(0).stdout).unwrap();
    assert_eq!(without["made_by"]["git"]["commit"], made["git"]["commit"]);
    assert_eq!(without["made_by"]["git"]["dirty"], Value::Null);
    let shown = project.ok(&["show", "study.toml", "eval@arm=good"]).stdout;
    assert_contains(&shown, &["  inputs.data.txt = `[ROOT]/data.txt` (content "]);
}

#[test]
fn a_command_is_notified_of_the_end_of_a_run() {
    let project = scored();
    project.ok(&["run", "study.toml"]);
    let settings = r#"
[settings]
notify = 'echo "$ABLATE_EXPERIMENT $ABLATE_OUTCOME $ABLATE_RUN $ABLATE_REPORT" >> notified; cat >> notified-json; echo >> notified-json'
"#;
    project.append("study.toml", settings);
    project.ok(&["run", "study.toml"]).stderr_has(&["nothing to run"]);
    assert!(!project.path("notified").exists(), "a run in which all is fresh notifies of nothing");
    project.write("data.txt", "0.5\n");
    project.ok(&["run", "study.toml"]);
    let run = project.json(&["runs", "-n", "1"])["runs"][0]["run"].as_str().unwrap().to_string();
    let page = project.path("out/study/report.html").display().to_string();
    assert_eq!(project.read("notified"), format!("study finished {run} {page}\n"));
    let notified: Value = serde_json::from_str(&project.read("notified-json")).unwrap();
    assert_eq!((&notified["phase"], &notified["headline"]["value"]), (&json!("finished"), &json!(0.5)));

    project.write("data.txt", "wrong\n");
    project.fails(1, &["run", "study.toml"]);
    assert_contains(&project.read("notified"), &["study failed "]);

    project.edit("study.toml", "notify = 'echo", "notify = 'echo lost; exit 7; echo");
    project.write("data.txt", "1\n");
    project.write("data.txt", "0.25\n");
    let warned = project.ok(&["run", "study.toml"]).stderr;
    assert_contains(&warned, &["warning: the command of `settings.notify` failed: it ended with exit status: 7"]);
    let log = warned.split("its output is in `[ROOT]/").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
    assert_eq!(project.read(log), "lost\n");
}

#[test]
fn equal_failures_are_one_message() {
    let project = Project::new();
    project.write_study(
        "[axis.n]\nvalues = [1, 2, 3]\n[stage.it]\nkind = 'command'\noutputs = ['out.txt']\nrun = 'exit ${axis.n}0'\n",
    );
    assert_eq!(project.fails(1, &["run", "study.toml"]).errors().matches("error:").count(), 3);
    project.edit("study.toml", "exit ${axis.n}0", ": ${axis.n}; exit 7");
    let failed = project.fails(1, &["run", "study.toml"]).stderr;
    assert_eq!(failed.matches("error:").count(), 1, "{failed}");
    assert_contains(&failed, &["its program ended with exit code 7", "\n  2 more failed with the same cause: `it@n="]);
}
