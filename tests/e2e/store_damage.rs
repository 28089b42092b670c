//! Flipped bits, deleted files and clocks set back are detected, reported, and repaired by the next run.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Project, assert_contains, command_stages, corrupt_file, entries};

/// Three stages in a chain, run once.
fn row() -> Project {
    let project = Project::with_study(&command_stages(&[
        ("one", "'data.txt' = 'data.txt'", "(echo one; cat data.txt) > one.txt", "'one.txt'"),
        ("two", "'one.txt' = 'one'", "(echo two; cat one.txt) > two.txt", "'two.txt'"),
        ("three", "'two.txt' = 'two'", "(echo three; cat two.txt) > three.txt", "'three.txt'"),
    ]));
    project.write("data.txt", "data\n");
    assert_eq!(project.ran(), "one three two");
    project
}

fn assert_repaired(project: &Project) {
    assert_eq!(project.read("out/study/three/three.txt"), "three\ntwo\none\ndata\n");
    project.assert_store_is_valid();
    assert_eq!(project.ran(), "");
}

/// The output of `verify`, which must fail.
fn verify_problems(project: &Project) -> String {
    project.fails(2, &["verify"]).stdout
}

/// Flips a bit of the output of `two`.
fn flip_bit(project: &Project, keep_time: bool) {
    corrupt_file(&project.object("two/two.txt"), &|bytes| bytes[0] ^= 1, keep_time);
}

#[test]
fn verify_finds_a_flipped_bit_with_old_time() {
    let project = row();
    let object = project.object("two/two.txt");
    flip_bit(&project, true);
    let expected = "the object's bytes do not match its name; to run again: command";
    assert_contains(&verify_problems(&project), &[expected]);
    assert!(!object.exists());
    assert_eq!(fs::read_dir(project.path("cache/quarantine")).unwrap().count(), 1);
    assert_eq!(project.ran(), "two");
    assert_repaired(&project);
}

#[test]
fn run_finds_a_flipped_bit_with_new_time() {
    let project = row();
    flip_bit(&project, false);
    let why = project.ok(&["why", "study.toml", "two"]).stdout;
    assert_contains(&why, &["its output `two.txt`", "is corrupt in the store"]);
    assert_eq!(project.ran(), "two");
    assert_repaired(&project);
}

#[test]
fn stage_never_reads_a_flipped_bit() {
    let project = row();
    flip_bit(&project, true);
    project.edit("study.toml", "(echo three;", "(echo 3;");
    assert_eq!(project.ran(), "three two");
    assert_eq!(project.read("out/study/three/three.txt"), "3\ntwo\none\ndata\n");
    project.assert_store_is_valid();
}

#[test]
fn deleted_object_is_computed_again() {
    let project = row();
    fs::remove_file(project.object("two/two.txt")).unwrap();
    assert!(verify_problems(&project).contains("the object is missing"));
    assert_eq!(project.ran(), "two");
    assert_repaired(&project);
}

#[test]
fn damaged_record_affects_one_stage() {
    let project = row();
    let records = project.path("cache/records");
    let inside = |bytes: &mut Vec<u8>| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        // Near the end of the record of `two`.
        let line = text.lines().position(|line| line.contains("; t two;")).unwrap();
        let end: usize = text.lines().take(line + 1).map(|line| line.len() + 1).sum();
        bytes[end - 30] ^= 1;
    };
    corrupt_file(&records, &inside, false);
    assert_contains(&project.ok(&["why", "study.toml", "two"]).stdout, &["`two` must run"]);
    assert_eq!(project.ran(), "two");
    assert!(verify_problems(&project).contains("is damaged and ignored"));
    assert_repaired(&project);
}

#[test]
fn truncated_records_lose_only_the_cut_part() {
    let project = row();
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 100);
    corrupt_file(&project.path("cache/records"), &cut, false);
    assert_eq!(project.ran(), "three");
    assert_repaired(&project);
    for damage in [|path: &Path| fs::write(path, ""), |path: &Path| fs::remove_file(path)] {
        damage(&project.path("cache/records")).unwrap();
        assert_eq!(project.ran(), "one three two");
        assert_repaired(&project);
    }
}

#[test]
fn caches_may_be_deleted_or_invalid() {
    let project = row();
    let derived = project.path("cache/derived");
    assert!(derived.exists());
    fs::remove_dir_all(&derived).unwrap();
    assert_eq!(project.ran(), "");
    entries(&derived).for_each(|path| fs::write(path, [7; 300]).unwrap());
    assert_eq!(project.ran(), "");
    for name in ["notes", "memo"] {
        fs::remove_file(project.path("cache").join(name)).ok();
        assert_eq!(project.ran(), "", "without `{name}`");
        fs::write(project.path("cache").join(name), [0xff; 300]).unwrap();
        assert_eq!(project.ran(), "", "with nonsense as `{name}`");
        assert_repaired(&project);
    }
    // Without notes the previous state of a stage is unknown; only the changed stage runs.
    fs::remove_file(project.path("cache/notes")).unwrap();
    project.edit("study.toml", "(echo three;", "(echo 3;");
    assert_eq!(project.ran(), "three");
}

fn set_time(path: &Path, time: SystemTime) {
    File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn clock_set_back_hides_no_edit() {
    let project = row();
    let input = project.path("data.txt");
    let ahead = SystemTime::now() + Duration::from_secs(1_000_000_000);
    for (time, text) in [(ahead, "mend\n"), (ahead, "data\n"), (UNIX_EPOCH, "mend\n"), (UNIX_EPOCH, "data\n")] {
        // Same length as the last text, and the same time as the one before.
        let known = project.read("data.txt") == "data\n" && project.read("out/study/one/one.txt") == "one\ndata\n";
        project.write("data.txt", text);
        set_time(&input, time);
        let ran = project.ran();
        assert_eq!(project.read("out/study/one/one.txt"), format!("one\n{text}"));
        assert!(ran == "one three two" || !(known && time == ahead), "{ran}");
        set_time(&input, time - Duration::from_secs(1));
        assert_eq!(project.ran(), "", "times are not content");
    }
    // The store's own files with future times.
    for name in ["records", "notes", "memo", "FORMAT"] {
        set_time(&project.path("cache").join(name), ahead);
        assert_eq!(project.ran(), "");
    }
    entries(project.path("cache/derived")).for_each(|path| set_time(&path, ahead));
    set_time(&project.path("study.toml"), ahead);
    assert_repaired(&project);
    // An object with another time is read again and is valid.
    let object = project.object("two/two.txt");
    set_time(&object, ahead);
    assert_repaired(&project);
    flip_bit(&project, true);
    assert_eq!(project.ran(), "two");
    assert_repaired(&project);
}
