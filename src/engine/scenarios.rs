//! Scenarios: what runs, and why, when the world changes between two runs.

use expect_test::expect;
use serde_json::json;

use super::toys::Space;
use super::*;
use ablate_core::base::files;
use ablate_experiment::Expansion;
use ablate_store::GcRules;

/// read -> trim -> train -> eval, where `trim` takes white space away.
pub(super) fn chain(space: &Space, word: &str) -> Expansion {
    space.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("trim", json!({ "from": ["read"], "trim": true })),
        ("train", json!({ "from": ["trim"], "word": word })),
        ("eval", json!({ "from": ["train"] })),
    ])
}

pub(super) fn space() -> Space {
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
fn two_runs_at_once_share_the_work() {
    let space = space();
    let stages = chain(&space, "a");
    space.tell("read", "wait");
    let told = std::thread::scope(|scope| {
        let runs = [0, 1].map(|_| scope.spawn(|| space.run(&stages)));
        space.wait_until_one_runs();
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
fn the_run_folder_keeps_what_was_asked_and_what_happened() {
    let space = space();
    space.tell("train", "fail");
    let stages = chain(&space, "a");
    let options = RunOptions { command: vec!["run".into(), "x.toml".into()], ..space.options() };
    let store = space.store();
    let report = run("test", &stages, &store, &options, &Quiet).unwrap();
    let kept: serde_json::Value = files::read_json(&report.folder.clone().unwrap().join("run.json")).unwrap();
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
    let states: Vec<&str> =
        query::list(&"test".into(), &stages, &store, &plan).iter().map(|listed| listed.state).collect();
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

#[test]
fn cleaning_keeps_what_was_last_looked_at() {
    let space = space();
    space.run(&chain(&space, "a"));
    space.run(&chain(&space, "b"));
    let store = space.store();
    let kept = store.gc_roots(&GcRules { runs: 0, ..GcRules::default() }).unwrap();
    let dry = store.gc(&kept, true).unwrap();
    assert_eq!((dry.records, dry.leftovers), (2, 0));
    assert_eq!(store.gc_roots(&GcRules { runs: 2, ..GcRules::default() }).unwrap().records.len(), 6);
    let shared = store.lock_shared().unwrap();
    let error = store.gc(&kept, false).unwrap_err().to_string();
    assert!(error.starts_with("a run uses the store"), "{error}");
    drop(shared);
    assert_eq!(store.gc(&kept, false).unwrap(), dry);
    assert_eq!(store.gc(&kept, false).unwrap().paths.len(), 0);
    space.ran();
    space.run(&chain(&space, "b"));
    assert_eq!(space.ran(), "");
    space.run(&chain(&space, "a"));
    assert_eq!(space.ran(), "train eval");
}
