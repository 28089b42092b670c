//! An example of the synthetic data.

use image::RgbImage;

use crate::records::AnswerType;

/// A question with image and answer, before it is written.
#[derive(Clone, Debug)]
pub(super) struct Example {
    pub(super) image: Option<RgbImage>,
    pub(super) question: String,
    pub(super) options: Vec<String>,
    pub(super) answer_type: AnswerType,
    pub(super) answer: String,
    pub(super) rationale: Option<String>,
}

impl Example {
    /// An example whose answer is text.
    pub(super) fn text(image: Option<RgbImage>, question: String, answer: String) -> Example {
        Example { image, question, options: Vec::new(), answer_type: AnswerType::Text, answer, rationale: None }
    }

    pub(super) fn number(image: RgbImage, question: String, rationale: String, answer: usize) -> Example {
        let example = Example::text(Some(image), question, answer.to_string()).with_rationale(rationale);
        Example { answer_type: AnswerType::Number, ..example }
    }

    pub(super) fn with_rationale(self, rationale: String) -> Example {
        Example { rationale: Some(rationale), ..self }
    }
}
