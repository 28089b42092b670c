//! What was tried on other engines, on a chain of five stages: a touch, a revert, a kill, two runs at once, ...

use std::fs;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use expect_test::expect;

use crate::space::{Space, kill, lives, until};

/// a -> n -> c -> d, and e beside d. `n` strips white space.
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
fn chain() -> Space {
    let space = Space::new();
    space.write("data/source.txt", "one two\n").study(STUDY);
    assert_eq!(space.ran(), "a c d e n");
    assert_eq!(space.read("out/study/d/d.txt"), "d\nc\nonetwo");
    space
}

/// The chain with another text of its study.
fn edit(space: &Space, from: &str, to: &str) {
    assert!(STUDY.contains(from));
    space.study(&STUDY.replace(from, to));
}

#[test]
fn a_touch_and_equal_bytes_written_again_run_nothing() {
    let space = chain();
    fs::File::open(space.path("data/source.txt")).unwrap().set_modified(SystemTime::now()).unwrap();
    assert_eq!(space.ran(), "");
    fs::remove_file(space.path("data/source.txt")).unwrap();
    space.write("data/source.txt", "one two\n");
    assert_eq!(space.ran(), "");
}

#[test]
fn an_edit_that_a_stage_removes_is_cut_off_below_it() {
    let space = chain();
    space.write("data/source.txt", " one  two\n\n");
    assert_eq!(space.ran(), "a n");
    space.write("data/source.txt", "one three\n");
    assert_eq!(space.ran(), "a c d e n");
    assert_eq!(space.read("out/study/d/d.txt"), "d\nc\nonethree");
    // And back.
    space.write("data/source.txt", "one two\n");
    assert_eq!(space.ran(), "");
    assert_eq!(space.read("out/study/d/d.txt"), "d\nc\nonetwo");
}

#[test]
fn a_renamed_stage_runs_nothing_and_its_output_has_the_new_name() {
    let space = chain();
    let text = STUDY.replace("[stage.c]", "[stage.copy]").replace(r#""c.txt" = "c""#, r#""c.txt" = "copy""#);
    space.study(&text);
    assert_eq!(space.ran(), "");
    assert_eq!(space.read("out/study/copy/c.txt"), "c\nonetwo");
}

#[test]
fn an_edit_of_a_command_reruns_it_and_what_reads_another_output_than_before() {
    let space = chain();
    edit(&space, "n.txt) > c.txt", "n.txt) > c.txt; true");
    assert_eq!(space.ran(), "c");
    edit(&space, "(echo c;", "(echo see;");
    assert_eq!(space.ran(), "c d");
    assert_eq!(space.read("out/study/d/d.txt"), "d\nsee\nonetwo");
    space.study(STUDY);
    assert_eq!(space.ran(), "");
    assert_eq!(space.read("out/study/d/d.txt"), "d\nc\nonetwo");
}

#[test]
fn deleted_links_and_objects_come_back() {
    let space = chain();
    fs::remove_file(space.path("out/study/c/c.txt")).unwrap();
    assert_eq!(space.ran(), "");
    fs::remove_dir_all(space.path("out")).unwrap();
    assert_eq!(space.ran(), "");
    assert_eq!(space.outputs("study").len(), 5);
    fs::remove_file(space.object("c/c.txt")).unwrap();
    assert_eq!(space.ran(), "c");
    assert_eq!(space.read("out/study/c/c.txt"), "c\nonetwo");
    space.is_sound();
}

#[test]
fn an_output_that_was_edited_by_hand_is_made_again_and_the_edit_is_kept() {
    let space = chain();
    // Through the link: the object itself.
    let object = space.object("c/c.txt");
    fs::remove_file(&object).unwrap();
    fs::write(&object, "by hand").unwrap();
    assert_eq!(space.ran(), "c");
    assert_eq!(space.read("out/study/c/c.txt"), "c\nonetwo");
    let set_aside = fs::read_dir(space.path("cache/quarantine")).map_or(0, Iterator::count);
    assert!(set_aside <= 1);
    // In the place of the link.
    let link = space.path("out/study/d/d.txt");
    for number in ["", "-2"] {
        fs::remove_file(&link).unwrap();
        fs::write(&link, "by hand").unwrap();
        assert_eq!(space.ran(), "");
        assert_eq!(space.read("out/study/d/d.txt"), "d\nc\nonetwo");
        assert_eq!(space.read(&format!("out/study/d/d.txt.edited{number}")), "by hand");
    }
    space.is_sound();
}

/// `c` writes half of its output, tells its number, and waits for a file before it writes the rest.
fn slow_chain() -> Space {
    let space = chain();
    let (pid, go) = (space.path("pid"), space.path("go"));
    let wait = format!(
        "echo $$ > {}; printf half > c.txt; until [ -e {} ]; do sleep 0.02; done; printf rest >> c.txt",
        pid.display(),
        go.display()
    );
    edit(&space, "(echo c; cat n.txt) > c.txt", &wait);
    space
}

#[test]
fn a_kill_of_everything_in_the_middle_of_a_write_leaves_the_old_result_or_the_new() {
    let space = slow_chain();
    let mut run = space.start(&["run", "study.toml"]);
    let stage = space.until_written("pid");
    // The stage itself too, which its engine may see before it dies: the order is nobody's.
    kill(run.id());
    run.wait().unwrap();
    until("the stage dies", &|| !lives(&stage));
    assert_eq!(space.read("out/study/c/c.txt"), "c\nonetwo");
    space.write("go", "");
    space.told();
    assert_eq!(space.ran(), "c d");
    assert_eq!(space.read("out/study/d/d.txt"), "d\nhalfrest");
    space.is_sound();
}

#[test]
fn an_engine_killed_alone_takes_its_stage_along_and_a_run_at_once_is_right() {
    let space = slow_chain();
    let mut run = space.start(&["run", "study.toml"]);
    let stage = space.until_written("pid");
    space.write("go", "");
    fs::remove_file(space.path("go")).unwrap();
    kill(run.id());
    run.wait().unwrap();
    fs::remove_file(space.path("pid")).unwrap();
    let again = space.start(&["run", "study.toml"]);
    let second = space.until_written("pid");
    assert_ne!(stage, second);
    space.write("go", "");
    assert!(again.wait_with_output().unwrap().status.success());
    assert!(!lives(&stage));
    assert_eq!(space.read("out/study/d/d.txt"), "d\nhalfrest");
    space.is_sound();
}

#[test]
fn two_runs_at_once_run_each_stage_once() {
    let space = slow_chain();
    space.told();
    let start = || space.command(&["run", "study.toml"]).stderr(Stdio::piped()).spawn().unwrap();
    let runs = [start(), start()];
    space.until_written("pid");
    // Time for the other to come upon the lock; without it the test would be kinder, not wrong.
    std::thread::sleep(Duration::from_millis(100));
    space.write("go", "");
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(space.told(), "c d");
    assert_eq!(space.read("out/study/d/d.txt"), "d\nhalfrest");
    space.is_sound();
}

#[test]
fn an_output_that_is_not_written_stops_at_the_guilty_stage() {
    let space = chain();
    edit(&space, "(echo c; cat n.txt) > c.txt", "true");
    space.told();
    let outcome = space.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(1));
    let told: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(told, ["error: `c` failed: the stage ended without writing its output `c.txt`"]);
    assert_eq!(space.told(), "c");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_name() {
    let space = chain();
    edit(&space, "inputs  = { \"c.txt\" = \"c\" }", "input  = { \"c.txt\" = \"c\" }");
    let outcome = space.ablate(&["run", "study.toml"]);
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
fn a_cycle_is_shown_as_a_path() {
    let space = chain();
    edit(&space, "{ \"a.txt\" = \"a\" }", "{ \"a.txt\" = \"d\" }");
    let outcome = space.ablate(&["run", "study.toml"]);
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
