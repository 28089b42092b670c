//! Scenarios that other engines were tested with, on a chain of five stages: touch, revert, kill, concurrent runs and
//! others.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use crate::support::{Project, command_stage, command_stages, is_alive, kill, wait_until};

/// a -> n -> c -> d, and n -> e. `n` removes white space.
fn study() -> String {
    let copy = |name: &str, from: &str| {
        let [inputs, line] =
            [format!("'{from}.txt' = '{from}'"), format!("(echo {name}; cat {from}.txt) > {name}.txt")];
        command_stage(name, &inputs, &line, &format!("'{name}.txt'"))
    };
    let first = [
        ("a", "'source.txt' = 'data/source.txt'", "cat source.txt > a.txt", "'a.txt'"),
        ("n", "'a.txt' = 'a'", "tr -d \" \\n\" < a.txt > n.txt", "'n.txt'"),
    ];
    command_stages(&first) + &copy("c", "n") + &copy("d", "c") + &copy("e", "n")
}

/// The chain, run once.
fn chain() -> Project {
    let project = Project::with_study(&study());
    project.write("data/source.txt", "one two\n");
    assert_eq!(project.ran(), "a c d e n");
    assert_eq!(project.read("out/study/d/d.txt"), "d\nc\nonetwo");
    project
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
    project.edit("study.toml", "[stage.c]", "[stage.copy]").edit("study.toml", "'c.txt' = 'c'", "'c.txt' = 'copy'");
    assert_eq!(project.ran(), "");
    assert_eq!(project.read("out/study/copy/c.txt"), "c\nonetwo");
}

#[test]
fn edited_command_reruns_changed_downstream() {
    let project = chain();
    project.edit("study.toml", "n.txt) > c.txt", "n.txt) > c.txt; true");
    assert_eq!(project.ran(), "c");
    project.edit("study.toml", "(echo c;", "(echo see;");
    assert_eq!(project.ran(), "c d");
    assert_eq!(project.read("out/study/d/d.txt"), "d\nsee\nonetwo");
    project.write_study(&study());
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
    let [pid, go] = ["pid", "go"].map(|name| project.path(name).display().to_string());
    let wait =
        format!("echo $$ > {pid}; printf half > c.txt; until [ -e {go} ]; do sleep 0.02; done; printf rest >> c.txt");
    project.edit("study.toml", "(echo c; cat n.txt) > c.txt", &wait);
    project
}

#[test]
fn kill_during_a_write_leaves_a_complete_result() {
    let project = slow_chain();
    let mut run = project.start(&["run", "study.toml"]);
    let stage = project.wait_for_file("pid");
    // The stage is killed too; the engine may notice this before it dies.
    kill(&mut run);
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
    kill(&mut run);
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
    project.edit("study.toml", "(echo c; cat n.txt) > c.txt", "true");
    project.take_ran();
    let outcome = project.fails(1, &["run", "study.toml"]);
    assert_eq!(outcome.errors(), "error: `c` failed: the stage ended without writing its output `c.txt`");
    assert_eq!(project.take_ran(), "c");
}

#[test]
fn run_refuses_a_wrong_file_as_check_does() {
    for (from, to, error) in [
        ("inputs = { 'c.txt'", "input = { 'c.txt'", "error: `stage.d`: unknown key `input`\n  --> study.toml:19:1\n"),
        ("'a.txt' = 'a'", "'a.txt' = 'd'", "error: stages read each other in a circle: `n -> d -> c -> n`\n"),
    ] {
        let project = chain();
        project.take_ran();
        let printed = project.edit("study.toml", from, to).fails(2, &["run", "study.toml"]).stderr;
        assert!(printed.starts_with(error), "{printed}");
        assert_eq!(project.fails(2, &["check", "study.toml"]).stderr, printed);
        assert_eq!(project.take_ran(), "");
    }
}
