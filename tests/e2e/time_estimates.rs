//! `plan` predicts the time of a run from the store's history, and limits refuse a run before it starts.

use crate::support::{Project, assert_contains};

/// Three stages that sleep as long as their table says.
const STUDY: &str = r#"
[axis.part]
values = [1, 2, 3]
[stage.sleep]
kind = "command"
run = "sleep 0.4; echo ${axis.part} > out.txt"
outputs = ["out.txt"]
[stage.read]
kind = "command"
inputs = { "in.txt" = "sleep" }
run = "cat in.txt > out.txt"
outputs = ["out.txt"]
"#;

#[test]
fn plan_predicts_from_stages_of_the_same_kind() {
    let project = Project::with_study(STUDY);
    let first = project.ok(&["plan", "study.toml"]).stdout;
    assert_contains(&first, &["time: cannot be predicted: 6 stages of the kind `command`"]);
    let error = project.fails(2, &["run", "study.toml", "--max-time", "1h"]);
    error.stderr_has(&["the time of this run cannot be predicted", "--until"]);
    project.ok(&["run", "study.toml", "--only", "sleep@part=1"]);
    let one = project.json(&["plan", "study.toml", "sleep", "--jobs", "1"]);
    let two = project.json(&["plan", "study.toml", "sleep", "--jobs", "2"]);
    let expected = |plan: &serde_json::Value| plan["time"]["seconds"]["expected"].as_f64().unwrap();
    // Two stages of at least 0.4 s each, one after the other or together.
    assert!(expected(&one) >= 0.8, "{one}");
    assert!((expected(&one) - 2.0 * expected(&two)).abs() < 1e-6, "{} {}", expected(&one), expected(&two));
    let text = project.ok(&["plan", "study.toml", "--jobs", "1"]).stdout;
    assert_contains(
        &text,
        &["time: about ", "with 1 job, from earlier stages of the same kinds", "sleep (2 instances): "],
    );
    let error = project.fails(2, &["run", "study.toml", "--max-time", "100ms"]);
    error.stderr_has(&["longer than `--max-time` allows (0.1 s): nothing was started"]);
    assert_eq!(project.json(&["plan", "study.toml"])["fresh"], 1, "nothing was started");
    project.ok(&["run", "study.toml", "--max-time", "10min"]);
    assert!(project.json(&["plan", "study.toml"])["time"].is_null());
}

#[test]
fn equal_stages_of_several_experiments_are_predicted_once() {
    let project = Project::with_study(STUDY);
    project.ok(&["run", "study.toml", "--only", "sleep@part=1"]);
    let text = project.read("study.toml").replace("name = \"study\"", "name = \"other\"");
    project.write("other.toml", text);
    let alone = project.json(&["plan", "study.toml"]);
    let both = project.json(&["plan", "study.toml", "other.toml"]);
    assert_eq!(both["together"]["seconds"]["expected"], alone["time"]["seconds"]["expected"]);
}
