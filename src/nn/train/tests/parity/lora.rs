//! Training of adapters from PEFT's initial values.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Case, brief_cases, cases, relative_error};
use crate::Adapter;
use crate::hub::Dtype;
use crate::train::sft::CrossEntropy;
use ablate_core::base::files;

#[test]
fn adapters_match_peft() {
    for case in cases() {
        for run in ["lora-qv", "lora-all"] {
            let (_, before) = case.adapter(run, "before");
            assert_eq!((before.rank, before.scale()), (4, 2.0));
            let objective = CrossEntropy { rows: &case.rows };
            let trained = case.follow(run, &case.expected(run), Some(before), &objective);
            check(&case, run, &trained.adapter.unwrap());
        }
    }
}

#[test]
fn adapters_of_every_family_match_peft() {
    for case in brief_cases() {
        let (_, before) = case.adapter("lora-all", "before");
        let objective = CrossEntropy { rows: &case.rows };
        let trained = case.follow("lora-all", &case.expected("lora-all"), Some(before), &objective);
        check(&case, "lora-all", &trained.adapter.unwrap());
    }
}

fn check(case: &Case, run: &str, ours: &Adapter) {
    let (their_folder, theirs) = case.adapter(run, "after");
    assert!(ours.modules.keys().eq(theirs.modules.keys()));
    let halves = ours.modules.values().zip(theirs.modules.values());
    let errors = halves.flat_map(|(a, b)| [relative_error(&a.down, &b.down), relative_error(&a.up, &b.up)]);
    let error = errors.fold(0.0, f64::max);
    println!("{:<6} {run:<12} | adapter {error:.1e}", case.name());
    assert!(error < 1e-3, "{run}: an adapter's matrix is off by {error:e}");

    let family = case.start.architecture.family;
    let folder = tempfile::tempdir().unwrap();
    ours.write(folder.path(), family, None, Dtype::F32).unwrap();
    assert_eq!(Adapter::read(folder.path(), family).unwrap(), *ours);
    assert_eq!(names(folder.path()), names(&their_folder));
}

/// The names of the arrays in an adapter's folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let bytes = files::read_bytes(&folder.join("adapter_model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header.into_iter().map(|(name, _)| name).filter(|name| name != "__metadata__").collect()
}
