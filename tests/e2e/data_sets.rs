//! Data sets as other libraries write them, read by the program: formats, folders, and the cache of Hugging Face's hub.

use crate::support::{Project, assert_contains, repository};

/// A project with a stage of kind `items` and these keys.
fn project(keys: &str) -> Project {
    let layouts = repository("tests/golden/layouts");
    Project::with_study(&format!(
        "name = \"study\"\n[vars]\nlayouts = \"{}\"\n[stage.items]\nkind = \"items\"\ndataset = \"d\"\n{keys}\n",
        layouts.display()
    ))
}

const COLUMNS: &str = r#"columns = { question = "query", answer = "label", options = "choices", image = "picture" }"#;

#[test]
fn a_data_set_gives_the_same_bytes_in_every_format() {
    let mut outputs = Vec::new();
    for keys in [
        "path = \"${layouts}/columns.jsonl\"\nimages = \"${layouts}/pictures\"",
        "path = \"${layouts}/columns.csv\"\nimages = \"${layouts}/pictures\"",
        "path = \"${layouts}/saved\"",
        "path = \"${layouts}/dict\"\nsplit = \"train\"",
        "path = \"${layouts}/hub\"\nsplit = \"train\"",
        "path = \"${layouts}/polars.parquet\"",
    ] {
        let project = project(&format!("{keys}\n{COLUMNS}"));
        let outcome = project.ok(&["run", "study.toml"]);
        assert_contains(&outcome.stderr, &["columns of ", "not read: `topic`"]);
        outputs.push(project.outputs("study"));
    }
    assert!(outputs[0].contains_key("items/items.jsonl") && outputs[0].contains_key("items/images.tar"));
    assert!(outputs.iter().all(|output| *output == outputs[0]));
}

#[test]
fn ambiguous_folders_are_reported_before_anything_runs() {
    let project = project(&format!("path = \"${{layouts}}/hub\"\n{COLUMNS}"));
    let outcome = project.fails(2, &["check", "study.toml"]);
    assert_contains(
        &outcome.stderr,
        &["`stage.items.path`: ", "has several splits: write `split = \"…\"` with one of `test`, `train`"],
    );
}

#[test]
fn a_snapshot_of_the_hub_is_a_path() {
    let project = project(&format!("path = \"hf://org/shapes/data\"\nsplit = \"train\"\n{COLUMNS}"));
    let cache = project.path("cache-of-the-hub");
    let run = |arguments: &[&str]| {
        project.finish(project.command(arguments).env("HF_HUB_CACHE", &cache).env_remove("HF_HOME"))
    };
    let outcome = run(&["run", "study.toml"]).exited(2);
    let command = "to download it run `hf download org/shapes --repo-type dataset`";
    assert_contains(&outcome.stderr, &["`stage.items.path`: `hf://org/shapes/data` is not in the cache", command]);

    // The cache holds links to blobs.
    let snapshot = "cache-of-the-hub/datasets--org--shapes/snapshots/abc/data";
    project.write("cache-of-the-hub/datasets--org--shapes/refs/main", "abc");
    std::fs::create_dir_all(project.path(snapshot)).unwrap();
    for shard in ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"] {
        let bytes = std::fs::read(repository("tests/golden/layouts/hub/data").join(shard)).unwrap();
        project.write(&format!("cache-of-the-hub/datasets--org--shapes/blobs/{shard}"), bytes);
        let link = project.path(snapshot).join(shard);
        std::os::unix::fs::symlink(format!("../../../blobs/{shard}"), link).unwrap();
    }
    let outcome = run(&["run", "study.toml"]).exited(0);
    assert_contains(&outcome.stderr, &["`train-00001-of-00002.parquet`: columns of Parquet, 3 rows"]);
    assert_eq!(project.read("out/study/items/items.jsonl").lines().count(), 6);

    // A new snapshot is a new input; the same content is not.
    project.write("cache-of-the-hub/datasets--org--shapes/refs/main", "def");
    std::fs::rename(
        project.path("cache-of-the-hub/datasets--org--shapes/snapshots/abc"),
        project.path("cache-of-the-hub/datasets--org--shapes/snapshots/def"),
    )
    .unwrap();
    let outcome = run(&["plan", "study.toml"]).exited(0);
    assert_contains(&outcome.stdout, &["fresh"]);
}
