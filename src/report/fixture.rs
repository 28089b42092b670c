//! Small made-up evaluations for the tests of reports.

use super::input::{ContrastRequest, Evaluation, ReportInput, Selector, TableRequest};
use crate::data::records::{Finish, Score};

/// One score: `id` names its data set before the first dash.
pub(super) fn score(id: &str, value: f64) -> Score {
    Score {
        id: id.to_string(),
        dataset: id.split('-').next().unwrap_or_default().to_string(),
        image: None,
        prompt: format!("How many in {id}?"),
        gold: vec!["7".to_string()],
        response: format!("I see {value}.\n### Answer: {value}"),
        finish: Finish::Stop,
        answer: Some(value.to_string()),
        compliant: value >= 0.0,
        score: value,
        seen: None,
    }
}

/// An instance of `eval` at a point, with the scores of items `a-0`, `a-1`, ... in order.
pub(super) fn evaluation(point: &str, values: &[f64]) -> Evaluation {
    let scores = values.iter().enumerate().map(|(item, value)| score(&format!("a-{item}"), *value)).collect();
    Evaluation { scores: Some(scores), ..not_run(point) }
}

pub(super) fn not_run(point: &str) -> Evaluation {
    let point_of = Selector::parse(point).unwrap().pins;
    Evaluation { instance: format!("eval@{point}"), stage: "eval".to_string(), point: point_of, scores: None }
}

/// A table of models by prompts against `model=sft`.
pub(super) fn request() -> TableRequest {
    TableRequest {
        name: "main".to_string(),
        title: "Does it help?".to_string(),
        stage: "eval".to_string(),
        rows: vec!["model".to_string()],
        columns: vec!["prompt".to_string()],
        baseline: Some("model=sft".to_string()),
        contrasts: vec![contrast("preferences help", "model=dpo,prompt=cot", "model=sft,prompt=cot")],
        labels: [("prompt=cot".to_string(), "CoT".to_string())].into(),
        ..TableRequest::default()
    }
}

pub(super) fn contrast(name: &str, plus: &str, minus: &str) -> ContrastRequest {
    let list = |text: &str| text.split('|').map(str::to_string).collect();
    ContrastRequest { name: name.to_string(), about: String::new(), plus: list(plus), minus: list(minus) }
}

pub(super) fn input(table: TableRequest, evaluations: Vec<Evaluation>) -> ReportInput<'static> {
    ReportInput {
        experiment: "reasoner".to_string(),
        about: String::new(),
        tables: vec![table],
        evaluations,
        curves: Vec::new(),
        graph: Vec::new(),
        costs: Vec::new(),
        provenance: Vec::new(),
        notes: Vec::new(),
        images: Box::new(|_| None),
        resamples: 200,
    }
}

/// Two models, two prompts, two seeds, eight items; `dpo` with chain of thought has one seed only.
pub(super) fn study() -> Vec<Evaluation> {
    let (yes, no) = (1.0, 0.0);
    vec![
        evaluation("model=sft,prompt=direct,seed=0", &[yes, no, no, no, yes, no, no, no]),
        evaluation("model=sft,prompt=direct,seed=1", &[yes, no, no, no, no, no, no, yes]),
        evaluation("model=sft,prompt=cot,seed=0", &[yes, yes, no, no, yes, no, no, no]),
        evaluation("model=sft,prompt=cot,seed=1", &[yes, yes, no, no, no, no, yes, no]),
        evaluation("model=dpo,prompt=direct,seed=0", &[yes, no, no, no, yes, no, no, no]),
        evaluation("model=dpo,prompt=direct,seed=1", &[yes, yes, no, no, no, no, no, yes]),
        evaluation("model=dpo,prompt=cot,seed=0", &[yes, yes, yes, yes, yes, yes, yes, no]),
        not_run("model=dpo,prompt=cot,seed=1"),
    ]
}
