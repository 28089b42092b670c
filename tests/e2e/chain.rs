//! Scenarios that other engines were tested with, on a chain of five stages: touch, revert, kill, concurrent runs and
//! others.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use expect_test::expect;

use crate::support::{Project, is_alive, kill, wait_until};

/// a -> n -> c -> d, and n -> e. `n` removes white space.
const STUDY: &str = r#"name = "study"

[stage.a]
kind    = "command"
inputs  = { "source.txt" = "data/source.txt" }
run     = '$RAN a; cat source.txt > a.txt'
outputs = ["a.txt"]

[stage.n]
kind    = "command"
inputs  = { "a.txt" = "a" }
run     = '$RAN n; tr -d " \n" < a.txt > n.txt'
outputs = ["n.txt"]

[stage.c]
kind    = "command"
inputs  = { "n.txt" = "n" }
run     = '$RAN c; (echo c; cat n.txt) > c.txt'
outputs = ["c.txt"]

[stage.d]
kind    = "command"
inputs  = { "c.txt" = "c" }
run     = '$RAN d; (echo d; cat c.txt) > d.txt'
outputs = ["d.txt"]

[stage.e]
kind    = "command"
inputs  = { "n.txt" = "n" }
run     = '$RAN e; (echo e; cat n.txt) > e.txt'
outputs = ["e.txt"]
"#;

/// The chain, run once.
fn chain() -> Project {
    let project = Project::new();
    project.write("data/source.txt", "one two\n").write_study(STUDY);
    assert_eq!(project.ran(), "a c d e n");
    assert_eq!(project.read("out/study/d/d.txt"), "d\nc\nonetwo");
    project
}

/// Replaces a text in the study.
fn edit(project: &Project, from: &str, to: &str) {
    assert!(STUDY.contains(from));
    project.write_study(&STUDY.replace(from, to));
}

#[test]
fn touch_and_equal_bytes_run_nothing() {
    let project = chain();
    fs::File::open(project.path("data/source.txt")).unwrap().set_modified(SystemTime::now()).unwrap();
    assert_eq!(project.ran(), "");
    fs::remove_file(project.path("data/source.txt")).unwrap();
    project.write("data/source.txt", "one two\n");
    assert_eq!(project.ran(), "");
}

#[test]
fn equal_output_stops_the_rerun() {
    let project = chain();
    project.write("data/source.txt", " one  two\n\n");
    assert_eq!(project.ran(), "a n");
    project.write("data/source.txt", "one three\n");
    assert_eq!(project.ran(), "a c d e n");
    assert_eq!(project.read("out/study/d/d.txt"), "d\nc\nonethree");
    // The old content again.
    project.write("data/source.txt", "one two\n");
    assert_eq!(project.ran(), "");
    assert_eq!(project.read("out/study/d/d.txt"), "d\nc\nonetwo");
}

#[test]
fn renamed_stage_gets_a_new_link() {
    let project = chain();
    let text = STUDY.replace("[stage.c]", "[stage.copy]").replace(r#""c.txt" = "c""#, r#""c.txt" = "copy""#);
    project.write_study(&text);
    assert_eq!(project.ran(), "");
    assert_eq!(project.read("out/study/copy/c.txt"), "c\nonetwo");
}

#[test]
fn edited_command_reruns_changed_downstream() {
    let project = chain();
    edit(&project, "n.txt) > c.txt", "n.txt) > c.txt; true");
    assert_eq!(project.ran(), "c");
    edit(&project, "(echo c;", "(echo see;");
    assert_eq!(project.ran(), "c d");
    assert_eq!(project.read("out/study/d/d.txt"), "d\nsee\nonetwo");
    project.write_study(STUDY);
    assert_eq!(project.ran(), "");
    assert_eq!(project.read("out/study/d/d.txt"), "d\nc\nonetwo");
}

#[test]
fn deleted_links_and_objects_are_restored() {
    let project = chain();
    fs::remove_file(project.path("out/study/c/c.txt")).unwrap();
    assert_eq!(project.ran(), "");
    fs::remove_dir_all(project.path("out")).unwrap();
    assert_eq!(project.ran(), "");
    assert_eq!(project.outputs("study").len(), 5);
    fs::remove_file(project.object("c/c.txt")).unwrap();
    assert_eq!(project.ran(), "c");
    assert_eq!(project.read("out/study/c/c.txt"), "c\nonetwo");
    project.assert_store_is_valid();
}

#[test]
fn edited_output_is_kept_and_computed_again() {
    let project = chain();
    // Through the link, so the object itself is edited.
    let object = project.object("c/c.txt");
    fs::remove_file(&object).unwrap();
    fs::write(&object, "by hand").unwrap();
    assert_eq!(project.ran(), "c");
    assert_eq!(project.read("out/study/c/c.txt"), "c\nonetwo");
    let set_aside = fs::read_dir(project.path("cache/quarantine")).map_or(0, Iterator::count);
    assert!(set_aside <= 1);
    // A file instead of the link.
    let link = project.path("out/study/d/d.txt");
    for number in ["", "-2"] {
        fs::remove_file(&link).unwrap();
        fs::write(&link, "by hand").unwrap();
        assert_eq!(project.ran(), "");
        assert_eq!(project.read("out/study/d/d.txt"), "d\nc\nonetwo");
        assert_eq!(project.read(&format!("out/study/d/d.txt.edited{number}")), "by hand");
    }
    project.assert_store_is_valid();
}

/// `c` writes half of its output, records its process id, and waits for a file before it writes the rest.
fn slow_chain() -> Project {
    let project = chain();
    let (pid, go) = (project.path("pid"), project.path("go"));
    let wait = format!(
        "echo $$ > {}; printf half > c.txt; until [ -e {} ]; do sleep 0.02; done; printf rest >> c.txt",
        pid.display(),
        go.display()
    );
    edit(&project, "(echo c; cat n.txt) > c.txt", &wait);
    project
}

#[test]
fn kill_during_a_write_leaves_a_complete_result() {
    let project = slow_chain();
    let mut run = project.start(&["run", "study.toml"]);
    let stage = project.wait_for_file("pid");
    // The stage is killed too; the engine may notice this before it dies.
    kill(run.id());
    run.wait().unwrap();
    wait_until("the stage dies", &|| !is_alive(&stage));
    assert_eq!(project.read("out/study/c/c.txt"), "c\nonetwo");
    project.write("go", "");
    project.take_ran();
    assert_eq!(project.ran(), "c d");
    assert_eq!(project.read("out/study/d/d.txt"), "d\nhalfrest");
    project.assert_store_is_valid();
}

#[test]
fn killing_the_engine_ends_its_stage() {
    let project = slow_chain();
    let mut run = project.start(&["run", "study.toml"]);
    let stage = project.wait_for_file("pid");
    project.write("go", "");
    fs::remove_file(project.path("go")).unwrap();
    kill(run.id());
    run.wait().unwrap();
    fs::remove_file(project.path("pid")).unwrap();
    let again = project.start(&["run", "study.toml"]);
    let second = project.wait_for_file("pid");
    assert_ne!(stage, second);
    project.write("go", "");
    assert!(again.wait_with_output().unwrap().status.success());
    assert!(!is_alive(&stage));
    assert_eq!(project.read("out/study/d/d.txt"), "d\nhalfrest");
    project.assert_store_is_valid();
}

#[test]
fn concurrent_runs_run_each_stage_once() {
    let project = slow_chain();
    project.take_ran();
    let start = || project.command(&["run", "study.toml"]).stderr(Stdio::piped()).spawn().unwrap();
    let runs = [start(), start()];
    project.wait_for_file("pid");
    // Time for the other run to reach the lock. Without the pause the test is weaker but not wrong.
    std::thread::sleep(Duration::from_millis(100));
    project.write("go", "");
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(project.take_ran(), "c d");
    assert_eq!(project.read("out/study/d/d.txt"), "d\nhalfrest");
    project.assert_store_is_valid();
}

#[test]
fn missing_output_fails_its_stage() {
    let project = chain();
    edit(&project, "(echo c; cat n.txt) > c.txt", "true");
    project.take_ran();
    let outcome = project.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(1));
    let printed: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(printed, ["error: `c` failed: the stage ended without writing its output `c.txt`"]);
    assert_eq!(project.take_ran(), "c");
}

#[test]
fn unknown_key_suggests_the_nearest_name() {
    let project = chain();
    edit(&project, "inputs  = { \"c.txt\" = \"c\" }", "input  = { \"c.txt\" = \"c\" }");
    let outcome = project.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(2));
    expect![[r#"
        error: `stage.d`: unknown key `input`
          --> study.toml:23:1
           |
        21 | [stage.d]
           | --------- in this stage
        22 | kind    = "command"
        23 | input  = { "c.txt" = "c" }
           | ^^^^^
           |
           = help: a key of a similar name exists: `inputs`
    "#]]
    .assert_eq(&outcome.stderr);
}

#[test]
fn cycle_is_shown_as_a_path() {
    let project = chain();
    edit(&project, "{ \"a.txt\" = \"a\" }", "{ \"a.txt\" = \"d\" }");
    let outcome = project.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(2));
    expect![[r#"
        error: stages read each other in a circle: `n -> d -> c -> n`
          --> study.toml:11:23
           |
        11 | inputs  = { "a.txt" = "d" }
           |                       ^^^ `n` reads `d`
        ...
        17 | inputs  = { "n.txt" = "n" }
           |                       --- `c` reads `n`
        ...
        23 | inputs  = { "c.txt" = "c" }
           |                       --- `d` reads `c`
    "#]]
    .assert_eq(&outcome.stderr);
}
