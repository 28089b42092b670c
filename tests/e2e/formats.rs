//! The types of outputs: docs/formats.md, `ablate schema TYPE`, and the check of what a program wrote.

use std::collections::BTreeSet;
use std::fs;

use expect_test::expect;
use serde_json::Value;

use crate::support::{Project, repository};

/// The types that have rows.
const TYPES: [&str; 8] = ["items", "rows", "rollouts", "judged", "credits", "pairs", "scores", "curve"];

fn schema_of(kind: &str) -> Value {
    serde_json::from_str(&Project::new().ok(&["schema", kind]).stdout).unwrap()
}

/// The section of docs/formats.md about a type.
fn section(page: &str, kind: &str) -> String {
    let start = page.find(&format!("\n## {kind}\n")).unwrap();
    let text = &page[start + 1..];
    text[..text[1..].find("\n## ").map_or(text.len(), |end| end + 1)].to_string()
}

/// The row in the docs.
fn sample(page: &str, kind: &str) -> String {
    let section = section(page, kind);
    let block = section.split(&format!("```json {kind}\n")).nth(1).unwrap();
    block.split("\n```").next().unwrap().to_string()
}

fn page() -> String {
    fs::read_to_string(repository("docs/formats.md")).unwrap()
}

/// A study whose program writes one typed output with the given content.
fn project(kind: &str, content: &str) -> Project {
    let study = format!(
        "[stage.it]\nkind = \"command\"\ninputs = {{ given = \"./given\" }}\nrun = \"cp given out\"\n\
         outputs = {{ out = \"{kind}\" }}\n"
    );
    let project = Project::with_study(&study);
    project.write("given", content);
    project
}

#[test]
fn every_type_has_a_schema_that_the_documented_row_fits() {
    let page = page();
    for kind in TYPES {
        let schema = schema_of(kind);
        let row: Value = serde_json::from_str(&sample(&page, kind)).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let problems: Vec<String> = validator.iter_errors(&row).map(|error| error.to_string()).collect();
        assert!(problems.is_empty(), "{kind}: {}", problems.join("\n"));
        project(kind, &format!("{row}\n")).ok(&["run", "study.toml"]);
    }
}

#[test]
fn the_page_documents_every_field() {
    let page = page();
    for kind in TYPES {
        let schema = schema_of(kind);
        let text = section(&page, kind);
        let documented: BTreeSet<&str> = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .flat_map(|line| line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
            .filter(|field| !field.contains('['))
            .collect();
        let fields: BTreeSet<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(documented, fields, "{kind}");
    }
}

#[test]
fn types_without_rows_have_no_schema() {
    let project = Project::new();
    expect![[r#"
        error: `images` has no rows: it is a tar file whose members are encoded images
        error: `checkpoint` has no rows: it is a folder in the layout of Hugging Face or of `export`
        error: `tokenizer` has no rows: it is a `tokenizer.json`, or a folder with one
        error: `facts` has no rows: it is one JSON document without null
        error: `a file` has no rows: it is a file or folder with any content
        error: invalid value 'score' for '[TYPE]': a type of a similar name is `scores`; the types are `items`, `images`, `rows`, `tokenizer`, `checkpoint`, `rollouts`, `judged`, `credits`, `pairs`, `scores`, `curve`, `facts`, `file`"#]].assert_eq(
        &["images", "checkpoint", "tokenizer", "facts", "file", "score"]
            .map(|kind| project.ablate(&["schema", kind]).exited(2).errors())
            .join("\n"),
    );
}

#[test]
fn an_error_names_stage_output_line_and_field() {
    let item = r#""item": {"id": "1", "dataset": "d", "question": "?", "answer_type": "number", "answers": ["4"]}"#;
    let twice = r#"{"id": "1", "dataset": "d", "score": 1}"#;
    let cases: Vec<(&str, String)> = vec![
        ("scores", "{\"id\": \"1\", \"dataset\": \"d\", \"score\": 1}\n{\"id\": \"2\", \"dataset\": \"d\"}\n".into()),
        ("scores", r#"{"id": "1", "dataset": "d", "scroe": 1}"#.into()),
        ("scores", r#"{"id": "1", "dataset": "d", "score": 1.5}"#.into()),
        ("scores", r#"{"id": 1, "dataset": "d", "score": 1}"#.into()),
        ("scores", format!("{twice}\n{twice}")),
        ("scores", String::new()),
        ("scores", r#"{"id": "1", "dataset": "d", "score": 1, "image": "0123456789abcdef/a.png"}"#.into()),
        (
            "rollouts",
            format!(r#"{{{item}, "prompt": "?", "samples": [{{"text": "4", "finish": "eos", "tokens": 1}}]}}"#),
        ),
        ("rollouts", format!(r#"{{{item}, "samples": []}}"#)),
        (
            "rollouts",
            format!(
                r#"{{{item}, "prompt": "?", "samples": [{{"text": "é", "finish": "stop", "tokens": 1, "thinking": 1}}]}}"#
            ),
        ),
        (
            "judged",
            format!(
                r#"{{{item}, "prompt": "?", "verdicts": [{{"text": "4", "finish": "stop", "compliant": true, "score": -1, "correct": true}}]}}"#
            ),
        ),
        (
            "items",
            r#"{"id": "1", "dataset": "d", "question": "?", "answer_type": "letter", "answers": ["red"]}"#.into(),
        ),
        ("items", r#"{"id": "1", "dataset": "d", "question": "?", "answer_type": "text"}"#.into()),
        ("pairs", r#"{"id": "1", "dataset": "d", "prompt": "?", "chosen": "a", "rejected": "a"}"#.into()),
        ("rows", r#"{"id": "1", "dataset": "d", "prompt": "?", "completion": "a"}"#.into()),
        ("curve", "{\"step\": 1, \"loss\": 2}\n{\"step\": 1, \"loss\": 2}".into()),
        ("curve", r#"{"step": 0, "loss": 2}"#.into()),
        ("curve", r#"{"step": 1, "loss": null}"#.into()),
        ("images", "no tar".into()),
        ("tokenizer", "{}".into()),
    ];
    let messages = cases.iter().map(|(kind, content)| project(kind, content).fails(1, &["run", "study.toml"]).errors());
    expect![[r#"
        error: `it` failed: the output `out` is not valid
          because line 2: missing field `score`
        error: `it` failed: the output `out` is not valid
          because line 1: missing field `score`; the row has a field of a similar name, `scroe`
        error: `it` failed: the output `out` is not valid
          because line 1: `score`: 1.5 is not between 0 and 1
        error: `it` failed: the output `out` is not valid
          because line 1: `id`: invalid type: integer `1`, expected a string
        error: `it` failed: the output `out` is not valid
          because line 2: `id`: two rows of `d` have the id `1`
        error: `it` failed: the output `out` is not valid
          because it has no rows
        error: `it` failed: the output `out` is not valid
          because line 1: `image`: there is no `0123456789abcdef/a.png`: the stage has no image pack among its inputs and outputs
        error: `it` failed: the output `out` is not valid
          because line 1: `samples[0].finish`: unknown variant `eos`, expected `stop` or `length`
        error: `it` failed: the output `out` is not valid
          because line 1: missing field `prompt`
        error: `it` failed: the output `out` is not valid
          because line 1: `samples[0].thinking`: 1 is not a position between characters of the text
        error: `it` failed: the output `out` is not valid
          because line 1: `verdicts[0].score`: -1 is not between 0 and 1
        error: `it` failed: the output `out` is not valid
          because line 1: the answer `red` is not the letter of an option: it names no option
        error: `it` failed: the output `out` is not valid
          because line 1: missing field `answers`
        error: `it` failed: the output `out` is not valid
          because line 1: `chosen` and `rejected` are equal
        error: `it` failed: the output `out` is not valid
          because line 1: missing field `response`
        error: `it` failed: the output `out` is not valid
          because line 2: `step`: 1 is in two lines
        error: `it` failed: the output `out` is not valid
          because line 1: `step`: steps are counted from 1
        error: `it` failed: the output `out` is not valid
          because line 1: the loss is not a number
        error: `it` failed: the output `out` is not valid
          because cannot read the image pack `out`
          because failed to read entire block
        error: `it` failed: the output `out` is not valid
          because `out` is not a tokenizer
          because Model missing. at line 1 column 2"#]].assert_eq(&messages.collect::<Vec<_>>().join("\n"));
}

#[test]
fn unknown_fields_are_counted() {
    let project = project("scores", r#"{"id": "1", "dataset": "d", "score": 1, "compliante": true, "logprob": -1}"#);
    let outcome = project.ok(&["run", "study.toml"]);
    expect![[r#""#]]
        .assert_eq(&outcome.stderr.lines().filter(|line| line.contains("warning")).collect::<Vec<_>>().join("\n"));
}

#[test]
fn scores_and_curves_of_a_program_enter_a_report() {
    let project = Project::with_study(
        r#"
[axis.arm]
values = ["a", "b"]
[stage.mine]
kind = "command"
inputs = { a = "./a", b = "./b" }
run = """cp ${axis.arm} scores.jsonl; printf '{"step":1,"loss":2}\\n{"step":2,"loss":1}\\n' > curve.jsonl"""
outputs = { "scores.jsonl" = "scores", "curve.jsonl" = "curve" }
[report.main]
rows = ["arm"]
columns = ["dataset"]
contrasts = [{ name = "a - b", plus = ["arm=a"], minus = ["arm=b"] }]
"#,
    );
    let scores = |right: usize| {
        let line = |id: usize| format!("{{\"id\":\"{id}\",\"dataset\":\"d\",\"score\":{}}}\n", u8::from(id < right));
        (0..30).map(line).collect::<Vec<_>>().concat()
    };
    project.write("a", scores(27)).write("b", scores(15));
    project.ok(&["run", "study.toml"]);
    let report = project.json(&["report", "study.toml"]);
    let rows = report["tables"][0]["rows"].as_array().unwrap();
    let cells: Vec<&Value> = rows.iter().map(|row| &row["cells"][0]["estimate"]["mean"]).collect();
    assert_eq!(cells, [0.9, 0.5]);
    assert_eq!(report["curves"][1]["points"][1]["loss"], 1.0);
}
