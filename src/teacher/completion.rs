//! Parses chat completions: the text of each choice, why it has none, and the tokens that the endpoint counted.

use serde::Deserialize;

use ablate_store::Fault;

/// The content of one successful response.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Completion {
    /// At least one.
    pub(super) choices: Vec<Choice>,
    /// The model, as the endpoint names it.
    pub(super) model: Option<String>,
    /// `None` if the endpoint does not count tokens.
    pub(super) tokens: Option<Tokens>,
}

/// One sampled text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The text that the model wrote, the text of its refusal, or the beginning of a body that cannot be read.
    pub text: String,
    /// The reasoning that the endpoint returned apart from the text.
    pub reasoning: String,
    /// Whether the text was cut at the token limit.
    pub cut: bool,
    /// An empty text that was cut has no fault: its tokens went into hidden reasoning.
    pub fault: Option<Fault>,
}

/// Tokens of one response with all its choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub prompt: u64,
    /// The part of `prompt` that the endpoint had in its cache.
    pub cached: u64,
    pub reply: u64,
}

/// Why a body has no choices.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A gateway reports a failure of its backend with the status 200.
    Error(String),
    /// It is not a chat completion.
    Malformed(String),
}

#[derive(Deserialize)]
struct Body {
    choices: Option<Vec<ChoiceBody>>,
    error: Option<serde_json::Value>,
    model: Option<String>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct ChoiceBody {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Content>,
    refusal: Option<String>,
    /// vLLM and DeepSeek.
    reasoning_content: Option<String>,
    /// OpenRouter and newer versions of vLLM.
    reasoning: Option<String>,
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

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Deserialize)]
struct PromptTokens {
    cached_tokens: Option<u64>,
}

/// Reads the body of a successful response.
pub(super) fn parse(bytes: &[u8]) -> Result<Completion, Unreadable> {
    let malformed = |cause: &str| Unreadable::Malformed(cause.to_string());
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))?;
    let body: Body = serde_json::from_str(text).map_err(|error| malformed(&error.to_string()))?;
    let choices = match body {
        Body { error: Some(error), choices: None, .. } => return Err(Unreadable::Error(error.to_string())),
        Body { choices: None, .. } => return Err(malformed("it has no `choices`")),
        Body { choices: Some(choices), .. } if choices.is_empty() => return Err(malformed("its `choices` are empty")),
        Body { choices: Some(choices), .. } => choices,
    };
    let tokens = body.usage.map(|usage| Tokens {
        prompt: usage.prompt_tokens.unwrap_or(0),
        cached: usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0),
        reply: usage.completion_tokens.unwrap_or(0),
    });
    let choices = choices.into_iter().map(ChoiceBody::choice).collect();
    Ok(Completion { choices, model: body.model, tokens })
}

impl ChoiceBody {
    fn choice(self) -> Choice {
        let ChoiceBody { message: Message { content, refusal, reasoning_content, reasoning }, finish_reason } = self;
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
        Choice { text, reasoning: reasoning_content.or(reasoning).unwrap_or_default(), cut, fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn one(choice: &Value) -> (String, bool, Option<Fault>) {
        let body = json!({ "choices": [choice] }).to_string();
        let Choice { text, cut, fault, .. } = parse(body.as_bytes()).unwrap().choices.remove(0);
        (text, cut, fault)
    }

    #[test]
    fn unusable_response_has_a_fault() {
        let parsed = |message: Value, reason: Value| one(&json!({ "message": message, "finish_reason": reason }));
        let (stop, length) = (false, true);
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
    fn reasoning_model_and_tokens_are_read() {
        let body = json!({
            "model": "m-2026-01-01",
            "choices": [{ "message": { "content": "A", "reasoning_content": "Hm." }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": { "cached_tokens": 5 } },
        });
        let completion = parse(body.to_string().as_bytes()).unwrap();
        assert_eq!((completion.model.as_deref(), &*completion.choices[0].reasoning), (Some("m-2026-01-01"), "Hm."));
        assert_eq!(completion.tokens, Some(Tokens { prompt: 9, cached: 5, reply: 4 }));
    }

    #[test]
    fn malformed_completions_are_told_from_failures() {
        let cause = |text: &[u8]| match parse(text).unwrap_err() {
            Unreadable::Malformed(cause) => cause,
            Unreadable::Error(error) => format!("error {error}"),
        };
        assert_eq!(cause(b"<html>"), "expected value at line 1 column 1");
        assert_eq!(cause(b"{\"choices\": [{\"mess"), "EOF while parsing a string at line 1 column 19");
        assert_eq!(cause(b"{}"), "it has no `choices`");
        assert_eq!(cause(b"{\"choices\": []}"), "its `choices` are empty");
        assert_eq!(cause(b"{\"error\": {\"code\": 502}}"), "error {\"code\":502}");
        assert_eq!(cause(b"\xff"), "not UTF-8");
    }
}
