//! Stores of earlier versions: their results are still fresh, except those of kinds whose version was raised.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use ablate_store::{StageRecord, Store};
use serde_json::Value;

use crate::support::{Project, repository};

/// Kinds with a higher version than in the store.
const RAISED: [&str; 4] = ["sft", "dpo", "items", "eval"];

/// A project with a store that has a result of every kind of stage, made at commit e3c65af, before the program became a
/// workspace.
fn project_of_version_0_1() -> Project {
    let fixture = repository("tests/fixtures/store-0.1");
    let project = Project::new();
    for name in ["experiment.toml", "sample.sh", "items.jsonl"] {
        project.write(name, fs::read(fixture.join(name)).unwrap());
    }
    let unpacked =
        Command::new("tar").arg("-xzf").arg(fixture.join("store.tgz")).current_dir(project.path("")).status().unwrap();
    assert!(unpacked.success());
    project
}

/// The instances of the plan: kind, stage and state.
fn instances(project: &Project) -> Vec<[String; 3]> {
    let plan = project.json(&["plan", "experiment.toml"]);
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let stage = |name: &str| name.split('@').next().unwrap().to_string();
    let instances = plan["instances"].as_array().unwrap().iter();
    instances.map(|each| [text(&each["kind"]), stage(each["name"].as_str().unwrap()), text(&each["state"])]).collect()
}

#[test]
fn store_of_version_0_1_is_fresh_except_raised_kinds() {
    let project = project_of_version_0_1();
    let states: BTreeSet<String> =
        instances(&project).into_iter().map(|[kind, stage, state]| format!("{state}: {kind} {stage}\n")).collect();
    // The stages that wait need items.
    expect_test::expect![[r#"
        dirty: items captions
        dirty: items own
        dirty: items questions
        dirty: items test
        waits: base fresh
        waits: command sampled
        waits: distill rationales
        waits: dpo dpo
        waits: eval eval
        waits: export exported
        waits: judge judged
        waits: mix lessons
        waits: mix mix
        waits: pairs pairs
        waits: rerank rerank
        waits: rollout rollouts
        waits: score credits
        waits: sft base
        waits: sft lora
        waits: sft sft
        waits: tokenizer tokenizer
    "#]]
    .assert_eq(&states.into_iter().collect::<String>());
}

/// A project whose results of that version have today's versions of their kinds.
fn project_with_raised_versions() -> Project {
    let project = project_of_version_0_1();
    let store = Store::open(&project.path("cache")).unwrap();
    let records = store.fingerprints().unwrap().into_iter().map(|fingerprint| store.record(fingerprint).unwrap());
    let raised = |mut record: StageRecord| {
        let kind = ablate_core::stage::find_kind(ablate::stages::KINDS, &record.manifest.kind).unwrap();
        record.manifest.version = kind.version;
        StageRecord { fingerprint: record.manifest.fingerprint(), ..record }
    };
    let records: Vec<StageRecord> =
        records.filter(|record| RAISED.contains(&&*record.manifest.kind)).map(raised).collect();
    assert!(!records.is_empty());
    store.commit(&records).unwrap();
    project
}

/// With nothing but the versions changed, every result is found again.
#[test]
fn store_of_version_0_1_differs_in_versions_only() {
    let project = project_with_raised_versions();
    let instances = instances(&project);
    let stale: Vec<_> = instances.iter().filter(|[.., state]| state != "fresh").collect();
    assert!(stale.is_empty(), "{stale:#?}");
    let kinds: BTreeSet<&str> = instances.iter().map(|[kind, ..]| &**kind).collect();
    assert_eq!((instances.len(), kinds.len()), (49, 15), "{kinds:?}");
}

/// Stages with `lora` stored the merged weights.
#[test]
fn a_model_with_merged_weights_is_read() {
    let project = project_with_raised_versions();
    project.edit("experiment.toml", "benchmark  = \"test\"", "benchmark  = \"test\"\ntake = { first = 2 }");
    let ran = project.ran_instances(&["experiment.toml", "eval@model=lora"]);
    assert!(
        !ran.is_empty() && ran.iter().all(|name| name.starts_with("eval@") && name.contains("model=lora")),
        "{ran:?}"
    );
}
