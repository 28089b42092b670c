//! Training budgets: in the report, and in the notes of `check` and `plan`.

use expect_test::expect;
use serde_json::Value;

use crate::caching::study;
use crate::support::{Project, assert_contains};

/// The study with an axis of the number of rows, and a contrast of its two values.
fn study_by_rows() -> Project {
    let project = study();
    let more = r#"
[axis.rows]
key    = "stage.mix.sources.direct.rows"
values = [4, 6]

[report.main]
rows = ["rows"]

[[report.main.contrasts]]
name  = "more rows"
plus  = ["rows=6"]
minus = ["rows=4"]
"#;
    project.append("study.toml", more);
    project
}

fn report(project: &Project) -> Value {
    serde_json::from_str(&project.read("out/study/report.json")).unwrap()
}

#[test]
fn different_budgets_are_noted_before_and_after_a_run() {
    let project = study_by_rows();
    let note = project.ok(&["check", "study.toml"]).stderr;
    expect![[r#"
        note: report `main`: the arms of the contrast `more rows` train for `epochs`, so their training budgets can differ
          --> study.toml:51:9
           |
        51 | name  = "more rows"
           |         ^^^^^^^^^^^
           |
           = help: `steps = N` or `tokens = N` instead of `epochs` in `stage.sft` makes them equal
    "#]].assert_eq(&note);
    assert_eq!(project.ok(&["plan", "study.toml"]).stderr, note);
    let notes = &project.json(&["check", "study.toml"])["notes"];
    assert_eq!(notes[0]["places"][0]["file"], "study.toml");

    // 2 epochs of 6 or 4 rows in batches of 4.
    let printed = project.ok(&["run", "study.toml"]).stdout;
    assert_contains(
        &printed,
        &["training budget", "budgets differ: 4 steps (", "training budgets differ: from 2 steps ("],
    );
    let table = &report(&project)["tables"][0];
    let steps = |row: usize| &table["rows"][row]["cells"][0]["budget"]["steps"]["mean"];
    assert_eq!((steps(0), steps(1)), (&2.0.into(), &4.0.into()));
    assert_eq!(table["rows"][1]["cells"][0]["budget"]["stages"][0]["stage"], "sft");
    assert_eq!(table["contrasts"][0]["budget"]["equal"], false);
    let csv = project.read("out/study/report.csv");
    let column = csv.lines().next().unwrap().split(',').position(|name| name == "steps").unwrap();
    assert_eq!(csv.lines().nth(1).unwrap().split(',').nth(column), Some("2"));
    assert!(project.read("out/study/report.md").contains("budgets differ: 4 steps ("));

    // Results from the store have the same budgets.
    assert!(project.ok(&["report", "study.toml"]).stdout.contains("budgets differ: 4 steps ("));
    assert_eq!(project.ok(&["plan", "study.toml"]).stderr, "");
}

#[test]
fn models_of_equal_steps_have_equal_budgets() {
    let project = study_by_rows();
    project.edit("study.toml", "epochs = 2", "steps  = 3");
    assert_eq!(project.ok(&["check", "study.toml"]).stderr, "");
    let printed = project.ok(&["run", "study.toml"]).stdout;
    assert_contains(&printed, &["training budget"]);
    assert!(printed.contains("equal budgets: 3 steps") || printed.contains("against 3 ("), "{printed}");
}

#[test]
fn notes_are_about_models_whose_budgets_can_differ() {
    let notes = |more: &str| {
        let project = study();
        project.edit("study.toml", "model      = \"sft\"", "model      = [\"sft\", \"longer\", \"other\"]");
        let stages = r#"
[stage.other]
kind  = "sft"
model = "fresh"
data  = "mix"
epochs = 2
batch  = 4
lr     = 1e-4

[stage.longer]
kind  = "sft"
model = "sft"
data  = "mix"
"#;
        project.append("study.toml", stages).append("study.toml", more);
        let checked = project.ok(&["check", "study.toml"]).stderr;
        checked.lines().filter(|line| line.contains("note:") || line.contains("help:")).collect::<Vec<_>>().join("\n")
    };
    // One model continues the other, or both train with the same settings on the same data.
    let contrast = |name: &str, plus: &str, minus: &str| {
        format!(
            "[[report.main.contrasts]]\nname = \"{name}\"\nplus = [\"model={plus}\"]\nminus = [\"model={minus}\"]\n"
        )
    };
    assert_eq!(notes(&(contrast("longer", "longer", "sft") + &contrast("rate", "other", "sft"))), "");
    expect![[r#"
        note: report `main`: the arms of 2 contrasts, first `a`, train for `epochs`, so their training budgets can differ
           = help: `steps = N` or `tokens = N` instead of `epochs` in `stage.longer`, `stage.other`, `stage.sft` makes them equal"#]].assert_eq(&notes(&(contrast("a", "longer", "other") + &contrast("b", "other", "longer"))));
    expect![[r#"
        note: report `main`: the baseline and other rows train for `epochs`, so their training budgets can differ
           = help: `steps = N` or `tokens = N` instead of `epochs` in `stage.longer`, `stage.other`, `stage.sft` makes them equal"#]].assert_eq(&notes("[report.main]\nrows = [\"model\"]\nbaseline = \"model=other\"\n"));
    assert_eq!(notes("[report.main]\nrows = [\"model\"]\nbaseline = \"model=sft\"\n"), "");
}
