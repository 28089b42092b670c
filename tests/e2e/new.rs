//! `new`: the templates are valid and run.

use expect_test::expect;

use crate::support::Project;

#[test]
fn every_template_is_valid() {
    let project = Project::new();
    for template in ["sft", "dpo", "command"] {
        project.ok(&["new", template, "--template", template]);
        let file = format!("{template}.toml");
        let printed = project.json(&["check", &file]);
        assert_eq!(printed["experiment"], template);
    }
}

#[test]
fn new_experiment_runs() {
    let project = Project::new();
    let printed = project.ok(&["new", "studies/first.toml", "--template", "command"]).stdout;
    expect![[r#"
        wrote studies/first.toml and studies/ablate.schema.json
        show the plan with `ablate plan studies/first.toml`, run it with `ablate run studies/first.toml`
    "#]]
    .assert_eq(&printed);
    project.ok(&["run", "studies/first.toml", "--quiet"]);
    let outputs = project.outputs("first");
    let sum = outputs.iter().find(|(name, _)| name.contains("train@rows=10/")).map(|(_, bytes)| bytes.as_slice());
    // 1 + 2 + ... + 10
    assert_eq!(sum, Some(&b"55\n"[..]), "{:?}", outputs.keys());
}

#[test]
fn existing_file_is_not_overwritten() {
    let project = Project::new();
    project.write("mine.toml", "# precious");
    let refused = project.fails(2, &["new", "mine"]);
    assert_eq!(refused.stderr, "error: `mine.toml` already exists: nothing was written\n");
    assert_eq!(project.read("mine.toml"), "# precious");
    project.fails(2, &["new", "my experiment"]).stderr_has(&["`my experiment` is not a name"]);
}

#[test]
fn the_schema_that_the_file_names_exists() {
    let project = Project::new();
    project.ok(&["new", "studies/first"]).stderr_has(&[]);
    let schema = project.read("studies/ablate.schema.json");
    assert_eq!(schema, project.ok(&["schema"]).stdout);
    assert!(project.read("studies/first.toml").starts_with("#:schema ./ablate.schema.json\n"));
    assert_eq!(project.ok(&["new", "studies/second"]).stderr, "");
    // Another schema is kept, and the user hears of it.
    project.write("studies/ablate.schema.json", "{}");
    let kept = project.ok(&["new", "studies/third"]);
    kept.stderr_has(&[
        "differs from the schema of this version and was kept: `ablate schema > studies/ablate.schema.json`",
    ]);
    assert_eq!(project.read("studies/ablate.schema.json"), "{}");
    assert_eq!(project.json(&["new", "fourth"])["schema_is_current"], true);
}
