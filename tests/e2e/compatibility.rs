//! Stores of earlier versions: their results are still fresh.

use std::fs;
use std::process::Command;

use crate::support::{Project, repository};

/// A store with a result of every kind of stage, made at commit e3c65af, before the program became a workspace.
#[test]
fn store_of_version_0_1_is_fresh() {
    let fixture = repository("tests/fixtures/store-0.1");
    let project = Project::new();
    for name in ["experiment.toml", "sample.sh", "items.jsonl"] {
        project.write(name, fs::read(fixture.join(name)).unwrap());
    }
    let unpacked =
        Command::new("tar").arg("-xzf").arg(fixture.join("store.tgz")).current_dir(project.path("")).status().unwrap();
    assert!(unpacked.success());
    let plan = project.json(&["plan", "experiment.toml"]);
    let instances = plan["instances"].as_array().unwrap();
    let stale: Vec<_> = instances.iter().filter(|instance| instance["state"] != "fresh").collect();
    assert!(stale.is_empty(), "{stale:#?}");
    let mut kinds: Vec<_> = instances.iter().map(|instance| instance["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!((instances.len(), kinds.len()), (49, 15), "{kinds:?}");
}
