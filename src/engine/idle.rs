//! Scenarios of the short way: what an idle run takes for granted, and what brings it back to the long way.

use super::scenarios::{chain, space};
use super::toys::{Space, damage};
use super::*;
use ablate_core::base::{Hash, files};
use ablate_experiment::Expansion;

/// Runs with what the last run found, and gives the report.
fn idle_run(space: &Space, stages: &Expansion) -> RunReport {
    let options = RunOptions { standing: Some("chain.standing".to_string()), ..space.options() };
    run("test", stages, &space.store(), &options, &Quiet).unwrap()
}

/// The chain with a name for all that it is, as compiled experiments have it.
fn named(space: &Space, word: &str) -> Expansion {
    let stages = chain(space, word);
    Expansion { hash: Some(Hash::of_bytes(word.as_bytes())), ..stages }
}

/// Whether a run took the short way: then it left no folder.
fn was_idle(report: &RunReport) -> bool {
    assert_eq!(report.exit_code(), 0);
    report.folder.is_none()
}

#[test]
fn a_run_with_nothing_to_do_leaves_no_trace_and_counts_everything_as_fresh() {
    let space = space();
    let stages = named(&space, "a");
    assert!(!was_idle(&idle_run(&space, &stages)));
    let runs = || files::list_names(&space.store().runs_path()).unwrap().len();
    assert_eq!(runs(), 1);
    let report = idle_run(&space, &stages);
    assert!(was_idle(&report));
    assert_eq!((report.count(|outcome| *outcome == Outcome::Fresh), runs()), (4, 1));
    assert_eq!(space.ran(), "read trim train eval");
}

#[test]
fn whatever_looks_different_is_found_out_again() {
    let space = space();
    let stages = named(&space, "a");
    idle_run(&space, &stages);
    space.ran();
    let ran = || {
        let idle = was_idle(&idle_run(&space, &stages));
        let ran = space.ran();
        assert!(was_idle(&idle_run(&space, &stages)), "the next run finds what this one left");
        (idle, ran)
    };
    let nothing = String::new;

    // A link that is gone is made again, and so is a folder of links.
    files::remove_file(&space.path("out/test/train/rows.jsonl")).unwrap();
    assert_eq!(ran(), (false, nothing()));
    files::remove_dir(&space.path("out/test/trim")).unwrap();
    assert_eq!(ran(), (false, nothing()));
    assert!(space.path("out/test/trim/rows.jsonl").exists());

    // A file in the place of a link is kept beside it.
    let link = space.path("out/test/train/rows.jsonl");
    files::remove_file(&link).unwrap();
    files::write_atomic(&link, b"my own").unwrap();
    assert_eq!(ran(), (false, nothing()));
    assert_eq!(files::read_text(&space.path("out/test/train/rows.jsonl.edited")).unwrap(), "my own");

    // An object that was damaged is made again.
    damage(&space.object("train", "rows.jsonl"), "\"evil\"\n");
    assert_eq!(ran(), (false, "train".to_string()));

    // So is the result of a record that is gone.
    let store = space.store();
    let others = store.fingerprints().unwrap().into_iter();
    let train = store.latest(&"test".into(), "train").fingerprint.unwrap();
    store.keep_records(&others.filter(|other| *other != train).collect()).unwrap();
    assert_eq!(ran(), (false, "train".to_string()));

    // Other content runs what it must; equal content runs nothing.
    space.write("data.txt", "one\ntwo");
    assert_eq!(ran(), (true, nothing()));
    space.write("data.txt", "one\ntwo ");
    assert_eq!(ran(), (false, "read trim".to_string()));

    // What was found may be gone, or be nonsense.
    files::remove_dir(&space.store().root().join("derived")).unwrap();
    assert_eq!(ran(), (false, nothing()));
    space.store().write_cached("chain.standing", b"nonsense");
    assert_eq!(ran(), (false, nothing()));
}

#[test]
fn what_was_found_of_one_experiment_says_nothing_of_another() {
    let space = space();
    idle_run(&space, &named(&space, "a"));
    idle_run(&space, &named(&space, "b"));
    space.ran();
    // Back again: nothing runs, and the names lead to the results of the first form.
    assert!(!was_idle(&idle_run(&space, &named(&space, "a"))));
    assert_eq!(space.ran(), "");
    assert!(space.output("train").ends_with("\"a\""));
    assert!(was_idle(&idle_run(&space, &named(&space, "a"))));
}
