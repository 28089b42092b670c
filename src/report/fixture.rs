//! Small made-up evaluations for the tests of reports.

use super::input::{ContrastRequest, Evaluation, ReportInput, ScoreRows, Selector, TableRequest};
use ablate_data::records::{AnswerType, CreditedItem, CreditedResponse, FinishReason, Item, Score, Verdict};

/// One score: `id` names its data set before the first dash.
pub(super) fn score(id: &str, value: f64) -> Score {
    Score {
        id: id.to_string(),
        dataset: id.split('-').next().unwrap_or_default().to_string(),
        image: None,
        prompt: format!("How many in {id}?"),
        gold: vec!["7".to_string()],
        response: format!("I see {value}.\n### Answer: {value}"),
        finish: FinishReason::Stop,
        answer: Some(value.to_string()),
        compliant: value >= 0.0,
        unreadable: false,
        score: value,
        seen: None,
    }
}

/// An instance of `eval` at a point, with the scores of items `a-0`, `a-1`, ... in order.
pub(super) fn evaluation(point: &str, values: &[f64]) -> Evaluation {
    let scores = values.iter().enumerate().map(|(item, value)| score(&format!("a-{item}"), *value)).collect();
    Evaluation { scores: Some(ScoreRows::Listed(scores)), ..not_run(point) }
}

/// The scores of an evaluation that has run.
pub(super) fn scores(evaluation: &mut Evaluation) -> &mut Vec<Score> {
    match &mut evaluation.scores {
        Some(ScoreRows::Listed(scores)) => scores,
        other => panic!("no list of scores: {other:?}"),
    }
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
        credits: Vec::new(),
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

/// A question with right and wrong responses of two tokens each.
pub(super) fn credited(responses: &[bool]) -> CreditedItem {
    let credit = |&correct: &bool| CreditedResponse {
        verdict: Verdict {
            text: "1+2=3".to_string(),
            finish: FinishReason::Stop,
            answer: Some("3".to_string()),
            compliant: true,
            unreadable: false,
            score: f64::from(u8::from(correct)),
            correct,
        },
        log_ratio: if correct { 0.5 } else { -1.0 },
        tokens: vec![("1+2".to_string(), if correct { -0.5 } else { -2.0 }), ("=3".to_string(), 1.0)],
    };
    let item = Item {
        id: "a-0".to_string(),
        dataset: "a".to_string(),
        image: None,
        question: "1+2?".to_string(),
        options: Vec::new(),
        answer_type: AnswerType::Number,
        answers: vec!["3".to_string()],
        rationale: None,
        rationale_answer: None,
    };
    CreditedItem { item, prompt: "1+2?".to_string(), responses: responses.iter().map(credit).collect() }
}
