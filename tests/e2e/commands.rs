//! Output of the commands, as text and as JSON.

use expect_test::expect;

use crate::caching::study;
use crate::support::{Project, assert_contains};

#[test]
fn graph_has_three_formats() {
    let project = study();
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
    .assert_eq(&project.ok(&["graph", "study.toml", "--format", "mermaid"]).stdout);
    assert!(project.ok(&["graph", "study.toml"]).stdout.starts_with("digraph ablate {"));
    let drawing = project.json(&["graph", "study.toml"]);
    assert_eq!(drawing["nodes"].as_array().unwrap().len(), 6);
}

#[test]
fn plan_runs_nothing() {
    let project = study();
    expect![[r#"
        items: must run: it has not run yet
        tokenizer: may run: waits for items
        fresh: may run: waits for tokenizer
        mix: may run: waits for items
        sft: may run: waits for fresh, mix
        eval: may run: waits for sft, items
        1 result; 6 stage runs; 1 training
        1 must run, 5 may run, 0 fresh
        time: cannot be predicted: 1 stage of the kind `base`, 1 stage of the kind `eval`, 1 stage of the kind `items`, 1 stage of the kind `mix`, 1 stage of the kind `sft`, 1 stage of the kind `tokenizer`: no stage of the kind has run in this store
    "#]]
    .assert_eq(&project.ok(&["plan", "study.toml"]).stdout);
    assert!(!project.path("out").exists());
    let plan = project.json(&["plan", "study.toml"]);
    assert_eq!((&plan["must_run"], &plan["may_run"], &plan["fresh"]), (&1.into(), &5.into(), &0.into()));
}

#[test]
fn ls_show_and_logs_print_results() {
    let project = study();
    project.ok(&["run", "study.toml", "--quiet"]);
    let listed = project.json(&["ls", "study.toml"]);
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["items", "tokenizer", "fresh", "mix", "sft", "eval"]);
    assert_eq!(project.json(&["ls", "study.toml", "mix"]).as_array().unwrap().len(), 2);
    let shown = project.json(&["show", "study.toml", "sft"]);
    assert_eq!(shown["state"], "fresh");
    assert_eq!(shown["record"]["manifest"]["kind"], "sft");
    let text = project.ok(&["show", "study.toml", "sft"]).stdout;
    assert_contains(&text, &["  lr = 0.001\n", "ran on "]);
    project.ok(&["logs", "study.toml", "sft"]);
    assert!(project.json(&["check", "study.toml"])["instances"].as_array().unwrap().len() == 6);
}

#[test]
fn help_texts_have_examples() {
    let project = study();
    for command in [
        "run", "retry", "plan", "why", "check", "graph", "report", "ls", "show", "logs", "gc", "forget", "export",
        "man",
    ] {
        let help = project.ok(&[command, "--help"]).stdout;
        assert!(help.contains("Example"), "`{command} --help` has no example");
    }
}

/// First what every experiment needs, in the order of use; then what looks into it, what manages results, and what is needed once.
#[test]
fn commands_are_listed_in_the_order_of_use() {
    let help = Project::new().ok(&["--help"]).stdout;
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let lines = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    let expected = "new check plan run runs status stop serve report results compare ls show logs why graph retry suggest generate export push \
                    pull pin unpin forget gc verify doctor schema completions man help";
    assert_eq!(names.join(" "), expected);
}

#[test]
fn closed_pipe_is_not_an_error() {
    let project = study();
    let mut child = project.command(&["graph", "study.toml"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn verify_fails_for_a_missing_store() {
    let outcome = study().ablate(&["verify", "--store", "cahce"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(2), "error: there is no store at `cahce`\n"));
}

#[test]
fn targets_and_several_files() {
    let project = Project::new();
    let chain = "[stage.a]\nkind = \"command\"\nrun = \"echo a > a.txt\"\noutputs = [\"a.txt\"]\n\
                 [stage.b]\nkind = \"command\"\nrun = \"cat in.txt > b.txt\"\noutputs = [\"b.txt\"]\n\
                 inputs = { \"in.txt\" = \"a\" }\n";
    project.write("study.toml", chain).write("twin.toml", chain);
    let refused = project.fails(2, &["run", "study.toml", "--only", "b"]);
    refused.stderr_has(&["`a` is not up to date and not selected"]);
    project.ok(&["run", "study.toml", "--until", "a"]);
    let plan = project.json(&["plan", "study.toml", "--only", "b"]);
    assert_eq!((&plan["must_run"], &plan["fresh"]), (&1.into(), &0.into()));
    // The twin finds the study's result.
    project.ok(&["run", "study.toml", "twin.toml"]).stderr_has(&["1 ran, 1 fresh", "2 fresh in"]);
    let plan = project.ok(&["plan", "study.toml", "twin.toml"]).stdout;
    assert_contains(
        &plan,
        &["all: 2 results of 2 experiments; 2 stage runs instead of 4, because equal ones are shared (4 if each"],
    );
    // An error in a later file is reported before the first file runs.
    project.write("wrong.toml", "[stage.a]\nkind = \"comand\"\n").edit("study.toml", "echo a", "echo c");
    let refused = project.fails(2, &["run", "study.toml", "wrong.toml", "missing.toml"]);
    let refused = refused.stderr_has(&["wrong.toml:2", "missing.toml"]);
    assert!(!refused.stderr.contains("ran"), "{}", refused.stderr);
}
