//! Evaluators that compare texts: exact match, DocVQA, the VQA challenge, TextVQA, OCRBench.

use crate::answers::text::ANLS_THRESHOLD;
use crate::answers::vqa::{normalize, process_digit_article, process_punctuation, soft_accuracy};

/// OCRBench's handwritten formulas: the data set's name in its own script, and the category's name in VLMEvalKit.
const FORMULAS: [&str; 2] = ["HME100k", "Handwritten Mathematical Expression Recognition"];

pub(super) fn exact(gold: &str, answer: &str) -> bool {
    gold.trim().to_lowercase() == answer.trim().to_lowercase()
}

/// Lengths are those of the original texts, including the white space that the distance ignores.
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

/// Texts are normalized only if the annotators' answers differ.
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
    let golds: Vec<String> = golds.iter().map(|gold| normalize_textvqa(gold)).collect();
    soft_accuracy(&golds, &normalize_textvqa(answer))
}

/// EvalAI removes commas and question marks first, and splits the possessive from its word.
pub(super) fn normalize_textvqa(text: &str) -> String {
    let text = text.to_lowercase().replace([',', '?'], "").replace("'s", " 's");
    process_digit_article(&process_punctuation(text.trim().replace(['\n', '\t'], " ").trim()))
}

/// The gold answer occurs in the given answer: ignoring case, or for formulas with case and without spaces.
pub(super) fn ocrbench(dataset: &str, gold: &str, answer: &str) -> bool {
    if FORMULAS.contains(&dataset) {
        let plain = |text: &str| text.trim().replace(['\n', ' '], "");
        return plain(answer).contains(&plain(gold));
    }
    let plain = |text: &str| text.to_lowercase().trim().replace('\n', " ");
    plain(answer).contains(&plain(gold))
}
