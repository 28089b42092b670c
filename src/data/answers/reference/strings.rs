//! The evaluators that compare texts: exact match, DocVQA, the VQA challenge, TextVQA, OCRBench.

use crate::answers::text::ANLS_THRESHOLD;
use crate::answers::vqa::{marks, normalize, soft_accuracy, words};

/// What OCRBench calls its handwritten formulas: the data set's name in its own script, and the category's name in
/// VLMEvalKit.
const FORMULAS: [&str; 2] = ["HME100k", "Handwritten Mathematical Expression Recognition"];

pub(super) fn exact(gold: &str, answer: &str) -> bool {
    gold.trim().to_lowercase() == answer.trim().to_lowercase()
}

/// The lengths are those of the texts as they were given, with the white space that the distance leaves out.
pub(super) fn docvqa(golds: &[String], answer: &str) -> f64 {
    let spaced = |text: &str| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let length = |text: &str| text.to_uppercase().chars().count();
    let distance = |gold: &String| {
        let longer = length(gold).max(length(answer));
        let edits = strsim::levenshtein(&spaced(gold), &spaced(answer));
        if longer == 0 { 0.0 } else { edits as f64 / longer as f64 }
    };
    let similarity = 1.0 - golds.iter().map(distance).fold(f64::INFINITY, f64::min);
    if similarity < ANLS_THRESHOLD { 0.0 } else { similarity }
}

/// Texts are normalised only where the annotators do not all say the same.
pub(super) fn vqa_eval(golds: &[String], answer: &str) -> f64 {
    let plain = |text: &str| text.replace(['\n', '\t'], " ").trim().to_string();
    let raw: Vec<String> = golds.iter().map(|gold| plain(gold)).collect();
    if raw.windows(2).all(|two| two[0] == two[1]) {
        let lower: Vec<String> = raw.iter().map(|gold| gold.to_lowercase()).collect();
        return soft_accuracy(&lower, &plain(answer).to_lowercase());
    }
    let golds: Vec<String> = raw.iter().map(|gold| normalize(gold)).collect();
    soft_accuracy(&golds, &normalize(answer))
}

pub(super) fn textvqa(golds: &[String], answer: &str) -> f64 {
    let golds: Vec<String> = golds.iter().map(|gold| textvqa_words(gold)).collect();
    soft_accuracy(&golds, &textvqa_words(answer))
}

/// EvalAI takes commas and question marks out first, and parts the possessive from its word.
pub(super) fn textvqa_words(text: &str) -> String {
    let text = text.to_lowercase().replace([',', '?'], "").replace("'s", " 's");
    words(&marks(text.trim().replace(['\n', '\t'], " ").trim()))
}

/// The gold answer occurs in the given one: without case, or for formulas with case and without spaces.
pub(super) fn ocrbench(dataset: &str, gold: &str, answer: &str) -> bool {
    if FORMULAS.contains(&dataset) {
        let plain = |text: &str| text.trim().replace(['\n', ' '], "");
        return plain(answer).contains(&plain(gold));
    }
    let plain = |text: &str| text.to_lowercase().trim().replace('\n', " ");
    plain(answer).contains(&plain(gold))
}
