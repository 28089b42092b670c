//! Picking a point: the value of an axis that does best on some of the scores, to be shown on the others. Items that
//! picked are never shown: a maximum over noise would look like a gain.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow, bail};

use super::grid::percent;
use super::input::{Evaluation, Images, Select, Selector, TableRequest};
use crate::base::Hash;
use crate::data::records::Score;

/// The evaluations that a table shows, and a note of what was picked. An error says that the items which pick are among
/// those which are shown.
pub(super) fn shown<'a>(
    evaluations: &'a [Evaluation],
    request: &TableRequest,
    images: &Images<'_>,
) -> Result<(Cow<'a, [Evaluation]>, Option<String>)> {
    let Some(Select { axis, on }) = &request.select else { return Ok((Cow::Borrowed(evaluations), None)) };
    let on_selector = Selector::parse(on).map_err(|message| anyhow!(message))?;
    let of_stage = || evaluations.iter().filter(|one| one.stage == request.stage);
    let (decide, rest): (Vec<_>, Vec<_>) = of_stage().partition(|one| on_selector.matches(&one.point));
    let scores = |of: &[&'a Evaluation]| of.iter().flat_map(|one| one.scores.iter().flatten()).collect::<Vec<_>>();
    let mut contents = Contents { images, known: BTreeMap::new() };
    let used: BTreeSet<(Hash, &str, &[String])> =
        scores(&decide).into_iter().map(|score| contents.item(score)).collect();
    let both = scores(&rest).into_iter().filter(|score| used.contains(&contents.item(score)));
    let both: BTreeSet<(&str, &str)> = both.map(|score| (score.dataset.as_str(), score.id.as_str())).collect();
    if let Some((dataset, id)) = both.first() {
        bail!(
            "refused: `{axis}` would be picked on {} items that the table reports, among them `{id}` of `{dataset}`: \
             pick on others",
            both.len()
        );
    }
    let mut means: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for one in &decide {
        let Some(label) = one.point.get(axis) else { continue };
        let Some(scores) = &one.scores else {
            let note = format!("`{axis}` is not picked yet: `{}` has not run", one.instance);
            return Ok((Cow::Owned(rest.into_iter().cloned().collect()), Some(note)));
        };
        let (sum, count) = means.entry(label).or_default();
        *sum += scores.iter().map(|score| request.metric.of(score)).sum::<f64>();
        *count += scores.len();
    }
    let means = means.into_iter().filter(|(_, (_, count))| *count > 0);
    let means: Vec<(&str, f64)> = means.map(|(label, (sum, count))| (label, sum / count as f64)).collect();
    // Of equals the first by name.
    let best = means.iter().fold(None, |best: Option<(&str, f64)>, one| match best {
        Some(best) if best.1 >= one.1 => Some(best),
        _ => Some(*one),
    });
    let Some((best, _)) = best else { bail!("no score with `{on}` has the axis `{axis}`: nothing can be picked") };
    let told: Vec<String> = means.iter().map(|(label, mean)| format!("{label} {}", percent(*mean))).collect();
    let note = format!("{axis} = {best} was picked on {on}: {}", told.join(", "));
    let kept = rest.into_iter().filter(|one| one.point.get(axis).is_none_or(|label| label == best)).cloned();
    Ok((Cow::Owned(kept.collect()), Some(note)))
}

/// Tells items apart by content: two files may hold one under two ids, and two different ones under one.
struct Contents<'a, 'i> {
    images: &'a Images<'i>,
    /// By the key of an image.
    known: BTreeMap<&'a str, Hash>,
}

impl<'a> Contents<'a, '_> {
    /// Its image, the first line of what was asked, and the answers. The instruction, by which two evaluations of an
    /// item may differ, is the last line.
    fn item(&mut self, score: &'a Score) -> (Hash, &'a str, &'a [String]) {
        let key = score.image.as_deref().unwrap_or_default();
        let read = || Hash::of_bytes(&(self.images)(key).unwrap_or_else(|| key.as_bytes().to_vec()));
        let image = *self.known.entry(key).or_insert_with(read);
        (image, score.prompt.lines().next().unwrap_or_default(), &score.gold)
    }
}
