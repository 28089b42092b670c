//! Picking a point: the value of an axis that does best on some of the scores, to be shown on the others. Items that
//! picked are never shown: a maximum over noise would look like a gain.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow, bail};

use super::grid::percent;
use super::input::{Images, Select, Selector, TableRequest};
use super::scores::{Measured, Measurements, Scored};
use ablate_core::base::Hash;

/// The evaluations that a table shows, by their indices, and a note of what was picked. An error says that the items
/// which pick are among those which are shown.
pub(super) fn shown(
    read: &Measurements<'_>,
    request: &TableRequest,
    images: &Images<'_>,
) -> Result<(Vec<usize>, Option<String>)> {
    let all: Vec<usize> = (0..read.evaluations.len()).collect();
    let Some(Select { axis, on }) = &request.select else { return Ok((all, None)) };
    let on_selector = Selector::parse(on).map_err(|message| anyhow!(message))?;
    let of_stage = all.into_iter().filter(|&index| read.evaluations[index].evaluation.stage == request.stage);
    let (decide, rest): (Vec<usize>, Vec<usize>) =
        of_stage.partition(|&index| on_selector.matches(&read.evaluations[index].evaluation.point));
    let mut contents = Contents { read, images, known: BTreeMap::new() };
    let used: BTreeSet<(Hash, u32, &[String])> = scores(read, &decide).map(|scored| contents.item(scored)).collect();
    let both = scores(read, &rest).filter(|scored| used.contains(&contents.item(scored)));
    let both = both.map(|scored| read.item(scored));
    let both: BTreeSet<(&str, &str)> = both.map(|item| (read.datasets[item.dataset].as_str(), &*item.id)).collect();
    if let Some((dataset, id)) = both.first() {
        bail!(
            "refused: `{axis}` would be picked on {} items that the table reports, among them `{id}` of `{dataset}`: \
             pick on others",
            both.len()
        );
    }
    let mut means: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for Measured { evaluation, scores } in decide.iter().map(|&index| &read.evaluations[index]) {
        let Some(label) = evaluation.point.get(axis) else { continue };
        let Some(scores) = scores else {
            let note = format!("`{axis}` is not picked yet: `{}` has not run", evaluation.instance);
            return Ok((rest, Some(note)));
        };
        let (sum, count) = means.entry(label).or_default();
        *sum += scores.iter().map(|scored| request.metric.of(scored)).sum::<f64>();
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
    let picked = |index: &usize| read.evaluations[*index].evaluation.point.get(axis).is_none_or(|label| label == best);
    Ok((rest.into_iter().filter(picked).collect(), Some(note)))
}

fn scores<'m>(read: &'m Measurements<'_>, of: &[usize]) -> impl Iterator<Item = &'m Scored> {
    of.iter().flat_map(|&index| read.evaluations[index].scores.iter().flat_map(|scores| scores.iter()))
}

/// Tells items apart by content: two files may hold one under two ids, and two different ones under one.
struct Contents<'m, 'i> {
    read: &'m Measurements<'m>,
    images: &'m Images<'i>,
    /// By the key of an image.
    known: BTreeMap<&'m str, Hash>,
}

impl<'m> Contents<'m, '_> {
    /// Its image, the first line of what was asked, and the answers. The instruction, by which two evaluations of an
    /// item may differ, is the last line.
    fn item(&mut self, scored: &Scored) -> (Hash, u32, &'m [String]) {
        let item = &self.read.items[scored.item as usize];
        let key = item.image.as_deref().unwrap_or_default();
        let read = || Hash::of_bytes(&(self.images)(key).unwrap_or_else(|| key.as_bytes().to_vec()));
        let image = *self.known.entry(key).or_insert_with(read);
        (image, scored.question, &item.gold)
    }
}
