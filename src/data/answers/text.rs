//! Answers that are text: equal, near or contained. Every rule takes the best of the readings of `plain.rs`, so that
//! an answer is as good as the evaluator of its benchmark finds it, or better where only markup stands in its way.

use super::markup::{fold, readings};

/// ANLS below this is 0.
pub(super) const ANLS_THRESHOLD: f64 = 0.5;

/// Lower case, inner space made single, dashes made hyphens, quotes and closing punctuation taken off.
pub(super) fn normalize(text: &str) -> String {
    let folded = fold(text).replace(['\u{2013}', '\u{2014}'], "-");
    let words: Vec<String> = folded.split_whitespace().map(str::to_lowercase).collect();
    let outer = |c: char| matches!(c, '"' | '\'' | '`');
    let joined = words.join(" ");
    let text = joined.trim_matches(outer).trim_end_matches(['.', ',', ';', ':', '!']).trim_matches(outer).trim();
    // An answer that is nothing but punctuation stays what it is.
    if text.is_empty() { joined } else { text.to_string() }
}

/// Whether a reading of the answer is the gold one.
pub(super) fn equal(gold: &str, answer: &str) -> bool {
    let gold = normalize(gold);
    readings(answer).iter().any(|reading| normalize(reading) == gold)
}

/// Lower case, and every white space one space.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Whether the gold answer occurs in the given one, inside of words and numbers too. An empty one never does.
pub(super) fn contains(gold: &str, answer: &str) -> bool {
    let gold = spaced(&fold(gold));
    !gold.is_empty() && readings(answer).iter().any(|reading| spaced(reading).contains(&gold))
}

/// Average normalised Levenshtein similarity, in characters, case and outer space ignored.
pub(super) fn anls(gold: &str, answer: &str) -> f64 {
    let gold = spaced(&fold(gold));
    readings(answer).iter().map(|reading| similarity(&gold, &spaced(reading))).fold(0.0, f64::max)
}

fn similarity(gold: &str, answer: &str) -> f64 {
    let longer = gold.chars().count().max(answer.chars().count());
    if longer == 0 {
        return 1.0;
    }
    let similarity = 1.0 - strsim::levenshtein(gold, answer) as f64 / longer as f64;
    if similarity < ANLS_THRESHOLD { 0.0 } else { similarity }
}
