//! Whatever happened to the files of a store and to the links to them: every command ends without a panic, and a run
//! ends with the results of an undisturbed one or says why not.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use crate::toys::Space;
use crate::{Plan, PlanOptions, Quiet, RunOptions, RunReport, plan, query, run, why};
use ablate_core::base::{Hash, files, modes};
use ablate_experiment::Expansion;
use ablate_fuzz::{Edit, apply_edits, edits, fuzz, print_case};
use ablate_store::{GcRules, ObjectState, Store};

const PIECES: &[&str] = &["\n", "{", "}", "\"", "null", "-1", "1e400", "[]", "0", "\0", "ü", "ablate store 2"];
const STANDING: &str = "x.standing";

/// What happened to one file or folder.
#[derive(Clone, Debug)]
enum Harm {
    Remove,
    Write(Vec<u8>),
    Edit(Vec<Edit>),
    /// Other bytes under the old time of modification, as from a disk that decays.
    Decay(Vec<Edit>),
    /// A folder in the place of a file, a file in the place of a folder.
    Other,
    /// Another file beside it.
    Beside(Vec<u8>),
    /// A link that leads nowhere, or to itself.
    Link(bool),
}

#[derive(Clone, Debug)]
struct Case {
    harms: Vec<(Index, Harm)>,
    /// Whether a stage in the middle has changed since.
    changed: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let harm = prop_oneof![
        2 => Just(Harm::Remove),
        2 => vec(any::<u8>(), 0..200).prop_map(Harm::Write),
        6 => edits(PIECES).prop_map(Harm::Edit),
        2 => edits(PIECES).prop_map(Harm::Decay),
        2 => Just(Harm::Other),
        1 => vec(1..=255_u8, 1..9).prop_map(Harm::Beside),
        1 => any::<bool>().prop_map(Harm::Link),
    ];
    let harms = vec((any::<Index>(), harm), 1..4);
    (harms, any::<bool>()).prop_map(|(harms, changed)| Case { harms, changed })
}

fn stages(space: &Space, word: &str) -> Expansion {
    space.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("base", json!({ "kind": "model", "from": ["read"] })),
        ("train", json!({ "from": ["base"], "word": word })),
        ("eval@x=1", json!({ "from": ["train", "read"] })),
    ])
}

fn ready() -> Space {
    let space = Space::new();
    space.write("data.txt", "one\ntwo");
    space
}

fn run_on(space: &Space, stages: &Expansion, store: &Store) -> anyhow::Result<RunReport> {
    run("test", stages, store, &RunOptions { standing: Some(STANDING.to_string()), ..space.options() }, &Quiet)
}

fn plan_on(space: &Space, stages: &Expansion, store: &Store) -> anyhow::Result<Plan> {
    let options = PlanOptions {
        experiment: "test".into(),
        standing: Some(STANDING.to_string()),
        out: Some(space.path("out")),
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
        found
            .extend(record.outputs.iter().map(|(name, artifact)| (format!("{}/{name}", instance.name), artifact.hash)));
    }
    found
}

/// Files and folders in the store and among the links, but for the store's own folder.
fn places(space: &Space) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![space.path("cache"), space.path("out")];
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

fn inflict(harm: &Harm, path: &Path) {
    let Ok(found) = path.symlink_metadata() else { return };
    let old = files::read_bytes(path).unwrap_or_default();
    let write = |bytes: &[u8]| {
        remove(path);
        files::write_unsynced(path, bytes).unwrap();
    };
    match harm {
        Harm::Remove => remove(path),
        Harm::Other if found.is_dir() => write(b"a file"),
        Harm::Other => {
            remove(path);
            files::write_unsynced(&path.join("in a folder"), b"").unwrap();
        }
        Harm::Beside(name) => {
            let path = path.with_file_name(OsStr::from_bytes(name));
            if path.symlink_metadata().is_err() && !path.ends_with("..") && !path.is_dir() {
                files::create(&path).ok();
            }
        }
        Harm::Link(round) => {
            remove(path);
            files::symlink(if *round { path } else { Path::new("nowhere") }, path).unwrap();
        }
        _ if found.is_dir() => {}
        Harm::Write(bytes) => write(bytes),
        Harm::Edit(edits) => write(&apply_edits(&old, edits)),
        Harm::Decay(edits) => {
            write(&apply_edits(&old, edits));
            modes::seal(path, found.modified().unwrap_or(UNIX_EPOCH + Duration::from_secs(1)), false).unwrap();
        }
    }
}

/// A message is all that a failure may leave.
fn told<T>(result: anyhow::Result<T>) -> Option<T> {
    result.map_err(|error| assert!(!format!("{error:#}").is_empty())).ok()
}

#[test]
fn a_damaged_store_never_panics_and_never_gives_wrong_results() {
    let expected = ["a", "b"].map(|word| {
        let space = ready();
        let (stages, store) = (stages(&space, word), space.store());
        let report = run_on(&space, &stages, &store).unwrap();
        results(&stages, &store, &report)
    });
    fuzz("store", &cases(), |case| {
        let space = ready();
        for _ in 0..2 {
            assert_eq!(run_on(&space, &stages(&space, "a"), &space.store()).unwrap().exit_code(), 0);
        }
        let places = places(&space);
        for (at, harm) in &case.harms {
            inflict(harm, &places[at.index(places.len())]);
        }
        let hit: Vec<&PathBuf> = case.harms.iter().map(|(at, _)| &places[at.index(places.len())]).collect();
        print_case(&hit);
        examine(&space, &case, &expected[usize::from(case.changed)], &places);
    });
}

fn examine(space: &Space, case: &Case, expected: &BTreeMap<String, Hash>, places: &[PathBuf]) {
    let stages = stages(space, if case.changed { "b" } else { "a" });
    let hit = |at: &Index| &places[at.index(places.len())];
    let store = Store::open(&space.path("cache"));
    if case.harms.iter().any(|(at, _)| hit(at).ends_with("FORMAT")) && store.is_err() {
        return;
    }
    let store = store.unwrap();
    if let Some(plan) = told(plan_on(space, &stages, &store)) {
        query::list(&"test".into(), &stages, &store, &plan);
        for id in stages.ids() {
            query::show(&"test".into(), &stages, &store, &plan, id);
            why(&stages, &plan, id);
        }
    }
    told(store.unfinished());
    let dry = store.gc_roots(&GcRules { runs: 3, ..GcRules::default() }).and_then(|kept| store.gc(&kept, true));
    told(store.verify(false, &|_, _| {}));
    let report = run_on(space, &stages, &store);
    // What is not of the kind that it should be, a person may have to take away.
    let strange = case.harms.iter().any(|(_, harm)| matches!(harm, Harm::Other | Harm::Link(_)));
    let Some(report) = told(report).filter(|report| report.exit_code() == 0 || !strange) else {
        assert!(strange, "the run fails");
        return;
    };
    assert!(report.exit_code() == 0, "{}", space.told(&report));
    assert_eq!(results(&stages, &store, &report), *expected);
    let decays = case.harms.iter().any(|(_, harm)| matches!(harm, Harm::Decay(_)));
    // A new look at everything, as another process has it.
    let store = space.store();
    let damaged: Vec<PathBuf> =
        store.verify(false, &|_, _| {}).unwrap().problems.into_iter().map(|problem| problem.path).collect();
    let mut current = BTreeSet::new();
    for instance in &report.instances {
        for (name, artifact) in store.slim_record(instance.fingerprint.unwrap()).unwrap().outputs.iter() {
            let path = store.artifact_path(artifact);
            current.insert(path.clone());
            let present = store.check(artifact, true).unwrap() == ObjectState::Present;
            assert!(present || (decays && damaged.contains(&path)), "{}", path.display());
            let link = space.path("out/test").join(&instance.name).join(name);
            assert!(strange || std::fs::read_link(&link).is_ok_and(|found| found == path), "{}", link.display());
        }
    }
    store.verify(true, &|_, _| {}).unwrap();
    let again = || {
        let report = told(run_on(space, &stages, &store));
        let done = report.as_ref().is_some_and(|report| report.exit_code() == 0);
        assert!(done || strange, "{:?}", report.map(|report| space.told(&report)));
        done
    };
    if !again() {
        return;
    }
    space.ran();
    let freed = store.gc_roots(&GcRules { runs: 3, ..GcRules::default() }).and_then(|kept| store.gc(&kept, false));
    assert!(strange || (dry.is_ok() && freed.is_ok()), "{dry:?} {freed:?}");
    if !again() {
        return;
    }
    if freed.is_ok() {
        assert_eq!(space.ran(), "");
        // What an earlier form of the experiment left may still be damaged, and is named.
        let problems = space.store().verify(false, &|_, _| {}).unwrap().problems;
        assert!(problems.iter().all(|problem| case.changed && !current.contains(&problem.path)), "{problems:?}");
    }
}

#[test]
fn any_findings_of_a_run_are_read_without_a_panic() {
    let space = ready();
    let (stages, store) = (stages(&space, "a"), space.store());
    for _ in 0..2 {
        run_on(&space, &stages, &store).unwrap();
    }
    let sound = store.read_cached(STANDING).unwrap();
    let lies: &[&str] = &["\u{7f}", "\0", "\u{1}", "\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}"];
    let huge = prop_oneof![Just(vec![]), Just(vec![0xff; 9]), Just([&[0xff; 9][..], &[1]].concat())];
    fuzz("standing", &(edits(lies), any::<Index>(), huge), |(edits, at, huge)| {
        let mut bytes = apply_edits(&sound, &edits);
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, huge);
        store.write_cached(STANDING, &bytes);
        let plan = plan_on(&space, &stages, &store).unwrap();
        query::list(&"test".into(), &stages, &store, &plan);
    });
}
