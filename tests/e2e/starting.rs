//! `new`: files to start from, which work as they are.

use expect_test::expect;

use crate::space::Space;

#[test]
fn every_template_is_well_formed() {
    let space = Space::new();
    for template in ["sft", "dpo", "command"] {
        space.ok(&["new", template, "--template", template]);
        let file = format!("{template}.toml");
        let told = space.json(&["check", &file]);
        assert_eq!(told["experiment"], template);
    }
}

#[test]
fn a_new_experiment_runs() {
    let space = Space::new();
    let told = space.ok(&["new", "studies/first.toml", "--template", "command"]).stdout;
    expect![[r#"
        wrote studies/first.toml
        show the plan with `ablate plan studies/first.toml`, run it with `ablate run studies/first.toml`
    "#]]
    .assert_eq(&told);
    space.ok(&["run", "studies/first.toml", "--quiet"]);
    let outputs = space.outputs("first");
    let sum = outputs.iter().find(|(name, _)| name.contains("train@rows=10/")).map(|(_, bytes)| bytes.as_slice());
    // 1 + 2 + ... + 10
    assert_eq!(sum, Some(&b"55\n"[..]), "{:?}", outputs.keys());
}

#[test]
fn nothing_is_overwritten() {
    let space = Space::new();
    space.write("mine.toml", "# precious");
    let outcome = space.ablate(&["new", "mine"]);
    assert_eq!(outcome.code, Some(2));
    assert_eq!(outcome.stderr, "error: `mine.toml` already exists: nothing was written\n");
    assert_eq!(space.read("mine.toml"), "# precious");
    let outcome = space.ablate(&["new", "my experiment"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("`my experiment` is not a name"), "{}", outcome.stderr);
}
