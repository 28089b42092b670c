//! Lists of messages, in the forms of LLaVA (`from`, `value`) and OpenAI (`role`, `content`), and their images.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::example::Turns;
use super::images::{RowImage, RowImages};
use super::rows::{self, IMAGE, escape};

/// A text or a list of messages.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of messages")]
pub(super) enum Messages {
    Text(String),
    List(Vec<Message>),
}

/// A message of a conversation.
#[derive(Deserialize)]
pub(super) struct Message {
    #[serde(alias = "role")]
    from: String,
    #[serde(alias = "content")]
    value: Content,
    tool_calls: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
    weight: Option<Value>,
    loss: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message's content.
#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    #[serde(default)]
    image_url: Value,
    #[serde(default)]
    image: Value,
    #[serde(default)]
    url: Value,
    #[serde(default)]
    path: Value,
}

/// A preference pair: the conversation up to the responses, and both responses.
pub(super) struct Preference {
    pub(super) turns: Turns,
    pub(super) chosen: String,
    pub(super) rejected: String,
    /// The images inside its messages.
    pub(super) images: Vec<RowImage>,
}

/// Reads a pair whose texts may be lists of messages. Without `prompt`, both lists begin with the prompt.
pub(super) fn preference(
    prompt: Option<Messages>,
    chosen: Messages,
    rejected: Messages,
    images: &mut RowImages,
) -> Result<Preference, String> {
    let mut parts = Parts::new(images);
    let prompt = match prompt {
        Some(Messages::Text(text)) => Some(Turns { system: None, turns: vec![(text, None)] }),
        Some(Messages::List(messages)) => Some(parts.turns(messages, "prompt")?),
        None => None,
    };
    let (chosen_turns, chosen) = parts.response(chosen, prompt.is_some(), "chosen")?;
    let inline = parts.inline.len();
    let (rejected_turns, rejected) = parts.response(rejected, prompt.is_some(), "rejected")?;
    let turns = match prompt {
        Some(prompt) => prompt,
        None if chosen_turns != rejected_turns => {
            return Err("`chosen` and `rejected` begin with different prompts".to_string());
        }
        // Both lists have the images of the prompt.
        None => {
            parts.inline.truncate(inline);
            chosen_turns
        }
    };
    if turns.turns.last().is_none_or(|(_, response)| response.is_some()) {
        return Err("the prompt does not end with a message of the user".to_string());
    }
    Ok(Preference { turns, chosen, rejected, images: parts.inline })
}

/// Collects the images inside messages.
pub(super) struct Parts<'a> {
    images: &'a mut RowImages,
    pub(super) inline: Vec<RowImage>,
    /// Parts of type `image` whose image is in the row's list.
    pub(super) expected: usize,
}

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    System,
    User,
    Assistant,
}

impl<'a> Parts<'a> {
    pub(super) fn new(images: &'a mut RowImages) -> Parts<'a> {
        Parts { images, inline: Vec::new(), expected: 0 }
    }

    pub(super) fn prompt_and_completion(&mut self, prompt: Messages, completion: Messages) -> Result<Turns, String> {
        match (prompt, completion) {
            (Messages::Text(prompt), Messages::Text(response)) => Ok(Turns::single(prompt, response)),
            (Messages::List(mut messages), Messages::List(completion)) => {
                messages.extend(completion);
                self.turns(messages, "prompt")
            }
            (Messages::Text(_), _) => Err("`prompt` is a text and `completion` a list of messages".to_string()),
            (Messages::List(_), _) => Err("`prompt` is a list of messages and `completion` a text".to_string()),
        }
    }

    /// The response of a pair, and the conversation before it if the pair has no `prompt`.
    fn response(&mut self, messages: Messages, has_prompt: bool, key: &str) -> Result<(Turns, String), String> {
        match messages {
            Messages::Text(text) if has_prompt => Ok((Turns::default(), text)),
            Messages::Text(_) => Err("the pair has no `prompt` or `question`".to_string()),
            Messages::List(mut messages) => {
                let last = messages.pop().ok_or_else(|| format!("`{key}` is empty"))?;
                if last.role(key)? != Role::Assistant {
                    return Err(format!("`{key}` ends with a message from `{}`, expected `assistant`", last.from));
                }
                if has_prompt && !messages.is_empty() {
                    return Err(format!("`{key}` has {} messages, expected one of the assistant", messages.len() + 1));
                }
                let turns = if has_prompt { Turns::default() } else { self.turns(messages, key)? };
                Ok((turns, self.text(last, key)?))
            }
        }
    }

    /// The turns of a list of messages: an optional system message, then user and assistant in alternation.
    pub(super) fn turns(&mut self, messages: Vec<Message>, key: &str) -> Result<Turns, String> {
        if messages.is_empty() {
            return Err(format!("`{key}` is empty"));
        }
        let mut turns = Turns::default();
        for (at, message) in messages.into_iter().enumerate() {
            let role = message.role(key)?;
            let (from, text) = (message.from.clone(), self.text(message, key)?);
            let open = turns.turns.last().is_some_and(|(_, response)| response.is_none());
            match role {
                Role::System if at == 0 => turns.system = Some(text).filter(|text| !text.trim().is_empty()),
                Role::User if !open => turns.turns.push((text, None)),
                Role::Assistant if open => {
                    if let Some((_, response)) = turns.turns.last_mut() {
                        *response = Some(text);
                    }
                }
                _ => return Err(unexpected(at, &from, open, key)),
            }
        }
        if turns.turns.is_empty() {
            return Err(format!("`{key}` has no message of the user"));
        }
        Ok(turns)
    }

    /// The text of a message in the convention of plain texts: `<image>` is an image, `\<image>` the text.
    fn text(&mut self, message: Message, key: &str) -> Result<String, String> {
        let parts = match message.value {
            Content::Text(text) => return Ok(text),
            Content::Parts(parts) => parts,
        };
        let mut text = String::new();
        for part in parts {
            match part.kind.as_str() {
                "text" => text.push_str(&escape(&part.text.unwrap_or_default())),
                "image_url" | "image" => {
                    text.push_str(IMAGE);
                    let url = part.image_url.get("url").cloned().unwrap_or(part.image_url);
                    let given = [url, part.image, part.url, part.path].into_iter().find(rows::is_set);
                    match given {
                        Some(image) => self.inline.extend(self.images.read(&image, "image")?),
                        None => self.expected += 1,
                    }
                }
                other => {
                    return Err(format!(
                        "`{key}` has a part of type `{other}`, which is not supported: `text`, `image` and \
                                        `image_url` are"
                    ));
                }
            }
        }
        Ok(text)
    }
}

impl Message {
    fn role(&self, key: &str) -> Result<Role, String> {
        if self.tool_calls.is_some() || self.function_call.is_some() {
            return Err(format!("`{key}` has a message with tool calls, which are not supported"));
        }
        let weighted = [&self.weight, &self.loss].into_iter().flatten();
        if weighted.into_iter().any(|weight| weight.as_f64() != Some(1.0) && weight.as_bool() != Some(true)) {
            return Err(format!("`{key}` has a message with its own `weight` or `loss`, which is not supported"));
        }
        match self.from.as_str() {
            "system" | "developer" => Ok(Role::System),
            "human" | "user" => Ok(Role::User),
            "gpt" | "assistant" | "model" | "bot" | "chatgpt" => Ok(Role::Assistant),
            other => Err(format!(
                "`{key}` has a message from `{other}`, expected `system`, `user` (`human`) or `assistant` (`gpt`)"
            )),
        }
    }
}

/// The error of a message in the wrong place; `at` counts from 0.
fn unexpected(at: usize, from: &str, open: bool, key: &str) -> String {
    let (user, assistant) = if key == "conversations" { ("human", "gpt") } else { ("user", "assistant") };
    let expected = if open { assistant } else { user };
    match at {
        0 => format!("`{key}` begins with `{from}`, expected `{expected}`"),
        at => format!("message {} of `{key}` is from `{from}`, expected `{expected}`", at + 1),
    }
}
