//! Fuzzes the files of a store and the links to them: no command panics, and a run gives the results of an intact store
//! or an error.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use crate::tests::support::{TestProject, query};
use crate::{NullObserver, Plan, PlanOptions, RunOptions, RunReport, plan, run, why};
use ablate_core::base::{Hash, files, modes};
use ablate_experiment::Expansion;
use ablate_fuzz::{Edit, apply_edits, edits, fuzz, print_case};
use ablate_store::{GcRules, ObjectState, Store};

const PIECES: &[&str] = &["\n", "{", "}", "\"", "null", "-1", "1e400", "[]", "0", "\0", "ü", "ablate store 2"];
const CACHE: &str = "x.noop";

/// A fault of one file or folder.
#[derive(Clone, Debug)]
enum Fault {
    Remove,
    Write(Vec<u8>),
    Edit(Vec<Edit>),
    /// Different bytes with the old modification time, as after a disk error.
    Corrupt(Vec<Edit>),
    /// A folder replaces a file, or a file a folder.
    OtherType,
    /// A new file in the same folder.
    AddSibling(Vec<u8>),
    /// A symbolic link to nothing, or to itself if `true`.
    Link(bool),
}

#[derive(Clone, Debug)]
struct Case {
    faults: Vec<(Index, Fault)>,
    /// Whether a stage in the middle changed.
    changed: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let fault = prop_oneof![
        2 => Just(Fault::Remove),
        2 => vec(any::<u8>(), 0..200).prop_map(Fault::Write),
        6 => edits(PIECES).prop_map(Fault::Edit),
        2 => edits(PIECES).prop_map(Fault::Corrupt),
        2 => Just(Fault::OtherType),
        1 => vec(1..=255_u8, 1..9).prop_map(Fault::AddSibling),
        1 => any::<bool>().prop_map(Fault::Link),
    ];
    let faults = vec((any::<Index>(), fault), 1..4);
    (faults, any::<bool>()).prop_map(|(faults, changed)| Case { faults, changed })
}

fn stages(project: &TestProject, word: &str) -> Expansion {
    project.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("base", json!({ "kind": "model", "from": ["read"] })),
        ("train", json!({ "from": ["base"], "word": word })),
        ("eval@x=1", json!({ "from": ["train", "read"] })),
    ])
}

fn run_on(project: &TestProject, stages: &Expansion, store: &Store) -> anyhow::Result<RunReport> {
    run("test", stages, store, &RunOptions { noop_cache: Some(CACHE.to_string()), ..project.options() }, &NullObserver)
}

fn plan_on(project: &TestProject, stages: &Expansion, store: &Store) -> anyhow::Result<Plan> {
    let options = PlanOptions {
        experiment: "test".into(),
        noop_cache: Some(CACHE.to_string()),
        links: Some(project.path("out/test")),
        ..PlanOptions::default()
    };
    plan(stages, store, &options)
}

/// The content of every output by instance and name.
fn results(stages: &Expansion, store: &Store, report: &RunReport) -> BTreeMap<String, Hash> {
    let mut found = BTreeMap::new();
    for instance in &report.instances {
        let record = store.record(instance.fingerprint.unwrap()).unwrap();
        assert_eq!(record.outputs.len(), stages.get(instance.id).outputs.len());
        let hashes = record.outputs.iter().map(|(name, output)| (format!("{}/{name}", instance.name), output.hash));
        found.extend(hashes);
    }
    found
}

/// Files and folders in the store and among the links, without the two root folders.
fn all_paths(project: &TestProject) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![project.path("cache"), project.path("out")];
    while let Some(folder) = pending.pop() {
        for (_, path, kind) in files::entries(&folder).unwrap() {
            if kind.is_dir() {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

fn remove(path: &Path) {
    let folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if folder { files::remove_dir(path).unwrap() } else { files::remove_file(path).ok().unwrap_or_default() }
}

fn inject(fault: &Fault, path: &Path) {
    let Ok(found) = path.symlink_metadata() else { return };
    let old = files::read_bytes(path).unwrap_or_default();
    let write = |bytes: &[u8]| {
        remove(path);
        files::write_unsynced(path, bytes).unwrap();
    };
    match fault {
        Fault::Remove => remove(path),
        Fault::OtherType if found.is_dir() => write(b"a file"),
        Fault::OtherType => {
            remove(path);
            files::write_unsynced(&path.join("in a folder"), b"").unwrap();
        }
        Fault::AddSibling(name) => {
            let path = path.with_file_name(OsStr::from_bytes(name));
            if path.symlink_metadata().is_err() && !path.ends_with("..") && !path.is_dir() {
                files::create(&path).ok();
            }
        }
        Fault::Link(to_itself) => {
            remove(path);
            files::symlink(if *to_itself { path } else { Path::new("nowhere") }, path).unwrap();
        }
        _ if found.is_dir() => {}
        Fault::Write(bytes) => write(bytes),
        Fault::Edit(edits) => write(&apply_edits(&old, edits)),
        Fault::Corrupt(edits) => {
            write(&apply_edits(&old, edits));
            modes::seal(path, found.modified().unwrap_or(UNIX_EPOCH + Duration::from_secs(1)), false).unwrap();
        }
    }
}

/// The value; an error must have a message.
fn ok<T>(result: anyhow::Result<T>) -> Option<T> {
    result.map_err(|error| assert!(!format!("{error:#}").is_empty())).ok()
}

#[test]
fn a_damaged_store_gives_no_panic_and_no_wrong_result() {
    let expected = ["a", "b"].map(|word| {
        let project = TestProject::with_data();
        let (stages, store) = (stages(&project, word), project.store());
        let report = run_on(&project, &stages, &store).unwrap();
        results(&stages, &store, &report)
    });
    fuzz("store", &cases(), |case| {
        let project = TestProject::with_data();
        for _ in 0..2 {
            assert_eq!(run_on(&project, &stages(&project, "a"), &project.store()).unwrap().exit_code(), 0);
        }
        let paths = all_paths(&project);
        for (at, fault) in &case.faults {
            inject(fault, &paths[at.index(paths.len())]);
        }
        let hit: Vec<&PathBuf> = case.faults.iter().map(|(at, _)| &paths[at.index(paths.len())]).collect();
        print_case(&hit);
        check_store(&project, &case, &expected[usize::from(case.changed)], &paths);
    });
}

fn check_store(project: &TestProject, case: &Case, expected: &BTreeMap<String, Hash>, paths: &[PathBuf]) {
    let stages = stages(project, if case.changed { "b" } else { "a" });
    let hit = |at: &Index| &paths[at.index(paths.len())];
    let store = Store::open(&project.path("cache"));
    if case.faults.iter().any(|(at, _)| hit(at).ends_with("FORMAT")) && store.is_err() {
        return;
    }
    let store = store.unwrap();
    if let Some(plan) = ok(plan_on(project, &stages, &store)) {
        query(&stages, &store, &plan).list();
        for id in stages.ids() {
            query(&stages, &store, &plan).show(id);
            why(&stages, &plan, id);
        }
    }
    ok(store.unfinished());
    let dry = store.gc_roots(&GcRules { runs: 3, ..GcRules::default() }).and_then(|kept| store.gc(&kept, true));
    ok(store.verify(false, &|_, _| {}));
    let report = run_on(project, &stages, &store);
    // A path of the wrong file type may need a person to remove it.
    let wrong_type = case.faults.iter().any(|(_, fault)| matches!(fault, Fault::OtherType | Fault::Link(_)));
    let Some(report) = ok(report).filter(|report| report.exit_code() == 0 || !wrong_type) else {
        assert!(wrong_type, "the run fails");
        return;
    };
    assert!(report.exit_code() == 0, "{}", project.outcomes(&report));
    assert_eq!(results(&stages, &store, &report), *expected);
    let corrupted = case.faults.iter().any(|(_, fault)| matches!(fault, Fault::Corrupt(_)));
    // A new store value has no cached state, like another process.
    let store = project.store();
    let problems = store.verify(false, &|_, _| {}).unwrap().problems;
    let damaged: Vec<PathBuf> = problems.into_iter().map(|problem| problem.path).collect();
    let mut current = BTreeSet::new();
    for instance in &report.instances {
        for (name, artifact) in store.slim_record(instance.fingerprint.unwrap()).unwrap().outputs.iter() {
            let path = store.artifact_path(artifact);
            current.insert(path.clone());
            let present = store.check(artifact, true).unwrap() == ObjectState::Present;
            assert!(present || (corrupted && damaged.contains(&path)), "{}", path.display());
            let link = project.path("out/test").join(&instance.name).join(name);
            assert!(wrong_type || std::fs::read_link(&link).is_ok_and(|found| found == path), "{}", link.display());
        }
    }
    store.verify(true, &|_, _| {}).unwrap();
    let again = || {
        let report = ok(run_on(project, &stages, &store));
        let done = report.as_ref().is_some_and(|report| report.exit_code() == 0);
        assert!(done || wrong_type, "{:?}", report.map(|report| project.outcomes(&report)));
        done
    };
    if !again() {
        return;
    }
    project.take_ran();
    let freed = store.gc_roots(&GcRules { runs: 3, ..GcRules::default() }).and_then(|kept| store.gc(&kept, false));
    assert!(wrong_type || (dry.is_ok() && freed.is_ok()), "{dry:?} {freed:?}");
    if !again() {
        return;
    }
    if freed.is_ok() {
        assert_eq!(project.take_ran(), "");
        // Results of the earlier experiment may still be corrupt. They are listed.
        let problems = project.store().verify(false, &|_, _| {}).unwrap().problems;
        assert!(problems.iter().all(|problem| case.changed && !current.contains(&problem.path)), "{problems:?}");
    }
}

#[test]
fn any_noop_cache_is_read_without_a_panic() {
    let project = TestProject::with_data();
    let (stages, store) = (stages(&project, "a"), project.store());
    for _ in 0..2 {
        run_on(&project, &stages, &store).unwrap();
    }
    let intact = store.read_cached(CACHE).unwrap();
    let pieces: &[&str] = &["\u{7f}", "\0", "\u{1}", "\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}"];
    let huge = prop_oneof![Just(vec![]), Just(vec![0xff; 9]), Just([&[0xff; 9][..], &[1]].concat())];
    fuzz("noop cache", &(edits(pieces), any::<Index>(), huge), |(edits, at, huge)| {
        let mut bytes = apply_edits(&intact, &edits);
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, huge);
        store.write_cached(CACHE, &bytes);
        let plan = plan_on(&project, &stages, &store).unwrap();
        query(&stages, &store, &plan).list();
    });
}
