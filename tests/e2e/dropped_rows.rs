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
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    project.write("data/train.jsonl", lines.join("\n") + "\n");
    project.edit("study.toml", from, to);
    project
}

fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(word)).collect()
}

#[test]
fn lost_rows_are_an_error_with_examples() {
    let project = study_with_rationales(2, "as = \"direct\"", "as = \"cot\"");
    let outcome = project.fails(2, &["run", "study.toml", "mix"]);
    expect![[r#"
        error: `mix` failed: source `direct` loses 4 of 6 rows: 4 without a rationale
              `row-3` of `train` is without a rationale
              `row-4` of `train` is without a rationale
              `row-5` of `train` is without a rationale
            the share of lost rows is 0.667, above `max_lost` = 0
            help: complete these rows, or accept the loss with `max_lost = 0.667`"#]]
    .assert_eq(&outcome.error_text());
}

#[test]
fn permitted_losses_are_reported() {
    let project = study_with_rationales(2, "as = \"direct\"", "as = \"cot\", max_lost = 0.667");
    project.edit("study.toml", "= \"direct\"\nmax", "= [\"direct\", \"cot\"]\nmax");
    project.append("study.toml", "\n[report.main]\nstage = \"eval\"\nrows = [\"prompt\"]\n");
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
        for stage in ["[stage.sft]\n", "[stage.eval]\n"] {
            project.edit("study.toml", stage, &format!("{stage}{long}\n"));
        }
        project.edit("data/train.jsonl", "Is it dark?", &format!("{}?", "Is it dark or is it? ".repeat(30)));
        project.ablate(&["run", "study.toml"])
    };
    let outcome = run("").exited(2);
    let help =
        "    help: `too_long = \"drop\"` drops such rows, `too_long = \"truncate\"` removes the end of their response";
    assert_eq!(lines(&outcome.stderr, "too"), [help]);
    assert_eq!(lines(&outcome.stderr, "row `row-4` of `train`: the sequence has ").len(), 1, "{}", outcome.stderr);
    expect![[r#"
        warn  sft: 1 of 6 rows exceed the context length and are dropped
        warn  eval: 1 of 6 items exceed the context length and are dropped"#]]
    .assert_eq(&lines(&run("too_long = 'drop'").exited(0).stderr, "exceed").join("\n"));
    expect![[r#"
        warn  sft: 1 of 6 rows are dropped: truncated to the context length they have no useful tokens
        warn  eval: 1 of 6 items exceed the context length and lose the beginning of their text"#]]
    .assert_eq(&lines(&run("too_long = 'truncate'").exited(0).stderr, "warn ").join("\n"));
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
    project.edit("study.toml", "benchmark  = \"items\"", "benchmark  = \"made\"");
    let outcome = project.fails(1, &["run", "study.toml", "eval"]);
    expect![[r#"
        error: `made` failed: the output `items.jsonl` is not valid
          because line 2: `id`: two rows of `made` have the id `1`
            line 3: the answer `red` is not the letter of an option: it is the text of option A; for texts set `option_answers = "text"`"#]].assert_eq(&outcome.error_text());
}
