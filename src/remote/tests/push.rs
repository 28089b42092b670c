//! Pushes: what is sent, in parts, from several writers, and to servers that ignore conditions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::support::{Server, commit, fetch, large, object_of, open, store, transfers};
use crate::conditional::Conditional;
use ablate_core::base::Hash;
use ablate_store::Store;

#[test]
fn a_second_push_sends_nothing() {
    let (server, (_folder, store)) = (Arc::new(Server::default()), store());
    let results = [commit(&store, "a", &[("", b"1")]), commit(&store, "b", &[("x", b"1"), ("y", b"2"), ("z", b"2")])];
    let report = open(&server).push(&store, &results).unwrap();
    assert_eq!((report.records, report.objects), (2, 3), "the file, the manifest, and one more file");
    let again = open(&server).push(&store, &results).unwrap();
    assert_eq!((again.records, again.objects, again.records_there, again.objects_there), (0, 0, 2, 3));
    assert_eq!((again.bytes, again.bytes_there), (0, report.bytes));
}

#[test]
fn an_upload_that_was_cut_continues() {
    let (server, (_folder, store)) = (Arc::new(Server::default()), store());
    let result = commit(&store, "a", &[("", &large())]);
    *server.parts_left.lock().unwrap() = Some(2);
    let error = format!("{:#}", open(&server).push(&store, &[result]).unwrap_err());
    assert!(error.contains("the connection was cut"), "{error}");
    assert_eq!(server.names_in("records"), Vec::<String>::new(), "no record before its objects");
    assert_eq!(transfers(&store).len(), 1);
    *server.parts_left.lock().unwrap() = None;
    open(&server).push(&store, &[result]).unwrap();
    assert_eq!(server.parts_sent.load(Ordering::Relaxed), 4, "each part once");
    assert_eq!(transfers(&store), Vec::<String>::new());
    let (_other, other) = super::support::store();
    assert_eq!(fetch(&open(&server), &other, &[result]), (1, vec![]));
}

#[test]
fn an_upload_that_the_server_forgot_starts_again() {
    let ((_folder, store), result);
    (_folder, store) = super::support::store();
    result = commit(&store, "a", &[("", &large())]);
    let server = Arc::new(Server::default());
    *server.parts_left.lock().unwrap() = Some(2);
    open(&server).push(&store, &[result]).unwrap_err();
    // A new server has the same address, and no upload.
    let server = Arc::new(Server::default());
    open(&server).push(&store, &[result]).unwrap();
    assert_eq!(server.names_in("objects"), [format!("team/{}", object_of(&large()))]);
}

#[test]
fn other_outputs_at_the_remote_are_kept() {
    let server = Arc::new(Server::default());
    let ((_a, first), (_b, second)) = (store(), store());
    let result = commit(&first, "a", &[("", b"1")]);
    commit(&second, "a", &[("", b"2")]);
    open(&server).push(&first, &[result]).unwrap();
    let report = open(&server).push(&second, &[result]).unwrap();
    assert_eq!((report.records, report.objects, report.records_different), (0, 0, vec![result]));
    let (_c, third) = store();
    assert_eq!(fetch(&open(&server), &third, &[result]), (1, vec![]));
    assert_eq!(third.record(result).unwrap().outputs, first.record(result).unwrap().outputs);
}

#[test]
fn eight_writers_lose_nothing() {
    for ignores in [false, true] {
        let server = Arc::new(Server::default());
        server.ignores_conditions.store(ignores, Ordering::Relaxed);
        let stores: Vec<_> = (0..8).map(|_| store()).collect();
        let make = |store: &Store| -> Vec<Hash> {
            (0..6_u8)
                .map(|number| commit(store, &format!("{number}"), &[("a", &[number; 100]), ("b", b"same")]))
                .collect()
        };
        let results = make(&stores[0].1);
        stores[1..].iter().for_each(|(_, store)| drop(make(store)));
        // Opened one after another: the first creates the remote.
        let remotes: Vec<_> = stores.iter().map(|_| open(&server)).collect();
        std::thread::scope(|scope| {
            for ((_, store), remote) in stores.iter().zip(&remotes) {
                let results = &results;
                scope.spawn(move || remote.push(store, results).unwrap());
            }
        });
        let expected = if ignores { Conditional::Ignored } else { Conditional::Works };
        assert_eq!(remotes[0].conditional(&stores[0].1).unwrap(), expected);
        let (_folder, other) = store();
        assert_eq!(fetch(&open(&server), &other, &results), (6, vec![]));
        assert_eq!(server.names_in("probes"), Vec::<String>::new());
    }
}

#[test]
fn the_answer_about_conditions_is_kept_in_the_store() {
    let (server, (_folder, store)) = (Arc::new(Server::default()), store());
    assert_eq!(open(&server).conditional(&store).unwrap(), Conditional::Works);
    server.ignores_conditions.store(true, Ordering::Relaxed);
    assert_eq!(open(&server).conditional(&store).unwrap(), Conditional::Works, "not asked again");
    let (_folder, other) = super::support::store();
    assert_eq!(open(&server).conditional(&other).unwrap(), Conditional::Ignored);
}
