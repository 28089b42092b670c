//! The whole graph of the default experiment in miniature: what it prints, keeps and reuses.

use serde_json::Value;

use crate::space::Space;

/// Names of the instances that a run with `--json` ran, in order.
pub(crate) fn ran(stdout: &str) -> Vec<String> {
    let events = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events
        .filter(|event| event["event"] == "finished" && event["of"]["outcome"] == "ran")
        .map(|event| event["instance"].as_str().unwrap().to_string())
        .collect()
}

fn smoke() -> Space {
    let space = Space::new();
    space.with_experiment("reasoner.toml").with_experiment("smoke.toml");
    space
}

#[test]
fn one_file_runs_from_distillation_to_the_table_and_then_never_again() {
    let space = smoke();
    let first = space.ok(&["run", "smoke.toml"]);
    for row in ["1 format", "2 direct", "3 CoT", "4 both (SFT)", "4 + DPO", "4 + RFT"] {
        assert!(first.stdout.contains(row), "no row `{row}` in\n{}", first.stdout);
    }
    for file in ["report.html", "report.md", "report.json", "report.csv"] {
        assert!(space.path("out/smoke").join(file).exists(), "no {file}");
    }
    // Outputs are reachable by name.
    let scores = space.read("out/smoke/eval@model=dpo,prompt=cot,seed=0/scores.jsonl");
    assert_eq!(scores.lines().count(), 20);

    let second = space.ok(&["run", "smoke.toml", "--json"]);
    assert_eq!(ran(&second.stdout), Vec::<String>::new());

    // The page asks nothing of the network.
    let page = space.read("out/smoke/report.html");
    for request in ["<script", "src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!page.contains(request), "the page has `{request}`");
    }

    // Another beta concerns DPO and what is made of it, and nothing else.
    let beta = ["--set", "stage.dpo.beta=0.2"];
    let plan = space.json(&[&["plan", "smoke.toml"], &beta[..]].concat());
    assert_eq!((&plan["must_run"], &plan["may_run"]), (&2.into(), &4.into()));
    let third = space.ok(&[&["run", "smoke.toml", "--json"], &beta[..]].concat());
    let mut names = ran(&third.stdout);
    names.sort();
    assert_eq!(
        names,
        [
            "dpo@seed=0",
            "dpo@seed=1",
            "eval@model=dpo,prompt=cot,seed=0",
            "eval@model=dpo,prompt=cot,seed=1",
            "eval@model=dpo,prompt=direct,seed=0",
            "eval@model=dpo,prompt=direct,seed=1",
        ]
    );
    // Going back costs nothing.
    assert_eq!(ran(&space.ok(&["run", "smoke.toml", "--json"]).stdout), Vec::<String>::new());

    // What the last file came to stays; the other beta's results go.
    let dry = space.json(&["gc", "--keep-runs", "1", "--dry-run"]);
    assert_eq!(dry["records"], 6);
    assert_eq!(space.json(&["gc", "--keep-runs", "1"])["records"], 6);
    assert_eq!(ran(&space.ok(&["run", "smoke.toml", "--json"]).stdout), Vec::<String>::new());

    // The store is sound, and a damaged object is noticed and made again.
    assert!(space.ok(&["verify"]).stdout.contains(" 0 problems"));
    let curve = std::fs::canonicalize(space.path("out/smoke/dpo@seed=0/curve.jsonl")).unwrap();
    let mut permissions = std::fs::metadata(&curve).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a vandal's act")]
    permissions.set_readonly(false);
    std::fs::set_permissions(&curve, permissions).unwrap();
    std::fs::write(&curve, "{}").unwrap();
    assert_eq!(space.ablate(&["verify"]).code, Some(2));
    let again = space.ok(&["run", "smoke.toml", "--json"]);
    assert_eq!(ran(&again.stdout), ["dpo@seed=0"], "equal bytes leave what lies below fresh");
}

#[test]
fn two_runs_at_once_share_the_work() {
    let space = smoke();
    let start =
        || space.command(&["run", "smoke.toml", "sft@mix=both", "--json"]).stdout(std::process::Stdio::piped()).spawn();
    let (one, other) = (start().unwrap(), start().unwrap());
    let texts = [one, other].map(|child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).unwrap()
    });
    let mut names: Vec<String> = texts.iter().flat_map(|text| ran(text)).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all, "no instance ran twice");
    assert!(names.contains(&"sft@mix=both,seed=0".to_string()));
}
