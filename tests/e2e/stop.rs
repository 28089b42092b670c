//! `stop`: stops a run, or some of its instances, from another terminal.

use std::process::Child;

use serde_json::Value;

use crate::support::{Project, assert_contains, command_stages, wait_until};

/// Two stages that wait while their file exists, and one below each.
pub(crate) fn waiting_stages() -> Project {
    let project = Project::new();
    let wait = |name: &str| {
        let hold = project.path(name).display().to_string();
        format!("while [ -e {hold} ]; do sleep 0.01; done; echo {name} > out.txt")
    };
    let (slow, other) = (wait("hold-slow"), wait("hold-other"));
    project.write("hold-slow", "").write("hold-other", "");
    project.write_study(&command_stages(&[
        ("slow", "", &slow, "'out.txt'"),
        ("after-slow", "'in.txt' = 'slow'", "cp in.txt out.txt", "'out.txt'"),
        ("other", "", &other, "'out.txt'"),
        ("after-other", "'in.txt' = 'other'", "cp in.txt out.txt", "'out.txt'"),
    ]));
    project
}

/// Starts a run of the stages and waits until two of them run.
pub(crate) fn start_run(project: &Project) -> Child {
    let run = project.start(&["run", "study.toml", "--jobs", "2"]);
    let running = || -> Option<usize> {
        let status: Value = serde_json::from_str(&project.ablate(&["status", "--json"]).stdout).ok()?;
        status["running"].as_array().map(Vec::len)
    };
    wait_until("two stages run", &|| running() == Some(2));
    run
}

/// Outcome of each instance of a run, as in `run.json`.
pub(crate) fn outcomes(project: &Project, run: &str) -> String {
    let text = project.read(&format!("cache/runs/{run}/run.json"));
    let report: Value = serde_json::from_str(&text).unwrap();
    let one = |instance: &Value| {
        let because = instance["because"].as_str().map(|why| format!(" ({why})")).unwrap_or_default();
        format!("{} {}{because}", instance["name"].as_str().unwrap(), instance["outcome"].as_str().unwrap())
    };
    report["instances"].as_array().unwrap().iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_stopped_stage_is_interrupted_and_the_others_finish() {
    let project = waiting_stages();
    let mut run = start_run(&project);
    project
        .fails(2, &["stop", "latest", "slwo"])
        .stderr_has(&["`slwo` matches no instance", "a similar name exists: `slow`"]);
    project.fails(2, &["stop", "nothing"]).stderr_has(&["there is no run `nothing`"]);
    let stopped = project.json(&["stop", "latest", "slow"]);
    assert_eq!(stopped["instances"], serde_json::json!(["slow"]));
    let name = stopped["run"].as_str().unwrap().to_string();
    wait_until("`slow` has ended", &|| project.ok(&["status"]).stdout.contains("1 interrupted"));
    assert_contains(&project.ok(&["status"]).stdout, &["is running", "1 skipped", "running other"]);
    project.fails(2, &["stop", "latest", "slow"]).stderr_has(&["`slow` of run 1 has ended already"]);
    std::fs::remove_file(project.path("hold-other")).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let expected = "slow interrupted, after-slow skipped (`slow` was stopped), other ran, after-other ran";
    assert_eq!(outcomes(&project, &name), expected);
    project.fails(2, &["stop", "latest"]).stderr_has(&["run 1 has ended (interrupted)"]);
    project.fails(2, &["stop"]).stderr_has(&["no run is going on"]);
    std::fs::remove_file(project.path("hold-slow")).unwrap();
    project.take_ran();
    assert_eq!(project.ran(), "after-slow slow");
}

#[test]
fn a_whole_run_is_stopped_as_by_ctrl_c() {
    let project = waiting_stages();
    let mut run = start_run(&project);
    assert_contains(&project.ok(&["stop"]).stdout, &["run 1 stops; the same command resumes it"]);
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let status = project.json(&["status", "latest"]);
    assert_eq!((&status["state"], &status["outcomes"]["interrupted"]), (&"interrupted".into(), &4.into()));
}
