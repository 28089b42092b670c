//! Results that build on checkpoints: they are sent, fetched and kept together.

use std::sync::Arc;

use super::support::{Server, commit, fetch, object_of, open, store};
use crate::{GcRules, Root};
use ablate_core::base::Hash;
use ablate_core::stage::{Artifact, BaseCheckpoint};
use ablate_store::Store;

/// A result whose output builds on that of another one.
fn commit_on(store: &Store, fingerprint: &str, base: &Artifact) -> Hash {
    let made = commit(store, fingerprint, &[("adapter", fingerprint.as_bytes())]);
    let mut record = store.record(made).unwrap();
    record.outputs.get_mut("out").unwrap().bases = vec![BaseCheckpoint { hash: base.hash, size: base.size }];
    store.commit(&[record]).unwrap();
    made
}

fn output(store: &Store, fingerprint: Hash) -> Artifact {
    store.record(fingerprint).unwrap().outputs["out"].clone()
}

#[test]
fn an_adapter_moves_and_stays_with_its_base() {
    let server = Arc::new(Server::default());
    let ((_a, from), (_b, to)) = (store(), store());
    let base = commit(&from, "base", &[("config", b"{}"), ("weights", b"12345")]);
    let adapters = ["one", "two"].map(|name| commit_on(&from, name, &output(&from, base)));
    // The record of the base is not sent.
    let report = open(&server).push(&from, &adapters).unwrap();
    assert_eq!((report.records, report.objects), (2, 3 + 2 * 2), "the base once");
    let adapter = output(&from, adapters[0]);
    assert_eq!(fetch(&open(&server), &to, &adapters[..1]), (1, vec![]));
    assert!(adapter.with_bases().all(|artifact| to.is_present(&artifact)) && to.record(base).is_none());

    let root = |fingerprints: &[Hash]| Root {
        experiment: "study".into(),
        file: "study.toml".into(),
        host: "here".into(),
        store: "a".into(),
        overrides: Vec::new(),
        fingerprints: fingerprints.to_vec(),
    };
    open(&server).put_root(&root(&adapters[..1])).unwrap();
    server.age_everything(100);
    let kept = open(&server).gc(&GcRules::default(), false).unwrap();
    assert_eq!((kept.records, kept.objects), (1, 2), "the other adapter without the base");
    open(&server).put_root(&root(&[])).unwrap();
    let removed = open(&server).gc(&GcRules::default(), false).unwrap();
    assert_eq!((removed.records, removed.objects), (1, 2 + 3));
}

#[test]
fn an_adapter_without_its_base_is_not_fetched() {
    let server = Arc::new(Server::default());
    let ((_a, from), (_b, to)) = (store(), store());
    let base = commit(&from, "base", &[("weights", b"12345")]);
    let adapter = commit_on(&from, "one", &output(&from, base));
    open(&server).push(&from, &[adapter]).unwrap();
    server.remove(&object_of(b"12345"));
    let (count, errors) = fetch(&open(&server), &to, &[adapter]);
    assert_eq!((count, errors.len()), (0, 1), "{errors:?}");
    assert!(to.record(adapter).is_none());
}
