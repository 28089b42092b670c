//! Strings, prompts and chats of a checkpoint against transformers' (`tests/golden/parity/README.md`). Test code only.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::tokenizer::FILE;
use crate::tokens::ImageTokens;
use ablate_core::base::files;

/// A folder's conversation and what is expected of it.
pub(crate) struct Words {
    conversation: Conversation,
    image_tokens: ImageTokens,
    expected: Expected,
}

/// How many were right, and what was not.
pub(crate) struct Tally {
    pub(crate) right: usize,
    pub(crate) wrong: Vec<String>,
}

#[derive(Deserialize)]
struct Expected {
    sequences: BTreeMap<String, Prompt>,
    chats: BTreeMap<String, Chat>,
}

#[derive(Deserialize)]
struct Prompt {
    #[serde(rename = "prompt")]
    text: String,
    images: Vec<String>,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Turn>,
    add_generation_prompt: bool,
    images: Vec<String>,
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
    content: Value,
}

impl Turn {
    fn text(&self) -> &str {
        let parts = self.content.as_array().and_then(|parts| parts.last()).map(|part| &part["text"]);
        parts.unwrap_or(&self.content).as_str().unwrap()
    }

    fn message(&self) -> Message {
        let role = match self.role.as_str() {
            "system" => Role::System,
            "user" => Role::User,
            other => Some(Role::Assistant).filter(|_| other == "assistant").unwrap(),
        };
        match &self.content {
            Value::Array(parts) if parts.len() == 2 => Message::with_image(role, self.text()),
            Value::Array(_) => Message::new(role, self.text(), Format::Parts),
            _ => Message::new(role, self.text(), Format::Text),
        }
    }
}

impl Words {
    pub(crate) fn read(folder: &Path, image_tokens: ImageTokens) -> Result<Words> {
        let conversation = Conversation::read(folder)?;
        Ok(Words { conversation, image_tokens, expected: files::read_json(&folder.join("expected.json"))? })
    }

    /// The ids of the strings beside the folder, which have the folder's tokenizer under its name.
    pub(crate) fn strings(&self, folder: &Path) -> Result<Tally> {
        let hub = folder.parent().context("a case lies beside the strings")?;
        let strings: BTreeMap<String, Value> = files::read_json(&hub.join("strings.json"))?;
        let own = files::read_bytes(&folder.join(FILE))?;
        let same = |kind: &&String| {
            files::read_bytes(&hub.join(format!("tokenizer-{kind}.json"))).is_ok_and(|bytes| bytes == own)
        };
        let kind = strings.keys().find(same).context("no strings for this tokenizer")?;
        let texts: Vec<String> = serde_json::from_value(strings["strings"].clone())?;
        let ids: Vec<Vec<u32>> = serde_json::from_value(strings[kind].clone())?;
        assert_eq!(texts.len(), ids.len());
        Ok(tally(texts.iter().zip(&ids).map(|(text, ids)| compared(text, &self.tokens(text, &[])?, ids))))
    }

    /// The ids of the prompts of the sequences, their images' tokens expanded.
    pub(crate) fn prompts(&self) -> Tally {
        let compare = |Prompt { text, images, ids }: &Prompt| compared(text, &self.tokens(text, images)?, ids);
        tally(self.expected.sequences.values().map(compare))
    }

    /// The text and the ids of chats.
    pub(crate) fn chats(&self) -> Tally {
        let compare = |chat: &Chat| {
            let messages: Vec<Message> = chat.messages.iter().map(Turn::message).collect();
            let text = self.conversation.render(&messages, chat.add_generation_prompt)?;
            if text != chat.text {
                bail!("the chat is {text:?}, not {:?}", chat.text);
            }
            let opening = self.conversation.opening(&text)?;
            compared(&text, &self.ids(opening, &text, &chat.images)?, &chat.ids)
        };
        tally(self.expected.chats.values().map(compare))
    }

    /// Chats that are a user's turn to be answered, with its image: their ids.
    pub(crate) fn questions(&self) -> impl Iterator<Item = (&str, Option<&str>, &[u32])> {
        let asked = |chat: &&Chat| chat.messages.len() == 1 && chat.add_generation_prompt;
        self.expected
            .chats
            .values()
            .filter(asked)
            .map(|chat| (chat.messages[0].text(), chat.images.first().map(String::as_str), chat.ids.as_slice()))
    }

    /// The text of ids, special tokens left out.
    pub(crate) fn text(&self, ids: &[u32]) -> Result<String> {
        let vocabulary = &self.conversation.vocabulary;
        let name = |id: &u32| vocabulary.name(*id, "an answer");
        let plain = ids.iter().filter(|id| name(id).is_ok_and(|name| !vocabulary.is_special(&name)));
        self.conversation.tokenizer().decode(&plain.copied().collect::<Vec<_>>())
    }

    /// As the tokenizer itself reads a text.
    fn tokens(&self, text: &str, images: &[String]) -> Result<Vec<u32>> {
        self.ids(self.conversation.vocabulary.opening()?, text, images)
    }

    fn ids(&self, opening: &[u32], text: &str, images: &[String]) -> Result<Vec<u32>> {
        let (mut ids, mut images) = (opening.to_vec(), images.iter());
        for id in self.conversation.vocabulary.ids(text, Marks::outside(&[text])?, false)? {
            let seen = if Some(id) == self.conversation.image_token() { images.next() } else { None };
            let count = seen.map_or(Ok(1), |image| (self.image_tokens)(image))?;
            ids.extend(std::iter::repeat_n(id, count));
        }
        Ok(ids)
    }
}

fn compared(text: &str, ours: &[u32], expected: &[u32]) -> Result<()> {
    if ours != expected {
        bail!("the ids of {text:?} are {ours:?}, not {expected:?}");
    }
    Ok(())
}

fn tally(results: impl Iterator<Item = Result<()>>) -> Tally {
    let mut found = Tally { right: 0, wrong: Vec::new() };
    for result in results {
        match result {
            Ok(()) => found.right += 1,
            Err(error) => found.wrong.push(format!("{error:#}")),
        }
    }
    found
}
