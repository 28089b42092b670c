//! Compares two manifests entry by entry. The compared list is the hashed list, so no difference is missed.

use std::collections::BTreeMap;

use super::dirty::DirtyReason;
use ablate_core::stage::{Manifest, ManifestEntry};

/// All differences between two manifests, in the order of the new one. Empty if and only if the fingerprints are equal.
pub(super) fn diff_manifests(old: &Manifest, new: &Manifest) -> Vec<DirtyReason> {
    let mut reasons = Vec::new();
    if old.kind != new.kind {
        reasons.push(DirtyReason::KindChanged { old: old.kind.clone(), new: new.kind.clone() });
    } else if old.version != new.version {
        reasons.push(DirtyReason::VersionChanged { kind: new.kind.clone(), old: old.version, new: new.version });
    }
    let (before, after) = (keyed(old), keyed(new));
    for entry_key in keys(new) {
        match (before.get(&entry_key), after[&entry_key]) {
            (None, entry) => reasons.push(added(entry)),
            (Some(before), entry) => reasons.extend(changed(before, entry)),
        }
    }
    for entry_key in keys(old) {
        if !after.contains_key(&entry_key) {
            reasons.push(removed(before[&entry_key]));
        }
    }
    if reasons.is_empty() && old.fingerprint() != new.fingerprint() {
        let moved = old.entries.iter().zip(&new.entries).find(|(old, new)| text(old) != text(new));
        let key = moved.map_or("", |(_, new)| new.key()).to_string();
        reasons.push(DirtyReason::OrderChanged { key });
    }
    reasons
}

/// Identifies an entry: its type, its key, and its position among the entries with the same type and key.
type EntryKey = (u8, String, usize);

fn keys(manifest: &Manifest) -> Vec<EntryKey> {
    let mut seen: BTreeMap<(u8, String), usize> = BTreeMap::new();
    let mut order = Vec::with_capacity(manifest.entries.len());
    for entry in &manifest.entries {
        let entry_type = match entry {
            ManifestEntry::Value { .. } => 0,
            ManifestEntry::Input { .. } => 1,
            ManifestEntry::Seed { .. } => 2,
        };
        let count = seen.entry((entry_type, entry.key().to_string())).or_default();
        order.push((entry_type, entry.key().to_string(), *count));
        *count += 1;
    }
    order
}

fn keyed(manifest: &Manifest) -> BTreeMap<EntryKey, &ManifestEntry> {
    keys(manifest).into_iter().zip(&manifest.entries).collect()
}

/// Compares values as the text that is hashed. Equality of JSON objects ignores the order of keys, the hash does not.
fn text(entry: &ManifestEntry) -> String {
    serde_json::to_string(entry).unwrap_or_else(|error| panic!("BUG: a manifest is plain data: {error}"))
}

fn changed(old: &ManifestEntry, new: &ManifestEntry) -> Option<DirtyReason> {
    if text(old) == text(new) {
        return None;
    }
    Some(match (old, new) {
        (ManifestEntry::Value { value: old, .. }, ManifestEntry::Value { key, value: new }) => {
            DirtyReason::ValueChanged { key: key.clone(), old: old.clone(), new: new.clone() }
        }
        (ManifestEntry::Input { hash: old, .. }, ManifestEntry::Input { role, hash: new }) => {
            DirtyReason::InputChanged { role: role.clone(), old: *old, new: *new, path: None }
        }
        (ManifestEntry::Seed { seed: old }, ManifestEntry::Seed { seed: new }) => {
            DirtyReason::SeedChanged { old: Some(*old), new: Some(*new) }
        }
        _ => panic!("BUG: entries of different types share a key"),
    })
}

fn added(entry: &ManifestEntry) -> DirtyReason {
    match entry {
        ManifestEntry::Value { key, value } => DirtyReason::ValueAdded { key: key.clone(), new: value.clone() },
        ManifestEntry::Input { role, .. } => DirtyReason::InputAdded { role: role.clone() },
        ManifestEntry::Seed { seed } => DirtyReason::SeedChanged { old: None, new: Some(*seed) },
    }
}

fn removed(entry: &ManifestEntry) -> DirtyReason {
    match entry {
        ManifestEntry::Value { key, value } => DirtyReason::ValueRemoved { key: key.clone(), old: value.clone() },
        ManifestEntry::Input { role, .. } => DirtyReason::InputRemoved { role: role.clone() },
        ManifestEntry::Seed { seed } => DirtyReason::SeedChanged { old: Some(*seed), new: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use rand::RngExt;
    use serde_json::json;

    use ablate_core::base::{Hash, Seed};

    fn lines(reasons: &[DirtyReason]) -> String {
        reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n"
    }

    #[test]
    fn differences_keep_the_order_of_the_file() {
        let mut old = Manifest::new("dpo", 1);
        old.value("beta", &0.1);
        old.value("band", &[0.25, 0.85]);
        old.value("gone", &true);
        old.input("policy", Hash::of_bytes(b"1"));
        old.seed(0);
        let mut new = Manifest::new("dpo", 2);
        new.value("beta", &0.2);
        new.value("band", &[0.25, 0.85]);
        new.input("policy", Hash::of_bytes(b"2"));
        new.input("pairs", Hash::of_bytes(b"3"));
        new.seed(1);
        expect![[r#"
            version 2 of kind `dpo` gives different results than version 1
            `beta` changed from 0.1 to 0.2
            the content of its input `policy` changed from d63bd9a826 to 813e9b7291
            its input `pairs` was added
            its seed changed from 0 to 1
            `gone` was removed, it was true
        "#]]
        .assert_eq(&lines(&diff_manifests(&old, &new)));
        assert_eq!(diff_manifests(&old, &old), []);
    }

    /// A random manifest from a small set of entries, so that two of them often share some.
    fn random(rng: &mut impl RngExt) -> Manifest {
        let mut manifest = Manifest::new(["sft", "dpo"][rng.random_range(0..2)], rng.random_range(1..3));
        for _ in 0..rng.random_range(0..5) {
            let key = ["a", "b", "c"][rng.random_range(0..3)];
            match rng.random_range(0..5) {
                0 => manifest.value(key, &rng.random_range(0..2)),
                1 => manifest.value(key, &json!([{ "x": 1, "y": 2 }])),
                2 => manifest.value(key, &json!([{ "y": 2, "x": 1 }])),
                3 => manifest.input(key, Hash::of_bytes(&[rng.random_range(0..2)])),
                _ => manifest.seed(rng.random_range(0..2)),
            }
        }
        manifest
    }

    #[test]
    fn fingerprints_differ_exactly_when_a_reason_exists() {
        let mut rng = Seed(7).stream("manifests");
        let mut equal = 0;
        for _ in 0..5000 {
            let (old, new) = (random(&mut rng), random(&mut rng));
            let same = old.fingerprint() == new.fingerprint();
            equal += usize::from(same);
            assert_eq!(diff_manifests(&old, &new).is_empty(), same, "{old:?}\n{new:?}");
        }
        assert!(equal > 20, "too few equal pairs to test: {equal}");
    }
}
