//! What a chat completion says: the text of each reply, and whether it answers anything. Sends nothing.

use serde::{Deserialize, Serialize};

use ablate_data::records::FinishReason;

/// One sampled reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// What the model wrote; the words of its refusal where it gives only those.
    pub text: String,
    pub finish: FinishReason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Why a reply answers nothing. A reply without text that was cut at the token limit has none: its tokens went into
/// reasoning that is not shown, and asked again it would end there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// There is no text in it.
    Empty,
    /// The model declined to answer (`refusal`).
    Refused,
    /// The service held the text back, or the rest of it (`content_filter`).
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

/// One part of a content that is a list; those that are no text have none.
#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

/// The replies in a response with a status of success, at least one; or why there are none.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Reply>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_string())?;
    let completion: Completion = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match completion {
        // Some gateways report the failure of what is behind them with the status 200.
        Completion { error: Some(error), .. } => Err(format!("it holds the error {error}")),
        Completion { choices: None, .. } => Err("it has no `choices`".to_string()),
        Completion { choices: Some(choices), .. } if choices.is_empty() => Err("its `choices` are empty".to_string()),
        Completion { choices: Some(choices), .. } => Ok(choices.into_iter().map(Choice::reply).collect()),
    }
}

impl Choice {
    fn reply(self) -> Reply {
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
        Reply { text, finish: if cut { FinishReason::Length } else { FinishReason::Stop }, fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn one(choice: &Value) -> (String, FinishReason, Option<Fault>) {
        let reply = read(json!({ "choices": [choice] }).to_string().as_bytes()).unwrap().remove(0);
        (reply.text, reply.finish, reply.fault)
    }

    #[test]
    fn a_reply_that_answers_nothing_says_why() {
        let told = |message: Value, reason: Value| one(&json!({ "message": message, "finish_reason": reason }));
        let (stop, length) = (FinishReason::Stop, FinishReason::Length);
        let text = |text: &str| text.to_string();
        assert_eq!(told(json!({ "content": "A" }), json!("stop")), (text("A"), stop, None));
        assert_eq!(told(json!({ "content": "A" }), Value::Null), (text("A"), stop, None));
        assert_eq!(told(json!({ "content": "A" }), json!("length")), (text("A"), length, None));
        assert_eq!(told(json!({ "content": null }), json!("stop")), (text(""), stop, Some(Fault::Empty)));
        assert_eq!(told(json!({}), json!("stop")), (text(""), stop, Some(Fault::Empty)));
        assert_eq!(told(json!({ "content": " \n" }), json!("stop")), (text(""), stop, Some(Fault::Empty)));
        assert_eq!(told(json!({ "content": null }), json!("length")), (text(""), length, None));
        let refused = json!({ "content": null, "refusal": "I cannot." });
        assert_eq!(told(refused, json!("stop")), (text("I cannot."), stop, Some(Fault::Refused)));
        let filtered = json!({ "content": "The sig" });
        assert_eq!(told(filtered, json!("content_filter")), (text("The sig"), stop, Some(Fault::Filtered)));
        let parts = json!({ "content": [{ "type": "text", "text": "A" }, { "type": "x" }, { "text": "B" }] });
        assert_eq!(told(parts, json!("stop")), (text("AB"), stop, None));
    }

    #[test]
    fn what_is_no_completion_says_so() {
        let cause = |text: &[u8]| read(text).unwrap_err();
        assert_eq!(cause(b"<html>"), "expected value at line 1 column 1");
        assert_eq!(cause(b"{\"choices\": [{\"mess"), "EOF while parsing a string at line 1 column 19");
        assert_eq!(cause(b"{}"), "it has no `choices`");
        assert_eq!(cause(b"{\"choices\": []}"), "its `choices` are empty");
        assert_eq!(cause(b"{\"error\": {\"code\": 502}}"), "it holds the error {\"code\":502}");
        assert_eq!(cause(b"\xff"), "not UTF-8");
    }
}
