//! Fetches: damaged, missing and cut objects, and damaged records.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::support::{Server, commit, fetch, large, object_of, open, store, transfers};
use crate::Found;
use crate::layout::record_name;
use crate::transfer::RANGE;
use ablate_store::Store;

/// The number of files in the store's objects.
fn objects(store: &Store) -> usize {
    ablate_core::base::files::walk(&store.root().join("objects")).map_or(0, |found| found.len())
}

#[test]
fn a_download_that_was_cut_continues() {
    let server = Arc::new(Server::default());
    let ((_a, from), (_b, to)) = (store(), store());
    let result = commit(&from, "a", &[("", &large())]);
    open(&server).push(&from, &[result]).unwrap();
    *server.gets_below.lock().unwrap() = Some(2 * RANGE);
    let (count, errors) = fetch(&open(&server), &to, &[result]);
    assert!(count == 0 && errors[0].contains("the connection was cut"), "{errors:?}");
    assert_eq!((objects(&to), transfers(&to).len()), (0, 1));
    *server.gets_below.lock().unwrap() = None;
    server.gets.store(0, Ordering::Relaxed);
    assert_eq!(fetch(&open(&server), &to, &[result]), (1, vec![]));
    let ranges = large().len().div_ceil(RANGE as usize);
    assert_eq!(server.gets.load(Ordering::Relaxed), ranges - 2, "exactly the ranges that were left");
    assert_eq!(transfers(&to), Vec::<String>::new());
    // A partial file that was damaged here is downloaded again.
    let (_c, third) = store();
    let name = format!("{}.part", object_of(&large()).rsplit('/').next().unwrap());
    ablate_core::base::files::write_unsynced(&third.transfers_path().join(name), b"other").unwrap();
    assert_eq!(fetch(&open(&server), &third, &[result]), (1, vec![]));
}

#[test]
fn damaged_objects_are_refused_and_the_next_push_replaces_them() {
    let server = Arc::new(Server::default());
    let ((_a, from), (_b, to)) = (store(), store());
    let results = [commit(&from, "a", &[("", b"good")]), commit(&from, "b", &[("x", b"12345"), ("y", b"67890")])];
    open(&server).push(&from, &results).unwrap();
    for (good, bad) in [(&b"good"[..], &b"evil"[..]), (b"12345", b"12346")] {
        server.write(&object_of(good), bad);
    }
    let remote = open(&server);
    let (count, errors) = fetch(&remote, &to, &results);
    assert_eq!(count, 0);
    for (error, bytes) in errors.iter().zip([&b"good"[..], b"12345"]) {
        assert!(error.contains(&object_of(bytes)) && error.contains("It was not used"), "{error}");
    }
    assert_eq!((objects(&to), transfers(&to)), (0, vec![]));
    assert!(to.record(results[0]).is_none());
    // The same process makes the results itself, and sends them.
    commit(&to, "a", &[("", b"good")]);
    commit(&to, "b", &[("x", b"12345"), ("y", b"67890")]);
    assert_eq!(remote.push(&to, &results).unwrap().renewed, 2);
    let (_c, third) = store();
    assert_eq!(fetch(&open(&server), &third, &results), (2, vec![]));
}

#[test]
fn a_record_without_its_objects_brings_nothing() {
    let server = Arc::new(Server::default());
    let ((_a, from), (_b, to)) = (store(), store());
    let results = [commit(&from, "a", &[("", b"1")]), commit(&from, "b", &[("", b"2")])];
    open(&server).push(&from, &results).unwrap();
    server.remove(&object_of(b"1"));
    let (count, errors) = fetch(&open(&server), &to, &results);
    assert!(count == 1 && errors[0].contains("is not at the remote"), "{errors:?}");
    assert!(to.record(results[0]).is_none() && to.record(results[1]).is_some());
    // The next push sends the object again.
    assert_eq!(open(&server).push(&from, &results).unwrap().objects, 1);
}

#[test]
fn damaged_records_are_not_used() {
    let server = Arc::new(Server::default());
    let (_folder, from) = store();
    let results = [commit(&from, "a", &[("", b"1")]), commit(&from, "b", &[("", b"2")])];
    open(&server).push(&from, &results).unwrap();
    let good = open(&server).get(&record_name(results[0])).unwrap().unwrap();
    let flipped: Vec<u8> = good.iter().enumerate().map(|(at, byte)| if at == 40 { byte ^ 1 } else { *byte }).collect();
    for bad in [&b""[..], b"{}", &good[..good.len() / 2], &flipped] {
        server.write(&record_name(results[0]), bad);
        let found = open(&server).find(&results).unwrap();
        assert!(matches!(&found[..], [Found::Unusable(_), Found::Record(_)]), "{found:?}");
    }
    // Nor is that of another result.
    server.write(&record_name(results[1]), &good);
    assert!(matches!(&open(&server).find(&results).unwrap()[1], Found::Unusable(_)));
    assert_eq!(open(&server).push(&from, &results).unwrap().records, 2, "a push replaces them");
    assert!(open(&server).find(&results).unwrap().iter().all(|found| matches!(found, Found::Record(_))));
}
