//! Synthetic evaluations for the tests of reports.

use crate::input::{Evaluation, ReportInput, ScoreSource};
use crate::made_by::MadeBy;
use ablate_data::image_keys::ImageKeys;
use ablate_data::records::{AnswerType, CreditedItem, CreditedResponse, FinishReason, Item, Score, Verdict};
use ablate_experiment::{Contrast, GroupBy, ReportSpec, Selector};

pub(super) fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

pub(super) fn axes(names: &[&str]) -> GroupBy {
    GroupBy::Axes(names.iter().map(|name| (*name).to_string()).collect())
}

/// One score of the data set that is named before the first dash of `id`.
pub(super) fn score(id: &str, value: f64) -> Score {
    Score {
        id: id.to_string(),
        dataset: id.split('-').next().unwrap_or_default().to_string(),
        images: ImageKeys::None,
        prompt: format!("How many in {id}?"),
        gold: vec!["7".to_string()],
        response: format!("I see {value}.\n### Answer: {value}"),
        finish: Some(FinishReason::Stop),
        answer: Some(value.to_string()),
        compliant: Some(value >= 0.0),
        unreadable: false,
        score: value,
        facts: Vec::new(),
        failure: None,
        seen: None,
    }
}

/// An instance of `eval` at a point, with scores of the items `a-0`, `a-1`, ...
pub(super) fn evaluation(point: &str, values: &[f64]) -> Evaluation {
    let scores = values.iter().enumerate().map(|(item, value)| score(&format!("a-{item}"), *value)).collect();
    Evaluation { scores: Some(ScoreSource::Memory(scores)), ..not_run(point) }
}

/// The scores of an evaluation that has run.
pub(super) fn scores_mut(evaluation: &mut Evaluation) -> &mut Vec<Score> {
    match &mut evaluation.scores {
        Some(ScoreSource::Memory(scores)) => scores,
        other => panic!("not in memory: {other:?}"),
    }
}

pub(crate) fn not_run(point: &str) -> Evaluation {
    let instance = format!("eval@{point}");
    Evaluation {
        instance,
        stage: "eval".to_string(),
        point: selector(point).values,
        scores: None,
        training: Vec::new(),
        trained_elsewhere: None,
    }
}

/// A table of models by prompts with the baseline `model=sft`.
pub(super) fn spec() -> ReportSpec {
    ReportSpec {
        name: "main".to_string(),
        title: "Does it help?".to_string(),
        stage: "eval".to_string(),
        rows: axes(&["model"]),
        columns: axes(&["prompt"]),
        baseline: Some(selector("model=sft")),
        contrasts: vec![contrast("preferences help", "model=dpo,prompt=cot", "model=sft,prompt=cot")],
        labels: vec![(selector("prompt=cot"), "CoT".to_string())],
        ..ReportSpec::default()
    }
}

/// A table with the baseline `model=sft`, without contrasts.
pub(super) fn plain_spec(rows: &[&str], columns: &[&str]) -> ReportSpec {
    ReportSpec { rows: axes(rows), columns: axes(columns), contrasts: Vec::new(), ..spec() }
}

pub(super) fn contrast(name: &str, plus: &str, minus: &str) -> Contrast {
    let (plus, minus) = (vec![selector(plus)], vec![selector(minus)]);
    Contrast { name: name.to_string(), plus, minus, ..Contrast::default() }
}

pub(super) fn input(spec: ReportSpec, evaluations: Vec<Evaluation>) -> ReportInput<'static> {
    ReportInput {
        experiment: "reasoner".to_string(),
        about: String::new(),
        specs: vec![spec],
        evaluations,
        trainings: Vec::new(),
        curves: Vec::new(),
        credits: Vec::new(),
        graph: Vec::new(),
        costs: Vec::new(),
        made_by: MadeBy::default(),
        provenance: Vec::new(),
        notes: Vec::new(),
        mixtures: Vec::new(),
        stages: Vec::new(),
        answer_bytes: 1 << 20,
        images: Box::new(|_| None),
    }
}

/// Two models, two prompts, two seeds, eight items. `dpo` with chain of thought has run with one seed only.
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

/// A question with correct and incorrect responses of two tokens each.
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
        images: ImageKeys::None,
        question: "1+2?".to_string(),
        options: Vec::new(),
        answer_type: AnswerType::Number,
        answers: vec!["3".to_string()],
        rationale: None,
        rationale_answer: None,
        facts: Vec::new(),
    };
    CreditedItem { item, prompt: "1+2?".to_string(), responses: responses.iter().map(credit).collect() }
}

/// Three shares: the corners, the middles of the sides, and a mix of all.
pub(crate) const MIXES: [[f64; 3]; 7] = [
    [1.0, 0.0, 0.0],
    [0.0, 1.0, 0.0],
    [0.0, 0.0, 1.0],
    [0.5, 0.5, 0.0],
    [0.5, 0.0, 0.5],
    [0.0, 0.5, 0.5],
    [0.4, 0.3, 0.3],
];
