//! What runs, and why, after a change between two runs.

use expect_test::expect;
use serde_json::json;

use super::support::{TestProject, query};
use crate::{NullObserver, Outcome, PlanOptions, RunOptions, Selection, estimate_requests, plan, run};
use ablate_core::base::files;
use ablate_store::GcRules;

#[test]
fn the_second_run_runs_nothing() {
    let project = TestProject::with_data();
    let stages = project.chain("a");
    expect![[r#"
        `read` must run: it has not run yet
        `trim` waits for `read`
        `train` waits for `trim`
        `eval` waits for `train`
    "#]]
    .assert_eq(&project.plan(&stages));
    expect![[r#"
        read: ran, it has not run yet
        trim: ran, it has not run yet
        train: ran, it has not run yet
        eval: ran, it has not run yet
    "#]]
    .assert_eq(&project.run(&stages));
    assert_eq!(project.take_ran(), "read trim train eval");
    expect![[r#"
        read: fresh
        trim: fresh
        train: fresh
        eval: fresh
    "#]]
    .assert_eq(&project.run(&stages));
    assert_eq!(project.take_ran(), "");
    assert_eq!(project.output("train"), r#""one" "two" "" "" "a""#);
}

#[test]
fn going_back_runs_nothing() {
    let (project, first) = TestProject::after_chain();
    expect![[r#"
        read: fresh
        trim: fresh
        train: ran, `word` changed from "a" to "b"
        eval: ran, the content of its input `from.0` changed from HASH to HASH
    "#]]
    .assert_eq(&project.run(&project.chain("b")));
    assert_eq!(project.take_ran(), "train eval");
    assert_eq!(project.stages_run_by(&first), "");
    assert_eq!(project.output("train"), r#""one" "two" "" "" "a""#);
}

#[test]
fn writing_the_same_bytes_again_runs_nothing() {
    let (project, stages) = TestProject::after_chain();
    files::write_atomic(&project.path("data.txt"), b"one\ntwo").unwrap();
    assert_eq!(project.stages_run_by(&stages), "");
}

#[test]
fn equal_bytes_keep_the_readers_fresh() {
    let (project, stages) = TestProject::after_chain();
    project.write("data.txt", "one  \n two");
    expect![[r#"
        `read` must run: the content of `PROJECT/data.txt` (`path`) changed from HASH to HASH
        `trim` waits for `read`
        `train` waits for `trim`
        `eval` waits for `train`
    "#]]
    .assert_eq(&project.plan(&stages));
    expect![[r#"
        read: ran, the content of `PROJECT/data.txt` (`path`) changed from HASH to HASH
        trim: ran, the content of its input `from.0` changed from HASH to HASH
        train: fresh
        eval: fresh
    "#]]
    .assert_eq(&project.run(&stages));
    assert_eq!(project.take_ran(), "read trim");
}

#[test]
fn renaming_a_stage_costs_nothing() {
    let (project, _) = TestProject::after_chain();
    let renamed = project
        .stages(&[("items", json!({ "path": "data.txt" })), ("clean", json!({ "from": ["items"], "trim": true }))]);
    expect![[r#"
        items: fresh
        clean: fresh
    "#]]
    .assert_eq(&project.run(&renamed));
    assert_eq!(project.take_ran(), "");
}

#[test]
fn concurrent_runs_share_the_work() {
    let project = TestProject::with_data();
    let stages = project.chain("a");
    project.set_fault("read", "wait");
    let outcomes = std::thread::scope(|scope| {
        let runs = [0, 1].map(|_| scope.spawn(|| project.run(&stages)));
        project.wait_until_running();
        project.clear_fault("read", "wait");
        runs.map(|run| run.join().unwrap())
    });
    assert_eq!(project.take_ran(), "read trim train eval");
    for stage in ["read", "trim", "train", "eval"] {
        let ran = outcomes.iter().filter(|outcome| outcome.contains(&format!("{stage}: ran"))).count();
        assert_eq!(ran, 1, "{stage}: {outcomes:?}");
    }
}

#[test]
fn force_reruns_a_fresh_stage_only() {
    let (project, stages) = TestProject::after_chain();
    let options = RunOptions { force: vec!["trim".to_string()], ..project.options() };
    expect![[r#"
        read: fresh
        trim: ran, it is forced with `--force`
        train: fresh
        eval: fresh
    "#]]
    .assert_eq(&project.run_with(&stages, &options));
    assert_eq!(project.take_ran(), "trim");
    let options = RunOptions { force: vec!["tirm".to_string()], ..project.options() };
    expect![[r#"
        `tirm` matches no stage and no instance
        help: a similar name exists: `trim`
    "#]]
    .assert_eq(&project.run_with(&stages, &options));
}

#[test]
fn retry_requests_bad_replies_of_its_targets_again() {
    let project = TestProject::with_data();
    let stages = project.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("ask", json!({ "kind": "teacher", "from": ["read"], "word": "1" })),
        ("other", json!({ "kind": "teacher", "from": ["read"], "word": "2" })),
        ("both", json!({ "from": ["ask", "other"] })),
        ("unrelated", json!({ "path": "data.txt", "word": "3" })),
    ]);
    let retry = |target: &str| {
        let targets = vec![target.to_string()];
        let selection = Selection { downstream_of: targets.clone(), ..Selection::default() };
        let retry = ["cut", "empty"].map(str::to_string).into();
        RunOptions { force: targets, retry, selection, ..project.options() }
    };
    project.run(&project.stages(&[("read", json!({ "path": "data.txt" }))]));
    // Everything that `both` needs runs, and nothing else. Only the target requests bad replies again.
    expect![[r#"
        read: fresh
        ask: ran, its bad replies are requested again: cut, empty; it has not run yet
        other: ran, it has not run yet
        both: ran, it has not run yet
    "#]]
    .assert_eq(&project.run_with(&stages, &retry("ask")));
    assert_eq!(files::read_text(&project.path("retried")).unwrap(), "ask: cut empty\n");
    expect![[r#"
        read: fresh
        ask: ran, its bad replies are requested again: cut, empty
        other: fresh
        both: fresh
    "#]]
    .assert_eq(&project.run_with(&stages, &retry("ask")));
    expect![[r#"
        `both` sends no requests to an endpoint, so it has no bad replies
        help: `ablate run --force` runs any stage again
    "#]]
    .assert_eq(&project.run_with(&stages, &retry("both")));
}

#[test]
fn requests_are_estimated_for_instances_that_can_run() {
    let project = TestProject::with_data();
    let stages = |word: &str| {
        project.stages(&[
            ("read", json!({ "path": "data.txt" })),
            ("ask", json!({ "kind": "teacher", "from": ["read"], "word": word, "requests": true })),
            ("judge", json!({ "kind": "teacher", "from": ["ask"], "requests": true })),
            ("file", json!({ "kind": "teacher", "path": "data.txt", "requests": true, "word": word })),
            ("missing", json!({ "kind": "teacher", "path": "other.txt", "requests": true })),
        ])
    };
    let estimates = |word: &str| {
        let (stages, store) = (stages(word), project.store());
        let plan = plan(&stages, &store, &PlanOptions { experiment: "test".into(), ..Default::default() }).unwrap();
        let requests = |id| estimate_requests(&stages, &store, &plan, id, 1).unwrap().map(|found| found.requests);
        stages.ids().map(requests).collect::<Vec<_>>()
    };
    assert_eq!(estimates("a"), [None, None, None, Some(2), None]);
    project.run(&project.stages(&[("read", json!({ "path": "data.txt" }))]));
    // `read` adds a row.
    assert_eq!(estimates("a"), [None, Some(3), None, Some(2), None]);
    project.run(&stages("a"));
    assert_eq!(estimates("a"), [None; 5]);
    assert_eq!(estimates("b"), [None, Some(3), None, Some(2), None]);
}

#[test]
fn a_selection_runs_only_its_instances() {
    let project = TestProject::with_data();
    let stages = project.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("eval@prompt=cot,seed=0", json!({ "from": ["read"], "word": "1" })),
        ("eval@prompt=direct,seed=0", json!({ "from": ["read"], "word": "2" })),
        ("other", json!({ "from": ["read"], "word": "3" })),
    ]);
    let selected = |only: &[&str], until: &[&str]| {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let options = RunOptions {
            selection: Selection { only: list(only), until: list(until), ..Selection::default() },
            ..project.options()
        };
        project.run_with(&stages, &options)
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
        `evla` matches no stage and no instance
        help: a similar name exists: `eval`
    "#]]
    .assert_eq(&selected(&[], &["evla"]));
}

#[test]
fn a_seed_reruns_a_model_stage() {
    let project = TestProject::with_data();
    let stages = |seed: u64| {
        project.stages(&[
            ("base", json!({ "kind": "model", "path": "data.txt", "seed": seed })),
            ("eval", json!({ "from": ["base"] })),
        ])
    };
    project.run(&stages(0));
    assert_eq!(project.output("eval"), r#""one" "two" "" """#);
    expect![[r#"
        base: ran, its seed changed from 0 to 1
        eval: fresh
    "#]]
    .assert_eq(&project.run(&stages(1)));
}

#[test]
fn a_new_version_of_a_kind_runs_again() {
    let project = TestProject::with_data();
    project.run(&project.stages(&[("read", json!({ "path": "data.txt" }))]));
    expect![[r#"
        `read` must run: version 2 of kind `text` gives different results than version 1
    "#]]
    .assert_eq(&project.plan(&project.stages(&[("read", json!({ "path": "data.txt", "version": 2 }))])));
}

#[test]
fn the_run_folder_keeps_command_and_outcomes() {
    let project = TestProject::with_data();
    project.set_fault("train", "fail");
    let stages = project.chain("a");
    let options = RunOptions { command: vec!["run".into(), "x.toml".into()], ..project.options() };
    let store = project.store();
    let report = run("test", &stages, &store, &options, &NullObserver).unwrap();
    let report_file: serde_json::Value = files::read_json(&report.folder.clone().unwrap().join("run.json")).unwrap();
    assert_eq!(report_file["command"], json!(["run", "x.toml"]));
    assert_eq!(report_file["ended"], json!(true));
    let instances = report_file["instances"].as_array().unwrap().iter();
    let outcomes: Vec<String> = instances.map(|one| format!("{} {}", one["name"], one["outcome"])).collect();
    assert_eq!(outcomes, [r#""read" "ran""#, r#""trim" "ran""#, r#""train" "failed""#, r#""eval" "skipped""#]);
    let plan = plan(&stages, &store, &PlanOptions { experiment: "test".into(), ..Default::default() }).unwrap();
    let states: Vec<&str> = query(&stages, &store, &plan).list().iter().map(|summary| summary.state).collect();
    assert_eq!(states, ["fresh", "fresh", "failed", "waits"]);
}

#[test]
fn a_wide_sweep_runs_in_parallel() {
    let project = TestProject::with_data();
    let names: Vec<String> = (0..40).map(|number| format!("eval@n={number}")).collect();
    let mut tables = vec![("read", json!({ "path": "data.txt" }))];
    tables.extend(names.iter().map(|name| (name.as_str(), json!({ "from": ["read"], "word": name }))));
    let stages = project.stages(&tables);
    let options = RunOptions { jobs: 4, ..project.options() };
    let report = run("test", &stages, &project.store(), &options, &NullObserver).unwrap();
    assert_eq!(report.count(|outcome| *outcome == Outcome::Ran), 41);
    let plan = plan(&stages, &project.store(), &PlanOptions::default()).unwrap();
    assert_eq!(plan.counts(&stages.ids().collect::<Vec<_>>()), (41, 0, 0));
}

#[test]
fn gc_keeps_the_latest_results() {
    let (project, first) = TestProject::after_chain();
    project.run(&project.chain("b"));
    let store = project.store();
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
    assert_eq!(project.stages_run_by(&project.chain("b")), "");
    assert_eq!(project.stages_run_by(&first), "train eval");
}
