//! Scenarios of things that go wrong: failures, damage, interruptions, half commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use expect_test::expect;
use serde_json::json;

use super::scenarios::{chain, space};
use super::toys::damage;
use super::*;
use ablate_core::base::files;
use ablate_experiment::InstanceId;
use ablate_store::GcRules;

#[test]
fn a_deleted_object_is_made_again_and_what_lies_below_stays() {
    let space = space();
    let stages = chain(&space, "a");
    space.run(&stages);
    space.ran();
    files::remove_file(&space.object("train", "rows.jsonl")).unwrap();
    expect![[r#"
        read: fresh
        trim: fresh
        train: ran, its output `rows.jsonl` (HASH) is missing from the store
        eval: fresh
    "#]]
    .assert_eq(&space.run(&stages));
    assert_eq!(space.ran(), "train");
}

#[test]
fn a_deleted_link_is_restored_without_running() {
    let space = space();
    let stages = chain(&space, "a");
    space.run(&stages);
    space.ran();
    files::remove_dir(&space.path("out")).unwrap();
    space.run(&stages);
    assert_eq!(space.ran(), "");
    assert_eq!(space.output("eval"), r#""one" "two" "" "" "a" """#);
}

#[test]
fn a_damaged_object_is_never_read() {
    let space = space();
    let stages = chain(&space, "a");
    space.run(&stages);
    space.ran();
    let object = space.object("trim", "rows.jsonl");
    damage(&object, "\"evil\"\n");
    expect![[r#"
        read: fresh
        trim: ran, its output `rows.jsonl` (HASH) was damaged in the store
        train: ran, `word` changed from "a" to "b"
        eval: ran, the content of its input `from.0` changed from HASH to HASH
    "#]]
    .assert_eq(&space.run(&chain(&space, "b")));
    assert_eq!(space.output("train"), r#""one" "two" "" "" "b""#);
    assert_eq!(space.ran(), "trim train eval");
}

#[test]
fn decay_under_an_old_time_stamp_is_found_before_a_stage_reads_it() {
    let space = space();
    space.run(&chain(&space, "a"));
    space.ran();
    let object = space.object("trim", "rows.jsonl");
    let text = files::read_text(&object).unwrap().replace("two", "tWo");
    damage(&object, &text);
    let sealed = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    std::fs::File::open(&object).unwrap().set_modified(sealed).unwrap();
    expect![[r#"
        read: fresh
        trim: ran, its output `rows.jsonl` (HASH) was damaged in the store
        train: ran, `word` changed from "a" to "b"
        eval: ran, the content of its input `from.0` changed from HASH to HASH
    "#]]
    .assert_eq(&space.run(&chain(&space, "b")));
    assert_eq!(space.output("train"), r#""one" "two" "" "" "b""#);
}

#[test]
fn a_failure_stops_what_lies_below_it_only() {
    let space = space();
    space.tell("bad", "fail");
    let stages = space.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("bad", json!({ "from": ["read"], "word": "bad" })),
        ("below", json!({ "from": ["bad"] })),
        ("further", json!({ "from": ["below"] })),
        ("good", json!({ "from": ["read"], "word": "good" })),
    ]);
    expect![[r#"
        read: ran, it has not run yet
        `bad` failed: cannot train
          because the disk is on fire
          log: SPACE/cache/runs/RUN/logs/bad.log
          help: when the cause is mended, run the same command again: finished stages are kept, this one goes on from its last checkpoint if it wrote any
        below: skipped, `bad` failed
        further: skipped, `bad` failed
        good: ran, it has not run yet
    "#]]
    .assert_eq(&space.run(&stages));
    space.forgive("bad", "fail");
    space.ran();
    space.run(&stages);
    assert_eq!(space.ran(), "bad below further");
}

#[test]
fn fail_fast_starts_nothing_after_a_failure() {
    let space = space();
    space.tell("bad", "fail");
    let stages = space.stages(&[
        ("bad", json!({ "path": "data.txt", "word": "bad" })),
        ("below", json!({ "from": ["bad"] })),
        ("good", json!({ "path": "data.txt", "word": "good" })),
    ]);
    let options = RunOptions { keep_going: false, ..space.options() };
    expect![[r#"
        `bad` failed: cannot train
          because the disk is on fire
          log: SPACE/cache/runs/RUN/logs/bad.log
          help: when the cause is mended, run the same command again: finished stages are kept, this one goes on from its last checkpoint if it wrote any
        below: skipped, `bad` failed
        good: skipped, `bad` failed, and the run stops at the first failure
    "#]]
    .assert_eq(&space.run_with(&stages, &options));
    assert_eq!(space.ran(), "bad");
}

#[test]
fn what_is_no_result_is_not_committed() {
    let space = space();
    for mischief in ["silent", "nan", "panic", "edit"] {
        space.tell(mischief, mischief);
    }
    let stage = |word: &str| json!({ "path": "data.txt", "word": word });
    let stages =
        space.stages(&[("silent", stage("1")), ("nan", stage("2")), ("panic", stage("3")), ("edit", stage("4"))]);
    expect![[r#"
        `silent` failed: the stage ended without writing its output `rows.jsonl`
          log: SPACE/cache/runs/RUN/logs/silent.log
          help: when the cause is mended, run the same command again: finished stages are kept, this one goes on from its last checkpoint if it wrote any
        `nan` failed: the output `facts.json` is not valid
          because `loss` is not a number
          log: SPACE/cache/runs/RUN/logs/nan.log
          help: when the cause is mended, run the same command again: finished stages are kept, this one goes on from its last checkpoint if it wrote any
        `panic` failed: the stage panicked: a mistake of ours
          log: SPACE/cache/runs/RUN/logs/panic.log
          help: when the cause is mended, run the same command again: finished stages are kept, this one goes on from its last checkpoint if it wrote any
        `edit` failed: `SPACE/data.txt` (`path`) changed while the stage ran
          log: SPACE/cache/runs/RUN/logs/edit.log
          help: when the cause is mended, run the same command again: finished stages are kept, this one goes on from its last checkpoint if it wrote any
    "#]]
    .assert_eq(&space.run(&stages));
    let store = space.store();
    assert_eq!(store.fingerprints().unwrap(), []);
}

#[test]
fn a_missing_file_is_named_before_anything_runs() {
    let space = space();
    let stages = space.stages(&[("read", json!({ "path": "dta.txt" })), ("below", json!({ "from": ["read"] }))]);
    expect![[r#"
        `read` cannot run: `SPACE/dta.txt` (`path`) does not exist
        `below` waits for `read`
    "#]]
    .assert_eq(&space.plan(&stages));
    expect![[r#"
        `read` failed: `SPACE/dta.txt` (`path`) does not exist
        below: skipped, `read` failed
    "#]]
    .assert_eq(&space.run(&stages));
    assert_eq!(space.ran(), "");
}

#[test]
fn an_interrupted_stage_resumes_from_its_scratch_folder() {
    let space = space();
    space.tell("train", "resume");
    let stages = space.stages(&[("train", json!({ "path": "data.txt" }))]);
    assert!(space.run(&stages).starts_with("`train` failed: the power is gone"));
    expect![[r#"
        `train` must run: it has not run yet
    "#]]
    .assert_eq(&space.plan(&stages));
    expect![[r#"
        train: ran, it has not run yet
    "#]]
    .assert_eq(&space.run(&stages));
    assert_eq!(space.ran(), "train train");
    assert_eq!(space.output("train"), r#""one" "two" """#);
    assert_eq!(space.store().unfinished().unwrap(), []);
}

#[test]
fn an_interrupted_run_starts_nothing_more() {
    let space = space();
    let interrupt = Arc::new(AtomicBool::new(true));
    let options = RunOptions { interrupt: Arc::clone(&interrupt), ..space.options() };
    let stages = chain(&space, "a");
    let report = run("test", &stages, &space.store(), &options, &Quiet).unwrap();
    assert_eq!(report.exit_code(), 130);
    expect![[r#"
        read: interrupted
        trim: interrupted
        train: interrupted
        eval: interrupted
    "#]]
    .assert_eq(&space.told(&report));
    interrupt.store(false, Ordering::Relaxed);
    space.run_with(&stages, &options);
    assert_eq!(space.ran(), "read trim train eval");
}

#[test]
fn leftovers_of_a_half_commit_count_for_nothing() {
    let space = space();
    let stages = chain(&space, "a");
    space.run(&stages);
    let store = space.store();
    let record = store.record(store.latest(&"test".into(), "train").fingerprint.unwrap()).unwrap();
    // As after a power cut between the objects and the record: the work folder stands, half a line too.
    let others = store.fingerprints().unwrap().into_iter().filter(|other| *other != record.fingerprint).collect();
    store.keep_records(&others).unwrap();
    let path = store.root().join("records");
    let half = format!("{}{} 0123456789abcdef {{\"finger", files::read_text(&path).unwrap(), record.fingerprint);
    files::write_atomic(&path, half.as_bytes()).unwrap();
    files::write_atomic(&store.work_path(record.fingerprint).join("out/rows.jsonl"), b"\"half\"\n").unwrap();
    space.ran();
    space.run(&stages);
    assert_eq!(space.ran(), "train");
    assert_eq!(space.output("train"), r#""one" "two" "" "" "a""#);
    // A bit of the record flips.
    let text = files::read_text(&path).unwrap();
    let at = text.rfind("\"host\"").unwrap();
    files::write_atomic(&path, format!("{}{}{}", &text[..at], "\"hosT\"", &text[at + 6..]).as_bytes()).unwrap();
    space.run(&stages);
    assert_eq!(space.ran(), "train");
    // The half line is gone, the other damaged one stays until a check takes it away.
    let problems = |mend| store.verify(mend, &|_, _| {}).unwrap().problems.len();
    assert_eq!([problems(false), problems(true), problems(false)], [1, 1, 0]);
    space.run(&stages);
    assert_eq!(space.ran(), "");
}

#[test]
fn a_store_that_cannot_be_written_plans_and_says_so_before_it_runs() {
    let space = space();
    let stages = chain(&space, "a");
    space.run(&stages);
    // Nothing can be created in a folder whose place a file has taken; permissions would not hold a superuser.
    let store = space.store();
    files::rename(&space.path("cache"), &space.path("moved")).unwrap();
    files::write_atomic(&space.path("cache"), b"").unwrap();
    let error = run("test", &stages, &store, &space.options(), &Quiet).unwrap_err().to_string();
    let path = space.path("cache");
    assert_eq!(
        error,
        format!("the store `{}` is not writable: only `plan`, `why`, `ls` and `report` work", path.display())
    );
}

#[test]
fn a_commit_that_cannot_be_written_leaves_the_old_state() {
    let space = space();
    let stages = chain(&space, "a");
    let store = space.store();
    // As on a full disk: the log cannot be made, because a folder is in its place.
    files::create_dir(&store.root().join("records")).unwrap();
    let told = space.run(&stages);
    assert!(told.starts_with("`read` failed: cannot open `SPACE/cache/records` for appending"), "{told}");
    files::remove_dir(&store.root().join("records")).unwrap();
    space.ran();
    space.run(&stages);
    assert_eq!(space.ran(), "read trim train eval");
}

#[test]
fn the_log_of_a_failed_stage_is_found_by_its_name() {
    let space = space();
    let stages = chain(&space, "a");
    space.tell("train", "fail");
    space.run(&stages);
    let store = space.store();
    let log = |id: usize| query::log(&"test".into(), &stages, &store, InstanceId(id));
    expect![[r#"
        failed: cannot train
          because the disk is on fire
    "#]]
    .assert_eq(&files::read_text(&log(2).unwrap()).unwrap());
    assert_eq!(log(3), None);
}

#[test]
fn verify_reads_everything_and_names_who_must_run_again() {
    let space = space();
    let stages = chain(&space, "a");
    space.run(&stages);
    let store = space.store();
    let report = store.verify(true, &|_, _| {}).unwrap();
    assert_eq!((report.records, report.objects, report.problems.len()), (4, 8, 0));
    let object = space.object("train", "rows.jsonl");
    damage(&object, "\"evil\"\n");
    let report = store.verify(true, &|_, _| {}).unwrap();
    let fingerprint = store.latest(&"test".into(), "train").fingerprint.unwrap();
    assert_eq!(report.problems.len(), 1);
    assert_eq!(report.problems[0].path, object);
    assert_eq!(report.problems[0].producers, [("toy".to_string(), fingerprint)]);
    assert!(!object.exists());
    space.ran();
    space.run(&stages);
    assert_eq!(space.ran(), "train");
}

#[test]
fn notes_that_are_lost_are_written_again_before_gc_looks_for_them() {
    let space = space();
    let stages = chain(&space, "a");
    let store = space.store();
    let options = RunOptions { standing: Some("x.standing".to_string()), ..space.options() };
    for lost in ["nothing", "notes", "runs"] {
        let path = store.root().join(lost);
        files::remove_dir(&path).or_else(|_| files::remove_file(&path)).unwrap();
        run("test", &stages, &store, &options, &Quiet).unwrap();
    }
    store.gc(&store.gc_roots(&GcRules { runs: 0, ..GcRules::default() }).unwrap(), false).unwrap();
    space.ran();
    run("test", &stages, &store, &options, &Quiet).unwrap();
    assert_eq!(space.ran(), "");
}

#[test]
fn findings_of_what_nobody_told_apart_are_not_believed() {
    let space = space();
    let options = RunOptions { standing: Some("x.standing".to_string()), ..space.options() };
    for word in ["a", "a", "b"] {
        let mut stages = chain(&space, word);
        stages.hash = None;
        run("test", &stages, &space.store(), &options, &Quiet).unwrap();
    }
    assert_eq!(space.output("train"), r#""one" "two" "" "" "b""#);
}
