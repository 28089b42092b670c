//! What the commands print, for people and for scripts.

use expect_test::expect;

use crate::caching::study;

#[test]
fn the_graph_is_drawn_in_three_languages() {
    let space = study();
    expect![[""]].assert_eq(&space.ok(&["graph", "study.toml", "--format", "mermaid"]).stdout);
    assert!(space.ok(&["graph", "study.toml"]).stdout.starts_with("digraph ablate {"));
    let drawing = space.json(&["graph", "study.toml"]);
    assert_eq!(drawing["nodes"].as_array().unwrap().len(), 6);
}

#[test]
fn a_plan_says_what_runs_and_runs_nothing() {
    let space = study();
    expect![[""]].assert_eq(&space.ok(&["plan", "study.toml"]).stdout);
    assert!(!space.path("out").exists());
    let plan = space.json(&["plan", "study.toml"]);
    assert_eq!((&plan["must_run"], &plan["may_run"], &plan["fresh"]), (&1.into(), &5.into(), &0.into()));
}

#[test]
fn results_can_be_listed_shown_and_their_logs_read() {
    let space = study();
    space.ok(&["run", "study.toml", "--quiet"]);
    let listed = space.json(&["ls", "study.toml"]);
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["items", "tokenizer", "fresh", "mix", "sft", "eval"]);
    let shown = space.json(&["show", "study.toml", "sft"]);
    assert_eq!(shown["state"], "fresh");
    assert_eq!(shown["record"]["manifest"]["kind"], "sft");
    let text = space.ok(&["show", "study.toml", "sft"]).stdout;
    assert!(text.contains("  lr = 0.001\n") && text.contains("ran on "), "{text}");
    assert_eq!(space.ablate(&["logs", "study.toml", "sft"]).code, Some(0));
    assert!(space.json(&["check", "study.toml"])["instances"].as_array().unwrap().len() == 6);
}

#[test]
fn help_has_examples() {
    let space = study();
    for command in ["run", "plan", "why", "check", "graph", "report", "ls", "show", "logs"] {
        let help = space.ok(&[command, "--help"]).stdout;
        assert!(help.contains("Example"), "`{command} --help` has no example");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let space = study();
    let mut child = space.command(&["graph", "study.toml"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
