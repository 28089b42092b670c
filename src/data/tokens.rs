//! Encodes rows, pairs and prompts as token ids with a loss mask, in one of two layouts.
//!
//! The built-in layout, for models that are trained from scratch:
//!
//! ```text
//! [system] <|user|> [<|image|> x image_tokens] prompt <|assistant|> response <|end|> [<|user|> ...]
//!                                                                   ^^^^^^^^^^^^^^^^ loss
//! ```
//!
//! A system message stands before the first user's turn. Placed images stand where the prompt has their placeholder.
//!
//! The layout of a Hugging Face folder is its chat template ([`Conversation`]). In both layouts the loss covers
//! responses and the tokens that end them: all responses, or only the last. A truncated response has no end token: the
//! model must not learn to stop where a text was truncated.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use super::chat_prompt::ChatPrompt;
use super::conversation::{Conversation, EncodedChat};
use super::image_keys::ImageKeys;
use super::image_placeholders::{self, Part};
use super::records::{Pair, Row};
use super::tokenizer::{END_TOKEN, SpecialTokens, Tokenizer};
use ablate_core::base::wrong_input;

/// A training sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    pub tokens: Vec<u32>,
    /// The loss mask: whether token `i` is a target, which is predicted from the tokens before it.
    pub loss: Vec<bool>,
    /// Keys of the images whose features replace the image tokens, in order.
    pub images: Vec<String>,
}

/// A preference pair. Both sequences have the same prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPair {
    pub chosen: TokenRow,
    pub rejected: TokenRow,
}

/// A prompt: it ends where the assistant's text begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPrompt {
    /// The item's id. Samples depend on the id and not on the position in the list.
    pub key: String,
    pub tokens: Vec<u32>,
    /// Keys of the images, in order.
    pub images: Vec<String>,
}

/// The error that a sequence is longer than the model allows.
#[derive(Debug)]
pub struct TooLong {
    pub tokens: usize,
    pub max: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sequence has {} tokens, the model allows {}", self.tokens, self.max)
    }
}

impl std::error::Error for TooLong {}

impl TooLong {
    /// Whether an error is a [`TooLong`].
    pub fn is(error: &anyhow::Error) -> bool {
        error.downcast_ref::<TooLong>().is_some()
    }
}

/// Returns the number of image tokens for an image key.
pub type ImageTokens = Arc<dyn Fn(&str) -> Result<usize> + Send + Sync>;

/// Encodes sequences for one tokenizer and one model.
#[derive(Clone)]
pub struct ChatEncoder {
    layout: Layout,
    image_tokens: ImageTokens,
    max_tokens: usize,
}

#[derive(Clone)]
enum Layout {
    BuiltIn { tokenizer: Arc<Tokenizer>, special: SpecialTokens },
    ChatTemplate(Arc<Conversation>),
}

impl fmt::Debug for ChatEncoder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ChatEncoder").field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}

impl ChatEncoder {
    /// An encoder with the built-in layout. A sequence of more than `max_tokens` tokens is an error, [`TooLong`]. It is
    /// neither truncated nor dropped silently, because either would change the training data.
    ///
    /// # Errors
    ///
    /// A tokenizer without the special tokens of the built-in layout.
    pub fn new(tokenizer: Tokenizer, image_tokens: ImageTokens, max_tokens: usize) -> Result<ChatEncoder> {
        let layout = Layout::BuiltIn { special: tokenizer.special()?, tokenizer: Arc::new(tokenizer) };
        Ok(ChatEncoder { layout, image_tokens, max_tokens })
    }

    /// An encoder with the chat template of a Hugging Face folder; otherwise as [`ChatEncoder::new`].
    pub fn from_conversation(conversation: Conversation, image_tokens: ImageTokens, max_tokens: usize) -> ChatEncoder {
        ChatEncoder { layout: Layout::ChatTemplate(Arc::new(conversation)), image_tokens, max_tokens }
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        match &self.layout {
            Layout::BuiltIn { tokenizer, .. } => tokenizer,
            Layout::ChatTemplate(conversation) => conversation.tokenizer(),
        }
    }

    /// Tokens that end a response.
    pub fn stop_tokens(&self) -> &[u32] {
        match &self.layout {
            Layout::BuiltIn { special, .. } => std::slice::from_ref(&special.end),
            Layout::ChatTemplate(conversation) => conversation.stop_tokens(),
        }
    }

    /// The penalty for tokens that the sequence already contains; 1 means none.
    pub fn repetition_penalty(&self) -> f64 {
        match &self.layout {
            Layout::BuiltIn { .. } => 1.0,
            Layout::ChatTemplate(conversation) => conversation.repetition_penalty(),
        }
    }

    /// Number of bytes at the start of a generated text that are thinking and not part of the answer.
    pub fn thinking(&self, text: &str) -> usize {
        match &self.layout {
            Layout::BuiltIn { .. } => 0,
            Layout::ChatTemplate(conversation) => conversation.thinking(text),
        }
    }

    /// The image token, a placeholder for one image feature; `None` if the model takes no images.
    pub fn image_token(&self) -> Option<u32> {
        match &self.layout {
            Layout::BuiltIn { special, .. } => Some(special.image),
            Layout::ChatTemplate(conversation) => conversation.image_token(),
        }
    }

    /// Encodes a row. With `mask_history` the loss covers the last response only.
    pub fn encode_row(&self, row: &Row, mask_history: bool) -> Result<TokenRow> {
        self.encode_sequence(&row.into(), &row.response, false, mask_history)
            .with_context(|| format!("row `{}` of `{}`", row.id, row.dataset))
    }

    /// Encodes a pair. The loss covers the last responses, in which the sequences differ.
    pub fn encode_pair(&self, pair: &Pair) -> Result<TokenPair> {
        let side = |response: &str, truncated: bool| self.encode_sequence(&pair.into(), response, truncated, true);
        let context = |side: &str| format!("the {side} response of pair `{}` of `{}`", pair.id, pair.dataset);
        Ok(TokenPair {
            chosen: side(&pair.chosen, pair.chosen_truncated).with_context(|| context("chosen"))?,
            rejected: side(&pair.rejected, pair.rejected_truncated).with_context(|| context("rejected"))?,
        })
    }

    /// Encodes the user's turn. `key` is the item's id. The prompt may have up to `max_tokens` tokens; the caller
    /// reserves room for the answer.
    pub fn encode_prompt(&self, key: &str, prompt: &ChatPrompt) -> Result<TokenPrompt> {
        let encode = || -> Result<TokenPrompt> {
            check_placeholders(prompt)?;
            let tokens = match &self.layout {
                Layout::BuiltIn { tokenizer, special } => opening(tokenizer, *special, prompt)?.prompt,
                Layout::ChatTemplate(conversation) => conversation.prompt(prompt)?,
            };
            let masked = vec![false; tokens.len()];
            let Expanded { tokens, .. } = self.expand(&tokens, &masked, prompt.images.keys(), false)?;
            self.check(tokens.len())?;
            Ok(TokenPrompt { key: key.to_string(), tokens, images: prompt.images.keys().to_vec() })
        };
        encode().with_context(|| format!("item `{key}`"))
    }

    /// Encodes a prompt and its response. A truncated response gets no end token. With `mask_history` the loss covers
    /// this response only, otherwise also those of earlier turns.
    pub fn encode_sequence(
        &self,
        prompt: &ChatPrompt,
        response: &str,
        truncated: bool,
        mask_history: bool,
    ) -> Result<TokenRow> {
        let EncodedChat { prompt: tokens, loss, target } =
            self.encode_chat(prompt, response, truncated, mask_history)?;
        let Expanded { mut tokens, mut loss, .. } = self.expand(&tokens, &loss, prompt.images.keys(), false)?;
        self.check(tokens.len() + target.len())?;
        tokens.extend_from_slice(&target);
        loss.resize(tokens.len(), true);
        Ok(TokenRow { tokens, loss, images: prompt.images.keys().to_vec() })
    }

    /// The tokens of a conversation, with one placeholder per image.
    fn encode_chat(
        &self,
        prompt: &ChatPrompt,
        response: &str,
        truncated: bool,
        mask_history: bool,
    ) -> Result<EncodedChat> {
        check_placeholders(prompt)?;
        let mut chat = match &self.layout {
            Layout::BuiltIn { tokenizer, special } => {
                let mut chat = opening(tokenizer, *special, prompt)?;
                chat.target = tokenizer.encode(response)?;
                chat.target.extend(Some(special.end).filter(|_| !truncated));
                chat
            }
            Layout::ChatTemplate(conversation) => conversation.sequence(prompt, response, truncated, mask_history)?,
        };
        if mask_history {
            chat.loss.fill(false);
        }
        Ok(chat)
    }

    /// Maximum number of tokens of a sequence.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The text of each token of the last response in [`ChatEncoder::encode_sequence`]; the end token is written by name.
    pub fn pieces(&self, prompt: &ChatPrompt, response: &str, truncated: bool) -> Result<Vec<String>> {
        match &self.layout {
            Layout::BuiltIn { tokenizer, .. } => {
                let mut pieces = tokenizer.pieces(response)?;
                pieces.extend(Some(END_TOKEN.to_string()).filter(|_| !truncated));
                Ok(pieces)
            }
            Layout::ChatTemplate(conversation) => conversation.pieces(prompt, response, truncated),
        }
    }

    /// Repeats each image placeholder of a prompt once per feature of its image. With `cut`, tokens beyond `max_tokens`
    /// are left out, otherwise they are an error.
    fn expand(&self, tokens: &[u32], loss: &[bool], images: &[String], cut: bool) -> Result<Expanded> {
        let count = |key: &String| (self.image_tokens)(key).with_context(|| format!("image `{key}`"));
        let counts: Vec<usize> = images.iter().map(count).collect::<Result<_>>()?;
        let placeholder = self.image_token().filter(|_| !images.is_empty());
        let found = tokens.iter().filter(|&&token| Some(token) == placeholder).count();
        if found != images.len() {
            bail!("BUG: a prompt with {found} image tokens for {} images", images.len());
        }
        // Checked before memory of that size is allocated.
        let total = tokens.len() - found + counts.iter().sum::<usize>();
        if !cut {
            self.check(total)?;
        }
        let mut expanded = Expanded { tokens: Vec::new(), loss: Vec::new(), image_ends: Vec::new() };
        let mut counts = counts.into_iter();
        for (&token, &is_target) in tokens.iter().zip(loss) {
            if expanded.tokens.len() >= self.max_tokens && cut {
                break;
            }
            let is_image = Some(token) == placeholder;
            let repeats = if is_image { counts.next().unwrap_or(0) } else { 1 };
            expanded.tokens.resize(expanded.tokens.len() + repeats, token);
            expanded.loss.resize(expanded.tokens.len(), is_target);
            if is_image {
                expanded.image_ends.push(expanded.tokens.len());
            }
        }
        Ok(expanded)
    }

    fn check(&self, length: usize) -> Result<()> {
        if length > self.max_tokens {
            return Err(TooLong { tokens: length, max: self.max_tokens }.into());
        }
        Ok(())
    }
}

/// A prompt with the tokens of its images.
struct Expanded {
    tokens: Vec<u32>,
    loss: Vec<bool>,
    /// Position after the last token of each image.
    image_ends: Vec<usize>,
}

fn check_placeholders(prompt: &ChatPrompt) -> Result<()> {
    prompt.images.check(prompt.user_turns()).map_err(|message| wrong_input(anyhow!(message)))
}

/// A conversation up to the response, in the built-in layout.
fn opening(tokenizer: &Tokenizer, special: SpecialTokens, chat: &ChatPrompt) -> Result<EncodedChat> {
    let (mut tokens, mut loss) = (Vec::new(), Vec::new());
    if let Some(system) = chat.system {
        tokens.extend(tokenizer.encode(system)?);
    }
    let responses = chat.history.iter().map(|exchange| Some(&exchange.response)).chain([None]);
    for (parts, response) in chat.parts().into_iter().zip(responses) {
        tokens.push(special.user);
        for part in parts {
            match part {
                Part::Image => tokens.push(special.image),
                Part::Text(text) => tokens.extend(tokenizer.encode(&text)?),
            }
        }
        tokens.push(special.assistant);
        loss.resize(tokens.len(), false);
        if let Some(response) = response {
            tokens.extend(tokenizer.encode(response)?);
            tokens.push(special.end);
            loss.resize(tokens.len(), true);
        }
    }
    Ok(EncodedChat { prompt: tokens, loss, target: Vec::new() })
}

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
        let EncodedChat { prompt: tokens, loss, target } =
            self.encode_chat(prompt, response, truncated, mask_history)?;
        let images = prompt.images.keys();
        let Expanded { mut tokens, mut loss, image_ends } = self.expand(&tokens, &loss, images, true)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Exchange;

    fn chat(max_tokens: usize) -> ChatEncoder {
        let tokenizer = Tokenizer::train_word(["ab c"], 20).unwrap();
        ChatEncoder::new(tokenizer, Arc::new(|_| Ok(3)), max_tokens).unwrap()
    }

    fn row(image: Option<&str>) -> Row {
        Row {
            id: "1".into(),
            dataset: "toy".into(),
            source: String::new(),
            images: image.map_or(ImageKeys::None, |key| ImageKeys::Leading(key.to_string())),
            system: None,
            history: Vec::new(),
            prompt: "ab".into(),
            response: "ab c".into(),
            question: None,
        }
    }

    fn pair(chosen: &str, rejected: &str) -> Pair {
        Pair {
            id: "1#0".into(),
            dataset: "toy".into(),
            images: ImageKeys::None,
            system: None,
            history: Vec::new(),
            prompt: "ab".into(),
            chosen: chosen.into(),
            rejected: rejected.into(),
            chosen_truncated: false,
            rejected_truncated: false,
            question: None,
        }
    }

    // Ids: <|pad|> 0, <|image|> 1, <|user|> 2, <|assistant|> 3, <|end|> 4, then ` c` 5 and `ab` 6.

    #[test]
    fn the_loss_covers_the_response_and_its_end() {
        let token_row = chat(20).encode_row(&row(Some("key")), false).unwrap();
        assert_eq!(token_row.tokens, [2, 1, 1, 1, 6, 3, 6, 5, 4]);
        assert_eq!(token_row.loss, [false, false, false, false, false, false, true, true, true]);
        assert_eq!(token_row.images, ["key"]);
        assert_eq!(chat(20).encode_row(&row(None), false).unwrap().tokens, [2, 6, 3, 6, 5, 4]);
    }

    #[test]
    fn a_truncated_response_has_no_end_token() {
        let pair = Pair { chosen_truncated: true, ..pair("ab", " c") };
        let pair = chat(20).encode_pair(&pair).unwrap();
        assert_eq!(pair.chosen.tokens, [2, 6, 3, 6]);
        assert_eq!(pair.rejected.tokens, [2, 6, 3, 5, 4]);
        assert_eq!(pair.rejected.loss, [false, false, false, true, true]);
        let prompt = ChatPrompt::new(&ImageKeys::None, "ab");
        assert_eq!(chat(20).pieces(&prompt, "ab c", true).unwrap(), ["ab", " c"]);
        assert_eq!(chat(20).pieces(&prompt, " c", false).unwrap(), [" c", "<|end|>"]);
    }

    #[test]
    fn a_row_begins_with_its_prompt() {
        let prompt = chat(20).encode_prompt("1", &ChatPrompt::from(&row(Some("key")))).unwrap();
        let row = chat(20).encode_row(&row(Some("key")), false).unwrap();
        assert!(row.tokens.starts_with(&prompt.tokens));
        assert_eq!(prompt.tokens.last(), Some(&3));
    }

    #[test]
    fn a_too_long_sequence_names_its_row() {
        let error = chat(8).encode_row(&row(Some("key")), false).unwrap_err();
        assert_eq!(format!("{error:#}"), "row `1` of `toy`: the sequence has 9 tokens, the model allows 8");
        assert!(chat(9).encode_row(&row(Some("key")), false).is_ok());
        assert!(chat(5).encode_prompt("1", &ChatPrompt::from(&row(Some("key")))).is_err());
        assert!(TooLong::is(&error));
    }

    #[test]
    fn a_row_is_truncated_at_the_end() {
        let truncated = |max| chat(max).truncate_row(&row(Some("key")), false).unwrap();
        let truncated_to_8 = truncated(8).unwrap();
        assert_eq!(truncated_to_8.tokens, [2, 1, 1, 1, 6, 3, 6, 5]);
        assert_eq!(truncated_to_8.loss, [false, false, false, false, false, false, true, true]);
        assert_eq!(truncated(9).unwrap(), chat(9).encode_row(&row(Some("key")), false).unwrap());
        // The prompt has six tokens, three of them image tokens.
        assert_eq!(truncated(7).unwrap().tokens, [2, 1, 1, 1, 6, 3, 6]);
        for max in 0..7 {
            assert_eq!(truncated(max), None, "{max}");
        }
    }

    #[test]
    fn a_pair_equal_after_truncation_is_none() {
        let pair = pair("ab c c", "ab c");
        let truncated = |max| {
            let pair = chat(max).truncate_pair(&pair).unwrap();
            pair.map(|pair| (pair.chosen.tokens, pair.rejected.tokens))
        };
        assert_eq!(truncated(6), Some((vec![2, 6, 3, 6, 5, 5], vec![2, 6, 3, 6, 5, 4])));
        assert_eq!([truncated(5), truncated(4), truncated(3)], [None, None, None]);
    }

    #[test]
    fn a_prompt_is_truncated_at_the_beginning() {
        let whole = "ab c c c";
        let truncated = |max, room| {
            let images = ImageKeys::Leading("key".into());
            let truncated = chat(max).truncate_prompt("1", &ChatPrompt::new(&images, whole), room).unwrap();
            truncated.map(|(text, prompt)| (text, prompt.tokens))
        };
        // All of it: `<|user|>`, three tokens of the image, four of the text, `<|assistant|>`.
        assert_eq!(truncated(10, 1), Some((whole.to_string(), vec![2, 1, 1, 1, 6, 5, 5, 5, 3])));
        assert_eq!(truncated(9, 1), Some((" c c c".to_string(), vec![2, 1, 1, 1, 5, 5, 5, 3])));
        assert_eq!(truncated(9, 3), Some((" c".to_string(), vec![2, 1, 1, 1, 5, 3])));
        assert_eq!(truncated(9, 4), None);
        assert_eq!(truncated(3, 0), None);
    }

    /// A conversation of two turns: `ab` about two images, and ` c`.
    fn conversation() -> Row {
        Row {
            images: ImageKeys::Placed(vec!["one".into(), "two".into()]),
            system: Some(" c".into()),
            history: vec![Exchange { prompt: "<image> c<image>".into(), response: "ab".into() }],
            prompt: " c".into(),
            ..row(None)
        }
    }

    #[test]
    fn every_turn_is_in_the_sequence_and_in_the_loss() {
        let tokens = |row: &Row, mask| chat(40).encode_row(row, mask).unwrap();
        let several = tokens(&conversation(), false);
        let system = [5];
        let (first, second) = ([2, 1, 1, 1, 5, 1, 1, 1, 3, 6, 4], [2, 5, 3, 6, 5, 4]);
        assert_eq!(several.tokens, [system.as_slice(), &first, &second].concat());
        let positions = |row: &TokenRow| (0..row.tokens.len()).filter(|&at| row.loss[at]).collect::<Vec<_>>();
        let start = system.len();
        assert_eq!(positions(&several), [9, 10, 14, 15, 16].map(|at| start + at));
        assert_eq!(several.images, ["one", "two"]);
        let masked = tokens(&conversation(), true);
        assert_eq!((&masked.tokens, &masked.images), (&several.tokens, &several.images));
        assert_eq!(positions(&masked), [14, 15, 16].map(|at| start + at));
    }

    #[test]
    fn images_stand_at_their_placeholders() {
        let placed = |keys: &[&str], prompt: &str| {
            let images = ImageKeys::Placed(keys.iter().map(ToString::to_string).collect());
            chat(40).encode_prompt("1", &ChatPrompt::new(&images, prompt)).map(|prompt| prompt.tokens)
        };
        assert_eq!(placed(&["a"], "ab<image> c").unwrap(), [2, 6, 1, 1, 1, 5, 3]);
        assert_eq!(placed(&["a", "a"], "<image><image>").unwrap(), [2, 1, 1, 1, 1, 1, 1, 3]);
        let error = format!("{:#}", placed(&["a"], "<image> or <image>").unwrap_err());
        let message = "item `1`: `images` has 1 image(s), but the text has 2 `<image>`: write one where each image stands \
                       (`\\<image>` is the literal text)";
        assert_eq!(error, message);
        assert!(placed(&["a"], "\\<image>").is_err());
    }

    #[test]
    fn a_conversation_is_truncated_after_a_response() {
        let mut row = conversation();
        row.system = None;
        row.history[0].prompt = "<image>ab".into();
        row.prompt = "<image> c".into();
        let truncated = |max, mask| {
            let truncated = chat(max).truncate_row(&row, mask).unwrap();
            truncated.map(|row| (row.tokens, row.loss.iter().filter(|is_target| **is_target).count(), row.images.len()))
        };
        let whole = vec![2, 1, 1, 1, 6, 3, 6, 4, 2, 1, 1, 1, 5, 3, 6, 5, 4];
        assert_eq!(truncated(17, false), Some((whole.clone(), 5, 2)));
        assert_eq!(truncated(15, false), Some((whole[..15].to_vec(), 3, 2)));
        // The second turn has no room for a response, so its image is left out too.
        for max in 8..15 {
            assert_eq!(truncated(max, false), Some((whole[..8].to_vec(), 2, 1)), "{max}");
        }
        assert_eq!(truncated(7, false), Some((whole[..7].to_vec(), 1, 1)));
        assert_eq!(truncated(6, false), None);
        assert_eq!((truncated(15, true), truncated(14, true)), (Some((whole[..15].to_vec(), 1, 2)), None));
    }

    #[test]
    fn text_is_not_cut_after_a_placed_image() {
        let images = ImageKeys::Placed(vec!["a".into()]);
        let truncated = |max| {
            let prompt = ChatPrompt::new(&images, "ab c<image> c c");
            chat(max).truncate_prompt("1", &prompt, 1).unwrap().map(|(text, _)| text)
        };
        assert_eq!(truncated(10).as_deref(), Some("ab c<image> c c"));
        assert_eq!(truncated(9).as_deref(), Some(" c<image> c c"));
        assert_eq!(truncated(8), None);
    }
}
