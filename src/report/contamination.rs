//! Items that a model was trained on: how many of them an evaluation is about, and what is left without them.

use super::grid::percent;
use super::input::TableRequest;
use super::scores::{Measurements, Scored};
use ablate_data::records::Overlap;

/// What a reader of the table must know; nothing where no item was seen, or nobody kept what was.
pub(super) fn note(read: &Measurements, shown: &[usize], request: &TableRequest) -> Option<String> {
    let mut worst: Option<(usize, usize, &str, &[Scored])> = None;
    let mut touched = 0;
    let shown = shown.iter().map(|&index| &read.evaluations[index]);
    for one in shown.filter(|one| one.evaluation.stage == request.stage) {
        let scores = one.scores.as_deref().unwrap_or_default();
        let count = |wanted| scores.iter().filter(|score| score.seen == Some(wanted)).count();
        let (question, image) = (count(Overlap::Question), count(Overlap::Image));
        touched += usize::from(question + image > 0);
        if question + image > worst.map_or(0, |(question, image, ..)| question + image) {
            worst = Some((question, image, &one.evaluation.instance, scores));
        }
    }
    let (question, image, instance, scores) = worst?;
    let clean: Vec<f64> =
        scores.iter().filter(|score| score.seen.is_none()).map(|score| request.metric.of(score)).collect();
    let rest = match clean.len() {
        0 => "none of its items is new".to_string(),
        count => format!("on the other {count} it has {}", percent(clean.iter().sum::<f64>() / count as f64)),
    };
    let others = match touched {
        1 => String::new(),
        touched => format!(" (and {} more evaluations)", touched - 1),
    };
    Some(format!(
        "contamination: `{instance}`{others} asks what its model was trained on: {question} of {} items with image and question, \
         {image} with the image; {rest}",
        scores.len()
    ))
}
