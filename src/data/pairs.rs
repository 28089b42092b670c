//! Builds preference pairs from judged samples: a right response is preferred to a wrong one of the same question.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::records::{JudgedItem, Pair, Verdict};
use super::rng::shuffle;
use ablate_core::base::Seed;

/// Which questions and samples become pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct PairSelection {
    /// Minimum and maximum share of right samples of a question.
    pub band: [f64; 2],
    pub per_question: usize,
    /// Share of questions whose pairs are held out.
    pub dev: f64,
    /// Whether an unreadable or non-compliant sample may be rejected. Such a sample is never chosen.
    pub unreadable: bool,
}

/// Statistics of the pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairStats {
    pub questions: usize,
    pub samples: usize,
    /// Samples without a readable answer.
    #[serde(default)]
    pub unreadable: usize,
    /// Share of right samples.
    pub accuracy: f64,
    /// Questions with too few right samples for the band, and questions with too many.
    pub too_hard: usize,
    pub too_easy: usize,
    /// Questions in the band.
    pub in_band: usize,
    /// Dropped pairs: after truncation both texts are equal, or the pair occurs already.
    #[serde(rename = "alike")]
    pub duplicates: usize,
    /// Questions in the band without a pair.
    pub without_pair: usize,
    pub pairs: usize,
    pub dev_pairs: usize,
    /// Pairs by data set, including held-out pairs.
    pub by_dataset: BTreeMap<String, usize>,
    /// Truncated responses.
    #[serde(rename = "cut")]
    pub truncated: usize,
    /// Mean number of words of a response after truncation.
    pub chosen_words: f64,
    pub rejected_words: f64,
}

/// Training pairs and held-out pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelectedPairs {
    pub train: Vec<Pair>,
    pub dev: Vec<Pair>,
    pub stats: PairStats,
}

/// Selects the pairs. The random choices for a question depend only on the seed and the question's id, and all pairs of
/// a question are on the same side of the split. Samples with equal texts count once. Right and wrong texts are
/// shuffled and paired one by one; the shorter list is repeated until every text was used or the question has enough
/// pairs. `truncate` shortens a response and returns whether it did.
pub fn select<E>(
    judged: &[JudgedItem],
    selection: &PairSelection,
    seed: Seed,
    truncate: impl Fn(&str) -> Result<(String, bool), E>,
) -> Result<SelectedPairs, E> {
    let mut selected = SelectedPairs::default();
    let stats = &mut selected.stats;
    let mut right_samples = 0;
    let (mut chosen_words, mut rejected_words) = (0, 0);
    for JudgedItem { item, prompt, verdicts } in judged {
        stats.questions += 1;
        stats.samples += verdicts.len();
        let right = verdicts.iter().filter(|verdict| verdict.is_right()).count();
        stats.unreadable += verdicts.iter().filter(|verdict| verdict.unreadable).count();
        right_samples += right;
        if verdicts.is_empty() {
            stats.too_hard += 1;
            continue;
        }
        let accuracy = right as f64 / verdicts.len() as f64;
        let [low, high] = selection.band;
        if accuracy < low {
            stats.too_hard += 1;
            continue;
        }
        if accuracy > high {
            stats.too_easy += 1;
            continue;
        }
        stats.in_band += 1;
        let seed = seed.derive(&format!("pairs/{}/{}", item.dataset, item.id));
        let mut rng = seed.stream("order");
        let mut chosen = distinct(verdicts, Verdict::is_right);
        let mut rejected =
            distinct(verdicts, |verdict| !verdict.is_right() && (selection.unreadable || verdict.is_readable()));
        shuffle(&mut chosen, &mut rng);
        shuffle(&mut rejected, &mut rng);
        let held_out = super::rng::uniform(&mut seed.stream("dev")) < selection.dev;
        let longer = if chosen.is_empty() || rejected.is_empty() { 0 } else { chosen.len().max(rejected.len()) };
        let mut count = 0;
        let mut made = BTreeSet::new();
        for turn in 0..longer {
            if count == selection.per_question {
                break;
            }
            let (chosen, chosen_truncated) = truncate(chosen[turn % chosen.len()])?;
            let (rejected, rejected_truncated) = truncate(rejected[turn % rejected.len()])?;
            // Different texts can be equal after truncation.
            if !made.insert((chosen.clone(), rejected.clone()))
                || chosen.split_whitespace().eq(rejected.split_whitespace())
            {
                stats.duplicates += 1;
                continue;
            }
            stats.truncated += usize::from(chosen_truncated) + usize::from(rejected_truncated);
            chosen_words += chosen.split_whitespace().count();
            rejected_words += rejected.split_whitespace().count();
            let pair = Pair {
                id: format!("{}#{count}", item.id),
                dataset: item.dataset.clone(),
                images: item.images.clone(),
                system: None,
                history: Vec::new(),
                prompt: prompt.clone(),
                chosen,
                rejected,
                chosen_truncated,
                rejected_truncated,
                question: Some(item.question.clone()),
            };
            count += 1;
            *stats.by_dataset.entry(item.dataset.clone()).or_default() += 1;
            if held_out { selected.dev.push(pair) } else { selected.train.push(pair) }
        }
        if count == 0 {
            stats.without_pair += 1;
        }
    }
    (stats.pairs, stats.dev_pairs) = (selected.train.len(), selected.dev.len());
    let mean = |sum: usize, count: usize| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
    stats.accuracy = mean(right_samples, stats.samples);
    stats.chosen_words = mean(chosen_words, stats.pairs + stats.dev_pairs);
    stats.rejected_words = mean(rejected_words, stats.pairs + stats.dev_pairs);
    Ok(selected)
}

/// The first `words` words of a text, separated by white space, and whether the text was truncated.
pub fn truncate_words(text: &str, words: usize) -> (String, bool) {
    let mut rest = text;
    for _ in 0..words {
        let start = rest.trim_start();
        let end = start.find(char::is_whitespace).unwrap_or(start.len());
        rest = &start[end..];
    }
    if rest.trim().is_empty() {
        return (text.to_string(), false);
    }
    (text[..text.len() - rest.len()].to_string(), true)
}

fn distinct(verdicts: &[Verdict], wanted: impl Fn(&Verdict) -> bool) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    verdicts
        .iter()
        .filter(|verdict| wanted(verdict))
        .map(|verdict| verdict.text.as_str())
        .filter(|text| seen.insert(*text))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{AnswerType, FinishReason, Item};
    use crate::tests::support::item;

    /// A question with one sample per word: `r` right, `w` wrong, `u` non-compliant, `?` unreadable. Equal words have
    /// equal texts.
    fn question(id: &str, samples: &str) -> JudgedItem {
        let verdicts = samples
            .split_whitespace()
            .map(|sample| Verdict {
                text: format!("one two three {sample}"),
                finish: FinishReason::Stop,
                answer: Some(sample.to_string()),
                compliant: !sample.starts_with('u'),
                unreadable: sample.starts_with('?'),
                score: 0.0,
                correct: sample.starts_with('r'),
            })
            .collect();
        let item = Item { id: id.into(), ..item(AnswerType::Text, "?", &[], &["r"]) };
        JudgedItem { item, prompt: "?".into(), verdicts }
    }

    const PAPER: PairSelection = PairSelection { band: [0.25, 0.85], per_question: 3, dev: 0.0, unreadable: true };

    fn selected(judged: &[JudgedItem], selection: &PairSelection) -> SelectedPairs {
        select(judged, selection, Seed(1), |text| Ok::<_, ()>((text.to_string(), false))).unwrap()
    }

    #[test]
    fn only_questions_inside_the_band_give_pairs() {
        let judged = [
            question("hard", "r1 w1 w2 w3 w4"),
            question("low", "r1 w1 w2 w3"),
            question("high", "r1 r2 r3 r4 r5 w1"),
            question("easy", "r1 r2 r3 r4 r5 r6 w1"),
            question("none", ""),
        ];
        let SelectedPairs { train, stats, .. } = selected(&judged, &PAPER);
        // 1/4 and 5/6 are inside, 1/5 and 6/7 are not.
        let ids: Vec<&str> = train.iter().map(|pair| pair.id.as_str()).collect();
        assert_eq!(ids, ["low#0", "low#1", "low#2", "high#0", "high#1", "high#2"]);
        assert_eq!((stats.too_hard, stats.too_easy, stats.in_band, stats.questions), (2, 1, 2, 5));
    }

    #[test]
    fn pairs_per_question_are_limited() {
        let judged = [question("q", "r1 r2 r3 r4 w1 w2 w3 w4")];
        let pairs = selected(&judged, &PAPER).train;
        assert_eq!(pairs.len(), 3);
        assert!(pairs.iter().all(|pair| pair.chosen.contains(" r") && pair.rejected.contains(" w")));
        assert_eq!(pairs.iter().map(|pair| &pair.chosen).collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn the_shorter_side_is_repeated() {
        let pairs = selected(&[question("q", "r1 r1 r1 w1 w2 w3")], &PAPER).train;
        assert_eq!(pairs.iter().map(|pair| &pair.rejected).collect::<BTreeSet<_>>().len(), 3);
        assert!(pairs.iter().all(|pair| pair.chosen.ends_with("r1")));
        assert_eq!(selected(&[question("q", "r1 r1 r1 w1 w1 w1")], &PAPER).train.len(), 1);
    }

    #[test]
    fn unreadable_samples_are_rejected_only_if_allowed() {
        let judged = [question("q", "r1 r2 u1 u2")];
        assert_eq!(selected(&judged, &PAPER).train.len(), 2);
        let selection = PairSelection { unreadable: false, ..PAPER };
        let SelectedPairs { train, stats, .. } = selected(&judged, &selection);
        assert_eq!((train.len(), stats.without_pair), (0, 1));
    }

    #[test]
    fn texts_equal_after_truncation_give_no_pair() {
        let judged = [question("q", "r1 w1")];
        let cut = |words| move |text: &str| Ok::<_, ()>(truncate_words(text, words));
        let SelectedPairs { train, stats, .. } = select(&judged, &PAPER, Seed(1), cut(3)).unwrap();
        assert_eq!((train.len(), stats.duplicates), (0, 1));
        let pairs = select(&judged, &PAPER, Seed(1), cut(4)).unwrap().train;
        assert!(!pairs[0].chosen_truncated);
    }

    #[test]
    fn unreadable_samples_are_never_chosen() {
        let mut judged = question("q", "?1 r1 w1");
        // A judging program may report `correct` and `unreadable` together.
        judged.verdicts[0].correct = true;
        let skipped = selected(&[judged.clone()], &PairSelection { unreadable: false, ..PAPER });
        let compact = |pairs: &[Pair]| -> BTreeSet<String> {
            pairs.iter().map(|pair| format!("{} > {}", &pair.chosen[14..], &pair.rejected[14..])).collect()
        };
        assert_eq!(compact(&skipped.train), BTreeSet::from(["r1 > w1".to_string()]));
        assert_eq!((skipped.stats.unreadable, skipped.stats.accuracy), (1, 1.0 / 3.0));
        let rejected = selected(&[judged], &PAPER);
        assert_eq!(compact(&rejected.train), BTreeSet::from(["r1 > w1".to_string(), "r1 > ?1".to_string()]));
    }

    #[test]
    fn pairs_of_a_question_stay_together_in_the_split() {
        let judged: Vec<JudgedItem> = (0..400).map(|id| question(&id.to_string(), "r1 r2 r3 w1 w2 w3")).collect();
        let SelectedPairs { train, dev, .. } = selected(&judged, &PairSelection { dev: 0.25, ..PAPER });
        let questions = |pairs: &[Pair]| -> BTreeSet<String> {
            pairs.iter().filter_map(|pair| pair.id.split_once('#')).map(|(id, _)| id.to_string()).collect()
        };
        assert!(questions(&train).is_disjoint(&questions(&dev)));
        // 100 of 400 expected, standard deviation 9.
        assert!((questions(&dev).len() as i32 - 100).abs() < 40);
        assert_eq!(train.len() + dev.len(), 1200);
    }

    #[test]
    fn truncation_keeps_inner_white_space() {
        assert_eq!(truncate_words("a  b\nc d", 3), ("a  b\nc".to_string(), true));
        assert_eq!(truncate_words("a  b\nc ", 3), ("a  b\nc ".to_string(), false));
        assert_eq!(truncate_words("größe ist", 1), ("größe".to_string(), true));
        assert_eq!(truncate_words("a", 0), (String::new(), true));
        assert_eq!(truncate_words("", 5), (String::new(), false));
    }
}
