//! Conversations of a Hugging Face folder: its tokenizer, its special tokens and its chat template, and the token ids
//! of prompts and training sequences that follow from them. Knows no model and no number of image tokens.
//!
//! ```text
//! prompt   = the template on [user: image, text], with its opening of the assistant's turn
//! sequence = the template on [user: image, text; assistant: response], up to the first stop token
//!            ^^^^^^^^^^ begins with the prompt; what follows it is the target
//! ```
//!
//! Ids are those of `transformers` (`ProcessorMixin.apply_chat_template`, for a model of text
//! `PreTrainedTokenizerBase.apply_chat_template`). `tokenizer.json` is taken as it is: classes of `transformers` that
//! build another pipeline than the file's, and keys such as `add_bos_token`, change nothing here.

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

/// Stands for a thought where a template is tried out.
const MARK: &str = "\u{F0003}";

/// How a folder's model is spoken to.
#[derive(Debug)]
pub struct Conversation {
    pub(crate) hub_tokenizer: HubTokenizer,
    template: ChatTemplate,
    pub(crate) user: Format,
    pub(crate) assistant: Format,
    /// The blocks of thinking that the template knows.
    pub(crate) block: Option<ThinkingBlock>,
    generation: GenerationConfig,
    image: Option<Image>,
    /// Tokens that end a turn, by id and name.
    stop: Vec<(u32, String)>,
    stop_tokens: Vec<u32>,
    /// Closes a response after which the template writes no stop token.
    eos: (u32, String),
    bos: Option<String>,
}

/// The placeholder of an image.
#[derive(Debug)]
struct Image {
    id: u32,
    name: String,
    /// Whether the template writes it for a part `{"type": "image"}`.
    part: bool,
}

/// A rendered chat.
struct Turns {
    /// With sentinels, as `whole`.
    prompt: String,
    /// Begins with the prompt, and ends where the sequence does.
    whole: String,
    /// Whether the end of a text comes after it.
    close: bool,
    sentinels: Sentinels,
}

/// What a response becomes behind its prompt.
struct Target {
    ids: Vec<u32>,
    /// Whether the chat as a whole has other tokens at the border, so that the target stands for itself.
    apart: bool,
}

impl Conversation {
    /// Reads a Hugging Face folder (`tokenizer.json`, `config.json` and the others that are there).
    ///
    /// # Errors
    ///
    /// A folder with a slow tokenizer only, or without a chat template; a special token or an id that is not in the
    /// vocabulary; a template that does not compile, does not write a user's and an assistant's text, or does not open an
    /// answer when it is asked to; a `generation_config.json` that cannot be followed.
    pub fn read(folder: &Path) -> Result<Conversation> {
        hub_files::check_tokenizer(folder)?;
        let hub_files::Special { named, further, image, ends } = hub_files::special(folder)?;
        let template = hub_files::template(folder, image.is_some())?;
        let generation = generation_config::read(folder)?;

        let roles = hub_files::ROLES.iter().filter_map(|role| Some((named.get(*role)?.as_str(), *role)));
        let further = further.iter().map(|token| (token.as_str(), "of the special tokens"));
        let hub_tokenizer = HubTokenizer::read(folder, &roles.chain(further).collect::<Vec<_>>())?;
        let own = named.get("eos_token").and_then(|token| Some((hub_tokenizer.id(token)?, token.clone())));
        let mut stop: Vec<(u32, String)> = Vec::new();
        for (id, place) in &ends {
            stop.push((*id, hub_tokenizer.name(*id, place)?));
        }
        stop.extend(own.clone());
        let eos = own.or_else(|| stop.first().cloned()).with_context(|| {
            format!("`{}` names no end of a text: `eos_token_id` or `eos_token` is missing", folder.display())
        })?;
        stop.sort_unstable();
        stop.dedup();
        let image = match image {
            Some((id, place)) => {
                let name = hub_tokenizer.name(id, &place)?;
                if !hub_tokenizer.is_special(&name) {
                    bail!("{place} is {id}, and `{name}` is no special token of `tokenizer.json`");
                }
                Some(Image { id, name, part: false })
            }
            None => None,
        };

        let bos = named.get("bos_token").cloned();
        let Layout { template, user, assistant, block } = Layout::of(&template, named, image.is_some())?;
        let image = match image {
            Some(image) if user == Format::Parts => {
                let part = template.render(&[Message::with_image(Role::User, PROBE)], true)?.contains(&image.name);
                Some(Image { part, ..image })
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

    /// Checks what can be said of a folder without its tokenizer's content: which files there are, what its chat template does
    /// (not with `templated`: another one is given), and `generation_config.json`. The fields of that which are not known.
    pub fn check_files(folder: &Path, templated: bool) -> Result<Vec<String>> {
        hub_files::check_tokenizer(folder)?;
        let hub_files::Special { named, image, .. } = hub_files::special(folder)?;
        if !templated {
            Layout::of(&hub_files::template(folder, image.is_some())?, named, image.is_some())?;
        }
        Ok(generation_config::read(folder)?.unknown)
    }

    /// How much less likely a token is made that the sequence has already (`repetition_penalty` of
    /// `generation_config.json`); 1 changes nothing.
    pub fn repetition_penalty(&self) -> f64 {
        self.generation.repetition_penalty
    }

    /// How many bytes of a generated text are thinking that its template knows, and no part of the answer.
    pub fn thinking(&self, text: &str) -> usize {
        self.block.as_ref().map_or(0, |block| block.length(text))
    }

    /// The folder's tokenizer, to which special tokens in a text are characters.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.hub_tokenizer.plain
    }

    /// Tokens that end a response: those of `generation_config.json`, of `config.json` and the tokenizer's own.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// The placeholder of an image, if the model takes images.
    pub fn image_token(&self) -> Option<u32> {
        self.image.as_ref().map(|image| image.id)
    }

    /// The text of messages, as the template writes it.
    pub fn render(&self, messages: &[Message], open: bool) -> Result<String> {
        self.template.render(messages, open)
    }

    /// The ids of a user's turn, to be answered. An image is one placeholder.
    pub fn prompt(&self, image: bool, text: &str) -> Result<Vec<u32>> {
        let sentinels = Sentinels::outside(&[text])?;
        let prompt = self.template.render(&[self.user(image, text, sentinels)?], true)?;
        self.prompt_ids(&prompt, sentinels, image)
    }

    /// The ids of a prompt and of its response; a `cut` response ends without a stop token.
    pub fn sequence(&self, image: bool, prompt: &str, response: &str, cut: bool) -> Result<(Vec<u32>, Vec<u32>)> {
        let turns = self.turns(image, prompt, response, cut)?;
        let prompt = self.prompt_ids(&turns.prompt, turns.sentinels, image)?;
        let mut target = self.target(&turns, &prompt)?.ids;
        if turns.close {
            target.push(self.eos.0);
        }
        if let Some(image) = self.image.as_ref().filter(|image| target.contains(&image.id)) {
            bail!("the chat template writes `{}` after the prompt", image.name);
        }
        Ok((prompt, target))
    }

    /// The text of each id of a response in [`Conversation::sequence`].
    pub fn pieces(&self, image: bool, prompt: &str, response: &str, cut: bool) -> Result<Vec<String>> {
        let turns = self.turns(image, prompt, response, cut)?;
        let prompt = self.prompt_ids(&turns.prompt, turns.sentinels, image)?;
        let Target { ids, apart } = self.target(&turns, &prompt)?;
        let mut pieces = if apart {
            self.hub_tokenizer.pieces(&turns.whole[turns.prompt.len()..], turns.sentinels, true)?
        } else {
            let pieces = self.hub_tokenizer.pieces(&turns.whole, turns.sentinels, false)?;
            pieces[pieces.len() - ids.len()..].to_vec()
        };
        if turns.close {
            pieces.push(self.eos.1.clone());
        }
        Ok(pieces)
    }

    fn user(&self, image: bool, text: &str, sentinels: Sentinels) -> Result<Message> {
        let text = self.hub_tokenizer.escape(text, sentinels);
        Ok(match (&self.image, image) {
            (None, true) => bail!("the model takes no images: its `config.json` names no image token"),
            (Some(image), true) if image.part => Message::with_image(Role::User, &text),
            (Some(image), true) => Message::new(Role::User, &format!("{}\n{text}", image.name), self.user),
            (_, false) => Message::new(Role::User, &text, self.user),
        })
    }

    fn turns(&self, image: bool, prompt: &str, response: &str, cut: bool) -> Result<Turns> {
        let sentinels = Sentinels::outside(&[prompt, response])?;
        let user = self.user(image, prompt, sentinels)?;
        let answered = |text: &str| {
            self.template.render(&[user.clone(), Message::new(Role::Assistant, text, self.assistant)], false)
        };
        let prompt = self.template.render(std::slice::from_ref(&user), true)?;
        let response = self.hub_tokenizer.escape(response, sentinels);
        let mut whole = answered(&response)?;
        // Where the response ends is found with one that cannot be mistaken.
        let probed = answered(&sentinels.probe.to_string())?;
        let tail = match probed.split(sentinels.probe).collect::<Vec<_>>()[..] {
            [_, tail] => tail,
            ref parts => bail!("the chat template writes a response {} times", parts.len() - 1),
        };
        if let Some(block) = &self.block {
            whole = format!("{prompt}{}{tail}", block.target(&response, cut));
        } else if !whole.starts_with(&prompt) {
            // Some templates open a turn for an answer otherwise than they write a given one (a line break, a space).
            // What is generated follows the opening, so that is what a response is learned behind.
            whole = format!("{prompt}{response}{tail}");
        }
        let end = whole.strip_suffix(tail).map(str::len).filter(|&end| end >= prompt.len());
        let end = end.with_context(|| format!("the chat template does not end with `{tail}` after every response"))?;
        let special = self.stop.iter().filter(|(_, name)| self.hub_tokenizer.is_special(name));
        let stop = special.filter_map(|(_, name)| tail.find(name).map(|at| at + name.len())).min();
        let stop = stop.filter(|_| !cut);
        whole.truncate(end + stop.unwrap_or(0));
        Ok(Turns { prompt, whole, close: !cut && stop.is_none(), sentinels })
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

    /// What a processor of `transformers` adds before a chat that does not open with `bos_token` itself. A tokenizer
    /// adds nothing to a chat.
    pub(crate) fn prefix_ids(&self, chat: &str) -> Result<&[u32]> {
        if self.image.is_none() || self.bos.as_ref().is_some_and(|bos| chat.starts_with(bos)) {
            return Ok(&[]);
        }
        self.hub_tokenizer.prefix_ids()
    }

    fn target(&self, turns: &Turns, prompt: &[u32]) -> Result<Target> {
        let opening = self.prefix_ids(&turns.prompt)?.len();
        let whole = self.hub_tokenizer.ids(&turns.whole, turns.sentinels, false)?;
        if let Some(ids) = whole.strip_prefix(&prompt[opening..]) {
            return Ok(Target { ids: ids.to_vec(), apart: false });
        }
        // A token of the whole reaches over the border. Generation continues the prompt's own tokens, so training
        // does too.
        let ids = self.hub_tokenizer.ids(&turns.whole[turns.prompt.len()..], turns.sentinels, true)?;
        Ok(Target { ids, apart: true })
    }
}

/// What a template does with turns, as trying it out tells.
struct Layout {
    template: ChatTemplate,
    pub(crate) user: Format,
    pub(crate) assistant: Format,
    pub(crate) block: Option<ThinkingBlock>,
}

impl Layout {
    fn of(file: &hub_files::Template, named: BTreeMap<String, String>, images: bool) -> Result<Layout> {
        let template = ChatTemplate::new(&file.text, &file.origin, named)?;
        let preferred = if images { Format::Parts } else { Format::Text };
        let turn = |role: Role| move |format: Format| Message::new(role, PROBE, format);
        let user = template.format_of(preferred, &[], turn(Role::User), true)?;
        let before = [Message::new(Role::User, "a", user)];
        let assistant = template.format_of(preferred, &before, turn(Role::Assistant), false)?;
        let block = block(&template, &file.text, user, assistant)?;
        Ok(Layout { template, user, assistant, block })
    }
}

/// The blocks of thinking that a template knows.
///
/// # Errors
///
/// A template that ignores `add_generation_prompt`: a prompt would end before words that come before every answer.
fn block(template: &ChatTemplate, source: &str, user: Format, assistant: Format) -> Result<Option<ThinkingBlock>> {
    let asked = Message::new(Role::User, "a", user);
    let answered = |text: &str| {
        let chat = [asked.clone(), Message::new(Role::Assistant, text, assistant)];
        template.render(&chat, false)
    };
    let prompt = template.render(std::slice::from_ref(&asked), true)?;
    let given = answered(PROBE)?;
    let lead = given.split(PROBE).next().unwrap_or_default();
    let drops = |open: &str, close: &str| {
        let thought = answered(&format!("{open}\n{MARK}\n{close}\n\n{PROBE}"));
        thought.is_ok_and(|thought| !thought.contains(MARK) && thought.contains(PROBE))
    };
    let block = ThinkingBlock::find(&prompt, lead, source, drops);
    let opened = lead.strip_prefix(&*prompt).map(str::trim);
    if block.is_none() && opened != Some("") && template.render(&[asked], false)? == prompt {
        let missing = opened.map_or_else(|| lead.to_string(), str::to_string);
        bail!(
            "the chat template of {} ignores `add_generation_prompt`: it writes {missing:?} before an answer, and a prompt \
             ends without it",
            template.origin()
        );
    }
    Ok(block)
}
