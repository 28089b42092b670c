//! The conversation format of a Hugging Face folder: its tokenizer, special tokens and chat template, and the token ids
//! of prompts and training sequences that follow from them. The number of tokens per image is added in `tokens`.
//!
//! ```text
//! prompt   = template on [user: image, text], with the opening of the assistant's turn
//! sequence = template on [user: image, text; assistant: response], up to the first stop token
//!            It begins with the prompt; the rest is the target.
//! ```
//!
//! Ids equal those of `transformers` (`ProcessorMixin.apply_chat_template`, or
//! `PreTrainedTokenizerBase.apply_chat_template` for text-only models). `tokenizer.json` is used as it is: tokenizer
//! classes of `transformers` that build a different pipeline, and keys such as `add_bos_token`, have no effect here.

mod generation_config;
mod hub_files;
pub(crate) mod hub_tokenizer;
mod jinja_compat;
mod template;
mod thinking;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

pub use template::{ChatTemplate, Format, Message, Role};

use super::tokenizer::Tokenizer;
use generation_config::GenerationConfig;
use hub_tokenizer::{HubTokenizer, Sentinels};
use template::PROBE;
use thinking::ThinkingBlock;

/// A placeholder for a thought when a template is probed.
const THOUGHT_PROBE: &str = "\u{F0003}";

/// The conversation format of a folder.
#[derive(Debug)]
pub struct Conversation {
    pub(crate) hub_tokenizer: HubTokenizer,
    template: ChatTemplate,
    pub(crate) user: Format,
    pub(crate) assistant: Format,
    /// The thinking blocks of the template.
    pub(crate) block: Option<ThinkingBlock>,
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
    /// Whether the template writes the placeholder for a part `{"type": "image"}`.
    part: bool,
}

/// A rendered chat with sentinels.
struct RenderedChat {
    /// The text up to the response.
    prompt: String,
    /// The text of the whole sequence; begins with `prompt`.
    whole: String,
    /// Whether `eos` must be appended.
    append_eos: bool,
    sentinels: Sentinels,
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
        let hub_files::Special { named, additional, image, ends } = hub_files::special(folder)?;
        let template = hub_files::template(folder, image.is_some())?;
        let generation = generation_config::read(folder)?;

        let roles = hub_files::ROLES.iter().filter_map(|role| Some((named.get(*role)?.as_str(), *role)));
        let additional = additional.iter().map(|token| (token.as_str(), "of the special tokens"));
        let hub_tokenizer = HubTokenizer::read(folder, &roles.chain(additional).collect::<Vec<_>>())?;
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
                Some(ImageToken { id, name, part: false })
            }
            None => None,
        };

        let bos = named.get("bos_token").cloned();
        let TemplateFormat { template, user, assistant, block } =
            TemplateFormat::probe(&template, named, image.is_some())?;
        let image = match image {
            Some(image) if user == Format::Parts => {
                let part = template.render(&[Message::with_image(Role::User, PROBE)], true)?.contains(&image.name);
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
            block,
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

    /// Renders messages with the template.
    pub fn render(&self, messages: &[Message], open: bool) -> Result<String> {
        self.template.render(messages, open)
    }

    /// The ids of a prompt. An image is one placeholder.
    pub fn prompt(&self, image: bool, text: &str) -> Result<Vec<u32>> {
        let sentinels = Sentinels::not_in(&[text])?;
        let prompt = self.template.render(&[self.user(image, text, sentinels)?], true)?;
        self.prompt_ids(&prompt, sentinels, image)
    }

    /// The ids of a prompt and of its response. A truncated response has no stop token.
    pub fn sequence(&self, image: bool, prompt: &str, response: &str, truncated: bool) -> Result<(Vec<u32>, Vec<u32>)> {
        let chat = self.render_chat(image, prompt, response, truncated)?;
        let prompt = self.prompt_ids(&chat.prompt, chat.sentinels, image)?;
        let mut target = self.target(&chat, &prompt)?.ids;
        if chat.append_eos {
            target.push(self.eos.0);
        }
        if let Some(image) = self.image.as_ref().filter(|image| target.contains(&image.id)) {
            bail!("the chat template writes `{}` after the prompt", image.name);
        }
        Ok((prompt, target))
    }

    /// The text of each target id of [`Conversation::sequence`].
    pub fn pieces(&self, image: bool, prompt: &str, response: &str, truncated: bool) -> Result<Vec<String>> {
        let chat = self.render_chat(image, prompt, response, truncated)?;
        let prompt = self.prompt_ids(&chat.prompt, chat.sentinels, image)?;
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

    fn user(&self, image: bool, text: &str, sentinels: Sentinels) -> Result<Message> {
        let text = self.hub_tokenizer.escape(text, sentinels);
        Ok(match (&self.image, image) {
            (None, true) => bail!("the model takes no images: its `config.json` has no image token"),
            (Some(image), true) if image.part => Message::with_image(Role::User, &text),
            (Some(image), true) => Message::new(Role::User, &format!("{}\n{text}", image.name), self.user),
            (_, false) => Message::new(Role::User, &text, self.user),
        })
    }

    fn render_chat(&self, image: bool, prompt: &str, response: &str, truncated: bool) -> Result<RenderedChat> {
        let sentinels = Sentinels::not_in(&[prompt, response])?;
        let user = self.user(image, prompt, sentinels)?;
        let answered = |text: &str| {
            self.template.render(&[user.clone(), Message::new(Role::Assistant, text, self.assistant)], false)
        };
        let prompt = self.template.render(std::slice::from_ref(&user), true)?;
        let response = self.hub_tokenizer.escape(response, sentinels);
        let mut whole = answered(&response)?;
        // A response that is unique in the text shows where responses end.
        let with_probe = answered(&sentinels.probe.to_string())?;
        let suffix = match with_probe.split(sentinels.probe).collect::<Vec<_>>()[..] {
            [_, suffix] => suffix,
            ref parts => bail!("the chat template writes a response {} times", parts.len() - 1),
        };
        if let Some(block) = &self.block {
            whole = format!("{prompt}{}{suffix}", block.target(&response, truncated));
        } else if !whole.starts_with(&prompt) {
            // Some templates write other white space before a given answer than at the opening for generation.
            // Generation continues the opening, so training uses the opening too.
            whole = format!("{prompt}{response}{suffix}");
        }
        let end = whole.strip_suffix(suffix).map(str::len).filter(|&end| end >= prompt.len());
        let end =
            end.with_context(|| format!("the chat template does not end with `{suffix}` after every response"))?;
        let special = self.stop.iter().filter(|(_, name)| self.hub_tokenizer.is_special(name));
        let stop = special.filter_map(|(_, name)| suffix.find(name).map(|at| at + name.len())).min();
        let stop = stop.filter(|_| !truncated);
        whole.truncate(end + stop.unwrap_or(0));
        Ok(RenderedChat { prompt, whole, append_eos: !truncated && stop.is_none(), sentinels })
    }

    pub(crate) fn prompt_ids(&self, prompt: &str, sentinels: Sentinels, image: bool) -> Result<Vec<u32>> {
        let mut ids = self.prefix_ids(prompt)?.to_vec();
        ids.extend(self.hub_tokenizer.ids(prompt, sentinels, false)?);
        if let Some(token) = &self.image {
            let count = ids.iter().filter(|id| **id == token.id).count();
            if count != usize::from(image) {
                bail!("the chat template writes `{}` {count} times for {} images", token.name, usize::from(image));
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

/// The content formats and thinking blocks of a template, found by probing.
struct TemplateFormat {
    template: ChatTemplate,
    user: Format,
    assistant: Format,
    block: Option<ThinkingBlock>,
}

impl TemplateFormat {
    fn probe(file: &hub_files::Template, named: BTreeMap<String, String>, images: bool) -> Result<TemplateFormat> {
        let template = ChatTemplate::new(&file.text, &file.origin, named)?;
        let preferred = if images { Format::Parts } else { Format::Text };
        let turn = |role: Role| move |format: Format| Message::new(role, PROBE, format);
        let user = template.format_of(preferred, &[], turn(Role::User), true)?;
        let before = [Message::new(Role::User, "a", user)];
        let assistant = template.format_of(preferred, &before, turn(Role::Assistant), false)?;
        let block = find_thinking_block(&template, &file.text, user, assistant)?;
        Ok(TemplateFormat { template, user, assistant, block })
    }
}

/// Finds the thinking blocks of a template.
///
/// # Errors
///
/// A template that ignores `add_generation_prompt`: a prompt would end before text that precedes every answer.
fn find_thinking_block(
    template: &ChatTemplate,
    source: &str,
    user: Format,
    assistant: Format,
) -> Result<Option<ThinkingBlock>> {
    let question = Message::new(Role::User, "a", user);
    let answered = |text: &str| {
        let chat = [question.clone(), Message::new(Role::Assistant, text, assistant)];
        template.render(&chat, false)
    };
    let prompt = template.render(std::slice::from_ref(&question), true)?;
    let given = answered(PROBE)?;
    let lead = given.split(PROBE).next().unwrap_or_default();
    let drops = |open: &str, close: &str| {
        let thought = answered(&format!("{open}\n{THOUGHT_PROBE}\n{close}\n\n{PROBE}"));
        thought.is_ok_and(|thought| !thought.contains(THOUGHT_PROBE) && thought.contains(PROBE))
    };
    let block = ThinkingBlock::find(&prompt, lead, source, drops);
    let opened = lead.strip_prefix(&*prompt).map(str::trim);
    if block.is_none() && opened != Some("") && template.render(&[question], false)? == prompt {
        let missing = opened.map_or_else(|| lead.to_string(), str::to_string);
        bail!(
            "the chat template of {} ignores `add_generation_prompt`: it writes {missing:?} before an answer, but a prompt \
             ends without it",
            template.origin()
        );
    }
    Ok(block)
}
