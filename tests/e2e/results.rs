//! `results`: all scores as one table.

use std::fs;

use expect_test::expect;
use serde_json::Value;

use crate::support::Project;

/// A study whose program scores two data sets along an axis of numbers and one of words.
fn project() -> Project {
    let project = Project::with_study(
        r#"
[axis.lr]
values = [1e-5, 2]
[axis.items]
values = ["few", "all"]
[stage.mine]
kind = "command"
run = """
echo '{"id":"1","dataset":"a","score":1,"compliant":true,"response":"say \\"x, y\\"","answer":"=1","gold":["1","2"]}' > scores.jsonl
echo '{"id":"2","dataset":"a","score":0,"compliant":false,"unreadable":true}' >> scores.jsonl
echo '{"id":"1","dataset":"b","score":0.5}' >> scores.jsonl
: ${axis.lr} ${axis.items}
"""
outputs = { "scores.jsonl" = "scores" }
"#,
    );
    project.ok(&["run", "study.toml", "mine@lr=2"]);
    project
}

#[test]
fn one_row_per_evaluation_and_data_set() {
    let project = project();
    let outcome = project.ok(&["results", "study.toml"]);
    expect![[r#"
        experiment,stage,instance,axis.items,lr,dataset,items,accuracy,compliance,readable,accuracy_given_compliance
        study,mine,"mine@items=few,lr=2",few,2,a,2,0.5,0.5,0.5,1.0
        study,mine,"mine@items=few,lr=2",few,2,b,1,0.5,,,
        study,mine,"mine@items=all,lr=2",all,2,a,2,0.5,0.5,0.5,1.0
        study,mine,"mine@items=all,lr=2",all,2,b,1,0.5,,,
    "#]]
    .assert_eq(&outcome.stdout);
    expect![[r#"
        warning: 2 of 4 evaluations have no rows: they have not run, or are out of date
    "#]]
    .assert_eq(&outcome.stderr);
    let table = project.json(&["results", "study.toml"]);
    expect![[r#"{"experiment":"study","stage":"mine","instance":"mine@items=few,lr=2","axis.items":"few","lr":2,"dataset":"a","items":2,"accuracy":0.5,"compliance":0.5,"readable":0.5,"accuracy_given_compliance":1.0}"#]].assert_eq(&table[0].to_string());
}

#[test]
fn one_row_per_item() {
    let project = project();
    expect![[r#"
        experiment,stage,instance,items,lr,dataset,id,score,compliant,unreadable,finish,failure,seen,answer,gold,prompt,response
        study,mine,"mine@items=few,lr=2",few,2,a,1,1.0,true,false,,,,=1,1 | 2,,"say ""x, y"""
        study,mine,"mine@items=few,lr=2",few,2,a,2,0.0,false,true,,,,,,,
        study,mine,"mine@items=few,lr=2",few,2,b,1,0.5,,,,,,,,,
        study,mine,"mine@items=all,lr=2",all,2,a,1,1.0,true,false,,,,=1,1 | 2,,"say ""x, y"""
        study,mine,"mine@items=all,lr=2",all,2,a,2,0.0,false,true,,,,,,,
        study,mine,"mine@items=all,lr=2",all,2,b,1,0.5,,,,,,,,,
    "#]].assert_eq(&project.ok(&["results", "study.toml", "--items"]).stdout);
    project.ok(&["results", "study.toml", "--items", "--out", "scores.json"]);
    let table: Value = serde_json::from_str(&project.read("scores.json")).unwrap();
    assert_eq!(table.as_array().unwrap().len(), 6);
    assert_eq!((&table[0]["lr"], &table[0]["answer"]), (&2.into(), &"=1".into()));
    assert_eq!(table[2]["compliant"], Value::Null);
}

#[test]
fn parquet_is_written_into_a_file() {
    let project = project();
    project.ok(&["results", "study.toml", "--out", "scores.parquet"]);
    let bytes = fs::read(project.path("scores.parquet")).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    // ablate reads it as it reads any other file.
    project.write(
        "read.toml",
        "[stage.items]\nkind = \"items\"\npath = \"scores.parquet\"\n\
         columns = { question = \"instance\", answer = \"accuracy\", dataset = \"dataset\" }\n",
    );
    project.ok(&["run", "read.toml"]);
    let items: Vec<Value> =
        project.read("out/read/items/items.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<String> =
        items.iter().map(|item| format!("{} {} {}", item["question"], item["dataset"], item["answers"])).collect();
    expect![[r#"
        "mine@items=few,lr=2" "a" ["0.5"]
        "mine@items=few,lr=2" "b" ["0.5"]
        "mine@items=all,lr=2" "a" ["0.5"]
        "mine@items=all,lr=2" "b" ["0.5"]"#]]
    .assert_eq(&shown.join("\n"));
}

#[test]
fn wrong_requests_are_refused() {
    let project = project();
    project.write("none.toml", "[stage.a]\nkind = \"command\"\nrun = \"true\"\noutputs = [\"x\"]\n");
    let refused = |arguments: &[&str]| project.fails(2, arguments).errors();
    expect![[r#"
        error: `none.toml` has no stage that gives scores
        error: Parquet is binary: write it into a file with `--out FILE.parquet`
        error: no format has the extension `xlsx`: use `.csv`, `.json` or `.parquet`, or give `--format`
        error: no format has the extension ``: use `.csv`, `.json` or `.parquet`, or give `--format`"#]]
    .assert_eq(
        &[
            refused(&["results", "none.toml"]),
            refused(&["results", "study.toml", "--format", "parquet"]),
            refused(&["results", "study.toml", "--out", "scores.xlsx"]),
            refused(&["results", "study.toml", "--out", "scores"]),
        ]
        .join("\n"),
    );
}
