//! Strings, prompts and chats of every checkpoint in `tests/golden/hub` against transformers
//! (`tests/golden/parity/README.md`). `just parity` names another folder by `ABLATE_PARITY`.

#![expect(clippy::print_stdout, reason = "the counts are for people")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::conversation::hub_tokenizer::Sentinels;
use crate::conversation::{Conversation, Format, Message, MessagePart, Role};
use crate::image_text::ImageText;
use crate::images::{ImageProcessor, decode};
use crate::tests::support::golden;
use crate::tokenizer::FILE;
use ablate_core::base::files;

/// A checkpoint's conversation and what transformers computes for it.
struct Case {
    folder: PathBuf,
    conversation: Conversation,
    /// None for a language model.
    processor: Option<ImageProcessor>,
    expected: Expected,
}

#[derive(Deserialize)]
struct Expected {
    images: BTreeMap<String, ImageTokens>,
    sequences: BTreeMap<String, Prompt>,
    chats: BTreeMap<String, Chat>,
}

#[derive(Deserialize)]
struct ImageTokens {
    tokens: usize,
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
    messages: Vec<ExpectedMessage>,
    add_generation_prompt: bool,
    images: Vec<String>,
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct ExpectedMessage {
    role: String,
    content: Value,
}

impl ExpectedMessage {
    fn message(&self) -> Message {
        let role = match self.role.as_str() {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => panic!("unknown role `{other}`"),
        };
        let part = |part: &Value| match part["text"].as_str() {
            Some(text) => MessagePart::Text(text.to_string()),
            None => MessagePart::Image,
        };
        match self.content.as_array() {
            Some(parts) => Message::with_parts(role, parts.iter().map(part).collect()),
            None => Message::new(role, self.content.as_str().unwrap(), Format::Text),
        }
    }
}

impl Case {
    fn read(folder: PathBuf) -> Result<Case> {
        let conversation = Conversation::read(&folder)?;
        let expected: Expected = files::read_json(&folder.join("expected.json"))?;
        let processor = conversation.image_token().map(|_| ImageProcessor::read(&folder)).transpose()?;
        Ok(Case { folder, conversation, processor, expected })
    }

    /// The ids of `strings.json`, under the name of the tokenizer file that equals the folder's.
    fn strings(&self) -> Vec<Result<()>> {
        let hub = self.folder.parent().unwrap();
        let strings: BTreeMap<String, Value> = files::read_json(&hub.join("strings.json")).unwrap();
        let bytes = files::read_bytes(&self.folder.join(FILE)).unwrap();
        let same = |kind: &&String| {
            files::read_bytes(&hub.join(format!("tokenizer-{kind}.json"))).is_ok_and(|other| other == bytes)
        };
        let kind = strings.keys().find(same).expect("`strings.json` has ids of this tokenizer");
        let texts: Vec<String> = serde_json::from_value(strings["strings"].clone()).unwrap();
        let ids: Vec<Vec<u32>> = serde_json::from_value(strings[kind].clone()).unwrap();
        assert_eq!(texts.len(), ids.len());
        texts.iter().zip(&ids).map(|(text, ids)| compare(text, self.tokens(text, &[], ids), ids)).collect()
    }

    /// The ids of the prompts of the sequences, image tokens expanded.
    fn prompts(&self) -> Vec<Result<()>> {
        let check = |Prompt { text, images, ids }: &Prompt| compare(text, self.tokens(text, images, ids), ids);
        self.expected.sequences.values().map(check).collect()
    }

    /// The text and the ids of chats.
    fn chats(&self) -> Vec<Result<()>> {
        let check = |chat: &Chat| {
            let messages: Vec<Message> = chat.messages.iter().map(ExpectedMessage::message).collect();
            let text = self.conversation.render(&messages, chat.add_generation_prompt)?;
            if text != chat.text {
                bail!("the chat is {text:?}, expected {:?}", chat.text);
            }
            let prefix = self.conversation.prefix_ids(&text)?;
            compare(&text, self.ids(prefix, &text, &chat.images, &chat.ids), &chat.ids)
        };
        self.expected.chats.values().map(check).collect()
    }

    /// The ids of a text with the special tokens that the tokenizer adds.
    fn tokens(&self, text: &str, images: &[String], expected: &[u32]) -> Result<Vec<u32>> {
        self.ids(self.conversation.hub_tokenizer.prefix_ids()?, text, images, expected)
    }

    /// Image tokens are repeated by the count in `expected.json`, or if an image has none there, as in `expected`.
    fn ids(&self, prefix: &[u32], text: &str, images: &[String], expected: &[u32]) -> Result<Vec<u32>> {
        let (mut ids, mut runs, mut written) = (prefix.to_vec(), Vec::new(), text.to_string());
        if let Some(token) = self.conversation.image_token() {
            let name = self.conversation.hub_tokenizer.name(token, "")?;
            let texts: Vec<ImageText> = images.iter().map(|image| self.image_text(image)).collect::<Result<_>>()?;
            runs = texts.iter().flat_map(|text| text.runs.iter().map(|(_, length)| *length)).collect();
            let mut texts = texts.iter().map(|image| image.with_runs_as(&name));
            let placeholder = self.conversation.image_placeholder().unwrap();
            written = text.split(placeholder).collect::<Vec<_>>().join("\u{F0000}");
            while let Some(at) = written.find('\u{F0000}') {
                written.replace_range(
                    at..at + '\u{F0000}'.len_utf8(),
                    &texts.next().unwrap_or_else(|| placeholder.to_string()),
                );
            }
        }
        let mut runs = runs.into_iter();
        for id in self.conversation.hub_tokenizer.ids(&written, Sentinels::not_in(&[text])?, false)? {
            let run = if Some(id) == self.conversation.image_token() { runs.next() } else { None };
            let in_expected = || expected.iter().skip(ids.len()).take_while(|other| **other == id).count();
            let count = run.map_or(1, |length| if length == UNKNOWN { in_expected() } else { length });
            ids.extend(std::iter::repeat_n(id, count));
        }
        Ok(ids)
    }

    /// What stands for an image in a conversation.
    fn image_text(&self, image: &str) -> Result<ImageText> {
        let (Some(known), Some(processor)) = (self.expected.images.get(image), &self.processor) else {
            return Ok(ImageText::run(UNKNOWN));
        };
        let path = self.folder.with_file_name("images").join(format!("{image}.png"));
        let (width, height) = decode::dimensions(&files::read_bytes(&path)?)?;
        processor.text(processor.shape(width, height)?, known.tokens)
    }
}

/// The length of a run that is not known.
const UNKNOWN: usize = usize::MAX;

fn compare(text: &str, ours: Result<Vec<u32>>, expected: &[u32]) -> Result<()> {
    let ours = ours?;
    if ours != expected {
        bail!("the ids of {text:?} are {ours:?}, expected {expected:?}");
    }
    Ok(())
}

#[test]
fn strings_prompts_and_chats_match_transformers() {
    let hub = std::env::var_os("ABLATE_PARITY").map_or_else(|| golden("hub"), |root| PathBuf::from(root).join("hub"));
    let mut folders: Vec<(String, PathBuf)> =
        files::entries(&hub).unwrap().into_iter().map(|(name, path, _)| (name, path)).collect();
    folders.retain(|(_, folder)| folder.join("config.json").exists());
    folders.sort();
    assert!(folders.len() > 10, "only {} checkpoints in `{}`", folders.len(), hub.display());
    let mut failures = Vec::new();
    for (name, folder) in folders {
        let case = Case::read(folder).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let mut counts = String::new();
        for (what, results) in [("strings", case.strings()), ("prompts", case.prompts()), ("chats", case.chats())] {
            counts += &format!("{:>12} {what}", results.len());
            let errors = results.into_iter().filter_map(Result::err);
            failures.extend(errors.map(|error| format!("{name}, {what}: {error:#}")));
        }
        println!("{name:22}{counts}");
    }
    assert!(failures.is_empty(), "{} comparisons failed:\n{}", failures.len(), failures.join("\n"));
}
