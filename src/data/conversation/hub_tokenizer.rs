//! The tokenizer of a Hugging Face folder, as it is: no token is added, no id moves. Encodes rendered chats, where
//! the template's special tokens are tokens and those that a text happens to spell are characters. Knows no template
//! and no role of a token.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use tokenizers::{AddedToken, Encoding};

use crate::tokenizer::{Tokenizer, load, unknown_word};

/// Characters that stand in none of a chat's texts, around the special tokens that those spell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sentinels {
    start: char,
    end: char,
    /// A third one, for the place of a text.
    pub(crate) probe: char,
}

impl Sentinels {
    /// Sentinels that are in none of `texts`, from a plane for private use.
    pub(crate) fn outside(texts: &[&str]) -> Result<Sentinels> {
        let mut free = ('\u{F0000}'..='\u{FFFFD}').filter(|&mark| !texts.iter().any(|text| text.contains(mark)));
        match (free.next(), free.next(), free.next()) {
            (Some(start), Some(end), Some(probe)) => Ok(Sentinels { start, end, probe }),
            _ => bail!("the texts use all characters for private use"),
        }
    }
}

/// Text to ids for chats.
#[derive(Debug)]
pub(crate) struct HubTokenizer {
    /// Sees no special token in a text.
    pub(crate) plain: Tokenizer,
    /// Sees every special token.
    parsing: tokenizers::Tokenizer,
    /// The special tokens, longest first: one counts before those that it contains.
    control: Vec<String>,
    /// What the tokenizer puts before a text; none if it puts something after it.
    prefix: Option<Vec<u32>>,
    newline: Vec<u32>,
}

impl HubTokenizer {
    /// Reads the `tokenizer.json` in `folder`. `special` are tokens that other files call special; each has to be in
    /// the vocabulary, and is named with the place that says so.
    pub(crate) fn read(folder: &Path, special: &[(&str, &str)]) -> Result<HubTokenizer> {
        let mut parsing = load(folder)?;
        for (token, place) in special {
            if parsing.token_to_id(token).is_none() {
                bail!("the token `{token}` ({place}) is not in the vocabulary of `tokenizer.json`");
            }
            // As `transformers`: a token that a role names is special, whatever `tokenizer.json` calls it.
            if !parsing.get_added_vocabulary().is_special_token(token) {
                let token = AddedToken::from(*token, true);
                parsing.add_special_tokens([token]).map_err(|error| anyhow!("cannot add a special token: {error}"))?;
            }
        }
        parsing.with_padding(None);
        parsing.with_truncation(None).map_err(|error| anyhow!("cannot switch truncation off: {error}"))?;
        parsing.set_encode_special_tokens(false);
        let added = parsing.get_added_tokens_decoder();
        let mut control: Vec<String> =
            added.into_values().filter(|token| token.special).map(|token| token.content).collect();
        control.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        let plain = Tokenizer::without_added_tokens(parsing.clone())?;
        let mut hub_tokenizer = HubTokenizer { plain, parsing, control, prefix: None, newline: Vec::new() };
        hub_tokenizer.newline = hub_tokenizer.encode("\n", false)?.get_ids().to_vec();
        let with = hub_tokenizer.parsing.encode("a", true).map_err(|error| unknown_word("a", &*error))?;
        let without = hub_tokenizer.encode("a", false)?;
        hub_tokenizer.prefix = with.get_ids().strip_suffix(without.get_ids()).map(<[u32]>::to_vec);
        Ok(hub_tokenizer)
    }

    /// The name of an id that another file gives; `place` is that file and key.
    pub(super) fn name(&self, id: u32, place: &str) -> Result<String> {
        let name = self.parsing.id_to_token(id);
        name.with_context(|| format!("{place} is {id}, which is not in the vocabulary of `tokenizer.json`"))
    }

    pub(crate) fn is_special(&self, token: &str) -> bool {
        self.parsing.get_added_vocabulary().is_special_token(token)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.parsing.token_to_id(token)
    }

    /// What the tokenizer adds before a text that brings no special tokens of its own.
    pub(crate) fn prefix_ids(&self) -> Result<&[u32]> {
        self.prefix.as_deref().context(
            "the `post_processor` of `tokenizer.json` adds tokens after a text: a prompt would end before its answer",
        )
    }

    /// A text with marks around what would be read as special tokens.
    pub(super) fn escape(&self, text: &str, sentinels: Sentinels) -> String {
        let mut marked = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(token) = self.control.iter().find(|token| rest.starts_with(token.as_str())) {
                marked.extend([sentinels.start]);
                marked.push_str(token);
                marked.extend([sentinels.end]);
                rest = &rest[token.len()..];
            } else {
                let next = rest.chars().next().map_or(rest.len(), char::len_utf8);
                marked.push_str(&rest[..next]);
                rest = &rest[next..];
            }
        }
        marked
    }

    /// The ids of a chat with marks; of the whole one, or of what follows ids that are known (`after`).
    ///
    /// A chat without marks is encoded in one piece, as `transformers` does. One with marks is taken apart at them, as
    /// by `encode_marked_chat` there (`sanitize_control_tokens`).
    pub(crate) fn ids(&self, chat: &str, sentinels: Sentinels, after: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for (text, as_text, inside) in self.segments(chat, sentinels, after) {
            let (encoding, skipped) = self.segment(text, as_text, inside)?;
            ids.extend_from_slice(&encoding.get_ids()[skipped..]);
        }
        Ok(ids)
    }

    /// The stretch of the chat that each of [`HubTokenizer::ids`] stands for; joined they are the chat without sentinels.
    pub(crate) fn pieces(&self, chat: &str, sentinels: Sentinels, after: bool) -> Result<Vec<String>> {
        let mut pieces = Vec::new();
        for (text, as_text, inside) in self.segments(chat, sentinels, after) {
            let (encoding, skipped) = self.segment(text, as_text, inside)?;
            // The line break before an inner segment.
            let shift = usize::from(skipped > 0);
            let mut start = 0;
            for (index, &(_, end)) in encoding.get_offsets().iter().enumerate().skip(skipped) {
                let mut end =
                    if index + 1 == encoding.len() { text.len() } else { end.saturating_sub(shift).max(start) };
                end = end.min(text.len());
                while !text.is_char_boundary(end) {
                    end += 1;
                }
                pieces.push(text[start..end].to_string());
                start = end;
            }
        }
        Ok(pieces)
    }

    /// Takes a chat apart at its marks: stretch, whether it is marked, and whether something comes before it.
    fn segments<'a>(&self, chat: &'a str, sentinels: Sentinels, after: bool) -> Vec<(&'a str, bool, bool)> {
        let mut segments = Vec::new();
        let mut rest = chat;
        while let Some(at) = rest.find([sentinels.start, sentinels.end]) {
            segments.push((&rest[..at], false));
            let inner = &rest[at + rest[at..].chars().next().map_or(0, char::len_utf8)..];
            let marked = rest[at..].starts_with(sentinels.start).then(|| {
                self.control.iter().find(|token| {
                    inner.strip_prefix(token.as_str()).is_some_and(|behind| behind.starts_with(sentinels.end))
                })
            });
            if let Some(Some(token)) = marked {
                segments.push((&inner[..token.len()], true));
                rest = &inner[token.len() + sentinels.end.len_utf8()..];
            } else {
                // A template took the text apart at this place: the mark still parts it.
                rest = inner;
            }
        }
        segments.push((rest, false));
        let count = segments.len();
        segments
            .into_iter()
            .enumerate()
            .map(|(index, (text, as_text))| (text, as_text, after || index > 0))
            .filter(|(text, _, _)| count == 1 || !text.is_empty())
            .collect()
    }

    /// A segment's encoding and how many of its first tokens do not count. One from inside a chat is encoded behind a
    /// line break, whose tokens are those: alone, some tokenizers would put a space before it.
    fn segment(&self, text: &str, as_text: bool, inside: bool) -> Result<(Encoding, usize)> {
        let (encoding, skipped) = if inside {
            let encoding = self.encode(&format!("\n{text}"), as_text)?;
            if encoding.get_ids().starts_with(&self.newline) {
                (encoding, self.newline.len())
            } else {
                (self.encode(text, as_text)?, 0)
            }
        } else {
            (self.encode(text, as_text)?, 0)
        };
        if as_text && self.id(text).is_some_and(|id| encoding.get_ids()[skipped..].contains(&id)) {
            bail!("a text has `{text}`, which this tokenizer cannot tell from its special token");
        }
        Ok((encoding, skipped))
    }

    fn encode(&self, text: &str, as_text: bool) -> Result<Encoding> {
        if as_text {
            return self.plain.encoding(text);
        }
        self.parsing.encode(text, false).map_err(|error| unknown_word(text, &*error))
    }
}
