//! Renders the messages of a conversation with the chat template of its folder.

use anyhow::{Context, Result, anyhow, bail};

use super::Conversation;
use super::hub_tokenizer::Sentinels;
use super::template::{Format, Message, MessagePart, PROBE, Role};
use crate::chat_prompt::ChatPrompt;
use crate::image_keys::ImageKeys;
use crate::image_placeholders::Part;
use crate::image_text::ImageText;

/// A rendered chat with sentinels.
pub(super) struct RenderedChat {
    /// The text up to the response.
    pub(super) prompt: String,
    /// The text of the whole sequence; begins with `prompt`.
    pub(super) whole: String,
    /// Whether `eos` must be appended.
    pub(super) append_eos: bool,
    pub(super) sentinels: Sentinels,
}

impl Conversation {
    /// The messages of a conversation up to the user's last turn, with `responses` as the earlier responses. With
    /// `user_probes` the user's later turns are probes.
    pub(super) fn messages(
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

    pub(super) fn system_format(&self) -> Result<Format> {
        let chat = |format| vec![Message::new(Role::System, PROBE, format), Message::new(Role::User, "a", self.user)];
        let probe = || self.template.format_of(self.user, chat, true).map_err(|error| format!("{error:#}"));
        self.system.get_or_init(probe).clone().map_err(|error| anyhow!("a system message is not possible: {error}"))
    }

    /// A user's turn. `leading`: its image stands before the text.
    pub(super) fn user(&self, parts: Vec<Part>, leading: bool, sentinels: Sentinels) -> Result<Message> {
        let with_images = parts.contains(&Part::Image);
        let text = |part| match part {
            Part::Text(text) => MessagePart::Text(self.hub_tokenizer.escape(&text, sentinels)),
            Part::Image => MessagePart::Image,
        };
        let parts: Vec<MessagePart> = parts.into_iter().map(text).collect();
        let image = match (&self.image, with_images) {
            (None, true) => bail!("the model takes no images: its `config.json` has no image token"),
            (Some(image), true) if image.part => return Ok(Message::with_parts(Role::User, parts)),
            (Some(image), true) => image.placeholder.as_str(),
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
    pub(super) fn render_prompt(
        &self,
        chat: &ChatPrompt,
        images: &[ImageText],
        sentinels: Sentinels,
    ) -> Result<String> {
        let responses = self.history_responses(chat, sentinels);
        let prompt =
            self.render_images(&self.messages(chat, sentinels, &responses, false)?, true, images, sentinels)?;
        self.check_texts(chat, &prompt, sentinels)?;
        Ok(prompt)
    }

    /// Renders messages, and replaces the placeholder of each image by what stands for it.
    pub(super) fn render_images(
        &self,
        messages: &[Message],
        open: bool,
        images: &[ImageText],
        sentinels: Sentinels,
    ) -> Result<String> {
        let rendered = self.template.render(messages, open)?;
        let Some(token) = self.image.as_ref().filter(|_| !images.is_empty()) else { return Ok(rendered) };
        let mut pieces = rendered.split(token.placeholder.as_str());
        let mut whole = pieces.next().unwrap_or_default().to_string();
        let mut images = images.iter();
        for piece in pieces {
            // Within sentinels, it is a text of the conversation.
            match if sentinels.encloses_next(&whole) { None } else { images.next() } {
                Some(image) => whole.push_str(&image.with_runs_as(&token.name)),
                None => whole.push_str(&token.placeholder),
            }
            whole.push_str(piece);
        }
        Ok(whole)
    }

    /// The earlier responses, as the template gets them.
    pub(super) fn history_responses(&self, chat: &ChatPrompt, sentinels: Sentinels) -> Vec<String> {
        chat.history.iter().map(|exchange| self.hub_tokenizer.escape(&exchange.response, sentinels)).collect()
    }

    /// Checks that the template has written the texts of a conversation that is more than an image and a text: many
    /// templates ignore a system message, or all but one text part.
    pub(super) fn check_texts(&self, chat: &ChatPrompt, rendered: &str, sentinels: Sentinels) -> Result<()> {
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

    /// The special tokens that end a turn.
    pub(super) fn special_stops(&self) -> impl Iterator<Item = &(u32, String)> {
        self.stop.iter().filter(|(_, name)| self.hub_tokenizer.is_special(name))
    }

    pub(super) fn render_chat(
        &self,
        chat: &ChatPrompt,
        images: &[ImageText],
        response: &str,
        truncated: bool,
    ) -> Result<RenderedChat> {
        let sentinels = sentinels(chat, response)?;
        let messages = self.messages(chat, sentinels, &self.history_responses(chat, sentinels), false)?;
        let answered = |text: &str| {
            let answer = Message::new(Role::Assistant, text, self.assistant);
            self.render_images(&[messages.as_slice(), &[answer]].concat(), false, images, sentinels)
        };
        let prompt = self.render_images(&messages, true, images, sentinels)?;
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
}

/// Sentinels that occur in no text of a conversation.
pub(super) fn sentinels(chat: &ChatPrompt, response: &str) -> Result<Sentinels> {
    let responses = chat.history.iter().map(|exchange| exchange.response.as_str());
    let texts: Vec<&str> = chat.user_turns().chain(responses).chain(chat.system).chain([response]).collect();
    Sentinels::not_in(&texts)
}
