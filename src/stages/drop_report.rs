//! What a distillation dropped and why, with examples, and the items whose label is in doubt.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use ablate_data::answers::{self, canonical};
use ablate_data::records::{Item, Verdict};

/// Examples of each reason and data set.
const EXAMPLES: usize = 3;
/// Items with a label in doubt that are listed.
const DOUBTFUL: usize = 20;
/// Characters of a text that are shown.
const EXCERPT: usize = 200;

/// Collects dropped samples.
#[derive(Debug, Default)]
pub(super) struct DropReport {
    /// By data set and reason.
    dropped: BTreeMap<String, BTreeMap<&'static str, Dropped>>,
    doubtful: Vec<Doubtful>,
}

#[derive(Debug, Default, Serialize)]
struct Dropped {
    count: usize,
    examples: Vec<Example>,
}

#[derive(Debug, Serialize)]
struct Example {
    id: String,
    reference: String,
    answer: Option<String>,
    text: String,
}

/// An item whose samples all arrive at the same other answer.
#[derive(Debug, Serialize)]
struct Doubtful {
    id: String,
    dataset: String,
    question: String,
    reference: String,
    answer: String,
    samples: usize,
}

impl DropReport {
    /// Counts a dropped sample.
    pub(super) fn add(&mut self, item: &Item, verdict: &Verdict, reason: &'static str) {
        let dropped = self.dropped.entry(item.dataset.clone()).or_default().entry(reason).or_default();
        dropped.count += 1;
        if dropped.examples.len() < EXAMPLES {
            dropped.examples.push(Example {
                id: item.id.clone(),
                reference: item.answers.join(" or "),
                answer: verdict.answer.clone(),
                text: excerpt(&verdict.text),
            });
        }
    }

    /// Looks at all samples of one item that have a readable answer. The label is in doubt if all of them arrive at the same
    /// answer and the label is another one: the teacher may be right and the label wrong.
    pub(super) fn compare(&mut self, item: &Item, verdicts: &[&Verdict]) {
        let readable: Vec<&&Verdict> = verdicts.iter().filter(|verdict| verdict.is_readable()).collect();
        if readable.is_empty() || readable.iter().any(|verdict| verdict.correct) {
            return;
        }
        let answers: Vec<&str> = readable.iter().filter_map(|verdict| verdict.answer.as_deref()).collect();
        let distinct: BTreeSet<String> = answers.iter().map(|answer| canonical(item, answer)).collect();
        if let ([answer, ..], 1) = (&answers[..], distinct.len()) {
            self.doubtful.push(Doubtful {
                id: item.id.clone(),
                dataset: item.dataset.clone(),
                question: excerpt(&item.question),
                reference: item.answers.join(" or "),
                answer: answers::concise(item, answer),
                samples: answers.len(),
            });
        }
    }

    /// The numbers of dropped samples by reason.
    pub(super) fn reasons(&self) -> BTreeMap<&'static str, usize> {
        let mut reasons = BTreeMap::new();
        for (reason, dropped) in self.dropped.values().flatten() {
            *reasons.entry(*reason).or_default() += dropped.count;
        }
        reasons
    }

    /// The dropped samples by data set and reason, with examples.
    pub(super) fn dropped(&self) -> Value {
        json!(self.dropped)
    }

    /// The items with a label in doubt, those with the most samples first.
    pub(super) fn doubtful_labels(mut self) -> Value {
        self.doubtful.sort_by_key(|item| std::cmp::Reverse(item.samples));
        let count = self.doubtful.len();
        self.doubtful.truncate(DOUBTFUL);
        json!({ "items": count, "first": self.doubtful })
    }
}

fn excerpt(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= EXCERPT { text } else { text.chars().take(EXCERPT).chain(['…']).collect() }
}
