//! The tokenizer of a Hugging Face folder: no token is added and no id changes. Encodes rendered chats: special tokens
//! that the template writes are encoded as tokens, special tokens that occur in a text as characters.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
pub(super) use tokenizers::AddedToken;
use tokenizers::Encoding;

use crate::tokenizer::{Tokenizer, load, unknown_word};

/// Sentinel characters, which occur in no text of a chat. They enclose special tokens that occur in texts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sentinels {
    start: char,
    end: char,
    /// A third sentinel, which stands for a text.
    pub(crate) probe: char,
}

impl Sentinels {
    /// Sentinels that occur in none of `texts`, from a private-use plane.
    pub(crate) fn not_in(texts: &[&str]) -> Result<Sentinels> {
        let mut free = ('\u{F0000}'..='\u{FFFFD}').filter(|&mark| !texts.iter().any(|text| text.contains(mark)));
        match (free.next(), free.next(), free.next()) {
            (Some(start), Some(end), Some(probe)) => Ok(Sentinels { start, end, probe }),
            _ => bail!("the texts contain all private-use characters"),
        }
    }

    /// Whether what follows a text is a special token that occurs in a text of the chat.
    pub(super) fn encloses_next(self, before: &str) -> bool {
        before.ends_with(self.start)
    }

    /// The number of bytes of a text without sentinels.
    pub(super) fn length_without(self, text: &str) -> usize {
        let is_mark = |mark: &char| *mark == self.start || *mark == self.end;
        text.len() - text.chars().filter(is_mark).map(char::len_utf8).sum::<usize>()
    }
}

/// Encodes chats.
#[derive(Debug)]
pub(crate) struct HubTokenizer {
    /// Encodes special tokens as characters.
    pub(crate) plain: Tokenizer,
    /// Encodes special tokens as tokens.
    parsing: tokenizers::Tokenizer,
    /// The special tokens, longest first, because one may contain another.
    control: Vec<String>,
    /// The ids that the tokenizer adds before a text; `None` if it also adds ids after it.
    prefix: Option<Vec<u32>>,
    newline: Vec<u32>,
}

/// As in `transformers`: what `added_tokens_decoder` of `tokenizer_config.json` says of a token (the spaces that it takes, and whether it is
/// a word of its own) overrides `tokenizer.json`.
fn replace_added(tokenizer: &mut tokenizers::Tokenizer, added: Vec<AddedToken>) -> Result<()> {
    let before: HashMap<String, AddedToken> =
        tokenizer.get_added_tokens_decoder().into_values().map(|token| (token.content.clone(), token)).collect();
    let changed: Vec<AddedToken> =
        added.into_iter().filter(|token| before.get(&token.content) != Some(token)).collect();
    if let Some(token) = changed.iter().find(|token| tokenizer.token_to_id(&token.content).is_none()) {
        bail!(
            "the token `{}` (`added_tokens_decoder` of `tokenizer_config.json`) is not in the vocabulary of `tokenizer.json`",
            token.content
        );
    }
    if changed.is_empty() {
        return Ok(());
    }
    tokenizer.add_tokens(changed).map_err(|error| anyhow!("cannot change an added token: {error}"))?;
    Ok(())
}

impl HubTokenizer {
    /// Reads the `tokenizer.json` in `folder`. `special` lists tokens that other files define as special, each with its
    /// origin; `added` those of `added_tokens_decoder`. All must be in the vocabulary.
    pub(crate) fn read(folder: &Path, special: &[(&str, &str)], added: Vec<AddedToken>) -> Result<HubTokenizer> {
        let mut parsing = load(folder)?;
        replace_added(&mut parsing, added)?;
        for (token, place) in special {
            if parsing.token_to_id(token).is_none() {
                bail!("the token `{token}` ({place}) is not in the vocabulary of `tokenizer.json`");
            }
            // As in `transformers`: a token with a role is special, even if `tokenizer.json` does not say so.
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

    /// The token of an id that another file defines at `place` (file and key).
    pub(crate) fn name(&self, id: u32, place: &str) -> Result<String> {
        let name = self.parsing.id_to_token(id);
        name.with_context(|| format!("{place} is {id}, which is not in the vocabulary of `tokenizer.json`"))
    }

    pub(crate) fn is_special(&self, token: &str) -> bool {
        self.parsing.get_added_vocabulary().is_special_token(token)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.parsing.token_to_id(token)
    }

    /// The ids that the tokenizer adds before a text.
    pub(crate) fn prefix_ids(&self) -> Result<&[u32]> {
        self.prefix.as_deref().context(
            "the `post_processor` of `tokenizer.json` adds tokens after a text: a prompt would end before its answer",
        )
    }

    /// Encloses special tokens in a text with sentinels.
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

    /// The ids of a chat with sentinels: of a whole chat, or of a part that follows encoded ids (`after`).
    ///
    /// A chat without sentinels is encoded in one piece, as in `transformers`. One with sentinels is split at them,
    /// like `encode_marked_chat` there (`sanitize_control_tokens`).
    pub(crate) fn ids(&self, chat: &str, sentinels: Sentinels, after: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for (text, as_text, inside) in self.segments(chat, sentinels, after) {
            let (encoding, skipped) = self.segment(text, as_text, inside)?;
            ids.extend_from_slice(&encoding.get_ids()[skipped..]);
        }
        Ok(ids)
    }

    /// The part of the chat that each of [`HubTokenizer::ids`] covers; joined they are the chat without sentinels.
    pub(crate) fn pieces(&self, chat: &str, sentinels: Sentinels, after: bool) -> Result<Vec<String>> {
        let mut pieces = Vec::new();
        for (text, as_text, inside) in self.segments(chat, sentinels, after) {
            let (encoding, skipped) = self.segment(text, as_text, inside)?;
            // The line break that is prepended to an inner segment.
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

    /// Splits a chat at its sentinels: text, whether it is enclosed, and whether something precedes it.
    fn segments<'a>(&self, chat: &'a str, sentinels: Sentinels, after: bool) -> Vec<(&'a str, bool, bool)> {
        let mut segments = Vec::new();
        let mut rest = chat;
        while let Some(at) = rest.find([sentinels.start, sentinels.end]) {
            segments.push((&rest[..at], false));
            let inner = &rest[at + rest[at..].chars().next().map_or(0, char::len_utf8)..];
            let marked = rest[at..].starts_with(sentinels.start).then(|| {
                self.control.iter().find(|token| {
                    inner.strip_prefix(token.as_str()).is_some_and(|rest| rest.starts_with(sentinels.end))
                })
            });
            if let Some(Some(token)) = marked {
                segments.push((&inner[..token.len()], true));
                rest = &inner[token.len() + sentinels.end.len_utf8()..];
            } else {
                // The template split the text here; the sentinel still separates the parts.
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

    /// Encodes a segment; returns the encoding and the number of leading tokens to skip. A segment inside a chat is
    /// encoded after a line break, whose tokens are skipped: on its own, some tokenizers would prepend a space.
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
            bail!("a text contains `{text}`, which this tokenizer cannot encode as plain characters");
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
