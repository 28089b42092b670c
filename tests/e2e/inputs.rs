//! Wrong input: each a clear message at its place and exit code 2, and nothing lost.

use std::fs;

use expect_test::expect;

use crate::caching::study;
use crate::space::Space;

/// The study with a piece of its text replaced.
fn edited(from: &str, to: &str) -> Space {
    let space = study();
    let text = space.read("study.toml");
    assert!(text.contains(from), "`{from}` is not in the study");
    space.write("study.toml", text.replacen(from, to, 1));
    space
}

/// What `check` says of a wrong file.
fn check(space: &Space) -> String {
    let outcome = space.ablate(&["check", "study.toml"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{}", outcome.stderr);
    outcome.stderr
}

/// What `run` says at its end of wrong data, and that it says so again: nothing half-done was kept.
fn run(space: &Space) -> String {
    let told = |outcome: crate::space::Outcome| {
        assert_eq!(outcome.code, Some(2), "{}\n{}", outcome.stdout, outcome.stderr);
        let lines = outcome.stderr.lines().skip_while(|line| !line.starts_with("error"));
        let lines = lines.take_while(|line| !line.starts_with("  log:") && !line.contains(" failed in "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let first = told(space.ablate(&["run", "study.toml", "--jobs", "1"]));
    assert_eq!(told(space.ablate(&["run", "study.toml", "--jobs", "1"])), first);
    first
}

#[test]
fn an_unknown_key() {
    expect![[""]].assert_eq(&check(&edited("epochs = 2", "epcohs = 2")));
}

#[test]
fn a_value_of_the_wrong_type() {
    expect![[""]].assert_eq(&check(&edited("lr     = 1e-3", "lr     = \"fast\"")));
}

#[test]
fn a_stage_that_is_not_there() {
    expect![[""]].assert_eq(&check(&edited("model  = \"fresh\"", "model  = \"frsh\"")));
}

#[test]
fn a_cycle() {
    expect![[""]].assert_eq(&check(
        &edited("from = \"items\"", "from = \"more\"")
            .append("study.toml", "\n[stage.more]\nkind = \"mix\"\nsources.one = { from = \"mix\" }\n"),
    ));
}

#[test]
fn a_name_that_is_there_twice() {
    expect![[""]].assert_eq(&check(&edited("batch  = 4", "batch  = 4\nbatch  = 8")));
}

#[test]
fn a_reference_to_the_wrong_kind_of_artifact() {
    expect![[""]].assert_eq(&check(&edited("data   = \"mix\"", "data   = \"fresh\"")));
}

#[test]
fn weights_that_are_negative_or_all_zero() {
    let space = edited(
        "sources.direct = { from = \"items\", as = \"direct\" }",
        "rows = 4\nsources.direct = { from = \"items\", as = \"direct\", weight = -1 }",
    );
    expect![[""]].assert_eq(&check(&space));
    space.write("study.toml", space.read("study.toml").replace("weight = -1", "weight = 0"));
    expect![[""]].assert_eq(&check(&space));
}

#[test]
fn a_path_that_does_not_exist() {
    expect![[""]].assert_eq(&check(&edited("data/train.jsonl", "data/trian.jsonl")));
}

#[test]
fn all_mistakes_of_a_file_come_at_once() {
    let space = edited("epochs = 2", "epcohs = 2");
    space.write("study.toml", space.read("study.toml").replace("vocab     = 300", "vocab     = \"many\""));
    let told = check(&space);
    assert_eq!(told.matches("error: ").count(), 2, "{told}");
}

#[test]
fn a_line_that_is_not_json() {
    let space = study();
    space.write("data/train.jsonl", space.read("data/train.jsonl").replacen("\"row-2\"", "\"row-2", 1));
    expect![[""]].assert_eq(&run(&space));
}

#[test]
fn a_row_without_an_answer() {
    let space = study();
    space.write("data/train.jsonl", space.read("data/train.jsonl").replacen("\"value\":\"grey\"", "\"value\":\"\"", 1));
    expect![[""]].assert_eq(&run(&space));
}

#[test]
fn an_image_that_is_not_an_image() {
    let space = study();
    space.write("data/images/grey.png", "not a picture");
    expect![[""]].assert_eq(&run(&space));
}

#[test]
fn an_image_that_is_cut_short() {
    let space = study();
    let bytes = fs::read(space.path("data/images/grey.png")).unwrap();
    space.write("data/images/grey.png", &bytes[..bytes.len() / 2]);
    expect![[""]].assert_eq(&run(&space));
}

#[test]
fn more_rows_than_there_are() {
    expect![[""]].assert_eq(&run(&edited("as = \"direct\" }", "as = \"direct\", rows = 10 }")));
    // Unless repetition is asked for.
    let space = edited("as = \"direct\" }", "as = \"direct\", rows = 10, replace = true }");
    space.ok(&["run", "study.toml"]);
}

#[test]
fn a_checkpoint_whose_shapes_do_not_fit() {
    let space = edited(
        "[stage.mix]",
        "[stage.wide]\nkind = \"base\"\ntokenizer = \"tokenizer\"\n[stage.wide.model]\nimage_size = 16\nvision = { dim = 16, layers = 1, \
         heads = 2, ff = 16 }\nprojector = { hidden = 16 }\ndecoder = { dim = 32, layers = 1, heads = 2, kv_heads = 1, ff = 16 }\n\n\
         [stage.pairs]\nkind = \"pairs\"\njudged = \"judged\"\nband = [0.0, 1.0]\n\n[stage.mix]",
    );
    drop(space);
}

#[test]
fn a_store_of_another_format() {
    let space = study();
    space.write("cache/FORMAT", "999\n");
    let outcome = space.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(2));
    expect![[""]].assert_eq(&outcome.stderr);
}

#[test]
fn a_store_that_cannot_be_written() {
    let space = study();
    // A file stands where the store should be: permissions do not bind the root user, this does.
    space.write("cache", "in the way");
    let outcome = space.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(2));
    expect![[""]].assert_eq(&outcome.stderr);
}

#[test]
fn a_teacher_that_cannot_be_reached() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let space = edited(
        "[stage.tokenizer]",
        &format!(
            "[stage.rationales]\nkind = \"distill\"\nitems = \"items\"\nteacher = {{ api = \"openai\", url = \
             \"http://127.0.0.1:{port}/v1\", model = \"gpt\", retries = 0 }}\n\n[stage.tokenizer]"
        ),
    );
    let told = run(&space).replace(&port.to_string(), "[PORT]");
    expect![[""]].assert_eq(&told);
}

#[test]
fn an_unknown_target() {
    let outcome = study().ablate(&["run", "study.toml", "stf"]);
    assert_eq!(outcome.code, Some(2));
    expect![[""]].assert_eq(&outcome.stderr);
}
