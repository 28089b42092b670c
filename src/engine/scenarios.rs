//! Scenarios: what runs, and why, when the world changes between two runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use expect_test::expect;
use serde_json::json;

use super::toys::{Space, damage};
use super::*;
use crate::base::files;
use crate::experiment::Expansion;

/// read -> trim -> train -> eval, where `trim` takes white space away.
fn chain(space: &Space, word: &str) -> Expansion {
    space.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("trim", json!({ "from": ["read"], "trim": true })),
        ("train", json!({ "from": ["trim"], "word": word })),
        ("eval", json!({ "from": ["train"] })),
    ])
}

fn space() -> Space {
    let space = Space::new();
    space.write("data.txt", "one\ntwo");
    space
}

#[test]
fn the_first_run_runs_everything_and_the_second_nothing() {
    let space = space();
    let stages = chain(&space, "a");
    expect![[r#"
        `read` must run: it has not run yet
        `trim` waits for `read`
        `train` waits for `trim`
        `eval` waits for `train`
    "#]]
    .assert_eq(&space.plan(&stages));
    expect![[r#"
        read: ran, it has not run yet
        trim: ran, it has not run yet
        train: ran, it has not run yet
        eval: ran, it has not run yet
    "#]]
    .assert_eq(&space.run(&stages));
    assert_eq!(space.ran(), "read trim train eval");
    expect![[r#"
        read: fresh
        trim: fresh
        train: fresh
        eval: fresh
    "#]]
    .assert_eq(&space.run(&stages));
    assert_eq!(space.ran(), "");
    assert_eq!(space.output("train"), r#""one" "two" "" "" "a""#);
}

#[test]
fn going_back_runs_nothing() {
    let space = space();
    space.run(&chain(&space, "a"));
    space.ran();
    expect![[r#"
        read: fresh
        trim: fresh
        train: ran, `word` changed from "a" to "b"
        eval: ran, the content of its input `from.0` changed from HASH to HASH
    "#]]
    .assert_eq(&space.run(&chain(&space, "b")));
    assert_eq!(space.ran(), "train eval");
    space.run(&chain(&space, "a"));
    assert_eq!(space.ran(), "");
    assert_eq!(space.output("train"), r#""one" "two" "" "" "a""#);
}

#[test]
fn writing_the_same_bytes_again_runs_nothing() {
    let space = space();
    let stages = chain(&space, "a");
    space.run(&stages);
    space.ran();
    files::write_atomic(&space.path("data.txt"), b"one\ntwo").unwrap();
    space.run(&stages);
    assert_eq!(space.ran(), "");
}

#[test]
fn a_change_that_a_stage_removes_goes_no_further() {
    let space = space();
    let stages = chain(&space, "a");
    space.run(&stages);
    space.ran();
    space.write("data.txt", "one  \n two");
    expect![[r#"
        `read` must run: the content of `SPACE/data.txt` (`path`) changed from HASH to HASH
        `trim` waits for `read`
        `train` waits for `trim`
        `eval` waits for `train`
    "#]]
    .assert_eq(&space.plan(&stages));
    expect![[r#"
        read: ran, the content of `SPACE/data.txt` (`path`) changed from HASH to HASH
        trim: ran, the content of its input `from.0` changed from HASH to HASH
        train: fresh
        eval: fresh
    "#]]
    .assert_eq(&space.run(&stages));
    assert_eq!(space.ran(), "read trim");
}

#[test]
fn renaming_a_stage_costs_nothing() {
    let space = space();
    space.run(&chain(&space, "a"));
    space.ran();
    let renamed = space
        .stages(&[("items", json!({ "path": "data.txt" })), ("clean", json!({ "from": ["items"], "trim": true }))]);
    expect![[r#"
        items: fresh
        clean: fresh
    "#]]
    .assert_eq(&space.run(&renamed));
    assert_eq!(space.ran(), "");
}

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
          help: run the same command again: finished stages are kept, this one resumes from `SPACE/cache/work/HASH`
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
          help: run the same command again: finished stages are kept, this one resumes from `SPACE/cache/work/HASH`
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
          help: run the same command again: finished stages are kept, this one resumes from `SPACE/cache/work/HASH`
        `nan` failed: the output `facts.json` is not valid
          because `loss` is not a number
          log: SPACE/cache/runs/RUN/logs/nan.log
          help: run the same command again: finished stages are kept, this one resumes from `SPACE/cache/work/HASH`
        `panic` failed: the stage panicked: a mistake of ours
          log: SPACE/cache/runs/RUN/logs/panic.log
          help: run the same command again: finished stages are kept, this one resumes from `SPACE/cache/work/HASH`
        `edit` failed: `SPACE/data.txt` (`path`) changed while the stage ran
          log: SPACE/cache/runs/RUN/logs/edit.log
          help: run the same command again: finished stages are kept, this one resumes from `SPACE/cache/work/HASH`
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
    let record = store.record(store.latest("test", "train").fingerprint.unwrap()).unwrap();
    // As after a power cut between the objects and the record: the work folder stands, a temporary file too.
    store.remove_record(record.fingerprint).unwrap();
    let shard = store.root().join("records").join(&record.fingerprint.to_string()[..2]);
    files::write_atomic(&shard.join(".half.json.1-1.tmp"), b"{ \"finger").unwrap();
    files::write_atomic(&store.work_path(record.fingerprint).join("out/rows.jsonl"), b"\"half\"\n").unwrap();
    space.ran();
    space.run(&stages);
    assert_eq!(space.ran(), "train");
    assert_eq!(space.output("train"), r#""one" "two" "" "" "a""#);
    // A record cut short by a file system that lies about syncing.
    damage(&shard.join(format!("{}.json", &record.fingerprint.to_string()[2..])), "{ \"fingerprint\": \"12");
    space.run(&stages);
    assert_eq!(space.ran(), "train");
}

#[test]
fn two_runs_at_once_share_the_work() {
    let space = space();
    let stages = chain(&space, "a");
    space.tell("read", "wait");
    let told = std::thread::scope(|scope| {
        let runs = [0, 1].map(|_| scope.spawn(|| space.run(&stages)));
        while !space.path("ran").exists() {
            std::thread::yield_now();
        }
        space.forgive("read", "wait");
        runs.map(|run| run.join().unwrap())
    });
    assert_eq!(space.ran(), "read trim train eval");
    for stage in ["read", "trim", "train", "eval"] {
        let ran = told.iter().filter(|told| told.contains(&format!("{stage}: ran"))).count();
        assert_eq!(ran, 1, "{stage}: {told:?}");
    }
}

#[test]
fn forcing_runs_a_fresh_stage_and_equal_bytes_keep_what_lies_below() {
    let space = space();
    let stages = chain(&space, "a");
    space.run(&stages);
    space.ran();
    let options = RunOptions { force: vec!["trim".to_string()], ..space.options() };
    expect![[r#"
        read: fresh
        trim: ran, it was asked for with `--force`
        train: fresh
        eval: fresh
    "#]]
    .assert_eq(&space.run_with(&stages, &options));
    assert_eq!(space.ran(), "trim");
    let options = RunOptions { force: vec!["tirm".to_string()], ..space.options() };
    expect![[r#"
        `tirm` names no stage and no instance
        help: a similar name exists: `trim`
    "#]]
    .assert_eq(&space.run_with(&stages, &options));
}

#[test]
fn a_selection_runs_what_was_asked_for() {
    let space = space();
    let stages = space.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("eval@prompt=cot,seed=0", json!({ "from": ["read"], "word": "1" })),
        ("eval@prompt=direct,seed=0", json!({ "from": ["read"], "word": "2" })),
        ("other", json!({ "from": ["read"], "word": "3" })),
    ]);
    let selected = |only: &[&str], until: &[&str]| {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let options = RunOptions { selection: Selection { only: list(only), until: list(until) }, ..space.options() };
        space.run_with(&stages, &options)
    };
    expect![[r#"
        eval@prompt=cot,seed=0: skipped, `read` is not up to date and not selected
    "#]]
    .assert_eq(&selected(&["eval@prompt=c*"], &[]));
    expect![[r#"
        read: ran, it has not run yet
        eval@prompt=cot,seed=0: ran, it has not run yet
    "#]]
    .assert_eq(&selected(&[], &["eval@prompt=c*"]));
    expect![[r#"
        eval@prompt=cot,seed=0: fresh
        eval@prompt=direct,seed=0: ran, it has not run yet
    "#]]
    .assert_eq(&selected(&["*@seed=0"], &[]));
    expect![[r#"
        `evla` names no stage and no instance
        help: a similar name exists: `eval`
    "#]]
    .assert_eq(&selected(&[], &["evla"]));
}

#[test]
fn a_checkpoint_is_handed_on_as_a_folder_and_its_seed_counts() {
    let space = space();
    let stages = |seed: u64| {
        space.stages(&[
            ("base", json!({ "kind": "model", "path": "data.txt", "seed": seed })),
            ("eval", json!({ "from": ["base"] })),
        ])
    };
    space.run(&stages(0));
    assert_eq!(space.output("eval"), r#""one" "two" "" """#);
    expect![[r#"
        base: ran, its seed changed from 0 to 1
        eval: fresh
    "#]]
    .assert_eq(&space.run(&stages(1)));
}

#[test]
fn a_new_version_of_a_kind_runs_again() {
    let space = space();
    space.run(&space.stages(&[("read", json!({ "path": "data.txt" }))]));
    expect![[r#"
        `read` must run: version 2 of `toy` gives other results than version 1
    "#]]
    .assert_eq(&space.plan(&space.stages(&[("read", json!({ "path": "data.txt", "version": 2 }))])));
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
        format!("the store `{}` cannot be written: it serves `plan`, `why`, `ls` and `report` only", path.display())
    );
}

#[test]
fn the_run_folder_keeps_what_was_asked_and_what_happened() {
    let space = space();
    space.tell("train", "fail");
    let stages = chain(&space, "a");
    let options = RunOptions { command: vec!["run".into(), "x.toml".into()], ..space.options() };
    let store = space.store();
    let report = run("test", &stages, &store, &options, &Quiet).unwrap();
    let kept: serde_json::Value = files::read_json(&report.folder.join("run.json")).unwrap();
    assert_eq!(kept["command"], json!(["run", "x.toml"]));
    assert_eq!(kept["ended"], json!(true));
    let outcomes: Vec<String> =
        kept["instances"].as_array().unwrap().iter().map(|one| format!("{} {}", one["name"], one["outcome"])).collect();
    expect![[r#"
        "read" "ran"
        "trim" "ran"
        "train" "failed"
        "eval" "skipped""#]]
    .assert_eq(&outcomes.join("\n"));
    let plan = plan::plan(&stages, &store, &PlanOptions { experiment: "test".into(), ..Default::default() }).unwrap();
    let states: Vec<&str> = query::list("test", &stages, &store, &plan).iter().map(|listed| listed.state).collect();
    assert_eq!(states, ["fresh", "fresh", "failed", "waits"]);
}

#[test]
fn a_wide_sweep_runs_side_by_side_and_is_fresh_afterwards() {
    let space = space();
    let names: Vec<String> = (0..40).map(|number| format!("eval@n={number}")).collect();
    let mut tables = vec![("read", json!({ "path": "data.txt" }))];
    tables.extend(names.iter().map(|name| (name.as_str(), json!({ "from": ["read"], "word": name }))));
    let stages = space.stages(&tables);
    let report = run("test", &stages, &space.store(), &RunOptions { jobs: 4, ..space.options() }, &Quiet).unwrap();
    assert_eq!(report.count(|outcome| *outcome == Outcome::Ran), 41);
    let plan = plan::plan(&stages, &space.store(), &PlanOptions::default()).unwrap();
    assert_eq!(plan.counts(&stages.ids().collect::<Vec<_>>()), (41, 0, 0));
}
