//! No-op runs: what the no-op cache confirms, and which changes lead back to the normal path.

use super::support::{TestProject, overwrite};
use crate::{NullObserver, Outcome, RunOptions, RunReport, run};
use ablate_core::base::{Hash, files};
use ablate_experiment::Expansion;
use ablate_store::GcRules;

/// Runs with the no-op cache.
fn run_with_cache(project: &TestProject, stages: &Expansion) -> RunReport {
    let options = RunOptions { noop_cache: Some("chain.noop".to_string()), ..project.options() };
    run("test", stages, &project.store(), &options, &NullObserver).unwrap()
}

/// The chain with a hash of its own, like a compiled experiment.
fn hashed_chain(project: &TestProject, word: &str) -> Expansion {
    Expansion { hash: Some(Hash::of_bytes(word.as_bytes())), ..project.chain(word) }
}

/// Whether a run was a no-op: then it wrote no folder.
fn was_noop(report: &RunReport) -> bool {
    assert_eq!(report.exit_code(), 0);
    report.folder.is_none()
}

#[test]
fn a_noop_run_writes_nothing_and_reports_all_fresh() {
    let project = TestProject::with_data();
    let stages = hashed_chain(&project, "a");
    assert!(!was_noop(&run_with_cache(&project, &stages)));
    let runs = || files::list_names(&project.store().runs_path()).unwrap().len();
    assert_eq!(runs(), 1);
    let report = run_with_cache(&project, &stages);
    assert!(was_noop(&report));
    assert_eq!((report.count(|outcome| *outcome == Outcome::Fresh), runs()), (4, 1));
    assert_eq!(project.take_ran(), "read trim train eval");
}

#[test]
fn every_change_leads_back_to_the_normal_path() {
    let project = TestProject::with_data();
    let stages = hashed_chain(&project, "a");
    run_with_cache(&project, &stages);
    project.take_ran();
    let ran = || {
        let noop = was_noop(&run_with_cache(&project, &stages));
        let ran = project.take_ran();
        assert!(was_noop(&run_with_cache(&project, &stages)), "the next run uses the cache that this one wrote");
        (noop, ran)
    };
    let nothing = String::new;
    // A missing link is written again, and so is a missing folder of links.
    files::remove_file(&project.path("out/test/train/rows.jsonl")).unwrap();
    assert_eq!(ran(), (false, nothing()));
    files::remove_dir(&project.path("out/test/trim")).unwrap();
    assert_eq!(ran(), (false, nothing()));
    assert!(project.path("out/test/trim/rows.jsonl").exists());

    // A file in the place of a link is renamed.
    let link = project.path("out/test/train/rows.jsonl");
    files::remove_file(&link).unwrap();
    files::write_atomic(&link, b"my own").unwrap();
    assert_eq!(ran(), (false, nothing()));
    assert_eq!(files::read_text(&project.path("out/test/train/rows.jsonl.edited")).unwrap(), "my own");

    // A corrupt object is produced again.
    overwrite(&project.object("train", "rows.jsonl"), "\"evil\"\n");
    assert_eq!(ran(), (false, "train".to_string()));

    // So is the result of a missing record.
    let store = project.store();
    let others = store.fingerprints().unwrap().into_iter();
    let train = project.record("train").fingerprint;
    store.keep_records(&others.filter(|other| *other != train).collect()).unwrap();
    assert_eq!(ran(), (false, "train".to_string()));

    // Equal content runs nothing. Different content runs its readers.
    project.write("data.txt", "one\ntwo");
    assert_eq!(ran(), (true, nothing()));
    project.write("data.txt", "one\ntwo ");
    assert_eq!(ran(), (false, "read trim".to_string()));

    // The cache may be missing or corrupt.
    files::remove_dir(&project.store().root().join("derived")).unwrap();
    assert_eq!(ran(), (false, nothing()));
    project.store().write_cached("chain.noop", b"nonsense");
    assert_eq!(ran(), (false, nothing()));
}

#[test]
fn the_cache_of_another_experiment_is_ignored() {
    let project = TestProject::with_data();
    run_with_cache(&project, &hashed_chain(&project, "a"));
    run_with_cache(&project, &hashed_chain(&project, "b"));
    project.take_ran();
    // Back to the first experiment: nothing runs, and the links lead to its results again.
    assert!(!was_noop(&run_with_cache(&project, &hashed_chain(&project, "a"))));
    assert_eq!(project.take_ran(), "");
    assert!(project.output("train").ends_with("\"a\""));
    assert!(was_noop(&run_with_cache(&project, &hashed_chain(&project, "a"))));
}

#[test]
fn lost_notes_are_rewritten_before_gc() {
    let project = TestProject::with_data();
    let (stages, store) = (project.chain("a"), project.store());
    for lost in ["nothing", "notes", "runs"] {
        let path = store.root().join(lost);
        files::remove_dir(&path).or_else(|_| files::remove_file(&path)).unwrap();
        run_with_cache(&project, &stages);
    }
    store.gc(&store.gc_roots(&GcRules { runs: 0, ..GcRules::default() }).unwrap(), false).unwrap();
    project.take_ran();
    run_with_cache(&project, &stages);
    assert_eq!(project.take_ran(), "");
}

#[test]
fn the_cache_needs_a_hash_of_the_expansion() {
    let project = TestProject::with_data();
    for word in ["a", "a", "b"] {
        run_with_cache(&project, &Expansion { hash: None, ..project.chain(word) });
    }
    assert_eq!(project.output("train"), r#""one" "two" "" "" "b""#);
}
