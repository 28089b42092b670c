//! The default experiment in miniature: its output, caching and damage.

use crate::support::{Project, corrupt_file, instances_that_ran};

#[test]
fn default_experiment_runs_once() {
    let project = Project::smoke();
    let first = project.ok(&["run", "smoke.toml"]);
    for row in ["1 format", "2 direct", "3 CoT", "4 both (SFT)", "4, blank images", "4 + DPO", "4 + RFT", "4 + teacher"]
    {
        assert!(first.stdout.contains(row), "no row `{row}` in\n{}", first.stdout);
    }
    for file in ["report.html", "report.md", "report.json", "report.csv"] {
        assert!(project.path("out/smoke").join(file).exists(), "no {file}");
    }
    // Outputs are linked by name.
    let scores = project.read("out/smoke/eval@image=given,model=dpo,prompt=cot,seed=0/scores.jsonl");
    assert_eq!(scores.lines().count(), 20);

    let again = || project.ran_instances(&["smoke.toml"]);
    assert_eq!(again(), Vec::<String>::new());

    // The HTML page needs no network.
    let page = project.read("out/smoke/report.html");
    for request in ["<script src", "src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!page.contains(request), "the page has `{request}`");
    }

    // Another beta affects only DPO and its downstream stages.
    let beta = ["--set", "stage.dpo.beta=0.2"];
    let plan = project.json(&[&["plan", "smoke.toml"], &beta[..]].concat());
    assert_eq!((&plan["must_run"], &plan["may_run"]), (&2.into(), &4.into()));
    assert_eq!(
        project.ran_instances(&[&["smoke.toml"], &beta[..]].concat()),
        [
            "dpo@seed=0",
            "dpo@seed=1",
            "eval@image=given,model=dpo,prompt=cot,seed=0",
            "eval@image=given,model=dpo,prompt=cot,seed=1",
            "eval@image=given,model=dpo,prompt=direct,seed=0",
            "eval@image=given,model=dpo,prompt=direct,seed=1",
        ]
    );
    // The old value again: nothing runs.
    assert_eq!(again(), Vec::<String>::new());

    // The results of the last run stay; those of the other beta are removed.
    let dry = project.json(&["gc", "--keep-runs", "1", "--dry-run"]);
    assert_eq!(dry["records"], 6);
    assert_eq!(project.json(&["gc", "--keep-runs", "1"])["records"], 6);
    assert_eq!(again(), Vec::<String>::new());

    // A damaged object is found and computed again.
    project.assert_store_is_valid();
    let curve = std::fs::canonicalize(project.path("out/smoke/dpo@seed=0/curve.jsonl")).unwrap();
    corrupt_file(&curve, &|bytes| *bytes = b"{}".to_vec(), false);
    project.fails(2, &["verify"]);
    assert_eq!(again(), ["dpo@seed=0"], "equal bytes keep downstream stages fresh");
}

#[test]
fn concurrent_runs_share_the_work() {
    let project = Project::smoke();
    let start = || {
        project.command(&["run", "smoke.toml", "sft@mix=both", "--json"]).stdout(std::process::Stdio::piped()).spawn()
    };
    let (one, other) = (start().unwrap(), start().unwrap());
    let names = [one, other].map(|child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        instances_that_ran(std::str::from_utf8(&output.stdout).unwrap())
    });
    let mut names = names.concat();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "an instance ran twice");
    assert!(names.contains(&"sft@mix=both,seed=0".to_string()));
}
