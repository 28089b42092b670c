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
        wrote studies/first.toml
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
