//! Contamination: evaluated items that the model was trained on, and the score on the other items.

use super::scores::{ItemScore, Scores};
use super::text_table::percent;
use ablate_data::records::Overlap;
use ablate_experiment::ReportSpec;

/// A note about the evaluation with the most contaminated items. None if no item is known to be contaminated.
pub(super) fn note(scores: &Scores, shown: &[usize], spec: &ReportSpec) -> Option<String> {
    let mut worst: Option<(usize, usize, &str, &[ItemScore])> = None;
    let mut contaminated = 0;
    let shown = shown.iter().map(|&index| &scores.evaluations[index]);
    for one in shown.filter(|one| one.evaluation.stage == spec.stage) {
        let items = one.scores.as_deref().unwrap_or_default();
        let count = |overlap| items.iter().filter(|score| score.overlap == Some(overlap)).count();
        let (question, image) = (count(Overlap::Question), count(Overlap::Image));
        contaminated += usize::from(question + image > 0);
        if question + image > worst.map_or(0, |(question, image, ..)| question + image) {
            worst = Some((question, image, &one.evaluation.instance, items));
        }
    }
    let (question, image, instance, items) = worst?;
    let clean: Vec<f64> =
        items.iter().filter(|score| score.overlap.is_none()).filter_map(|score| score.value(spec.metric)).collect();
    let rest = match clean.len() {
        0 => "no other items".to_string(),
        count => {
            let mean = percent(clean.iter().sum::<f64>() / count as f64);
            format!("{} on the other {count} items: {mean}", spec.metric)
        }
    };
    let others = match contaminated {
        1 => String::new(),
        all => format!(" (and {} more evaluations)", all - 1),
    };
    Some(format!(
        "contamination: `{instance}`{others} evaluates a model on its training data: image and question of {question} of {} \
         items, and only the image of {image}; {rest}",
        items.len()
    ))
}
