//! Rows that cannot be used: an error, or counted on the terminal and in the report.

use expect_test::expect;

use crate::caching::study;
use crate::space::Space;

/// The study with rationales in its first rows, and a piece of its text replaced.
fn explained(rationales: usize, from: &str, to: &str) -> Space {
    let space = study();
    let mut rows: Vec<serde_json::Value> =
        space.read("data/train.jsonl").lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    for row in rows.iter_mut().take(rationales) {
        row["rationale"] = "It is what it looks like.".into();
    }
    let rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
    space.write("data/train.jsonl", rows.join("\n") + "\n");
    let text = space.read("study.toml");
    assert!(text.contains(from), "`{from}` is not in the study");
    space.write("study.toml", text.replacen(from, to, 1));
    space
}

fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(word)).collect()
}

#[test]
fn a_source_that_loses_rows_is_an_error_that_shows_three() {
    let space = explained(2, "as = \"direct\"", "as = \"cot\"");
    let outcome = space.ablate(&["run", "study.toml", "mix"]);
    assert_eq!(outcome.code, Some(2));
    let told = outcome.stderr.split_once("error: ").unwrap().1.split_once("\n  log:").unwrap().0;
    expect![[r#"
        `mix` failed: source `direct` loses 4 of 6 rows: 4 without a rationale
              `row-3` of `train` is without a rationale
              `row-4` of `train` is without a rationale
              `row-5` of `train` is without a rationale
            the share of lost rows is 0.667, above `max_lost` = 0
            help: complete these rows, or accept the loss with `max_lost = 0.667`"#]]
    .assert_eq(told);
}

#[test]
fn permitted_losses_stand_on_the_terminal_and_in_the_report() {
    let space = explained(2, "as = \"direct\"", "as = \"cot\", max_lost = 0.667");
    let asked = space.read("study.toml").replace("= \"direct\"\nmax", "= [\"direct\", \"cot\"]\nmax");
    space.write("study.toml", asked + "\n[report.main]\nstage = \"eval\"\nrows = [\"prompt\"]\n");
    let outcome = space.ok(&["run", "study.toml"]);
    let text = "source `direct` loses 4 of 6 rows: 4 without a rationale";
    assert_eq!(lines(&outcome.stderr, "loses"), [format!("warn  mix: {text}")]);
    let report = space.ok(&["report", "study.toml"]).stdout;
    assert!(lines(&report, "loses")[0].contains(&format!("`mix`: {text}")), "{report}");
    assert!(space.ok(&["logs", "study.toml", "mix"]).stdout.contains(&format!("warning: {text}")));
}

#[test]
fn a_row_that_is_longer_than_the_model_is_an_error_or_left_out_or_cut() {
    // Of 180 words at least, where the other rows have no more than 60 tokens.
    let run = |long: &str| {
        let space = explained(0, "ff = 16 }\n\n[stage.mix]", "ff = 16, max_positions = 96 }\n\n[stage.mix]");
        let long = if long.is_empty() { String::new() } else { format!("too_long = \"{long}\"\n") };
        let text = space.read("study.toml").replace("[stage.sft]\n", &format!("[stage.sft]\n{long}"));
        space.write("study.toml", text.replace("[stage.eval]\n", &format!("[stage.eval]\n{long}")));
        let rows = space.read("data/train.jsonl").replacen(
            "Is it dark?",
            &format!("{}?", "Is it dark or is it? ".repeat(30)),
            1,
        );
        space.write("data/train.jsonl", rows);
        space.ablate(&["run", "study.toml"])
    };
    let outcome = run("");
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let told = lines(&outcome.stderr, "too");
    assert_eq!(
        told,
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
fn items_of_a_program_are_checked_before_a_model_is_asked() {
    let space = study();
    let item = |id: &str, answer: &str| {
        serde_json::json!({
            "id": id, "dataset": "made", "question": "Which?", "options": ["red", "blue"], "answer_type": "letter",
            "answers": [answer],
        })
        .to_string()
    };
    space.write("made.jsonl", [item("1", "A"), item("1", "B"), item("2", "red")].join("\n"));
    space.append(
        "study.toml",
        r#"
[stage.made]
kind    = "command"
inputs  = { "made.jsonl" = "./made.jsonl" }
run     = "cp made.jsonl items.jsonl"
outputs = { "items.jsonl" = "items" }
"#,
    );
    let text = space.read("study.toml");
    space.write("study.toml", text.replace("benchmark  = \"items\"", "benchmark  = \"made\""));
    let outcome = space.ablate(&["run", "study.toml", "eval"]);
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    let told = outcome.stderr.split_once("error: ").unwrap().1.split_once("\n  log:").unwrap().0;
    expect![[r#"
        `eval` failed: two items of `made` have the id `1`
            item `2` of `made`: the answer `red` is not the letter of an option: it is the text of option A; for texts set `option_answers = "text"`"#]]
    .assert_eq(told);
}
