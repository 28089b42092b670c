//! The table of answers (`tests/golden/answers.jsonl`): every verdict, and every difference from the benchmark's
//! evaluator that docs/stages.md explains.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::answers::{DEFAULT_THRESHOLD, judge};
use crate::jsonl;
use crate::prompts::Style;
use crate::records::{AnswerType, FinishReason, Item};
use crate::tests::support::item;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "type")]
    answer_type: AnswerType,
    gold: Vec<String>,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default)]
    dataset: String,
    style: Style,
    response: String,
    /// `right`, `wrong` or `unreadable`.
    verdict: String,
    score: f64,
    evaluator: Option<String>,
    /// The evaluator's score, or `unreadable`.
    says: Option<Value>,
    difference: Option<String>,
}

#[test]
fn verdicts_match_the_table() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let cases: Vec<Case> = jsonl::read(&root.join("tests/golden/answers.jsonl")).unwrap();
    let docs = std::fs::read_to_string(root.join("docs/stages.md")).unwrap();
    assert!(cases.len() >= 300, "{}", cases.len());
    let (mut problems, mut names) = (Vec::new(), BTreeSet::new());
    for case in cases {
        let Case { answer_type, gold, options, dataset, style, response, .. } = case;
        let label = format!("{answer_type:?} {gold:?} {options:?} {response:?}");
        let (options, gold): (Vec<&str>, Vec<&str>) =
            (options.iter().map(String::as_str).collect(), gold.iter().map(String::as_str).collect());
        let item = Item { dataset, ..item(answer_type, "?", &options, &gold) };
        let verdict = judge(&item, &response, FinishReason::Stop, style, DEFAULT_THRESHOLD);
        let verdict_name = match (verdict.unreadable, verdict.correct) {
            (true, _) => "unreadable",
            (false, true) => "right",
            (false, false) => "wrong",
        };
        if verdict_name != case.verdict || (verdict.score - case.score).abs() > 1e-9 {
            problems.push(format!("{label}: {verdict_name} {}, not {} {}", verdict.score, case.verdict, case.score));
        }
        let apart = case.says.is_some_and(|says| (says.as_f64().unwrap_or(0.0) - case.score).abs() > 1e-9);
        if apart != case.difference.is_some() {
            problems.push(format!("{label}: {:?} and `difference` do not fit together", case.evaluator));
        }
        names.extend(case.difference);
    }
    for name in names.iter().filter(|name| !docs.contains(&format!("| {name} |"))) {
        problems.push(format!("docs/stages.md does not explain the difference `{name}`"));
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}
