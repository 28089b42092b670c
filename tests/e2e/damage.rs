//! Bits that flip, files that go, clocks that go backwards: found, said, and mended by the next run.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::space::{Space, damage};

/// Three stages in a row, run once.
fn row() -> Space {
    let space = Space::new();
    space.write("data.txt", "data\n");
    space.study(
        r#"name = "study"
[stage.one]
kind    = "command"
inputs  = { "data.txt" = "data.txt" }
run     = '$RAN one; (echo one; cat data.txt) > one.txt'
outputs = ["one.txt"]
[stage.two]
kind    = "command"
inputs  = { "one.txt" = "one" }
run     = '$RAN two; (echo two; cat one.txt) > two.txt'
outputs = ["two.txt"]
[stage.three]
kind    = "command"
inputs  = { "two.txt" = "two" }
run     = '$RAN three; (echo three; cat two.txt) > three.txt'
outputs = ["three.txt"]
"#,
    );
    assert_eq!(space.ran(), "one three two");
    space
}

fn is_right(space: &Space) {
    assert_eq!(space.read("out/study/three/three.txt"), "three\ntwo\none\ndata\n");
    space.is_sound();
    assert_eq!(space.ran(), "");
}

/// What a check of the store says, which must not be that all is well.
fn verified(space: &Space) -> String {
    let outcome = space.ablate(&["verify"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stdout);
    outcome.stdout
}

fn flip(bytes: &mut [u8]) {
    bytes[0] ^= 1;
}

#[test]
fn a_flipped_bit_under_the_old_time_is_found_by_a_check_and_mended_by_the_next_run() {
    let space = row();
    let object = space.object("two/two.txt");
    damage(&object, &|bytes| flip(bytes), true);
    let told = verified(&space);
    assert!(told.contains("the object's bytes do not match its name; to run again: command"), "{told}");
    assert!(!object.exists());
    assert_eq!(fs::read_dir(space.path("cache/quarantine")).unwrap().count(), 1);
    assert_eq!(space.ran(), "two");
    is_right(&space);
}

#[test]
fn a_flipped_bit_under_a_new_time_is_found_by_the_next_run() {
    let space = row();
    damage(&space.object("two/two.txt"), &|bytes| flip(bytes), false);
    let why = space.ok(&["why", "study.toml", "two"]).stdout;
    assert!(why.contains("its output `two.txt`") && why.contains("is corrupt in the store"), "{why}");
    assert_eq!(space.ran(), "two");
    is_right(&space);
}

#[test]
fn a_flipped_bit_under_the_old_time_is_never_read_by_a_stage() {
    let space = row();
    damage(&space.object("two/two.txt"), &|bytes| flip(bytes), true);
    let text = space.read("study.toml").replace("(echo three;", "(echo 3;");
    space.write("study.toml", text);
    assert_eq!(space.ran(), "three two");
    assert_eq!(space.read("out/study/three/three.txt"), "3\ntwo\none\ndata\n");
    space.is_sound();
}

#[test]
fn an_object_that_is_gone_is_made_again() {
    let space = row();
    fs::remove_file(space.object("two/two.txt")).unwrap();
    assert!(verified(&space).contains("the object is missing"));
    assert_eq!(space.ran(), "two");
    is_right(&space);
}

#[test]
fn a_flipped_bit_in_a_record_costs_that_stage_and_no_other() {
    let space = row();
    let records = space.path("cache/records");
    let inside = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        // The end of the second record, wherever a write of several of them began.
        let line = text.lines().position(|line| line.contains("; t two;")).unwrap();
        let end: usize = text.lines().take(line + 1).map(|line| line.len() + 1).sum();
        bytes[end - 30] ^= 1;
    };
    damage(&records, &inside, false);
    let told = space.ok(&["why", "study.toml", "two"]).stdout;
    assert!(told.contains("`two` must run"), "{told}");
    assert_eq!(space.ran(), "two");
    assert!(verified(&space).contains("is damaged and ignored"));
    is_right(&space);
}

#[test]
fn records_that_were_cut_cost_what_was_cut() {
    let space = row();
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 100);
    damage(&space.path("cache/records"), &cut, false);
    assert_eq!(space.ran(), "three");
    is_right(&space);
    fs::write(space.path("cache/records"), "").unwrap();
    assert_eq!(space.ran(), "one three two");
    is_right(&space);
    fs::remove_file(space.path("cache/records")).unwrap();
    assert_eq!(space.ran(), "one three two");
    is_right(&space);
}

#[test]
fn what_could_be_computed_again_may_go_or_be_nonsense() {
    let space = row();
    let derived = space.path("cache/derived");
    assert!(derived.exists());
    fs::remove_dir_all(&derived).unwrap();
    assert_eq!(space.ran(), "");
    for entry in fs::read_dir(&derived).unwrap() {
        fs::write(entry.unwrap().path(), [7; 300]).unwrap();
    }
    assert_eq!(space.ran(), "");
    for name in ["notes", "memo"] {
        fs::remove_file(space.path("cache").join(name)).ok();
        assert_eq!(space.ran(), "", "without `{name}`");
        fs::write(space.path("cache").join(name), [0xff; 300]).unwrap();
        assert_eq!(space.ran(), "", "with nonsense as `{name}`");
        is_right(&space);
    }
    // Without notes nobody knows what a stage was before: it says that, and still runs nothing else.
    fs::remove_file(space.path("cache/notes")).unwrap();
    let text = space.read("study.toml").replace("(echo three;", "(echo 3;");
    space.write("study.toml", text);
    assert_eq!(space.ran(), "three");
}

fn set_time(path: &Path, time: SystemTime) {
    File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_clock_that_goes_backwards_hides_no_edit() {
    let space = row();
    let input = space.path("data.txt");
    let ahead = SystemTime::now() + Duration::from_secs(1_000_000_000);
    for (time, text) in [(ahead, "mend\n"), (ahead, "data\n"), (UNIX_EPOCH, "mend\n"), (UNIX_EPOCH, "data\n")] {
        // As long as the last text, and of the same time as the last but one.
        let known = space.read("data.txt") == "data\n" && space.read("out/study/one/one.txt") == "one\ndata\n";
        space.write("data.txt", text);
        set_time(&input, time);
        let ran = space.ran();
        assert_eq!(space.read("out/study/one/one.txt"), format!("one\n{text}"));
        assert!(ran == "one three two" || !(known && time == ahead), "{ran}");
        set_time(&input, time - Duration::from_secs(1));
        assert_eq!(space.ran(), "", "a time is no content");
    }
    // The store's own files from the future.
    for name in ["records", "notes", "memo", "FORMAT"] {
        set_time(&space.path("cache").join(name), ahead);
        assert_eq!(space.ran(), "");
    }
    for entry in fs::read_dir(space.path("cache/derived")).unwrap() {
        set_time(&entry.unwrap().path(), ahead);
    }
    set_time(&space.path("study.toml"), ahead);
    is_right(&space);
    // An object of another time is read again, and is right.
    let object = space.object("two/two.txt");
    set_time(&object, ahead);
    is_right(&space);
    damage(&object, &|bytes| flip(bytes), true);
    assert_eq!(space.ran(), "two");
    is_right(&space);
}
