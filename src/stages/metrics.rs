//! The outputs of the stages that score a benchmark: the score of every item, and their means.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use super::judge_model::JudgeFacts;
use ablate_core::base::files;
use ablate_core::stage::{StageContext, Summary};
use ablate_data::jsonl;
use ablate_data::records::{Failure, FinishReason, Overlap, Score};

/// Writes `scores.jsonl` and `metrics.json`. `checked` says whether the scores were checked for contamination; `judge` has
/// facts about the judge model.
pub(super) fn write(ctx: &StageContext, scores: &[Score], checked: bool, judge: Option<JudgeFacts>) -> Result<Summary> {
    jsonl::write(&ctx.output("scores.jsonl"), scores)?;
    let metrics = Metrics { judge, ..Metrics::new(scores, checked) };
    files::write_json(&ctx.output("metrics.json"), &metrics)?;
    let summary = Summary::default()
        .with("items", metrics.overall.items)
        .with("accuracy", metrics.overall.accuracy)
        .with("compliance", metrics.overall.compliance)
        .with("readable", metrics.overall.readable)
        .with("cut", metrics.overall.cut);
    let summary = match &metrics.judge {
        Some(judge) => summary.with("judge", judge),
        None => summary,
    };
    let summary = match metrics.overall.failures {
        Some(failures) => summary.with("failures", failures),
        None => summary,
    };
    Ok(match metrics.overall.contaminated {
        Some(contaminated) => {
            summary.with("contaminated", contaminated).with("accuracy_clean", metrics.overall.accuracy_clean)
        }
        None => summary,
    })
}

/// The content of `metrics.json`.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Metrics {
    #[serde(flatten)]
    overall: Means,
    datasets: BTreeMap<String, Means>,
    /// The judge model that replaced the rules of some answer types; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    judge: Option<JudgeFacts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Means {
    items: usize,
    /// Mean score.
    accuracy: f64,
    /// Share of responses in the form that the prompt asks for.
    compliance: f64,
    /// Share of responses from which an answer of the item's type could be read, in any form.
    readable: f64,
    /// Share of responses that were truncated at `max_tokens`.
    cut: f64,
    /// Failures of the responses that were compared with facts; `None` without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    failures: Option<Failures>,
    /// Contaminated items; `None` if the training data of the model are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    contaminated: Option<Contaminated>,
    /// Mean score of the other items, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy_clean: Option<f64>,
}

/// Numbers of wrong responses by class, among the `responses` that were compared with facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Failures {
    responses: usize,
    reading: usize,
    arithmetic: usize,
    form: usize,
}

/// Numbers of items that overlap with the training data, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Contaminated {
    /// The training data have another question about the same image.
    image: usize,
    /// The training data have the same question about the same image.
    question: usize,
}

impl Metrics {
    fn new(scores: &[Score], checked: bool) -> Metrics {
        let mut groups: BTreeMap<String, Vec<&Score>> = BTreeMap::new();
        for score in scores {
            groups.entry(score.dataset.clone()).or_default().push(score);
        }
        let datasets = groups.into_iter().map(|(name, scores)| (name, Means::new(&scores, checked))).collect();
        Metrics { overall: Means::new(&scores.iter().collect::<Vec<_>>(), checked), datasets, judge: None }
    }
}

impl Means {
    fn new(scores: &[&Score], checked: bool) -> Means {
        let items = scores.len();
        let overlapping = |overlap| scores.iter().filter(|score| score.seen == overlap).count();
        let clean = overlapping(None);
        let share = |count: usize| count as f64 / items.max(1) as f64;
        Means {
            items,
            accuracy: scores.iter().map(|score| score.score).sum::<f64>() / items.max(1) as f64,
            compliance: share(scores.iter().filter(|score| score.compliant == Some(true)).count()),
            readable: share(scores.iter().filter(|score| !score.unreadable).count()),
            cut: share(scores.iter().filter(|score| score.finish == Some(FinishReason::Length)).count()),
            failures: Failures::of(scores),
            contaminated: checked.then(|| Contaminated {
                image: overlapping(Some(Overlap::Image)),
                question: overlapping(Some(Overlap::Question)),
            }),
            accuracy_clean: (checked && clean > 0).then(|| {
                let clean_scores = scores.iter().filter(|score| score.seen.is_none());
                clean_scores.map(|score| score.score).sum::<f64>() / clean as f64
            }),
        }
    }
}

impl Failures {
    fn of(scores: &[&Score]) -> Option<Failures> {
        let responses = scores.iter().filter(|score| !score.facts.is_empty()).count();
        let count = |class| scores.iter().filter(|score| score.failure == Some(class)).count();
        (responses > 0).then(|| Failures {
            responses,
            reading: count(Failure::Reading),
            arithmetic: count(Failure::Arithmetic),
            form: count(Failure::Form),
        })
    }
}
