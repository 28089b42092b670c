//! The records that stages exchange, one JSON object per line.

use serde::{Deserialize, Serialize};

use super::image_keys::ImageKeys;

/// How an answer is compared with the gold answer (paper section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerType {
    /// The only option that the answer names. `B`, `(b)`, `B. uk`, `The answer is B.` and the option's text are equal.
    Letter,
    /// The only number in the answer, within 5 % of the gold number. A gold answer that is not a number needs equal
    /// text.
    Number,
    /// Equal text after normalisation.
    Text,
    /// Average normalised Levenshtein similarity, zero below 0.5 (DocVQA, InfoVQA).
    Anls,
    /// Soft accuracy of the VQA challenge; `answers` holds one answer per annotator (TextVQA).
    Vqa,
    /// A gold answer occurs in the given answer; case is ignored (OCRBench).
    Contains,
    /// The letter that VLMEvalKit finds without a judge model (MMBench and other multiple-choice benchmarks).
    Mmbench,
    /// Relaxed accuracy as in pix2struct, VLMEvalKit and lmms-eval (ChartQA).
    Relaxed,
    /// Equal text; case is ignored, as VLMEvalKit compares short answers (OCRVQA).
    Exact,
    /// ANLS as in the challenge's script (DocVQA, InfoVQA).
    Docvqa,
    /// VQAEval, the script of the VQA challenge (VQAv2, OK-VQA).
    VqaEval,
    /// EvalAI's TextVQA evaluator, as in mmf and lmms-eval.
    Textvqa,
    /// OCRBench's script, including its rule for formulas.
    Ocrbench,
}

impl AnswerType {
    /// Whether the answer is the letter of an option.
    pub fn is_multiple_choice(self) -> bool {
        matches!(self, AnswerType::Letter | AnswerType::Mmbench)
    }
}

/// A question about an image, with its gold answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Item {
    pub id: String,
    /// The data set of the item; mixes and tables group by it.
    pub dataset: String,
    /// Placed images stand in the question and the options.
    #[serde(flatten)]
    pub images: ImageKeys,
    pub question: String,
    /// Texts of the options A, B, C, ...; empty unless the answer is a letter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    pub answer_type: AnswerType,
    /// Accepted answers. The best match counts.
    pub answers: Vec<String>,
    /// A reasoning text that comes with the data, without the answer line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    /// The answer that `rationale` ends with, if it differs from the first of `answers`: a teacher may spell the answer
    /// differently or be wrong.
    #[serde(rename = "concluded", default, skip_serializing_if = "Option::is_none")]
    pub rationale_answer: Option<String>,
    /// What a right rationale states about the image, for example `red6`. Wrong responses are classified by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<String>,
}

/// A turn of the user and the response to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The user's turn.
    pub prompt: String,
    pub response: String,
}

/// A training example: a conversation that ends with a response. The loss covers responses only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Row {
    pub id: String,
    pub dataset: String,
    /// The mix source that the row comes from; empty before mixing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    #[serde(flatten)]
    pub images: ImageKeys,
    /// The system message. Omitted from the file if there is none, as are earlier turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The earlier turns of the conversation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Exchange>,
    /// The user's last turn with its instruction, as the model gets it.
    pub prompt: String,
    pub response: String,
    /// The question without instruction, if known. It identifies the question when another instruction is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// The end-of-turn token.
    Stop,
    /// The token limit; the response is truncated.
    Length,
}

/// One sampled response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Sample {
    pub text: String,
    pub finish: FinishReason,
    /// Number of generated tokens, including the end-of-turn token.
    pub tokens: u32,
    /// Number of bytes at the start of the text that are thinking and not part of the answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub thinking: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Sample {
    /// The text after the thinking. This part is judged.
    pub fn answer(&self) -> &str {
        self.text.get(self.thinking..).unwrap_or_default()
    }
}

/// The samples of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Rollout {
    pub item: Item,
    /// The prompt: the user's turn.
    pub prompt: String,
    pub samples: Vec<Sample>,
}

/// The result of judging one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Verdict {
    pub text: String,
    pub finish: FinishReason,
    /// The extracted final answer, if any.
    pub answer: Option<String>,
    /// Whether the response has the form that the prompt asks for: answer marker present (CoT) or absent (direct), and
    /// ended by the model itself.
    pub compliant: bool,
    /// Whether the answer could not be parsed as the item's type. Omitted from the file if false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
    /// From 0 to 1; 0 without a readable answer.
    pub score: f64,
    /// Whether the sample counts as right: readable, compliant, and `score` reaches the judge's threshold.
    pub correct: bool,
}

impl Verdict {
    /// Whether the response is compliant and its answer is readable.
    pub fn is_readable(&self) -> bool {
        self.compliant && !self.unreadable
    }

    /// Whether the sample is right. A judging program may report `correct` and `unreadable` together; such a sample is
    /// not right.
    pub fn is_right(&self) -> bool {
        self.correct && !self.unreadable
    }
}

/// The verdicts on all samples of one item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JudgedItem {
    pub item: Item,
    pub prompt: String,
    pub verdicts: Vec<Verdict>,
}

/// A judged response with its log-ratio `log policy(y | x) - log reference(y | x)`: total and per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CreditedResponse {
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The sum over the tokens, or their mean if the stage is configured so.
    pub log_ratio: f64,
    /// Text and log-ratio of each scored token; the end-of-turn token is written by name.
    pub tokens: Vec<(String, f32)>,
}

/// The credited responses of one item, in the order of the samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CreditedItem {
    pub item: Item,
    pub prompt: String,
    pub responses: Vec<CreditedResponse>,
}

/// A preference pair: `chosen` is right, `rejected` is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Pair {
    /// `<item id>#<pair number>`.
    pub id: String,
    pub dataset: String,
    #[serde(flatten)]
    pub images: ImageKeys,
    /// The system message, as in [`Row`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The earlier turns of the conversation, as in [`Row`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Exchange>,
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
    /// Whether the text was truncated. A truncated response has no end-of-turn token in the loss.
    #[serde(rename = "chosen_cut", default)]
    pub chosen_truncated: bool,
    #[serde(rename = "rejected_cut", default)]
    pub rejected_truncated: bool,
    /// The question without instruction, as in [`Row`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
}

/// The score of one evaluated item. A program may give only `id`, `dataset` and `score`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Score {
    pub id: String,
    pub dataset: String,
    #[serde(flatten)]
    pub images: ImageKeys,
    #[serde(default)]
    pub prompt: String,
    #[serde(default)]
    pub gold: Vec<String>,
    #[serde(default)]
    pub response: String,
    /// Why generation ended, if known.
    #[serde(default)]
    pub finish: Option<FinishReason>,
    /// The extracted final answer, if any.
    #[serde(default)]
    pub answer: Option<String>,
    /// Whether the response has the form that the prompt asks for; `None` if this was not checked.
    #[serde(default)]
    pub compliant: Option<bool>,
    /// Whether the answer could not be parsed as the item's type. Omitted from the file if false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
    /// From 0 to 1, by the rule of the item's answer type.
    pub score: f64,
    /// The facts that the rationale was compared with; empty under a prompt that asks for no rationale.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<String>,
    /// Why the response is wrong, if it was compared with facts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The part of the item that the model was trained on; `None` if there is none or it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Overlap>,
}

/// Why a response to a CoT prompt is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// A fact is stated wrongly, or not stated.
    Reading,
    /// All facts are stated, and the answer is wrong.
    Arithmetic,
    /// The answer cannot be read, or the response does not have the form that the prompt asks for.
    Form,
}

/// The part of an evaluated item that occurs in the training data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// The image, with another question.
    Image,
    /// The question, with the same image.
    Question,
}

/// One line of a training curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Finished optimizer steps, from 1.
    pub step: u64,
    /// Mean loss since the previous line.
    pub loss: f64,
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// Tokens in the loss so far.
    pub tokens: u64,
    /// DPO only: share of pairs, since the previous line, for which the implicit reward of the chosen response is
    /// higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_accuracy: Option<f64>,
    /// DPO only: mean implicit reward margin, `beta` times the difference of the log-ratios.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_margin: Option<f64>,
}

/// A [`CurvePoint`] as reports read it. A program writes at least `step` and `loss`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CurveStep {
    /// Finished optimizer steps, from 1.
    pub step: u64,
    /// Mean loss since the previous line.
    pub loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Global gradient norm before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Tokens in the loss so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// DPO: share of pairs for which the implicit reward of the chosen response is higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_accuracy: Option<f64>,
    /// DPO: mean implicit reward margin, `beta` times the difference of the log-ratios.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_margin: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_keeps_its_bytes() {
        let text = r#"{"id":"1","dataset":"d","images":["a","b"],"system":"s","history":[{"prompt":"<image>?","response":"4"}],"prompt":"<image>!","response":"5"}"#;
        let row: Row = serde_json::from_str(text).unwrap();
        assert_eq!(row.images.keys(), ["a", "b"]);
        assert_eq!((row.system.as_deref(), row.history[0].response.as_str()), (Some("s"), "4"));
        assert_eq!(serde_json::to_string(&row).unwrap(), text);
        let pair = text
            .replace(r#","response":"5"}"#, r#","chosen":"5","rejected":"6","chosen_cut":false,"rejected_cut":true}"#);
        let read: Pair = serde_json::from_str(&pair).unwrap();
        assert_eq!((read.history.len(), read.system.as_deref()), (1, Some("s")));
        assert_eq!(serde_json::to_string(&read).unwrap(), pair);
    }

    #[test]
    fn wrong_turns_are_errors() {
        let error = |history: &str| {
            let text =
                format!(r#"{{"id": "1", "dataset": "d", "history": {history}, "prompt": "?", "response": "4"}}"#);
            let error = serde_json::from_str::<Row>(&text).unwrap_err().to_string();
            error.split(" at line").next().unwrap_or_default().to_string()
        };
        assert_eq!(error(r#"[{"prompt": "a"}]"#), "missing field `response`");
        let unknown = r#"[{"prompt": "a", "response": "b", "image": "c"}]"#;
        assert_eq!(error(unknown), "unknown field `image`, expected `prompt` or `response`");
        assert_eq!(error(r#""a""#), "invalid type: string \"a\", expected a sequence");
    }
}
