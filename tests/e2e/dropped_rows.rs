//! Unusable rows are an error, or are counted on the terminal and in the report.

use expect_test::expect;

use crate::caching::study;
use crate::support::Project;

/// The study with rationales in its first rows, and one piece of its text replaced.
fn study_with_rationales(rationales: usize, from: &str, to: &str) -> Project {
    let project = study();
    let mut rows: Vec<serde_json::Value> =
        project.read("data/train.jsonl").lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    for row in rows.iter_mut().take(rationales) {
        row["rationale"] = "It is what it looks like.".into();
    }
    let rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
    project.write("data/train.jsonl", rows.join("\n") + "\n");
    let text = project.read("study.toml");
    assert!(text.contains(from), "`{from}` is not in the study");
    project.write("study.toml", text.replacen(from, to, 1));
    project
}

fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(word)).collect()
}

#[test]
fn lost_rows_are_an_error_with_examples() {
    let project = study_with_rationales(2, "as = \"direct\"", "as = \"cot\"");
    let outcome = project.ablate(&["run", "study.toml", "mix"]);
    assert_eq!(outcome.code, Some(2));
    let printed = outcome.stderr.split_once("error: ").unwrap().1.split_once("\n  log:").unwrap().0;
    expect![[r#"
        `mix` failed: source `direct` loses 4 of 6 rows: 4 without a rationale
              `row-3` of `train` is without a rationale
              `row-4` of `train` is without a rationale
              `row-5` of `train` is without a rationale
            the share of lost rows is 0.667, above `max_lost` = 0
            help: complete these rows, or accept the loss with `max_lost = 0.667`"#]]
    .assert_eq(printed);
}

#[test]
fn permitted_losses_are_reported() {
    let project = study_with_rationales(2, "as = \"direct\"", "as = \"cot\", max_lost = 0.667");
    let asked = project.read("study.toml").replace("= \"direct\"\nmax", "= [\"direct\", \"cot\"]\nmax");
    project.write("study.toml", asked + "\n[report.main]\nstage = \"eval\"\nrows = [\"prompt\"]\n");
    let outcome = project.ok(&["run", "study.toml"]);
    let text = "source `direct` loses 4 of 6 rows: 4 without a rationale";
    assert_eq!(lines(&outcome.stderr, "loses"), [format!("warn  mix: {text}")]);
    let report = project.ok(&["report", "study.toml"]).stdout;
    assert!(lines(&report, "loses")[0].contains(&format!("`mix`: {text}")), "{report}");
    assert!(project.ok(&["logs", "study.toml", "mix"]).stdout.contains(&format!("warning: {text}")));
}

#[test]
fn too_long_rows_are_refused_dropped_or_cut() {
    // At least 180 words; the other rows have at most 60 tokens.
    let run = |long: &str| {
        let project =
            study_with_rationales(0, "ff = 16 }\n\n[stage.mix]", "ff = 16, max_positions = 96 }\n\n[stage.mix]");
        let long = if long.is_empty() { String::new() } else { format!("too_long = \"{long}\"\n") };
        let text = project.read("study.toml").replace("[stage.sft]\n", &format!("[stage.sft]\n{long}"));
        project.write("study.toml", text.replace("[stage.eval]\n", &format!("[stage.eval]\n{long}")));
        let rows = project.read("data/train.jsonl").replacen(
            "Is it dark?",
            &format!("{}?", "Is it dark or is it? ".repeat(30)),
            1,
        );
        project.write("data/train.jsonl", rows);
        project.ablate(&["run", "study.toml"])
    };
    let outcome = run("");
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let printed = lines(&outcome.stderr, "too");
    assert_eq!(
        printed,
        [
            "    help: `too_long = \"drop\"` drops such rows, `too_long = \"truncate\"` removes the end of their response"
        ]
    );
    assert_eq!(lines(&outcome.stderr, "row `row-4` of `train`: the sequence has ").len(), 1, "{}", outcome.stderr);
    let outcome = run("drop");
    assert_eq!(
        lines(&outcome.stderr, "exceed"),
        [
            "warn  sft: 1 of 6 rows exceed the context length and are dropped",
            "warn  eval: 1 of 6 items exceed the context length and are dropped"
        ],
        "{}",
        outcome.stderr
    );
    let outcome = run("truncate");
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(
        lines(&outcome.stderr, "warn "),
        [
            "warn  sft: 1 of 6 rows are dropped: truncated to the context length they have no useful tokens",
            "warn  eval: 1 of 6 items exceed the context length and lose the beginning of their text"
        ],
        "{}",
        outcome.stderr
    );
}

#[test]
fn items_of_a_program_are_checked_first() {
    let project = study();
    let item = |id: &str, answer: &str| {
        serde_json::json!({
            "id": id, "dataset": "made", "question": "Which?", "options": ["red", "blue"], "answer_type": "letter",
            "answers": [answer],
        })
        .to_string()
    };
    project.write("made.jsonl", [item("1", "A"), item("1", "B"), item("2", "red")].join("\n"));
    project.append(
        "study.toml",
        r#"
[stage.made]
kind    = "command"
inputs  = { "made.jsonl" = "./made.jsonl" }
run     = "cp made.jsonl items.jsonl"
outputs = { "items.jsonl" = "items" }
"#,
    );
    let text = project.read("study.toml");
    project.write("study.toml", text.replace("benchmark  = \"items\"", "benchmark  = \"made\""));
    let outcome = project.ablate(&["run", "study.toml", "eval"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let printed = outcome.stderr.split_once("error: ").unwrap().1.split_once("\n  log:").unwrap().0;
    expect![[r#"
        `eval` failed: two items of `made` have the id `1`
            item `2` of `made`: the answer `red` is not the letter of an option: it is the text of option A; for texts set `option_answers = "text"`"#]]
    .assert_eq(printed);
}
