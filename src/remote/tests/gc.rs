//! `gc` of a remote.

use std::sync::Arc;
use std::time::Duration;

use super::support::{Server, commit, fetch, open, store};
use crate::{GcReport, GcRules, Root};
use ablate_core::base::Hash;

fn root(store: &str, fingerprints: &[Hash]) -> Root {
    Root {
        experiment: "study".into(),
        file: "study.toml".into(),
        host: "here".into(),
        store: store.into(),
        overrides: Vec::new(),
        fingerprints: fingerprints.to_vec(),
    }
}

fn removed(report: &GcReport) -> (usize, usize, usize) {
    (report.roots, report.records, report.objects)
}

#[test]
fn what_no_root_names_is_removed_after_the_grace_period() {
    let (server, (_folder, store)) = (Arc::new(Server::default()), store());
    let [old, new] = [commit(&store, "old", &[("a", b"1"), ("b", b"2")]), commit(&store, "new", &[("b", b"2")])];
    let remote = open(&server);
    remote.push(&store, &[old, new]).unwrap();
    remote.put_root(&root("a", &[old, new])).unwrap();
    server.age_everything(100);
    assert_eq!(removed(&open(&server).gc(&GcRules::default(), false).unwrap()), (0, 0, 0));
    // The experiment does not have `old` any more.
    open(&server).put_root(&root("a", &[new])).unwrap();
    let dry = open(&server).gc(&GcRules::default(), true).unwrap();
    let report = open(&server).gc(&GcRules::default(), false).unwrap();
    assert_eq!(removed(&dry), (0, 1, 2), "its record, its manifest, and the file that only it has");
    assert_eq!((removed(&report), report.bytes), (removed(&dry), dry.bytes));
    assert_eq!((report.kept_records, report.kept_objects), (1, 2));
    let (_other, other) = super::support::store();
    assert_eq!(fetch(&open(&server), &other, &[old, new]), (1, vec![]));
    let young = GcRules { grace: Duration::from_secs(200 * 24 * 3600), ..GcRules::default() };
    assert_eq!(open(&server).gc(&young, false).unwrap().young, 0);
}

#[test]
fn young_results_stay_without_a_root() {
    let (server, (_folder, store)) = (Arc::new(Server::default()), store());
    let result = commit(&store, "a", &[("", b"1")]);
    open(&server).push(&store, &[result]).unwrap();
    server.age_everything(13);
    let report = open(&server).gc(&GcRules::default(), false).unwrap();
    assert_eq!((removed(&report), report.young), ((0, 0, 0), 1));
    server.age_everything(15);
    assert_eq!(removed(&open(&server).gc(&GcRules::default(), false).unwrap()), (0, 1, 1));
}

#[test]
fn a_push_renews_old_objects_that_it_relies_on() {
    let (server, (_folder, store)) = (Arc::new(Server::default()), store());
    let [first, second] = [commit(&store, "a", &[("x", b"1")]), commit(&store, "b", &[("x", b"1")])];
    open(&server).push(&store, &[first]).unwrap();
    server.age_everything(8);
    let report = open(&server).push(&store, &[second]).unwrap();
    assert_eq!((report.records, report.objects, report.renewed), (1, 2, 2));
    // The record of `first` is old enough now, and the objects are those of `second`.
    let rules = GcRules { grace: Duration::from_secs(7 * 24 * 3600), ..GcRules::default() };
    assert_eq!(removed(&open(&server).gc(&rules, false).unwrap()), (0, 1, 0));
    assert_eq!(open(&server).push(&store, &[second]).unwrap().renewed, 0);
}

#[test]
fn old_experiments_are_dropped_only_on_request() {
    let (server, (_folder, store)) = (Arc::new(Server::default()), store());
    let result = commit(&store, "a", &[("", b"1")]);
    open(&server).push(&store, &[result]).unwrap();
    open(&server).put_root(&root("a", &[result])).unwrap();
    server.age_everything(400);
    assert_eq!(removed(&open(&server).gc(&GcRules::default(), false).unwrap()), (0, 0, 0));
    let rules = GcRules { max_age: Some(Duration::from_secs(365 * 24 * 3600)), ..GcRules::default() };
    assert_eq!(removed(&open(&server).gc(&rules, false).unwrap()), (1, 1, 1));
}

#[test]
fn unknown_files_stay_and_protect_objects() {
    let (server, (_folder, store)) = (Arc::new(Server::default()), store());
    let results = [commit(&store, "a", &[("", b"1")]), commit(&store, "b", &[("", b"2")])];
    open(&server).push(&store, &results).unwrap();
    open(&server).put_root(&root("a", &results)).unwrap();
    server.write("notes.txt", b"mine");
    server.write("objects/ab/readme", b"mine");
    server.write(&crate::layout::record_name(results[0]), b"of a later version");
    open(&server).put_root(&root("a", &results[..1])).unwrap();
    server.age_everything(100);
    let report = open(&server).gc(&GcRules::default(), false).unwrap();
    assert_eq!((removed(&report), report.objects_kept_by_unknown), ((0, 1, 0), true));
    let unknown = [report.unknown.as_slice(), &[]].concat().join(" ");
    for name in ["notes.txt", "objects/ab/readme", "records/"] {
        assert!(unknown.contains(name), "{unknown}");
    }
    server.write("roots/later", b"of a later version");
    let error = open(&server).gc(&GcRules::default(), false).unwrap_err().to_string();
    assert!(error.contains("`roots/later`") && error.contains("nothing was removed"), "{error}");
}
