//! The conversation format of a Hugging Face folder: its tokenizer, special tokens and chat template, and the token ids
//! of prompts and training sequences that follow from them. `tokens` repeats the image token of each run.
//!
//! ```text
//! prompt   = template on [..., user: image, text], with the opening of the assistant's turn
//! sequence = template on [..., user: image, text; assistant: response], up to the first stop token after the response
//!            It begins with the prompt; the rest is the target.
//! ```
//!
//! Earlier turns are part of the prompt, as the template writes them; their responses may be targets too (`history`).
//!
//! Ids equal those of `transformers` (`ProcessorMixin.apply_chat_template`, or
//! `PreTrainedTokenizerBase.apply_chat_template` for text-only models). `tokenizer.json` is used as it is: tokenizer
//! classes of `transformers` that build a different pipeline, and keys such as `add_bos_token`, have no effect here.

mod generation_config;
mod history;
mod hub_files;
pub(crate) mod hub_tokenizer;
mod jinja_compat;
mod rendering;
mod template;
mod template_format;
mod thinking;

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

pub use template::{ChatTemplate, Format, Message, MessagePart, Role};

use super::chat_prompt::ChatPrompt;
use super::image_text::ImageText;
use super::tokenizer::Tokenizer;
use generation_config::GenerationConfig;
use hub_tokenizer::{HubTokenizer, Sentinels};
use rendering::{RenderedChat, sentinels};
use template::PROBE;
use template_format::TemplateFormat;
use thinking::ThinkingBlock;

/// The conversation format of a folder.
#[derive(Debug)]
pub struct Conversation {
    pub(crate) hub_tokenizer: HubTokenizer,
    template: ChatTemplate,
    pub(crate) user: Format,
    pub(crate) assistant: Format,
    /// The format of system messages, found when the first one is rendered, because many templates have none.
    system: OnceLock<Result<Format, String>>,
    /// The thinking blocks of the template.
    pub(crate) block: Option<ThinkingBlock>,
    /// The white space between the opening of a response and a given response.
    gap: String,
    generation: GenerationConfig,
    image: Option<ImageToken>,
    /// Tokens that end a turn: id and name.
    stop: Vec<(u32, String)>,
    stop_tokens: Vec<u32>,
    /// Ends a response if the template writes no stop token after it.
    eos: (u32, String),
    bos: Option<String>,
}

/// The image placeholder.
#[derive(Debug)]
struct ImageToken {
    id: u32,
    name: String,
    /// What stands for an image in the output of the template: the image token, or another special token (Gemma 3).
    placeholder: String,
    /// Whether the template writes the placeholder for a part `{"type": "image"}`.
    part: bool,
}

/// The ids of a conversation, with one image token per run ([`ImageText`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChat {
    /// The conversation up to the last response.
    pub prompt: Vec<u32>,
    /// Whether each id of the prompt is part of an earlier response, or ends one.
    pub loss: Vec<bool>,
    /// The last response and the token that ends it.
    pub target: Vec<u32>,
}

/// The target of a sequence.
struct Target {
    ids: Vec<u32>,
    /// Whether the target was encoded separately, because a token of the whole chat spans the border between prompt and
    /// target.
    separate: bool,
}

impl Conversation {
    /// Reads a Hugging Face folder (`tokenizer.json`, `config.json` and optional files).
    ///
    /// # Errors
    ///
    /// A folder with only a slow tokenizer, or without a chat template; a special token or an id that is not in the
    /// vocabulary; a template that does not compile, does not write the texts of user and assistant, or does not open
    /// an answer when asked to; an unsupported `generation_config.json`.
    pub fn read(folder: &Path) -> Result<Conversation> {
        hub_files::check_tokenizer(folder)?;
        let hub_files::Special { named, additional, listed, added, image, placeholder, ends } =
            hub_files::special(folder)?;
        let template = hub_files::template(folder, image.is_some())?;
        let generation = generation_config::read(folder)?;

        let around_images = hub_files::IMAGE_ROLES.iter().filter(|_| image.is_some());
        let roles = hub_files::ROLES.iter().chain(around_images);
        let roles = roles.filter_map(|role| Some((named.get(*role)?.as_str(), *role)));
        let additional = additional.iter().map(|token| (token.as_str(), "of the special tokens"));
        let hub_tokenizer = HubTokenizer::read(folder, &roles.chain(additional).collect::<Vec<_>>(), added)?;
        if let Some(token) = listed.iter().find(|token| hub_tokenizer.id(token).is_none()) {
            bail!("the token `{token}` (added_tokens.json) is not in the vocabulary of `tokenizer.json`");
        }
        let own = named.get("eos_token").and_then(|token| Some((hub_tokenizer.id(token)?, token.clone())));
        let mut stop: Vec<(u32, String)> = Vec::new();
        for (id, place) in &ends {
            stop.push((*id, hub_tokenizer.name(*id, place)?));
        }
        stop.extend(own.clone());
        let eos = own.or_else(|| stop.first().cloned()).with_context(|| {
            format!("`{}` has no end-of-text token: `eos_token_id` and `eos_token` are missing", folder.display())
        })?;
        stop.sort_unstable();
        stop.dedup();
        let image = match image {
            Some((id, place)) => {
                let name = hub_tokenizer.name(id, &place)?;
                if !hub_tokenizer.is_special(&name) {
                    bail!("{place} is {id}, but `{name}` is not a special token of `tokenizer.json`");
                }
                let placeholder = placeholder.unwrap_or_else(|| name.clone());
                if !hub_tokenizer.is_special(&placeholder) {
                    bail!("the placeholder of images, `{placeholder}`, is not a special token of `tokenizer.json`");
                }
                Some(ImageToken { id, name, placeholder, part: false })
            }
            None => None,
        };

        let bos = named.get("bos_token").cloned();
        let TemplateFormat { template, user, assistant, block, gap } =
            TemplateFormat::probe(&template, named, image.is_some())?;
        let image = match image {
            Some(image) if user == Format::Parts => {
                let part = template
                    .render(
                        &[Message::with_parts(
                            Role::User,
                            vec![MessagePart::Image, MessagePart::Text(PROBE.to_string())],
                        )],
                        true,
                    )?
                    .contains(&image.placeholder);
                Some(ImageToken { part, ..image })
            }
            other => other,
        };
        let stop_tokens = stop.iter().map(|(id, _)| *id).collect();
        Ok(Conversation {
            hub_tokenizer,
            template,
            user,
            assistant,
            system: OnceLock::new(),
            block,
            gap,
            generation,
            image,
            stop,
            stop_tokens,
            eos,
            bos,
        })
    }

    /// Checks a folder without reading its tokenizer: which files exist, `generation_config.json`, and the behaviour of
    /// the chat template (unless `template_given`: another template is used). Returns the unknown fields of
    /// `generation_config.json`.
    pub fn check_files(folder: &Path, template_given: bool) -> Result<Vec<String>> {
        hub_files::check_tokenizer(folder)?;
        let hub_files::Special { named, image, .. } = hub_files::special(folder)?;
        if !template_given {
            TemplateFormat::probe(&hub_files::template(folder, image.is_some())?, named, image.is_some())?;
        }
        Ok(generation_config::read(folder)?.unknown)
    }

    /// The penalty for tokens that the sequence already contains (`repetition_penalty` of `generation_config.json`); 1
    /// means none.
    pub fn repetition_penalty(&self) -> f64 {
        self.generation.repetition_penalty
    }

    /// Number of bytes at the start of a generated text that are a thinking block of the template.
    pub fn thinking(&self, text: &str) -> usize {
        self.block.as_ref().map_or(0, |block| block.thinking_bytes(text))
    }

    /// The folder's tokenizer; it encodes special tokens in a text as plain characters.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.hub_tokenizer.plain
    }

    /// Tokens that end a response: those of `generation_config.json` and `config.json`, and the tokenizer's own.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// The image token, if the model takes images.
    pub fn image_token(&self) -> Option<u32> {
        self.image.as_ref().map(|image| image.id)
    }

    /// What stands for an image in the output of the template.
    #[cfg(test)]
    pub(crate) fn image_placeholder(&self) -> Option<&str> {
        self.image.as_ref().map(|image| image.placeholder.as_str())
    }

    /// Renders messages with the template.
    pub fn render(&self, messages: &[Message], open: bool) -> Result<String> {
        self.template.render(messages, open)
    }

    /// The ids of a prompt. `images`: what stands for each image.
    pub fn prompt(&self, chat: &ChatPrompt, images: &[ImageText]) -> Result<Vec<u32>> {
        let sentinels = sentinels(chat, "")?;
        let prompt = self.render_prompt(chat, images, sentinels)?;
        self.prompt_ids(&prompt, sentinels, images)
    }

    /// The ids of a prompt and of its response. A truncated response has no stop token. With `mask_history`, earlier
    /// responses are not marked as part of the loss.
    pub fn sequence(
        &self,
        chat: &ChatPrompt,
        images: &[ImageText],
        response: &str,
        truncated: bool,
        mask_history: bool,
    ) -> Result<EncodedChat> {
        let rendered = self.render_chat(chat, images, response, truncated)?;
        let prompt = self.prompt_ids(&rendered.prompt, rendered.sentinels, images)?;
        let loss = if chat.history.is_empty() || mask_history {
            vec![false; prompt.len()]
        } else {
            self.history_loss(chat, images, &rendered)?
        };
        let mut target = self.target(&rendered, &prompt)?.ids;
        if rendered.append_eos {
            target.push(self.eos.0);
        }
        if let Some(image) = self.image.as_ref().filter(|image| target.contains(&image.id)) {
            bail!("the chat template writes `{}` after the prompt", image.name);
        }
        Ok(EncodedChat { prompt, loss, target })
    }

    /// The text of each target id of [`Conversation::sequence`].
    pub fn pieces(
        &self,
        chat: &ChatPrompt,
        images: &[ImageText],
        response: &str,
        truncated: bool,
    ) -> Result<Vec<String>> {
        let chat = self.render_chat(chat, images, response, truncated)?;
        let prompt = self.prompt_ids(&chat.prompt, chat.sentinels, images)?;
        let Target { ids, separate } = self.target(&chat, &prompt)?;
        let mut pieces = if separate {
            self.hub_tokenizer.pieces(&chat.whole[chat.prompt.len()..], chat.sentinels, true)?
        } else {
            let pieces = self.hub_tokenizer.pieces(&chat.whole, chat.sentinels, false)?;
            pieces[pieces.len() - ids.len()..].to_vec()
        };
        if chat.append_eos {
            pieces.push(self.eos.1.clone());
        }
        Ok(pieces)
    }

    pub(crate) fn prompt_ids(&self, prompt: &str, sentinels: Sentinels, images: &[ImageText]) -> Result<Vec<u32>> {
        let mut ids = self.prefix_ids(prompt)?.to_vec();
        ids.extend(self.hub_tokenizer.ids(prompt, sentinels, false)?);
        if let Some(token) = &self.image {
            let count = ids.iter().filter(|id| **id == token.id).count();
            let runs: usize = images.iter().map(|image| image.runs.len()).sum();
            if count != runs {
                let images = images.len();
                let parts = if runs == images { String::new() } else { format!(" of {runs} parts") };
                bail!("the chat template writes `{}` {count} times for {images} images{parts}", token.name);
            }
        }
        Ok(ids)
    }

    /// The tokens that a processor of `transformers` adds before a chat that does not begin with `bos_token`. A
    /// tokenizer adds nothing to a chat.
    pub(crate) fn prefix_ids(&self, chat: &str) -> Result<&[u32]> {
        if self.image.is_none() || self.bos.as_ref().is_some_and(|bos| chat.starts_with(bos)) {
            return Ok(&[]);
        }
        self.hub_tokenizer.prefix_ids()
    }

    fn target(&self, chat: &RenderedChat, prompt: &[u32]) -> Result<Target> {
        let opening = self.prefix_ids(&chat.prompt)?.len();
        let whole = self.hub_tokenizer.ids(&chat.whole, chat.sentinels, false)?;
        if let Some(ids) = whole.strip_prefix(&prompt[opening..]) {
            return Ok(Target { ids: ids.to_vec(), separate: false });
        }
        // A token of the whole chat spans the border. Generation continues the prompt's own tokens, so training encodes
        // the target separately.
        let ids = self.hub_tokenizer.ids(&chat.whole[chat.prompt.len()..], chat.sentinels, true)?;
        Ok(Target { ids, separate: true })
    }
}
