//! What the stages that score a benchmark write: the score of every item, and their means. Knows no kind.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::base::files;
use crate::data::jsonl;
use crate::data::records::{Finish, Score};
use crate::stage::{StageContext, Summary};

/// Writes `scores.jsonl` and `metrics.json`, and sums them up.
pub(super) fn write(ctx: &StageContext, scores: &[Score]) -> Result<Summary> {
    jsonl::write(&ctx.output("scores.jsonl"), scores)?;
    let metrics = Metrics::of(scores);
    files::write_json(&ctx.output("metrics.json"), &metrics)?;
    Ok(Summary::default()
        .with("items", metrics.overall.items)
        .with("accuracy", metrics.overall.accuracy)
        .with("compliance", metrics.overall.compliance)
        .with("cut", metrics.overall.cut))
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
    /// Share of responses that were cut at `max_tokens`.
    cut: f64,
}

impl Metrics {
    fn of(scores: &[Score]) -> Metrics {
        let mut groups: BTreeMap<String, Vec<&Score>> = BTreeMap::new();
        for score in scores {
            groups.entry(score.dataset.clone()).or_default().push(score);
        }
        let datasets = groups.into_iter().map(|(name, scores)| (name, Metric::of(&scores))).collect();
        Metrics { overall: Metric::of(&scores.iter().collect::<Vec<_>>()), datasets }
    }
}

impl Metric {
    fn of(scores: &[&Score]) -> Metric {
        let items = scores.len();
        let share = |count: usize| count as f64 / items.max(1) as f64;
        Metric {
            items,
            accuracy: scores.iter().map(|score| score.score).sum::<f64>() / items.max(1) as f64,
            compliance: share(scores.iter().filter(|score| score.compliant).count()),
            cut: share(scores.iter().filter(|score| score.finish == Finish::Length).count()),
        }
    }
}
