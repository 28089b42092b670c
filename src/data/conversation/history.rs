//! Finds the earlier responses of a conversation in its rendered text. Templates change what they are given (white space,
//! thinking blocks), so responses are found by rendering the conversation with a probe in the place of each.

use std::ops::Range;

use anyhow::{Context, Result, bail};

use super::Conversation;
use super::rendering::RenderedChat;
use crate::chat_prompt::ChatPrompt;
use crate::image_text::ImageText;

/// A conversation that a template rendered as a prompt, and how it renders variations of it.
struct RenderedHistory<'a> {
    text: &'a str,
    /// The earlier responses as they are passed to the template.
    responses: &'a [String],
    probe: char,
    /// Renders the conversation with these responses, and with a probe for each later turn of the user if `true`.
    render: &'a dyn Fn(&[String], bool) -> Result<String>,
    /// The white space that the template writes between the opening of a response and a given one. It is part of the
    /// response, as in a prompt's continuation.
    gap: &'a str,
    /// Names of the special tokens that end a turn.
    stops: &'a [&'a str],
}

impl RenderedHistory<'_> {
    /// The range of each earlier response in the text, with the stop token that the template writes after it.
    fn spans(&self) -> Result<Vec<Range<usize>>> {
        let count = self.responses.len();
        let probes = vec![self.probe.to_string(); count];
        let outline = (self.render)(&probes, false)?;
        let between: Vec<&str> = outline.split(self.probe).collect();
        let with_user_probes = (self.render)(&probes, true)?;
        // Alternately the text before a response and the text between it and the user's next turn.
        let separators: Vec<&str> = with_user_probes.split(self.probe).collect();
        if between.len() != count + 1 || separators.len() != 2 * count + 1 {
            bail!("the chat template does not write every earlier turn once");
        }
        let mut written = self.responses.to_vec();
        if joined(&between, &written) != self.text {
            for (index, response) in written.iter_mut().enumerate() {
                *response = self.written_response(index, &outline, &between, response)?;
            }
        }
        if joined(&between, &written) != self.text {
            bail!(
                "the chat template writes an earlier response differently, depending on other turns, so that the loss \
                 cannot cover it: `mask_history = true` trains on the last response only"
            );
        }
        let mut at = 0;
        let mut spans = Vec::new();
        for (index, response) in written.iter().enumerate() {
            let start = at + between[index].len();
            at = start + response.len();
            let separator = separators[2 * index + 1];
            let stop = self.stops.iter().filter_map(|stop| separator.find(stop).map(|at| at + stop.len())).min();
            let stop = stop.unwrap_or(0);
            if !between[index + 1].starts_with(&separator[..stop]) {
                bail!("the chat template ends an earlier response differently, depending on the user's next turn");
            }
            let gap = if self.text[..start].ends_with(self.gap) { self.gap.len() } else { 0 };
            spans.push(start - gap..at + stop);
        }
        Ok(spans)
    }

    /// A response as the template writes it between the probes of the others.
    fn written_response(&self, index: usize, outline: &str, between: &[&str], response: &str) -> Result<String> {
        let mut responses = vec![self.probe.to_string(); self.responses.len()];
        responses[index] = response.to_string();
        let rendered = (self.render)(&responses, false)?;
        let before: usize =
            between[..=index].iter().map(|text| text.len()).sum::<usize>() + index * self.probe.len_utf8();
        let after = before + self.probe.len_utf8();
        let inner = rendered.strip_prefix(&outline[..before]).and_then(|rest| rest.strip_suffix(&outline[after..]));
        Ok(inner.unwrap_or(response).to_string())
    }
}

/// The texts with the responses between them.
fn joined(between: &[&str], responses: &[String]) -> String {
    let mut joined = String::new();
    for (index, text) in between.iter().enumerate() {
        joined.push_str(text);
        joined.push_str(responses.get(index).map_or("", String::as_str));
    }
    joined
}

impl Conversation {
    /// Whether each id of a prompt is part of an earlier response, or ends one.
    pub(super) fn history_loss(
        &self,
        chat: &ChatPrompt,
        images: &[ImageText],
        rendered: &RenderedChat,
    ) -> Result<Vec<bool>> {
        let RenderedChat { prompt, sentinels, .. } = rendered;
        let render = |responses: &[String], user_probes: bool| {
            let messages = self.messages(chat, *sentinels, responses, user_probes)?;
            self.render_images(&messages, true, images, *sentinels)
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
}
