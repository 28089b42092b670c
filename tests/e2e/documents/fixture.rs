//! A small experiment with fixed scores: tests of markers and saved results, and of whether the statistics have changed.

use std::collections::{BTreeMap, BTreeSet};

use ablate_core::base::Hash;
use expect_test::expect;
use serde_json::{Value, json};

use super::markers::Document;
use super::values::Values;
use super::{loose_numbers, saved};
use crate::support::Project;

const STUDY: &str = r#"
name = "fixture"
extends = "base.toml"
[stage.eval]
kind = "command"
inputs = { scores = "./scores" }
run = "cp scores/$ARM-$PROMPT-$ABLATE_SEED.jsonl scores.jsonl"
outputs = { "scores.jsonl" = "scores" }
[axis.arm]
key = "stage.eval.env"
values = [["ARM=old"], ["ARM=new"]]
labels = ["old", "new"]
[axis.prompt]
key = "stage.eval.run"
values = ["cp scores/$ARM-direct-$ABLATE_SEED.jsonl scores.jsonl", "cp scores/$ARM-cot-$ABLATE_SEED.jsonl scores.jsonl"]
labels = ["direct", "cot"]
[report.main]
rows = ["arm"]
columns = ["prompt"]
baseline = "arm=old"
contrasts = [
  { name = "new - old", about = "new is better", plus = ["arm=new"], minus = ["arm=old"] },
  { name = "new - old, direct", plus = ["arm=new,prompt=direct"], minus = ["arm=old,prompt=direct"] },
]
published = { source = "a paper", columns = ["prompt=cot"], rows = { "arm=old" = [62.7] } }
"#;

/// The experiment, run once.
fn project() -> Project {
    let project = Project::new();
    project.write("study.toml", STUDY).write("base.toml", "[seeds]\nvalues = [0, 1, 2]\nfrom = [\"eval\"]\n");
    for (arm, prompt, right) in [("old", "direct", 3), ("old", "cot", 5), ("new", "direct", 3), ("new", "cot", 8)] {
        for seed in 0..3 {
            let rows = (0..60).map(|item| score(item, (item * 7 + seed * 5 + item / 10) % 10 < right + seed % 2));
            let rows: Vec<String> = rows.map(|row| format!("{row}\n")).collect();
            project.write(&format!("scores/{arm}-{prompt}-{seed}.jsonl"), rows.concat());
        }
    }
    project.ok(&["run", "study.toml", "-q"]);
    project
}

fn score(item: usize, right: bool) -> Value {
    json!({
        "id": item.to_string(), "dataset": if item < 30 { "chart" } else { "pick" }, "prompt": "?", "gold": ["1"],
        "response": "1", "finish": "stop", "answer": "1", "compliant": true, "score": f64::from(u8::from(right)),
    })
}

/// The hash of the statistics that the program computes from fixed scores. It changes when the report's methods change.
pub(super) fn statistics() -> Hash {
    let tables = saved::tables(&project().json(&["report", "study.toml"]));
    Hash::of_bytes(tables.to_string().as_bytes())
}

fn values(project: &Project) -> Values {
    let result = json!({ "tables": saved::tables(&project.json(&["report", "study.toml"])) });
    Values(BTreeMap::from([("fixture".to_string(), result)]))
}

#[test]
fn markers_are_filled() {
    let text = "\
## Results
<!--claim: fixture/main/new - old = shown-->New gains <!--=fixture/main/new - old-->?<!--/-->, on `pick`
<!--=fixture/main/new - old/datasets/pick-->?<!--/--> (paper: <!--paper-->+1.5<!--/-->).

| study | result |
|---|---|
| new | <!--=fixture/main/new - old/finding-->?<!--/--> and <!--=fixture/main/new - old, direct/finding-->?<!--/--> |
| seeds | <!--=fixture/main/new - old/by_seed--><!--/-->, <!--=fixture/main/new - old/p-->0<!--/-->  |
| old | <!--=fixture/main/old/cot-->?<!--/-->, <!--=fixture/main/old/cot/published-->?<!--/-->, <!--=fixture/main/old/cot/mean-->?<!--/--> |

<!-- results: fixture/main -->
| old table |
<!-- end -->

<!-- results: fixture/main/contrasts -->
<!-- end -->
";
    let values = values(&project());
    let rendered = Document::parse("a.md", text).unwrap().render(&values).unwrap();
    expect![[r#"
        ## Results
        <!--claim: fixture/main/new - old = shown-->New gains <!--=fixture/main/new - old-->+15.0 [12.5, 17.1]<!--/-->, on `pick`
        <!--=fixture/main/new - old/datasets/pick-->+15.0 [10.5, 18.8]<!--/--> (paper: <!--paper-->+1.5<!--/-->).

        | study | result |
        |---|---|
        | new | <!--=fixture/main/new - old/finding-->**+15.0** [12.5, 17.1]<!--/--> and <!--=fixture/main/new - old, direct/finding-->0.0 [−4.6, 4.6]<!--/--> |
        | seeds | <!--=fixture/main/new - old/by_seed-->+15.0, +15.0, +15.0<!--/-->, <!--=fixture/main/new - old/p-->p < 0.001<!--/-->  |
        | old | <!--=fixture/main/old/cot-->53.3 [22.9, 82.0]<!--/-->, <!--=fixture/main/old/cot/published-->62.7<!--/-->, <!--=fixture/main/old/cot/mean-->53.3<!--/--> |

        <!-- results: fixture/main -->

        |  | direct | cot | mean |
        |---|---|---|---|
        | old | 33.3 [18.8, 50.8] | 53.3 [22.9, 82.0] | 43.3 [30.1, 57.3] |
        | new | 33.3 [18.8, 50.8] | 83.3 [66.5, 93.7] | 58.3 [44.5, 71.3] |

        <!-- end -->

        <!-- results: fixture/main/contrasts -->

        | contrast | difference | p | verdict | steps |
        |---|---|---|---|---|
        | new - old | +15.0 [12.5, 17.1] | p < 0.001 | shown |  |
        | new - old, direct | 0.0 [−4.6, 4.6] | p = 1.00 | not shown |  |

        <!-- end -->
    "#]].assert_eq(&rendered);
    let again = Document::parse("a.md", &rendered).unwrap();
    assert_eq!(again.render(&values).unwrap(), rendered);
    assert_eq!(loose_numbers::find("a.md", &again, &["Results"]), Vec::<String>::new());
}

#[test]
fn wrong_markers_are_reported() {
    let text = "\
<!--=fixtur/main/new - old-->?<!--/-->
<!--=fixture/main/new - odl-->?<!--/-->
<!--=fixture/main/old/cott-->?<!--/-->
<!--=fixture/main/new - old/datasets/piick-->?<!--/-->
<!--=fixture/main/new - old/datasets-->?<!--/-->
<!--claim: fixture/main/new - old = the opposite is shown-->New is worse.
<!-- results: fixture/min -->
<!-- end -->
";
    let values = values(&project());
    let errors = Document::parse("a.md", text).unwrap().render(&values).unwrap_err();
    expect![[r#"
        a.md:1: `fixtur/main/new - old`: there is no result `fixtur`; the nearest is `fixture`
        a.md:2: `fixture/main/new - odl`: there is no row or contrast `new - odl`; the nearest is `new - old`
        a.md:3: `fixture/main/old/cott`: there is no column `cott`; the nearest is `cot`
        a.md:4: `fixture/main/new - old/datasets/piick`: there is no field `piick`; the nearest is `pick`
        a.md:5: `fixture/main/new - old/datasets` needs a field: chart, pick
        a.md:6: the text says `the opposite is shown` of `fixture/main/new - old`, but the verdict is `shown`
        a.md:7: `fixture/min`: there is no report `min`; the nearest is `main`"#]]
    .assert_eq(&errors.join("\n"));
    let text =
        "<!--=a-->?\n<!--vaule-->\n<!-- open\n<!--claim: a-->\n<!--=a-->?<!--=b-->?<!--/-->\n<!-- results: a -->\n";
    let errors = Document::parse("a.md", text).err().unwrap();
    expect![[r#"
        a.md:1: `<!--=a-->` has no `<!--/-->`
        a.md:2: `<!--vaule-->` is not a marker: markers are `=PATH`, `claim:`, `paper`, `size`, `results:`
        a.md:3: a comment has no end
        a.md:4: a claim is `<!--claim: PATH = VERDICT-->`
        a.md:5: `<!--=a-->` has no `<!--/-->` before the next marker
        a.md:6: the table has no `<!-- end -->`"#]]
    .assert_eq(&errors.join("\n"));
}

#[test]
fn loose_numbers_are_reported() {
    let text =
        "## Other\n5 %\n## Results\nNew gains +2 points (<!--size-->0.3<!--/--> million) and `4.5`.\nAt 95 %: 2.5.\n";
    let document = Document::parse("a.md", text).unwrap();
    expect![[r#"
        a.md:4: `2` is in no marker: write `<!--=PATH-->`, `<!--paper-->` or `<!--size-->` before it
        a.md:5: `2.5` is in no marker: write `<!--=PATH-->`, `<!--paper-->` or `<!--size-->` before it"#]]
    .assert_eq(&loose_numbers::find("a.md", &document, &["Results"]).join("\n"));
}

#[test]
fn changes_since_the_last_run_are_named() {
    let project = project();
    let dependencies = |kinds: &[&str], statistics: &[u8]| {
        let kinds: BTreeSet<String> = kinds.iter().map(ToString::to_string).collect();
        saved::dependencies(&project.path("study.toml"), &kinds, Hash::of_bytes(statistics))
    };
    let mut old = dependencies(&["eval", "sft"], b"old");
    assert_eq!(saved::changes(&old, &dependencies(&["eval", "sft"], b"old")), Vec::<String>::new());
    project.append("base.toml", "# A comment changes nothing.\n");
    assert_eq!(saved::changes(&old, &dependencies(&["eval", "sft"], b"old")), Vec::<String>::new());
    project.edit("base.toml", "[0, 1, 2]", "[0, 1]");
    old["kinds"]["sft"] = 2.into();
    let changes = saved::changes(&old, &dependencies(&["eval", "sft"], b"new")).join("\n");
    let folder = std::fs::canonicalize(project.path("")).unwrap().display().to_string();
    let version = ablate::stages::KINDS.iter().find(|kind| kind.name == "sft").unwrap().version;
    let changes = changes.replace(&folder, "").replace(&format!("is {version}"), "is [TODAY]");
    expect![[r#"
        /base.toml has changed
        `sft` was version 2, is [TODAY]
        the report computes other numbers from the same scores"#]]
    .assert_eq(&changes);
}

#[test]
fn saved_results_have_short_lines() {
    let rows: Vec<Value> = (0..3).map(|row| json!({ "label": "x".repeat(100), "row": row })).collect();
    let text = saved::render(&json!({ "name": "a", "rows": rows }));
    assert!(text.lines().count() == 8 && text.lines().all(|line| line.len() < 200), "{text}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["rows"][2]["row"], 2);
}
