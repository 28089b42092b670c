//! Failures: damaged stores, failing stages, interruptions, incomplete commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use expect_test::expect;
use serde_json::json;

use super::support::{TestProject, overwrite};
use crate::{DETACHED, NullObserver, RunOptions, history, query, run};
use ablate_core::base::files;
use ablate_experiment::InstanceId;
use ablate_store::GcRules;

#[test]
fn a_deleted_object_reruns_only_its_producer() {
    let (project, stages) = TestProject::after_chain();
    files::remove_file(&project.object("train", "rows.jsonl")).unwrap();
    expect![[r#"
        read: fresh
        trim: fresh
        train: ran, its output `rows.jsonl` (HASH) is missing from the store
        eval: fresh
    "#]]
    .assert_eq(&project.run(&stages));
    assert_eq!(project.take_ran(), "train");
}

#[test]
fn a_deleted_link_is_restored_without_running() {
    let (project, stages) = TestProject::after_chain();
    files::remove_dir(&project.path("out")).unwrap();
    assert_eq!(project.stages_run_by(&stages), "");
    assert_eq!(project.output("eval"), r#""one" "two" "" "" "a" """#);
}

#[test]
fn a_corrupt_object_is_never_read() {
    for with_old_time_stamp in [false, true] {
        let (project, _) = TestProject::after_chain();
        let object = project.object("trim", "rows.jsonl");
        if with_old_time_stamp {
            let text = files::read_text(&object).unwrap().replace("two", "tWo");
            overwrite(&object, &text);
            let sealed = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
            std::fs::File::open(&object).unwrap().set_modified(sealed).unwrap();
        } else {
            overwrite(&object, "\"evil\"\n");
        }
        expect![[r#"
            read: fresh
            trim: ran, its output `rows.jsonl` (HASH) is corrupt in the store
            train: ran, `word` changed from "a" to "b"
            eval: ran, the content of its input `from.0` changed from HASH to HASH
        "#]]
        .assert_eq(&project.run(&project.chain("b")));
        assert_eq!(project.output("train"), r#""one" "two" "" "" "b""#, "old time stamp: {with_old_time_stamp}");
        assert_eq!(project.take_ran(), "trim train eval", "old time stamp: {with_old_time_stamp}");
    }
}

#[test]
fn a_failure_skips_only_its_readers() {
    let project = TestProject::with_data();
    project.set_fault("bad", "fail");
    let stages = project.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("bad", json!({ "from": ["read"], "word": "bad" })),
        ("reader", json!({ "from": ["bad"] })),
        ("further", json!({ "from": ["reader"] })),
        ("good", json!({ "from": ["read"], "word": "good" })),
    ]);
    expect![[r#"
        read: ran, it has not run yet
        `bad` failed: cannot train
          because the disk is on fire
          log: PROJECT/cache/runs/RUN/logs/bad.log
          help: fix the cause and run the same command again: finished stages are kept, this one resumes from its last checkpoint if it wrote one
        reader: skipped, `bad` failed
        further: skipped, `bad` failed
        good: ran, it has not run yet
    "#]]
    .assert_eq(&project.run(&stages));
    project.clear_fault("bad", "fail");
    assert_eq!(project.stages_run_by(&stages), "bad reader further");
}

#[test]
fn fail_fast_starts_nothing_after_a_failure() {
    let project = TestProject::with_data();
    project.set_fault("bad", "fail");
    let stages = project.stages(&[
        ("bad", json!({ "path": "data.txt", "word": "bad" })),
        ("reader", json!({ "from": ["bad"] })),
        ("good", json!({ "path": "data.txt", "word": "good" })),
    ]);
    let options = RunOptions { keep_going: false, ..project.options() };
    expect![[r#"
        `bad` failed: cannot train
          because the disk is on fire
          log: PROJECT/cache/runs/RUN/logs/bad.log
          help: fix the cause and run the same command again: finished stages are kept, this one resumes from its last checkpoint if it wrote one
        reader: skipped, `bad` failed
        good: skipped, `bad` failed, and the run stops at the first failure
    "#]]
    .assert_eq(&project.run_with(&stages, &options));
    assert_eq!(project.take_ran(), "bad");
}

#[test]
fn invalid_results_are_not_committed() {
    let project = TestProject::with_data();
    for fault in ["no-output", "nan", "panic", "edit-input"] {
        project.set_fault(fault, fault);
    }
    let stage = |name: &'static str| (name, json!({ "path": "data.txt", "word": name }));
    let stages = project.stages(&["no-output", "nan", "panic", "edit-input"].map(stage));
    expect![[r#"
        `no-output` failed: the stage ended without writing its output `rows.jsonl`
          log: PROJECT/cache/runs/RUN/logs/no-output.log
          help: fix the cause and run the same command again: finished stages are kept, this one resumes from its last checkpoint if it wrote one
        `nan` failed: the output `facts.json` is not valid
          because `loss` is not a number
          log: PROJECT/cache/runs/RUN/logs/nan.log
          help: fix the cause and run the same command again: finished stages are kept, this one resumes from its last checkpoint if it wrote one
        `panic` failed: the stage panicked: a bug in the stage
          log: PROJECT/cache/runs/RUN/logs/panic.log
          help: fix the cause and run the same command again: finished stages are kept, this one resumes from its last checkpoint if it wrote one
        `edit-input` failed: `PROJECT/data.txt` (`path`) changed while the stage ran
          log: PROJECT/cache/runs/RUN/logs/edit-input.log
          help: fix the cause and run the same command again: finished stages are kept, this one resumes from its last checkpoint if it wrote one
    "#]]
    .assert_eq(&project.run(&stages));
    assert_eq!(project.store().fingerprints().unwrap(), []);
}

#[test]
fn a_missing_input_file_fails_the_stage_early() {
    let project = TestProject::with_data();
    let stages = project.stages(&[("read", json!({ "path": "dta.txt" })), ("reader", json!({ "from": ["read"] }))]);
    expect![[r#"
        `read` cannot run: `PROJECT/dta.txt` (`path`) does not exist
        `reader` waits for `read`
    "#]]
    .assert_eq(&project.plan(&stages));
    expect![[r#"
        `read` failed: `PROJECT/dta.txt` (`path`) does not exist
        reader: skipped, `read` failed
    "#]]
    .assert_eq(&project.run(&stages));
    assert_eq!(project.take_ran(), "");
}

#[test]
fn an_interrupted_stage_resumes() {
    let project = TestProject::with_data();
    project.set_fault("train", "resume");
    let stages = project.stages(&[("train", json!({ "path": "data.txt" }))]);
    assert!(project.run(&stages).starts_with("`train` failed: the power failed"));
    expect![[r#"
        `train` must run: it has not run yet
    "#]]
    .assert_eq(&project.plan(&stages));
    expect![[r#"
        train: ran, it has not run yet
    "#]]
    .assert_eq(&project.run(&stages));
    assert_eq!(project.take_ran(), "train train");
    assert_eq!(project.output("train"), r#""one" "two" """#);
    assert_eq!(project.store().unfinished().unwrap(), []);
}

#[test]
fn a_detached_stage_continues_in_the_next_run() {
    let project = TestProject::with_data();
    project.set_fault("ask", "detach");
    let stages = project.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("ask", json!({ "kind": "teacher", "from": ["read"], "word": "ask" })),
        ("reader", json!({ "from": ["ask"] })),
        ("further", json!({ "from": ["reader"] })),
        ("other", json!({ "from": ["read"], "word": "other" })),
    ]);
    // It is neither tried again nor a failure that stops the run.
    let options = RunOptions { detach: true, retries: 3, keep_going: false, ..project.options() };
    let store = project.store();
    let report = run("test", &stages, &store, &options, &NullObserver).unwrap();
    assert_eq!((report.exit_code(), report.interrupted), (DETACHED, false));
    expect![[r#"
        read: ran, it has not run yet
        ask: detached, batch 7 with 2 requests
        reader: skipped, `ask` waits for its endpoint
        further: skipped, `ask` waits for its endpoint
        other: ran, it has not run yet
    "#]]
    .assert_eq(&project.outcomes(&report));
    let status = history::status(&store, &report.run).unwrap();
    assert_eq!((status.outcomes["detached"], status.failed.len()), (1, 0));
    assert_eq!(status.detached[0].why, "batch 7 with 2 requests");
    let log = query::last_log(&"test".into(), &stages, &store, InstanceId(1)).unwrap();
    assert_eq!(files::read_text(&log).unwrap(), "waits for its endpoint: batch 7 with 2 requests\n");
    // `gc` keeps its work.
    assert_eq!(store.gc(&store.gc_roots(&GcRules::default()).unwrap(), true).unwrap().resumable.len(), 1);
    // Without `detach` the stage waits until its endpoint has answered.
    assert_eq!(project.stages_run_by(&stages), "ask reader further");
    assert_eq!(store.unfinished().unwrap(), []);
}

#[test]
fn a_failure_matters_more_than_a_detached_stage() {
    let project = TestProject::with_data();
    project.set_fault("ask", "detach");
    project.set_fault("bad", "fail");
    let stage = |word: &str| json!({ "path": "data.txt", "word": word });
    let stages = project.stages(&[("ask", stage("1")), ("bad", stage("2"))]);
    let options = RunOptions { detach: true, ..project.options() };
    let report = run("test", &stages, &project.store(), &options, &NullObserver).unwrap();
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn an_interrupted_run_starts_nothing_more() {
    let project = TestProject::with_data();
    let interrupt = Arc::new(AtomicBool::new(true));
    let options = RunOptions { interrupt: Arc::clone(&interrupt), ..project.options() };
    let stages = project.chain("a");
    let report = run("test", &stages, &project.store(), &options, &NullObserver).unwrap();
    assert_eq!(report.exit_code(), 130);
    expect![[r#"
        read: interrupted
        trim: interrupted
        train: interrupted
        eval: interrupted
    "#]]
    .assert_eq(&project.outcomes(&report));
    interrupt.store(false, Ordering::Relaxed);
    project.run_with(&stages, &options);
    assert_eq!(project.take_ran(), "read trim train eval");
}

#[test]
fn an_incomplete_commit_is_ignored() {
    let (project, stages) = TestProject::after_chain();
    let (store, record) = (project.store(), project.record("train"));
    // The state after a power failure between objects and record: a work folder, and half a line in the log.
    let others = store.fingerprints().unwrap().into_iter().filter(|other| *other != record.fingerprint).collect();
    store.keep_records(&others).unwrap();
    let path = store.root().join("records");
    let half = format!("{}{} 0123456789abcdef {{\"finger", files::read_text(&path).unwrap(), record.fingerprint);
    files::write_atomic(&path, half.as_bytes()).unwrap();
    files::write_atomic(&store.work_path(record.fingerprint).join("out/rows.jsonl"), b"\"half\"\n").unwrap();
    assert_eq!(project.stages_run_by(&stages), "train");
    assert_eq!(project.output("train"), r#""one" "two" "" "" "a""#);
    // Flip a bit of the record.
    let text = files::read_text(&path).unwrap();
    let at = text.rfind("\"host\"").unwrap();
    files::write_atomic(&path, format!("{}{}{}", &text[..at], "\"hosT\"", &text[at + 6..]).as_bytes()).unwrap();
    assert_eq!(project.stages_run_by(&stages), "train");
    // The half line is gone. The corrupt line stays until a check with repair removes it.
    let problems = |repair| store.verify(repair, &|_, _| {}).unwrap().problems.len();
    assert_eq!([problems(false), problems(true), problems(false)], [1, 1, 0]);
    assert_eq!(project.stages_run_by(&stages), "");
}

#[test]
fn a_read_only_store_is_reported_before_the_run() {
    let (project, stages) = TestProject::after_chain();
    // A file in the place of the folder makes every write fail. Permissions would not stop a superuser.
    let store = project.store();
    files::rename(&project.path("cache"), &project.path("moved")).unwrap();
    files::write_atomic(&project.path("cache"), b"").unwrap();
    let error = run("test", &stages, &store, &project.options(), &NullObserver).unwrap_err().to_string();
    let expected = "the store `PROJECT/cache` is not writable: only `plan`, `why`, `ls` and `report` work";
    assert_eq!(project.normalize(&error), expected);
}

#[test]
fn a_commit_that_fails_leaves_the_old_state() {
    let project = TestProject::with_data();
    let stages = project.chain("a");
    let store = project.store();
    // As on a full disk, the log cannot be written: a folder is in its place.
    files::create_dir(&store.root().join("records")).unwrap();
    let outcome = project.run(&stages);
    assert!(outcome.starts_with("`read` failed: cannot open `PROJECT/cache/records` for appending"), "{outcome}");
    files::remove_dir(&store.root().join("records")).unwrap();
    assert_eq!(project.stages_run_by(&stages), "read trim train eval");
}

#[test]
fn the_log_of_a_failed_stage_is_found_by_its_name() {
    let project = TestProject::with_data();
    let stages = project.chain("a");
    project.set_fault("train", "fail");
    project.run(&stages);
    let store = project.store();
    let log = |id: usize| query::last_log(&"test".into(), &stages, &store, InstanceId(id));
    expect![[r#"
        failed: cannot train
          because the disk is on fire
    "#]]
    .assert_eq(&files::read_text(&log(2).unwrap()).unwrap());
    assert_eq!(log(3), None);
}

#[test]
fn verify_names_the_producers_of_corrupt_objects() {
    let (project, stages) = TestProject::after_chain();
    let store = project.store();
    let report = store.verify(true, &|_, _| {}).unwrap();
    assert_eq!((report.records, report.objects, report.problems.len()), (4, 8, 0));
    let object = project.object("train", "rows.jsonl");
    overwrite(&object, "\"evil\"\n");
    let report = store.verify(true, &|_, _| {}).unwrap();
    let producer = ("text".to_string(), project.record("train").fingerprint);
    assert_eq!(report.problems.len(), 1);
    assert_eq!((&report.problems[0].path, &report.problems[0].producers[..]), (&object, &[producer][..]));
    assert!(!object.exists());
    assert_eq!(project.stages_run_by(&stages), "train");
}
