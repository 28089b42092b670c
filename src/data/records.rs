//! The records that pass between stages, one JSON object per line.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// How an answer is compared with the gold answer (paper section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerType {
    /// The only option that the answer names; `B`, `(b)`, `B. uk`, `The answer is B.` and the option's text are the same.
    Letter,
    /// The only number in the answer, within 5 % of the gold one; a gold that is no number needs equal text.
    Number,
    /// Equal text after normalisation.
    Text,
    /// Average normalised Levenshtein similarity, zero below 0.5 (DocVQA, InfoVQA).
    Anls,
    /// Soft accuracy of the VQA challenge: `answers` holds one answer per annotator (TextVQA).
    Vqa,
    /// A gold answer occurs in the given one, whatever the case (OCRBench).
    Contains,
    /// The letter that VLMEvalKit finds without a judge (MMBench and other multiple-choice benchmarks).
    Mmbench,
    /// Relaxed accuracy as pix2struct, VLMEvalKit and lmms-eval compute it (ChartQA).
    Relaxed,
    /// Equal but for case, as VLMEvalKit compares short answers (OCRVQA).
    Exact,
    /// ANLS as the challenge's script computes it (DocVQA, InfoVQA).
    Docvqa,
    /// VQAEval, the script of the VQA challenge (VQAv2, OK-VQA).
    VqaEval,
    /// EvalAI's evaluator of TextVQA, as in mmf and lmms-eval.
    Textvqa,
    /// OCRBench's script, its rule for formulas included.
    Ocrbench,
}

impl AnswerType {
    /// Whether an answer is an option's letter.
    pub fn names_option(self) -> bool {
        matches!(self, AnswerType::Letter | AnswerType::Mmbench)
    }
}

/// A question about an image, with its gold answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub id: String,
    /// The data set it belongs to: a row's group in mixes and tables.
    pub dataset: String,
    /// `<first 16 hex digits of the pack's hash>/<member name>`; none for text-only items.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "one_image")]
    #[serde(alias = "images", alias = "video", alias = "videos", alias = "audio", alias = "audios")]
    pub image: Option<String>,
    pub question: String,
    /// Texts of options A, B, C, ...; empty unless the answer is a letter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    pub answer_type: AnswerType,
    /// Accepted answers; the best match counts.
    pub answers: Vec<String>,
    /// A reasoning text that comes with the data (a synthetic task's own, or a human's), without the answer line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    /// The answer that `rationale` arrives at, where that is not the first of `answers`: a teacher may write it
    /// differently, or be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concluded: Option<String>,
}

/// A training row: the loss counts on the response only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub id: String,
    pub dataset: String,
    /// Which source of a mix it came from; empty before mixing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "one_image")]
    #[serde(alias = "images", alias = "video", alias = "videos", alias = "audio", alias = "audios")]
    pub image: Option<String>,
    /// The user's turn, instruction included, as the model sees it.
    pub prompt: String,
    pub response: String,
    /// The question alone, by which it is known again under another instruction; none where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
}

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The end-of-turn token.
    Stop,
    /// The token limit: the response is cut.
    Length,
}

/// One sampled response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub text: String,
    pub finish: Finish,
    /// Generated tokens, the end-of-turn token included.
    pub tokens: u32,
    /// Bytes at the start of the text that are thinking, and no part of the answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub thinking: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Sample {
    /// What is judged: the text behind its thinking.
    pub fn answer(&self) -> &str {
        self.text.get(self.thinking..).unwrap_or_default()
    }
}

/// The samples of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    pub item: Item,
    /// The user's turn that was asked.
    pub prompt: String,
    pub samples: Vec<Sample>,
}

/// A verdict over one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub text: String,
    pub finish: Finish,
    /// The final answer that was found, if one was.
    pub answer: Option<String>,
    /// Followed the prompt's form: marker present (CoT) or absent (direct), and ended by itself.
    pub compliant: bool,
    /// No answer of the item's type could be read, whatever the form. Not written where one was read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
    /// 0 to 1; a sample without a readable answer has 0.
    pub score: f64,
    /// Counted as right: read, in the asked form, and `score` reaches the judge's threshold.
    pub correct: bool,
}

impl Verdict {
    /// Whether an answer was read from a response in the asked form.
    pub fn is_readable(&self) -> bool {
        self.compliant && !self.unreadable
    }

    /// Right beyond doubt: what a program outside calls right and unreadable at once is not.
    pub fn is_right(&self) -> bool {
        self.correct && !self.unreadable
    }
}

/// The judged samples of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub item: Item,
    pub prompt: String,
    pub verdicts: Vec<Verdict>,
}

/// A judged response with its log-ratio `log policy(y | x) - log reference(y | x)`, whole and token by token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Credit {
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The sum over the tokens, or their mean where a stage asks for it.
    pub log_ratio: f64,
    /// Each scored token's text and log-ratio; the end of the turn is written by its name.
    pub tokens: Vec<(String, f32)>,
}

/// The credits of one item's responses, in the order of the samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Credited {
    pub item: Item,
    pub prompt: String,
    pub responses: Vec<Credit>,
}

/// A preference pair: `chosen` answers right, `rejected` wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// `<item id>#<number of the pair>`.
    pub id: String,
    pub dataset: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "one_image")]
    #[serde(alias = "images", alias = "video", alias = "videos", alias = "audio", alias = "audios")]
    pub image: Option<String>,
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
    /// Whether the text was cut: a cut response carries no end-of-turn token in the loss.
    #[serde(default)]
    pub chosen_cut: bool,
    #[serde(default)]
    pub rejected_cut: bool,
    /// The question alone, as in [`Row`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
}

/// One evaluated item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub id: String,
    pub dataset: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub prompt: String,
    pub gold: Vec<String>,
    pub response: String,
    pub finish: Finish,
    /// The final answer that was found, if one was.
    pub answer: Option<String>,
    pub compliant: bool,
    /// No answer of the item's type could be read. Not written where one was read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
    /// 0 to 1 by the item's answer type.
    pub score: f64,
    /// What of the item the model was trained on; none for nothing, or where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Overlap>,
}

/// What of an evaluated item was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// Its image, under another question.
    Image,
    /// Its question, with the same image.
    Question,
}

/// One line of a training curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Optimizer steps done, from 1.
    pub step: u64,
    /// Mean loss since the last line.
    pub loss: f64,
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// Loss tokens so far.
    pub tokens: u64,
    /// DPO only: share of pairs whose implicit reward prefers the chosen response, since the last line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_accuracy: Option<f64>,
    /// DPO only: mean implicit reward margin (beta times the difference of log-ratios).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_margin: Option<f64>,
}

/// The image of a record. Keys that other programs use come here as well: they are an error, and not a record without
/// its picture.
fn one_image<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(key) => Ok(Some(key)),
        Value::Array(keys) if keys.is_empty() => Ok(None),
        _ => Err(D::Error::custom("a record has one image at most, whose key is a text in `image`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_one_image_at_most() {
        let read = |image: &str| {
            let text = format!(r#"{{"id": "1", "dataset": "d", {image} "prompt": "?", "response": "4"}}"#);
            serde_json::from_str::<Row>(&text).map(|row| row.image).map_err(|error| error.to_string())
        };
        assert_eq!((read(""), read(r#""image": null,"#), read(r#""images": [],"#)), (Ok(None), Ok(None), Ok(None)));
        assert_eq!(read(r#""image": "a/b.png","#), Ok(Some("a/b.png".to_string())));
        let error = read(r#""images": ["a/b.png"],"#).unwrap_err();
        assert!(error.starts_with("a record has one image at most, whose key is a text in `image`"), "{error}");
        let error = read(r#""image": "a/b.png", "images": ["c"],"#).unwrap_err();
        assert!(error.starts_with("duplicate field `image`"), "{error}");
    }
}
