//! Items that a model was trained on: how many of them an evaluation is about, and what is left without them.

use super::grid::percent;
use super::input::{Evaluation, TableRequest};
use crate::data::records::Overlap;

/// What a reader of the table must know; nothing where no item was seen, or nobody kept what was.
pub(super) fn note(evaluations: &[Evaluation], request: &TableRequest) -> Option<String> {
    let mut worst: Option<(usize, usize, &Evaluation)> = None;
    let mut touched = 0;
    for one in evaluations.iter().filter(|one| one.stage == request.stage) {
        let count = |wanted| one.scores.iter().flatten().filter(|score| score.seen == Some(wanted)).count();
        let (question, image) = (count(Overlap::Question), count(Overlap::Image));
        touched += usize::from(question + image > 0);
        if question + image > worst.map_or(0, |(question, image, _)| question + image) {
            worst = Some((question, image, one));
        }
    }
    let (question, image, one) = worst?;
    let scores = one.scores.as_deref().unwrap_or_default();
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
        "contamination: `{}`{others} asks what its model was trained on: {question} of {} items with image and question, \
         {image} with the image; {rest}",
        one.instance,
        scores.len()
    ))
}
