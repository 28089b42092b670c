//! Wrong input gives a message with its location and exit code 2.

use std::fs;

use expect_test::expect;

use crate::caching::study;
use crate::support::Project;

/// The study with one piece of its text replaced.
fn edited(from: &str, to: &str) -> Project {
    let project = study();
    project.edit("study.toml", from, to);
    project
}

/// The messages of a run with wrong data. A second run must print the same, so nothing partial was kept.
fn run(project: &Project) -> String {
    failure(project, 2)
}

fn failure(project: &Project, code: i32) -> String {
    let errors = || project.fails(code, &["run", "study.toml", "--jobs", "1"]).error_text() + "\n";
    let first = errors();
    assert_eq!(errors(), first);
    first
}

#[test]
fn all_errors_of_a_file_are_reported() {
    let project = edited("epochs = 2", "epcohs = 2");
    project.edit("study.toml", "vocab     = 300", "vocab     = \"many\"");
    let printed = project.fails(2, &["check", "study.toml"]);
    assert_eq!(printed.stdout, "");
    assert_eq!(printed.stderr.matches("error: ").count(), 2, "{printed:?}");
}

#[test]
fn line_that_is_not_json() {
    let project = study();
    project.edit("data/train.jsonl", "\"row-2\"", "\"row-2");
    expect![[r#"
        error: `items` failed: [ROOT]/data/train.jsonl:2: not JSON: expected `,` or `}` (column 15)
            a row: {"id": "7", "image": "charts/7.png", "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}]}
    "#]]
    .assert_eq(&run(&project));
}

#[test]
fn row_without_answer() {
    let project = study();
    project.edit("data/train.jsonl", "\"value\":\"grey\"", "\"value\":\"\"");
    expect![[r#"
        error: `items` failed: [ROOT]/data/train.jsonl:2: the row has no answer: `answer`, `answers` and the assistant's turn are empty
    "#]].assert_eq(&run(&project));
}

#[test]
fn file_that_is_not_an_image() {
    let project = study();
    project.write("data/images/grey.png", "not a picture");
    expect![[r#"
        error: `items` failed: [ROOT]/data/train.jsonl:2: the image `grey.png`: is not a PNG, JPEG, WebP, GIF or BMP
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
    let project = Project::smoke();
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
    let outcome = project.fails(2, &["run", "study.toml", "dpo@seed=0"]);
    expect![[r#"
        error: `dpo@seed=0` failed: `reference` and `policy` take different tokens: the reference has 300 tokens and 16 per image, the policy 411 and 16"#]]
    .assert_eq(&outcome.errors());
}

#[test]
fn store_of_another_format() {
    let project = study();
    project.write("cache/FORMAT", "999\n");
    let outcome = project.fails(2, &["run", "study.toml"]);
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
    let outcome = project.fails(2, &["run", "study.toml"]);
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
             \"http://127.0.0.1:{port}/v1\", model = \"gpt\", patience_seconds = 0, concurrency = 1 }}\n\n[stage.tokenizer]"
        ),
    );
    let printed = failure(&project, 1).replace(&port.to_string(), "[PORT]");
    expect![[r#"
        error: `rationales` failed: item `row-1`
          because no reply after 1 attempt in 0 s
          because cannot reach the endpoint at `http://127.0.0.1:[PORT]/v1/chat/completions`: Connection refused (os error 111)
    "#]].assert_eq(&printed);
}

#[test]
fn unknown_target() {
    let outcome = study().fails(2, &["run", "study.toml", "stf"]);
    expect![[r#"
        error: `stf` matches no stage and no instance
          help: a similar name exists: `sft`
    "#]]
    .assert_eq(&outcome.stderr);
}
