//! Parses chat completions: the text of each response, and why it has none.

use serde::{Deserialize, Serialize};

use ablate_data::records::FinishReason;

/// One sampled response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The text that the model wrote, or the text of its refusal.
    pub text: String,
    pub finish: FinishReason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Why a response is unusable. An empty response that was cut at the token limit has no fault: its tokens went into
/// hidden reasoning, and a retry would end in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It has no text.
    Empty,
    /// The model declined to answer (`refusal`).
    Refused,
    /// The service removed the text or a part of it (`content_filter`).
    Filtered,
}

#[derive(Deserialize)]
struct Completion {
    choices: Option<Vec<Choice>>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Content>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// One part of a content list. Only text parts have a `text`.
#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

/// The responses in the body of a successful request, at least one; or why there are none.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Response>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_string())?;
    let completion: Completion = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match completion {
        // Some gateways report a failure of their backend with the status 200.
        Completion { error: Some(error), .. } => Err(format!("it contains the error {error}")),
        Completion { choices: None, .. } => Err("it has no `choices`".to_string()),
        Completion { choices: Some(choices), .. } if choices.is_empty() => Err("its `choices` are empty".to_string()),
        Completion { choices: Some(choices), .. } => Ok(choices.into_iter().map(Choice::response).collect()),
    }
}

impl Choice {
    fn response(self) -> Response {
        let Choice { message: Message { content, refusal }, finish_reason } = self;
        let mut text = match content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts.into_iter().filter_map(|part| part.text).collect(),
        };
        let refusal = refusal.filter(|refusal| !refusal.trim().is_empty());
        let is_empty = text.trim().is_empty();
        let cut = finish_reason.as_deref() == Some("length");
        let fault = match finish_reason.as_deref() {
            Some("content_filter") => Some(Fault::Filtered),
            _ if refusal.is_some() => Some(Fault::Refused),
            _ if is_empty && !cut => Some(Fault::Empty),
            _ => None,
        };
        if is_empty {
            text = refusal.unwrap_or_default();
        }
        Response { text, finish: if cut { FinishReason::Length } else { FinishReason::Stop }, fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn one(choice: &Value) -> (String, FinishReason, Option<Fault>) {
        let body = json!({ "choices": [choice] }).to_string();
        let Response { text, finish, fault } = parse(body.as_bytes()).unwrap().remove(0);
        (text, finish, fault)
    }

    #[test]
    fn unusable_response_has_a_fault() {
        let parsed = |message: Value, reason: Value| one(&json!({ "message": message, "finish_reason": reason }));
        let (stop, length) = (FinishReason::Stop, FinishReason::Length);
        let text = |text: &str| text.to_string();
        assert_eq!(parsed(json!({ "content": "A" }), json!("stop")), (text("A"), stop, None));
        assert_eq!(parsed(json!({ "content": "A" }), Value::Null), (text("A"), stop, None));
        assert_eq!(parsed(json!({ "content": "A" }), json!("length")), (text("A"), length, None));
        assert_eq!(parsed(json!({ "content": null }), json!("stop")), (text(""), stop, Some(Fault::Empty)));
        assert_eq!(parsed(json!({}), json!("stop")), (text(""), stop, Some(Fault::Empty)));
        assert_eq!(parsed(json!({ "content": " \n" }), json!("stop")), (text(""), stop, Some(Fault::Empty)));
        assert_eq!(parsed(json!({ "content": null }), json!("length")), (text(""), length, None));
        let refused = json!({ "content": null, "refusal": "I cannot." });
        assert_eq!(parsed(refused, json!("stop")), (text("I cannot."), stop, Some(Fault::Refused)));
        let filtered = json!({ "content": "The sig" });
        assert_eq!(parsed(filtered, json!("content_filter")), (text("The sig"), stop, Some(Fault::Filtered)));
        let parts = json!({ "content": [{ "type": "text", "text": "A" }, { "type": "x" }, { "text": "B" }] });
        assert_eq!(parsed(parts, json!("stop")), (text("AB"), stop, None));
    }

    #[test]
    fn malformed_completions_are_errors() {
        let cause = |text: &[u8]| parse(text).unwrap_err();
        assert_eq!(cause(b"<html>"), "expected value at line 1 column 1");
        assert_eq!(cause(b"{\"choices\": [{\"mess"), "EOF while parsing a string at line 1 column 19");
        assert_eq!(cause(b"{}"), "it has no `choices`");
        assert_eq!(cause(b"{\"choices\": []}"), "its `choices` are empty");
        assert_eq!(cause(b"{\"error\": {\"code\": 502}}"), "it contains the error {\"code\":502}");
        assert_eq!(cause(b"\xff"), "not UTF-8");
    }
}
