//! `compare`: cells, checkpoints, experiments and runs; `ls` with metrics and parameters.

use expect_test::expect;

use crate::support::{Project, assert_contains};

/// Two models that answer twenty questions of two data sets with two prompts: model `b` is right on every question that `a` is right
/// on, and on five more.
const STUDY: &str = r#"
[axis.model]
values = ["a", "b"]
[axis.prompt]
values = ["cot", "direct"]
[axis.lr]
values = [0.1, 0.2]
[stage.train]
kind = "command"
run = "printf '%s' '${axis.model} ${axis.lr}' > model.txt"
outputs = { "model.txt" = "file" }
[stage.eval]
kind = "command"
inputs = { "model.txt" = "train" }
run = '''
right=$(grep -c b model.txt)
for item in 0 1 2 3 4 5 6 7 8 9; do
  score=0; if [ $item -lt 3 ] || { [ $right = 1 ] && [ $item -lt 8 ]; }; then score=1; fi
  if [ ${axis.prompt} = direct ]; then score=0; fi
  echo "{\"id\":\"q$item\",\"dataset\":\"count\",\"score\":$score,\"prompt\":\"How many?\",\"gold\":[\"$item\"],\"response\":\"I see $score.\",\"answer\":\"$score\"}"
done > scores.jsonl
'''
outputs = { "scores.jsonl" = "scores" }
"#;

fn project() -> Project {
    let project = Project::with_study(STUDY);
    project.ok(&["run", "study.toml"]);
    project
}

#[test]
fn two_cells_are_paired_by_the_other_axes() {
    let project = project();
    let text = project.ok(&["compare", "study.toml", "model=a,lr=0.1", "model=b,lr=0.1", "--answers", "1"]).stdout;
    expect![[r#"
        parameters that differ
          train.run: "printf '%s' 'a 0.1' > model.txt" -> "printf '%s' 'b 0.1' > model.txt"

        model=b,lr=0.1 minus model=a,lr=0.1
        `comparison`, 10 items, 1 seed

        accuracy
                         cot                        direct                 mean
        model=a,lr=0.1   30.0 [8.3, 62.0]           0.0 [0.0, 25.9]        15.0 [3.4, 37.6]
        model=b,lr=0.1   80.0 [48.0, 96.5] +50.0    0.0 [0.0, 25.9] 0.0    40.0 [26.0, 55.4] +25.0
        percent, 95 % confidence interval over items, for these training runs
        signed numbers: difference to `model=a,lr=0.1` on shared items and seeds
        * p < 0.05 (Holm-Bonferroni correction over 3 tests) and the confidence interval of the difference excludes zero

        contrasts
        prompt=cot       +50.0 [5.5, 77.9]     p 0.19    not shown
            the confidence interval excludes zero, but p is not below 0.05; an effect above +77.9 is excluded; one seed: the
            variation between training runs is unknown; to show a true effect of +50.0 with 80 % power needs 18 items
        prompt=direct      0.0 [−23.1, 23.1]   p 1.00    not shown
            the confidence interval includes zero; an effect above +23.1 is excluded; one seed: the variation between training
            runs is unknown
        all              +25.0 [−10.3, 52.0]   p 0.19    not shown
            the confidence interval includes zero; an effect above +52.0 is excluded; one seed: the variation between training
            runs is unknown; to show a true effect of +25.0 with 80 % power needs 36 items
        percentage points, 95 % confidence interval, p-value: Holm-Bonferroni correction over 3 tests
        answers, prompt=cot: 5 gained, 0 lost, 3 right on both sides, 2 wrong on both
          gained count q5
            prompt How many?
            gold   5
            first  I see 0.
            second I see 1.
        answers, prompt=direct: 0 gained, 0 lost, 0 right on both sides, 10 wrong on both
        1 evaluation has the same result on both sides
        4 more changed answers: `--answers all` shows them, `--json` for scripts
    "#]].assert_eq(&text);
    let json = project.json(&["compare", "study.toml", "model=a,lr=0.1", "model=b,lr=0.1"]);
    let flips = &json["comparison"]["flips"];
    assert_eq!(
        (&flips[0]["group"], &flips[0]["gained"], &flips[0]["lost"]),
        (&"prompt=cot".into(), &5.into(), &0.into())
    );
    assert_eq!(flips[0]["shown"][0]["second"]["answer"], "1");
    assert_eq!((&flips[1]["gained"], &flips[1]["both_wrong"]), (&0.into(), &10.into()));
    let difference = &json["comparison"]["report"]["tables"][0]["contrasts"][0]["difference"];
    assert_eq!((&difference["estimate"]["mean"], &difference["method"]), (&0.5.into(), &"mc-nemar".into()));
    // Five gained, none lost: 2 / 2^5.
    assert!((difference["p"].as_f64().unwrap() - 0.0625).abs() < 1e-9, "{difference}");
}

#[test]
fn an_axis_that_only_one_side_has_is_averaged_and_said() {
    let project = project();
    let text = project.ok(&["compare", "study.toml", "model=a", "model=b,lr=0.2"]).stdout;
    assert_contains(&text, &["not compared, only in `model=a`: eval@lr=0.1,model=a,prompt=cot"]);
    let error = project.fails(2, &["compare", "study.toml", "model=a,prompt=cot", "model=b,prompt=direct,lr=0.3"]);
    error.stderr_has(&["`model=b,prompt=direct,lr=0.3` matches no evaluation", "a similar one is `lr=0.1`"]);
    let text = project.ok(&["compare", "study.toml", "lr=0.1,prompt=cot", "lr=0.2,prompt=cot,model=a"]).stdout;
    assert_contains(&text, &["not compared, only in `lr=0.1,prompt=cot`: eval@lr=0.1,model=b,prompt=cot"]);
}

#[test]
fn wrong_arguments_are_refused_with_the_forms_that_work() {
    let project = project();
    let forms = "`ablate compare FILE A B`";
    project.fails(2, &["compare", "study.toml", "model=a"]).stderr_has(&["no two things of one kind", forms]);
    project.fails(2, &["compare", "study.toml", "train", "model=a"]).stderr_has(&["neither scores nor a model"]);
    project
        .fails(2, &["compare", "study.toml", "lr=0.1", "eval@lr=0.1"])
        .stderr_has(&["`lr=0.1` and `eval@lr=0.1` are the same evaluations"]);
    project.fails(2, &["compare", "nothing"]).stderr_has(&["there is no run `nothing`"]);
    project
        .fails(2, &["compare", "study.toml", "a", "b", "--metric", "speed"])
        .stderr_has(&["unknown variant `speed`"]);
}

#[test]
fn two_runs_show_the_cause_in_a_few_lines() {
    let project = project();
    project.edit("study.toml", "${axis.model} ${axis.lr}'", "b ${axis.model} ${axis.lr}'");
    project.ok(&["run", "study.toml"]);
    let text = project.ok(&["compare", "latest~1", "latest"]).stdout;
    let head = text.lines().skip(1).take_while(|line| !line.is_empty());
    let head = head.map(str::trim_start).collect::<Vec<_>>().join("\n") + "\n";
    expect![[r#"
        train@lr=0.1,model=a and 3 more instances, each at these keys: `run` changed from "printf '%s' 'a 0.1' > model.txt" to "printf '%s' 'b a 0.1' > model.txt"
        with other inputs because of these: eval (8, 6 with equal outputs)
        6 evaluations have the same results in both runs
    "#]].assert_eq(&head);
    let json = project.json(&["diff", "latest~1", "latest"]);
    assert_eq!(json["changes"]["differences"].as_array().unwrap().len(), 12);
    assert_eq!(json["comparison"]["flips"][0]["gained"], 5);
}

#[test]
fn tables_are_written_for_other_programs() {
    let project = project();
    let arguments = ["compare", "study.toml", "model=a,lr=0.1", "model=b,lr=0.1", "--format"];
    let csv = project.ok(&[&arguments[..], &["csv"]].concat()).stdout;
    assert!(csv.starts_with("table,row,column"), "{csv}");
    let markdown = project.ok(&[&arguments[..], &["md"]].concat()).stdout;
    assert_contains(&markdown, &["## Parameters that differ", "| train.run |"]);
}

#[test]
fn the_page_has_the_answers_of_both_sides() {
    let project = project();
    project.ok(&["compare", "study.toml", "model=a,lr=0.1", "model=b,lr=0.1", "--html", "ab.html"]);
    let page = project.read("ab.html");
    assert_contains(
        &page,
        &[
            "<!doctype html>",
            "model=b,lr=0.1 minus model=a,lr=0.1",
            "Parameters that differ</h2>",
            "<th scope=\"row\"><code>train.run</code></th><td><code>&quot;printf &#39;%s&#39; &#39;a 0.1&#39; &gt; model.txt&quot;</code></td>",
            // Ten items, two models, two prompts; with the prompt `direct`, both models have the same file of scores.
            "30 answers to 10 items.",
            "id=\"answers-index\"",
            // Five answers are gained with the prompt `cot`.
            "flip=gained\">5</a>",
        ],
    );
    assert!(page.find("id=\"parameters\"") < page.find("id=\"table-0\""), "what differs comes first");
    // Both runs have evaluations of the same names, which the page distinguishes by their run.
    project.edit("study.toml", "${axis.model} ${axis.lr}'", "b ${axis.model} ${axis.lr}'");
    project.ok(&["run", "study.toml"]);
    let command = ["compare", "latest~1", "latest", "--html", "runs.html"];
    let json = project.json(&command);
    let cells = &json["comparison"]["report"]["tables"][0]["rows"][1]["cells"][0]["instances"];
    let second = json["comparison"]["second"].as_str().unwrap();
    assert_eq!(cells[0], format!("{second}: eval@lr=0.1,model=a,prompt=cot"));
    let page = project.read("runs.html");
    assert_contains(&page, &["What changed</h2>", "<code>run</code> changed from", "flip=gained\">5</a>"]);
}

#[test]
fn ls_shows_and_sorts_parameters() {
    let project = project();
    let text = project.ok(&["ls", "study.toml", "train", "--columns", "lr,model", "--sort", "lr"]).stdout;
    let columns: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().take(4).collect()).collect();
    assert_eq!(columns[0], ["name", "state", "lr", "model"]);
    assert_eq!(columns[1], ["train@lr=0.2,model=a", "fresh", "0.2", "a"]);
    let csv = project.ok(&["ls", "study.toml", "train", "--format", "csv"]).stdout;
    assert!(csv.starts_with("name,state,size,seconds,lr,model,run"), "{csv}");
    project.fails(2, &["ls", "study.toml", "--sort", "lrr"]).stderr_has(&["no instance has the column `lrr`", "`lr`"]);
    assert_eq!(project.json(&["ls", "study.toml", "train"])[0]["parameters"]["lr"], "0.1");
}
