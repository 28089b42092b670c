//! What the stages that score a benchmark write: the score of every item, and their means. Knows no kind.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use ablate_core::base::files;
use ablate_core::stage::{StageContext, Summary};
use ablate_data::jsonl;
use ablate_data::records::{FinishReason, Overlap, Score};

/// Writes `scores.jsonl` and `metrics.json`, and sums them up. `known` says whether the scores know what the model was
/// trained on.
pub(super) fn write(ctx: &StageContext, scores: &[Score], known: bool) -> Result<Summary> {
    jsonl::write(&ctx.output("scores.jsonl"), scores)?;
    let metrics = Metrics::of(scores, known);
    files::write_json(&ctx.output("metrics.json"), &metrics)?;
    let summary = Summary::default()
        .with("items", metrics.overall.items)
        .with("accuracy", metrics.overall.accuracy)
        .with("compliance", metrics.overall.compliance)
        .with("readable", metrics.overall.readable)
        .with("cut", metrics.overall.cut);
    Ok(match metrics.overall.contaminated {
        Some(contaminated) => {
            summary.with("contaminated", contaminated).with("accuracy_clean", metrics.overall.accuracy_clean)
        }
        None => summary,
    })
}

/// What `metrics.json` holds.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Metrics {
    #[serde(flatten)]
    overall: Metric,
    datasets: BTreeMap<String, Metric>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Metric {
    items: usize,
    /// Mean score.
    accuracy: f64,
    /// Share of responses in the form that the prompt asks for.
    compliance: f64,
    /// Share of responses from which an answer of the item's type could be read, in that form or not.
    readable: f64,
    /// Share of responses that were cut at `max_tokens`.
    cut: f64,
    /// Items of which the model was trained on something; none where nobody has kept what it was trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    contaminated: Option<Contaminated>,
    /// Mean score of the others, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy_clean: Option<f64>,
}

/// How many items were trained on, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Contaminated {
    /// With another question about the same image.
    image: usize,
    /// With the same question about the same image.
    question: usize,
}

impl Metrics {
    fn of(scores: &[Score], known: bool) -> Metrics {
        let mut groups: BTreeMap<String, Vec<&Score>> = BTreeMap::new();
        for score in scores {
            groups.entry(score.dataset.clone()).or_default().push(score);
        }
        let datasets = groups.into_iter().map(|(name, scores)| (name, Metric::of(&scores, known))).collect();
        Metrics { overall: Metric::of(&scores.iter().collect::<Vec<_>>(), known), datasets }
    }
}

impl Metric {
    fn of(scores: &[&Score], known: bool) -> Metric {
        let items = scores.len();
        let seen = |overlap| scores.iter().filter(|score| score.seen == overlap).count();
        let clean = seen(None);
        let share = |count: usize| count as f64 / items.max(1) as f64;
        Metric {
            items,
            accuracy: scores.iter().map(|score| score.score).sum::<f64>() / items.max(1) as f64,
            compliance: share(scores.iter().filter(|score| score.compliant).count()),
            readable: share(scores.iter().filter(|score| !score.unreadable).count()),
            cut: share(scores.iter().filter(|score| score.finish == FinishReason::Length).count()),
            contaminated: known
                .then(|| Contaminated { image: seen(Some(Overlap::Image)), question: seen(Some(Overlap::Question)) }),
            accuracy_clean: (known && clean > 0).then(|| {
                let clean_scores = scores.iter().filter(|score| score.seen.is_none());
                clean_scores.map(|score| score.score).sum::<f64>() / clean as f64
            }),
        }
    }
}
