//! LLaVA's layout, as rows are written in it: `id`, `image` and `conversations`, with optional further fields.

use serde::Serialize;

use crate::records::AnswerType;

/// An example row that follows the errors of a file in this layout.
pub(crate) const EXAMPLE: &str = r#"a row: {"id": "7", "image": "charts/7.png", "conversations": [{"from": "human", "value": "<image>\nHow many bars?"}, {"from": "gpt", "value": "4"}]}"#;

/// A row to write.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LlavaRow {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub conversations: Vec<Turn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_type: Option<AnswerType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<String>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    pub from: String,
    pub value: String,
}

impl Turn {
    pub fn human(value: String) -> Turn {
        Turn { from: "human".to_string(), value }
    }

    pub fn gpt(value: String) -> Turn {
        Turn { from: "gpt".to_string(), value }
    }
}
