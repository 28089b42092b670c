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
    /// What the rationale states about the image.
    pub(super) facts: Vec<String>,
}

impl Example {
    /// An example whose answer is text.
    pub(super) fn text(image: Option<RgbImage>, question: String, answer: String) -> Example {
        let (options, answer_type) = (Vec::new(), AnswerType::Text);
        Example { image, question, options, answer_type, answer, rationale: None, facts: Vec::new() }
    }

    pub(super) fn number(image: RgbImage, question: String, answer: usize) -> Example {
        Example { answer_type: AnswerType::Number, ..Example::text(Some(image), question, answer.to_string()) }
    }

    pub(super) fn with_rationale(self, rationale: String, facts: Vec<String>) -> Example {
        Example { rationale: Some(rationale), facts, ..self }
    }
}
