//! Sequences that are truncated to the context length of the model.

use anyhow::{Context, Result};

use super::{ChatEncoder, Expanded, TokenPair, TokenPrompt, TokenRow, TooLong};
use crate::chat_prompt::ChatPrompt;
use crate::conversation::EncodedChat;
use crate::image_keys::ImageKeys;
use crate::image_placeholders;
use crate::records::{Pair, Row};

impl ChatEncoder {
    /// Encodes a row, truncated at its end if it is too long. `None` if no token of a response in the loss fits.
    pub fn truncate_row(&self, row: &Row, mask_history: bool) -> Result<Option<TokenRow>> {
        self.truncate_sequence(&row.into(), &row.response, false, mask_history)
            .with_context(|| format!("row `{}` of `{}`", row.id, row.dataset))
    }

    /// Encodes a pair, with both responses truncated if they are too long. `None` if no response token fits, or the
    /// truncated sequences are equal.
    pub fn truncate_pair(&self, pair: &Pair) -> Result<Option<TokenPair>> {
        let side = |response: &str, truncated: bool| {
            self.truncate_sequence(&pair.into(), response, truncated, true)
                .with_context(|| format!("pair `{}` of `{}`", pair.id, pair.dataset))
        };
        let sides = (side(&pair.chosen, pair.chosen_truncated)?, side(&pair.rejected, pair.rejected_truncated)?);
        let (Some(chosen), Some(rejected)) = sides else { return Ok(None) };
        Ok((chosen.tokens != rejected.tokens).then_some(TokenPair { chosen, rejected }))
    }

    /// Encodes the longest end of a prompt's last turn that leaves `room` for further tokens, and returns that end too.
    /// `None` if no text fits. Images are never truncated, so a text is not cut after a placed image.
    pub fn truncate_prompt(
        &self,
        key: &str,
        prompt: &ChatPrompt,
        room: usize,
    ) -> Result<Option<(String, TokenPrompt)>> {
        let text = prompt.prompt;
        let images = prompt.images;
        let placed = |text: &str| matches!(images, ImageKeys::Placed(_)).then(|| image_placeholders::count(text));
        let fits = |start: usize| match self.encode_prompt(key, &ChatPrompt { prompt: &text[start..], ..*prompt }) {
            Ok(prompt) => Ok(Some(prompt).filter(|prompt| prompt.tokens.len() + room <= self.max_tokens)),
            Err(error) if TooLong::is(&error) => Ok(None),
            Err(error) => Err(error),
        };
        let all = placed(text);
        let mut starts = suffix_starts(text);
        starts.truncate(starts.partition_point(|&start| placed(&text[start..]) == all));
        let (mut low, mut high) = (0, starts.len());
        let mut found = None;
        while low < high {
            let middle = usize::midpoint(low, high);
            match fits(starts[middle])? {
                Some(prompt) => (found, high) = (Some((text[starts[middle]..].to_string(), prompt)), middle),
                None => low = middle + 1,
            }
        }
        Ok(found)
    }

    /// As [`ChatEncoder::encode_sequence`], truncated to fit. The sequence ends with the last token of the loss that
    /// fits, and it has only the images before that.
    fn truncate_sequence(
        &self,
        prompt: &ChatPrompt,
        response: &str,
        truncated: bool,
        mask_history: bool,
    ) -> Result<Option<TokenRow>> {
        let texts = self.texts_of(prompt)?;
        let EncodedChat { prompt: tokens, loss, target } =
            self.encode_chat(prompt, &texts, response, truncated, mask_history)?;
        let images = prompt.images.keys();
        let Expanded { mut tokens, mut loss, image_ends } = self.expand(&tokens, &loss, &texts, true)?;
        tokens.extend_from_slice(&target);
        loss.resize(tokens.len(), true);
        tokens.truncate(self.max_tokens);
        loss.truncate(self.max_tokens);
        let Some(last) = loss.iter().rposition(|is_target| *is_target) else { return Ok(None) };
        tokens.truncate(last + 1);
        loss.truncate(last + 1);
        let kept = image_ends.iter().filter(|&&end| end <= last).count();
        Ok(Some(TokenRow { tokens, loss, images: images[..kept].to_vec() }))
    }
}

/// Where a suffix of a text may begin: before white space, and before or after non-ASCII characters, whose words may
/// have no spaces.
fn suffix_starts(text: &str) -> Vec<usize> {
    let mut before = 'a';
    let begins = |(at, now): (usize, char)| {
        let begins = at == 0
            || (now.is_whitespace() && !before.is_whitespace())
            || (!now.is_ascii() && !now.is_whitespace())
            || (!before.is_ascii() && !now.is_whitespace());
        before = now;
        begins.then_some(at)
    };
    text.char_indices().filter_map(begins).collect()
}
