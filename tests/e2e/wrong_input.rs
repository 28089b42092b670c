//! Wrong input gives a message with its location and exit code 2.

use std::fs;

use expect_test::expect;

use crate::caching::study;
use crate::support::Project;

/// The study with one piece of its text replaced.
fn edited(from: &str, to: &str) -> Project {
    let project = study();
    let text = project.read("study.toml");
    assert!(text.contains(from), "`{from}` is not in the study");
    project.write("study.toml", text.replacen(from, to, 1));
    project
}

/// The messages of `check` for a wrong file.
fn check(project: &Project) -> String {
    let outcome = project.ablate(&["check", "study.toml"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{}", outcome.stderr);
    outcome.stderr
}

/// The messages of a run with wrong data. A second run must print the same, so nothing partial was kept.
fn run(project: &Project) -> String {
    failure(project, 2)
}

fn failure(project: &Project, code: i32) -> String {
    let errors = |outcome: crate::support::Outcome| {
        assert_eq!(outcome.code, Some(code), "{}\n{}", outcome.stdout, outcome.stderr);
        let lines = outcome.stderr.lines().skip_while(|line| !line.starts_with("error"));
        let lines = lines.take_while(|line| !line.starts_with("  log:") && !line.contains(" failed in "));
        lines.flat_map(|line| [line, "\n"]).collect::<String>()
    };
    let first = errors(project.ablate(&["run", "study.toml", "--jobs", "1"]));
    assert_eq!(errors(project.ablate(&["run", "study.toml", "--jobs", "1"])), first);
    first
}

#[test]
fn unknown_key() {
    expect![[r#"
        error: `stage.sft`: unknown key `epcohs`
          --> study.toml:32:1
           |
        28 | [stage.sft]
           | ----------- in this stage
        ...
        32 | epcohs = 2
           | ^^^^^^
           |
           = help: a key of a similar name exists: `epochs`
    "#]]
    .assert_eq(&check(&edited("epochs = 2", "epcohs = 2")));
}

#[test]
fn value_of_wrong_type() {
    expect![[r#"
        error: `stage.sft.lr`: wrong type: string "fast", expected a number
          --> study.toml:34:10
           |
        28 | [stage.sft]
           | ----------- in this stage
        ...
        34 | lr     = "fast"
           |          ^^^^^^
    "#]]
    .assert_eq(&check(&edited("lr     = 1e-3", "lr     = \"fast\"")));
}

#[test]
fn undefined_stage() {
    expect![[r#"
        error: `stage.sft.model`: stage `frsh` is not defined
          --> study.toml:30:10
           |
        28 | [stage.sft]
           | ----------- in this stage
        29 | kind   = "sft"
        30 | model  = "frsh"
           |          ^^^^^^ no stage of this name
           |
           = help: a stage of a similar name exists: `fresh`
    "#]]
    .assert_eq(&check(&edited("model  = \"fresh\"", "model  = \"frsh\"")));
}

#[test]
fn cycle() {
    expect![[r#"
        error: stages read each other in a circle: `mix -> more -> mix`
          --> study.toml:26:27
           |
        26 | sources.direct = { from = "more", as = "direct" }
           |                           ^^^^^^ `mix` reads `more`
        ...
        45 | sources.one = { from = "mix" }
           |                        ----- `more` reads `mix`
    "#]]
    .assert_eq(&check(
        edited("from = \"items\"", "from = \"more\"")
            .append("study.toml", "\n[stage.more]\nkind = \"mix\"\nsources.one = { from = \"mix\" }\n"),
    ));
}

#[test]
fn duplicate_key() {
    expect![[r#"
        error: `batch` is defined twice
          --> study.toml:34:1
           |
        34 | batch  = 8
           | ^^^^^
    "#]]
    .assert_eq(&check(&edited("batch  = 4", "batch  = 4\nbatch  = 8")));
}

#[test]
fn reference_to_wrong_artifact_kind() {
    expect![[r#"
        error: `stage.sft.data`: `fresh` gives checkpoint; `data` needs rows
          --> study.toml:31:10
           |
        28 | [stage.sft]
           | ----------- in this stage
        ...
        31 | data   = "fresh"
           |          ^^^^^^^
    "#]]
    .assert_eq(&check(&edited("data   = \"mix\"", "data   = \"fresh\"")));
}

#[test]
fn negative_or_zero_weights() {
    let project = edited(
        "sources.direct = { from = \"items\", as = \"direct\" }",
        "rows = 4\nsources.direct = { from = \"items\", as = \"direct\", weight = -1 }",
    );
    expect![[r#"
        error: `stage.mix.sources.direct.weight`: `-1` is out of range: write a number at least 0
          --> study.toml:27:60
           |
        24 | [stage.mix]
           | ----------- in this stage
        ...
        27 | sources.direct = { from = "items", as = "direct", weight = -1 }
           |                                                            ^^
    "#]]
    .assert_eq(&check(&project));
    project.write("study.toml", project.read("study.toml").replace("weight = -1", "weight = 0"));
    expect![[r#"
        error: `stage.mix.sources`: all weights are 0
          --> study.toml:27:1
           |
        24 | [stage.mix]
           | ----------- in this stage
        ...
        27 | sources.direct = { from = "items", as = "direct", weight = 0 }
           | ^^^^^^^
    "#]]
    .assert_eq(&check(&project));
}

#[test]
fn missing_path() {
    expect![[r#"
        error: `stage.items.path`: `data/trian.jsonl` does not exist
         --> study.toml:5:10
          |
        5 | path   = "data/trian.jsonl"
          |          ^^^^^^^^^^^^^^^^^^
          |
          = help: paths are relative to the folder of the experiment: `data/trian.jsonl`
    "#]]
    .assert_eq(&check(&edited("data/train.jsonl", "data/trian.jsonl")));
}

#[test]
fn all_errors_of_a_file_are_reported() {
    let project = edited("epochs = 2", "epcohs = 2");
    project.write("study.toml", project.read("study.toml").replace("vocab     = 300", "vocab     = \"many\""));
    let printed = check(&project);
    assert_eq!(printed.matches("error: ").count(), 2, "{printed}");
}

#[test]
fn line_that_is_not_json() {
    let project = study();
    project.write("data/train.jsonl", project.read("data/train.jsonl").replacen("\"row-2\"", "\"row-2", 1));
    expect![[r#"
        error: `items` failed: [ROOT]/data/train.jsonl:2: not JSON: expected `,` or `}` (column 15)
            a row: {"id": "7", "image": "charts/7.png", "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}]}
    "#]]
    .assert_eq(&run(&project));
}

#[test]
fn row_without_answer() {
    let project = study();
    project.write(
        "data/train.jsonl",
        project.read("data/train.jsonl").replacen("\"value\":\"grey\"", "\"value\":\"\"", 1),
    );
    expect![[r#"
        error: `items` failed: [ROOT]/data/train.jsonl:2: the row has no answer: `answer`, `answers` and the assistant's turn are empty
    "#]].assert_eq(&run(&project));
}

#[test]
fn file_that_is_not_an_image() {
    let project = study();
    project.write("data/images/grey.png", "not a picture");
    expect![[r#"
        error: `items` failed: [ROOT]/data/train.jsonl:2: the image `grey.png`: is neither PNG nor JPEG
    "#]]
    .assert_eq(&run(&project));
}

#[test]
fn truncated_image() {
    let project = study();
    let bytes = fs::read(project.path("data/images/grey.png")).unwrap();
    project.write("data/images/grey.png", &bytes[..bytes.len() / 2]);
    expect![[r#"
        error: `items` failed: [ROOT]/data/train.jsonl:2: the image `grey.png`: cannot be decoded: unexpected end of file
    "#]]
    .assert_eq(&run(&project));
}

#[test]
fn more_rows_than_available() {
    expect![[r#"
        error: `mix` failed: source `direct` must give 10 rows but has 6; `replace = true` allows repeated rows
    "#]]
    .assert_eq(&run(&edited("as = \"direct\" }", "as = \"direct\", rows = 10 }")));
    // Allowed with `replace = true`.
    let project = edited("as = \"direct\" }", "as = \"direct\", rows = 10, replace = true }");
    project.ok(&["run", "study.toml"]);
}

#[test]
fn incompatible_checkpoint() {
    let project = Project::new();
    project.with_experiment("reasoner.toml").with_experiment("smoke.toml");
    project.write(
        "study.toml",
        r#"extends = "smoke.toml"

[stage.letters]
kind      = "tokenizer"
train_on  = ["dev"]
algorithm = "bpe"
vocab     = 300

[stage.stranger]
kind      = "base"
tokenizer = "letters"

[stage.dpo]
reference = "stranger"
"#,
    );
    let outcome = project.ablate(&["run", "study.toml", "dpo@seed=0"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let printed: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("error")).collect();
    expect![[r#"
        error: `dpo@seed=0` failed: `reference` and `policy` take different tokens: the reference has 300 tokens and 16 per image, the policy 421 and 16"#]]
    .assert_eq(&printed.join("\n"));
}

#[test]
fn store_of_another_format() {
    let project = study();
    project.write("cache/FORMAT", "999\n");
    let outcome = project.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(2));
    expect![[r#"
        error: the store `[ROOT]/cache` has the format `999`, this program reads `ablate store 2`
          help: choose another folder with `--store`
    "#]]
    .assert_eq(&outcome.stderr);
}

#[test]
fn file_instead_of_the_store() {
    let project = study();
    // A file at the store's path also stops the root user, whom permissions do not.
    project.write("cache", "in the way");
    let outcome = project.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(2));
    expect![[r#"
        error: cannot read the store `[ROOT]/cache`
          because Not a directory (os error 20)
    "#]]
    .assert_eq(&outcome.stderr);
}

#[test]
fn unreachable_teacher() {
    // A free port without a listener.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let project = edited(
        "[stage.tokenizer]",
        &format!(
            "[stage.rationales]\nkind = \"distill\"\nitems = \"items\"\nteacher = {{ api = \"openai\", url = \
             \"http://127.0.0.1:{port}/v1\", model = \"gpt\", retries = 0, concurrency = 1 }}\n\n[stage.tokenizer]"
        ),
    );
    let printed = failure(&project, 1).replace(&port.to_string(), "[PORT]");
    expect![[r#"
        error: `rationales` failed: item `row-1`
          because the request failed after 1 attempt
          because cannot reach the endpoint at `http://127.0.0.1:[PORT]/v1/chat/completions`: io: Connection refused (os error 111)
    "#]].assert_eq(&printed);
}

#[test]
fn unknown_target() {
    let outcome = study().ablate(&["run", "study.toml", "stf"]);
    assert_eq!(outcome.code, Some(2));
    expect![[r#"
        error: `stf` matches no stage and no instance
          help: a similar name exists: `sft`
    "#]]
    .assert_eq(&outcome.stderr);
}
