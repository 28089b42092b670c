//! What the commands print, for people and for scripts.

use expect_test::expect;

use crate::caching::study;
use crate::space::Space;

#[test]
fn the_graph_is_drawn_in_three_languages() {
    let space = study();
    expect![[r#"
        flowchart LR
          n0["items<br/>items"]
          n1["tokenizer<br/>tokenizer"]
          n2["fresh<br/>base"]
          n3["mix<br/>mix"]
          n4["sft<br/>sft"]
          n5["eval<br/>eval"]
          n2 -->|"model"| n4
          n0 -->|"benchmark"| n5
          n0 -->|"sources.direct.from"| n3
          n0 -->|"train_on.0"| n1
          n3 -->|"data"| n4
          n4 -->|"model"| n5
          n1 -->|"tokenizer"| n2
    "#]]
    .assert_eq(&space.ok(&["graph", "study.toml", "--format", "mermaid"]).stdout);
    assert!(space.ok(&["graph", "study.toml"]).stdout.starts_with("digraph ablate {"));
    let drawing = space.json(&["graph", "study.toml"]);
    assert_eq!(drawing["nodes"].as_array().unwrap().len(), 6);
}

#[test]
fn a_plan_says_what_runs_and_runs_nothing() {
    let space = study();
    expect![[r#"
        items: must run: it has not run yet
        tokenizer: may run: waits for items
        fresh: may run: waits for tokenizer
        mix: may run: waits for items
        sft: may run: waits for fresh, mix
        eval: may run: waits for sft, items
        1 point: 6 instances without sharing, 6 with sharing; 1 training
        1 must run, 5 may run, 0 fresh
    "#]]
    .assert_eq(&space.ok(&["plan", "study.toml"]).stdout);
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
    for command in ["run", "plan", "why", "check", "graph", "report", "ls", "show", "logs", "gc", "forget"] {
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

#[test]
fn a_store_that_is_not_there_is_not_called_sound() {
    let outcome = study().ablate(&["verify", "--store", "cahce"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(2), "error: there is no store at `cahce`\n"));
}

#[test]
fn only_what_is_named_runs_and_several_files_are_one_command() {
    let space = Space::new();
    let chain = "[stage.a]\nkind = \"command\"\nrun = \"echo a > a.txt\"\noutputs = [\"a.txt\"]\n\
                 [stage.b]\nkind = \"command\"\nrun = \"cat in.txt > b.txt\"\noutputs = [\"b.txt\"]\n\
                 inputs = { \"in.txt\" = \"a\" }\n";
    space.write("study.toml", chain).write("twin.toml", chain);
    let refused = space.ablate(&["run", "study.toml", "--only", "b"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("`a` is not up to date and not selected"), "{}", refused.stderr);
    space.ok(&["run", "study.toml", "--until", "a"]);
    let plan = space.json(&["plan", "study.toml", "--only", "b"]);
    assert_eq!((&plan["must_run"], &plan["fresh"]), (&1.into(), &0.into()));
    // The twin finds what the study made.
    let both = space.ok(&["run", "study.toml", "twin.toml"]);
    assert!(both.stderr.contains("1 ran, 1 fresh") && both.stderr.contains("2 fresh in"), "{}", both.stderr);
    let plan = space.ok(&["plan", "study.toml", "twin.toml"]).stdout;
    assert!(plan.contains("4 if only each experiment shared, 2 as they are"), "{plan}");
    // A mistake in a later file is told before the first one runs.
    space.write("wrong.toml", "[stage.a]\nkind = \"comand\"\n").write("study.toml", chain.replace("echo a", "echo c"));
    let refused = space.ablate(&["run", "study.toml", "wrong.toml", "missing.toml"]);
    assert_eq!(refused.code, Some(2));
    assert!(!refused.stderr.contains("ran"), "{}", refused.stderr);
    assert!(refused.stderr.contains("wrong.toml:2") && refused.stderr.contains("missing.toml"), "{}", refused.stderr);
}
