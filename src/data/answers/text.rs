//! Text answers: equal, similar or contained. Every rule takes the best candidate of `markup.rs`, so that an answer
//! scores at least as high as with its benchmark's evaluator, and higher if only markup prevents a match.

use super::markup::{candidates, normalize_unicode};

/// Similarities below this count as 0.
pub(super) const ANLS_THRESHOLD: f64 = 0.5;

/// Normalizes a text: lower case, single spaces, hyphens for dashes; surrounding quotes and closing punctuation are
/// removed.
pub(super) fn normalize(text: &str) -> String {
    let normalized = normalize_unicode(text).replace(['\u{2013}', '\u{2014}'], "-");
    let words: Vec<String> = normalized.split_whitespace().map(str::to_lowercase).collect();
    let outer = |c: char| matches!(c, '"' | '\'' | '`');
    let joined = words.join(" ");
    let text = joined.trim_matches(outer).trim_end_matches(['.', ',', ';', ':', '!']).trim_matches(outer).trim();
    // Punctuation alone is kept.
    if text.is_empty() { joined } else { text.to_string() }
}

/// Whether a candidate of the answer equals the gold answer.
pub(super) fn equal(gold: &str, answer: &str) -> bool {
    let gold = normalize(gold);
    candidates(answer).iter().any(|candidate| normalize(candidate) == gold)
}

/// Lower case, and every white space one space.
fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Whether the gold answer occurs in the given one, inside of words and numbers too. An empty one never does.
pub(super) fn contains(gold: &str, answer: &str) -> bool {
    let gold = spaced(&normalize_unicode(gold));
    !gold.is_empty() && candidates(answer).iter().any(|candidate| spaced(candidate).contains(&gold))
}

/// Average normalized Levenshtein similarity, in characters, case and outer space ignored.
pub(super) fn anls(gold: &str, answer: &str) -> f64 {
    let gold = spaced(&normalize_unicode(gold));
    candidates(answer).iter().map(|candidate| similarity(&gold, &spaced(candidate))).fold(0.0, f64::max)
}

fn similarity(gold: &str, answer: &str) -> f64 {
    let longer = gold.chars().count().max(answer.chars().count());
    if longer == 0 {
        return 1.0;
    }
    let similarity = 1.0 - strsim::levenshtein(gold, answer) as f64 / longer as f64;
    if similarity < ANLS_THRESHOLD { 0.0 } else { similarity }
}
