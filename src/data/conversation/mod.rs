//! The conversation format of a Hugging Face folder: its tokenizer, special tokens and chat template, and the token ids
//! of prompts and training sequences that follow from them. The number of tokens per image is added in `tokens`.
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
mod template;
mod thinking;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

pub use template::{ChatTemplate, Format, Message, MessagePart, Role};

use super::chat_prompt::ChatPrompt;
use super::image_keys::ImageKeys;
use super::image_placeholders::Part;
use super::tokenizer::Tokenizer;
use generation_config::GenerationConfig;
use history::RenderedHistory;
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
    /// Whether the template writes the placeholder for a part `{"type": "image"}`.
    part: bool,
}

/// The ids of a conversation, in which each image is one placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChat {
    /// The conversation up to the last response.
    pub prompt: Vec<u32>,
    /// Whether each id of the prompt is part of an earlier response, or ends one.
    pub loss: Vec<bool>,
    /// The last response and the token that ends it.
    pub target: Vec<u32>,
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
                    .contains(&image.name);
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

    /// Renders messages with the template.
    pub fn render(&self, messages: &[Message], open: bool) -> Result<String> {
        self.template.render(messages, open)
    }

    /// The ids of a prompt. An image is one placeholder.
    pub fn prompt(&self, chat: &ChatPrompt) -> Result<Vec<u32>> {
        let sentinels = sentinels(chat, "")?;
        let prompt = self.render_prompt(chat, sentinels)?;
        self.prompt_ids(&prompt, sentinels, chat.images.keys().len())
    }

    /// The ids of a prompt and of its response. A truncated response has no stop token. With `mask_history`, earlier
    /// responses are not marked as part of the loss.
    pub fn sequence(
        &self,
        chat: &ChatPrompt,
        response: &str,
        truncated: bool,
        mask_history: bool,
    ) -> Result<EncodedChat> {
        let rendered = self.render_chat(chat, response, truncated)?;
        let prompt = self.prompt_ids(&rendered.prompt, rendered.sentinels, chat.images.keys().len())?;
        let loss = if chat.history.is_empty() || mask_history {
            vec![false; prompt.len()]
        } else {
            self.history_loss(chat, &rendered)?
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
    pub fn pieces(&self, chat: &ChatPrompt, response: &str, truncated: bool) -> Result<Vec<String>> {
        let images = chat.images.keys().len();
        let chat = self.render_chat(chat, response, truncated)?;
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

    /// The messages of a conversation up to the user's last turn, with `responses` as the earlier responses. With
    /// `user_probes` the user's later turns are probes.
    fn messages(
        &self,
        chat: &ChatPrompt,
        sentinels: Sentinels,
        responses: &[String],
        user_probes: bool,
    ) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        if let Some(system) = chat.system {
            let text = self.hub_tokenizer.escape(system, sentinels);
            messages.push(Message::new(Role::System, &text, self.system_format()?));
        }
        for (turn, parts) in chat.parts().into_iter().enumerate() {
            messages.push(if user_probes && turn > 0 {
                Message::new(Role::User, &sentinels.probe.to_string(), self.user)
            } else {
                self.user(parts, matches!(chat.images, ImageKeys::Leading(_)), sentinels)?
            });
            messages.extend(responses.get(turn).map(|text| Message::new(Role::Assistant, text, self.assistant)));
        }
        Ok(messages)
    }

    fn system_format(&self) -> Result<Format> {
        let chat = |format| vec![Message::new(Role::System, PROBE, format), Message::new(Role::User, "a", self.user)];
        let probe = || self.template.format_of(self.user, chat, true).map_err(|error| format!("{error:#}"));
        self.system.get_or_init(probe).clone().map_err(|error| anyhow!("a system message is not possible: {error}"))
    }

    /// A user's turn. `leading`: its image stands before the text.
    fn user(&self, parts: Vec<Part>, leading: bool, sentinels: Sentinels) -> Result<Message> {
        let with_images = parts.contains(&Part::Image);
        let text = |part| match part {
            Part::Text(text) => MessagePart::Text(self.hub_tokenizer.escape(&text, sentinels)),
            Part::Image => MessagePart::Image,
        };
        let parts: Vec<MessagePart> = parts.into_iter().map(text).collect();
        let image = match (&self.image, with_images) {
            (None, true) => bail!("the model takes no images: its `config.json` has no image token"),
            (Some(image), true) if image.part => return Ok(Message::with_parts(Role::User, parts)),
            (Some(image), true) => image.name.as_str(),
            (_, false) => "",
        };
        let mut text = String::new();
        for part in parts {
            match part {
                MessagePart::Text(part) => text.push_str(&part),
                MessagePart::Image => {
                    text.push_str(image);
                    text.push_str(if leading { "\n" } else { "" });
                }
            }
        }
        Ok(Message::new(Role::User, &text, self.user))
    }

    /// Renders a conversation up to the opening of the next response.
    fn render_prompt(&self, chat: &ChatPrompt, sentinels: Sentinels) -> Result<String> {
        let responses = self.history_responses(chat, sentinels);
        let prompt = self.template.render(&self.messages(chat, sentinels, &responses, false)?, true)?;
        self.check_texts(chat, &prompt, sentinels)?;
        Ok(prompt)
    }

    /// The earlier responses, as the template gets them.
    fn history_responses(&self, chat: &ChatPrompt, sentinels: Sentinels) -> Vec<String> {
        chat.history.iter().map(|exchange| self.hub_tokenizer.escape(&exchange.response, sentinels)).collect()
    }

    /// Checks that the template has written the texts of a conversation that is more than an image and a text: many
    /// templates ignore a system message, or all but one text part.
    fn check_texts(&self, chat: &ChatPrompt, rendered: &str, sentinels: Sentinels) -> Result<()> {
        if chat.system.is_none() && chat.history.is_empty() && !matches!(chat.images, ImageKeys::Placed(_)) {
            return Ok(());
        }
        let mut rest = rendered;
        let mut check = |what: &str, text: &str| {
            let text = self.hub_tokenizer.escape(text, sentinels);
            let Some(at) = rest.find(text.trim()) else {
                bail!("the chat template of {} does not write {what}: {:?}", self.template.origin(), text.trim());
            };
            rest = &rest[at + text.trim().len()..];
            Ok(())
        };
        chat.system.map_or(Ok(()), |text| check("the system message", text))?;
        for part in chat.parts().into_iter().flatten() {
            if let Part::Text(text) = part {
                check("a text of the user", &text)?;
            }
        }
        Ok(())
    }

    /// Whether each id of a prompt is part of an earlier response, or ends one.
    fn history_loss(&self, chat: &ChatPrompt, rendered: &RenderedChat) -> Result<Vec<bool>> {
        let RenderedChat { prompt, sentinels, .. } = rendered;
        let render = |responses: &[String], user_probes: bool| {
            self.template.render(&self.messages(chat, *sentinels, responses, user_probes)?, true)
        };
        let history = RenderedHistory {
            text: prompt,
            responses: &self.history_responses(chat, *sentinels),
            probe: sentinels.probe,
            render: &render,
            gap: &self.gap,
            stops: &self.special_stops().map(|(_, name)| name.as_str()).collect::<Vec<_>>(),
        };
        let spans = history.spans().with_context(|| format!("the chat template of {}", self.template.origin()))?;
        // Pieces cover the text without sentinels.
        let bare = |at: usize| sentinels.length_without(&prompt[..at]);
        let spans: Vec<(usize, usize)> = spans.iter().map(|span| (bare(span.start), bare(span.end))).collect();
        let mut loss = vec![false; self.prefix_ids(prompt)?.len()];
        let mut start = 0;
        for piece in self.hub_tokenizer.pieces(prompt, *sentinels, false)? {
            let end = start + piece.len();
            // A token that has no text of its own continues the character before it. A token that spans the beginning
            // or the end of a response counts as part of it, as in `transformers`.
            loss.push(spans.iter().any(|&(from, to)| end > from && if start == end { end <= to } else { start < to }));
            start = end;
        }
        Ok(loss)
    }

    /// The special tokens that end a turn.
    fn special_stops(&self) -> impl Iterator<Item = &(u32, String)> {
        self.stop.iter().filter(|(_, name)| self.hub_tokenizer.is_special(name))
    }

    fn render_chat(&self, chat: &ChatPrompt, response: &str, truncated: bool) -> Result<RenderedChat> {
        let sentinels = sentinels(chat, response)?;
        let messages = self.messages(chat, sentinels, &self.history_responses(chat, sentinels), false)?;
        let answered = |text: &str| {
            let answer = Message::new(Role::Assistant, text, self.assistant);
            self.template.render(&[messages.as_slice(), &[answer]].concat(), false)
        };
        let prompt = self.template.render(&messages, true)?;
        self.check_texts(chat, &prompt, sentinels)?;
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
        let stop = self.special_stops().filter_map(|(_, name)| suffix.find(name).map(|at| at + name.len())).min();
        let stop = stop.filter(|_| !truncated);
        whole.truncate(end + stop.unwrap_or(0));
        Ok(RenderedChat { prompt, whole, append_eos: !truncated && stop.is_none(), sentinels })
    }

    pub(crate) fn prompt_ids(&self, prompt: &str, sentinels: Sentinels, images: usize) -> Result<Vec<u32>> {
        let mut ids = self.prefix_ids(prompt)?.to_vec();
        ids.extend(self.hub_tokenizer.ids(prompt, sentinels, false)?);
        if let Some(token) = &self.image {
            let count = ids.iter().filter(|id| **id == token.id).count();
            if count != images {
                bail!("the chat template writes `{}` {count} times for {images} images", token.name);
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

/// Sentinels that occur in no text of a conversation.
fn sentinels(chat: &ChatPrompt, response: &str) -> Result<Sentinels> {
    let responses = chat.history.iter().map(|exchange| exchange.response.as_str());
    let texts: Vec<&str> = chat.user_turns().chain(responses).chain(chat.system).chain([response]).collect();
    Sentinels::not_in(&texts)
}

/// The content formats and thinking blocks of a template, found by probing.
struct TemplateFormat {
    template: ChatTemplate,
    user: Format,
    assistant: Format,
    block: Option<ThinkingBlock>,
    gap: String,
}

impl TemplateFormat {
    fn probe(file: &hub_files::Template, named: BTreeMap<String, String>, images: bool) -> Result<TemplateFormat> {
        let template = ChatTemplate::new(&file.text, &file.origin, named)?;
        let preferred = if images { Format::Parts } else { Format::Text };
        let user = template.format_of(preferred, |format| vec![Message::new(Role::User, PROBE, format)], true)?;
        let answered = |format| vec![Message::new(Role::User, "a", user), Message::new(Role::Assistant, PROBE, format)];
        let assistant = template.format_of(preferred, answered, false)?;
        let (block, gap) = find_thinking_block(&template, &file.text, user, assistant)?;
        Ok(TemplateFormat { template, user, assistant, block, gap })
    }
}

/// Finds the thinking blocks of a template, and the white space that it writes between the opening of a response and a
/// given response.
///
/// # Errors
///
/// A template that ignores `add_generation_prompt`: a prompt would end before text that precedes every answer.
fn find_thinking_block(
    template: &ChatTemplate,
    source: &str,
    user: Format,
    assistant: Format,
) -> Result<(Option<ThinkingBlock>, String)> {
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
    let gap = lead.strip_prefix(&*prompt).filter(|gap| gap.trim().is_empty()).unwrap_or_default().to_string();
    Ok((block, gap))
}
