//! Encodes rows, pairs and prompts as token ids with a loss mask, in one of two layouts.
//!
//! The built-in layout, for models that are trained from scratch:
//!
//! ```text
//! <|user|> [<|image|> x image_tokens] prompt <|assistant|> response <|end|>
//!                                                          ^^^^^^^^^^^^^^^^ loss
//! ```
//!
//! The layout of a Hugging Face folder is its chat template ([`Conversation`]). In both layouts the loss covers the
//! response and the token that ends it. A truncated response has no end token: the model must not learn to stop where a
//! text was truncated.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::conversation::Conversation;
use super::records::{Pair, Row};
use super::tokenizer::{END_TOKEN, SpecialTokens, Tokenizer};

/// A training sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    pub tokens: Vec<u32>,
    /// The loss mask: whether token `i` is a target, which is predicted from the tokens before it.
    pub loss: Vec<bool>,
    /// Key of the image whose features replace the image tokens.
    pub image: Option<String>,
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
    pub image: Option<String>,
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

    pub fn encode_row(&self, row: &Row) -> Result<TokenRow> {
        self.encode_sequence(row.image.as_deref(), &row.prompt, &row.response, false)
            .with_context(|| format!("row `{}` of `{}`", row.id, row.dataset))
    }

    pub fn encode_pair(&self, pair: &Pair) -> Result<TokenPair> {
        let side = |response: &str, truncated: bool| {
            self.encode_sequence(pair.image.as_deref(), &pair.prompt, response, truncated)
        };
        let context = |side: &str| format!("the {side} response of pair `{}` of `{}`", pair.id, pair.dataset);
        Ok(TokenPair {
            chosen: side(&pair.chosen, pair.chosen_truncated).with_context(|| context("chosen"))?,
            rejected: side(&pair.rejected, pair.rejected_truncated).with_context(|| context("rejected"))?,
        })
    }

    /// Encodes the user's turn. `key` is the item's id. The prompt may have up to `max_tokens` tokens; the caller
    /// reserves room for the answer.
    pub fn encode_prompt(&self, key: &str, text: &str, image: Option<&str>) -> Result<TokenPrompt> {
        let tokens = match &self.layout {
            Layout::BuiltIn { tokenizer, special } => opening(tokenizer, *special, image.is_some(), text),
            Layout::ChatTemplate(conversation) => conversation.prompt(image.is_some(), text),
        };
        let tokens = tokens.and_then(|tokens| self.expand(tokens, image)).with_context(|| format!("item `{key}`"))?;
        self.check(tokens.len()).with_context(|| format!("item `{key}`"))?;
        Ok(TokenPrompt { key: key.to_string(), tokens, image: image.map(str::to_string) })
    }

    /// Encodes a prompt and its response. A truncated response gets no end token.
    pub fn encode_sequence(
        &self,
        image: Option<&str>,
        prompt: &str,
        response: &str,
        truncated: bool,
    ) -> Result<TokenRow> {
        let (prompt, target) = self.parts(image, prompt, response, truncated)?;
        let prompt = self.expand(prompt, image)?;
        self.check(prompt.len() + target.len())?;
        Ok(with_loss_mask(prompt, target, image))
    }

    /// The tokens of the prompt, with one placeholder per image, and the tokens of the target.
    fn parts(
        &self,
        image: Option<&str>,
        prompt: &str,
        response: &str,
        truncated: bool,
    ) -> Result<(Vec<u32>, Vec<u32>)> {
        match &self.layout {
            Layout::BuiltIn { tokenizer, special } => {
                let mut target = tokenizer.encode(response)?;
                target.extend(Some(special.end).filter(|_| !truncated));
                Ok((opening(tokenizer, *special, image.is_some(), prompt)?, target))
            }
            Layout::ChatTemplate(conversation) => conversation.sequence(image.is_some(), prompt, response, truncated),
        }
    }

    /// Maximum number of tokens of a sequence.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The text of each target token of [`ChatEncoder::encode_sequence`]; the end token is written by name.
    pub fn pieces(&self, image: Option<&str>, prompt: &str, response: &str, truncated: bool) -> Result<Vec<String>> {
        match &self.layout {
            Layout::BuiltIn { tokenizer, .. } => {
                let mut pieces = tokenizer.pieces(response)?;
                pieces.extend(Some(END_TOKEN.to_string()).filter(|_| !truncated));
                Ok(pieces)
            }
            Layout::ChatTemplate(conversation) => conversation.pieces(image.is_some(), prompt, response, truncated),
        }
    }

    /// Repeats the image placeholder of a prompt once per image feature.
    fn expand(&self, tokens: Vec<u32>, image: Option<&str>) -> Result<Vec<u32>> {
        let (Some(key), Some(token)) = (image, self.image_token()) else { return Ok(tokens) };
        let Some(at) = tokens.iter().position(|&id| id == token) else { bail!("BUG: a prompt without its image") };
        let count = (self.image_tokens)(key).with_context(|| format!("image `{key}`"))?;
        // Checked before memory of that size is allocated.
        self.check(tokens.len() - 1 + count)?;
        let mut expanded = tokens[..at].to_vec();
        expanded.resize(at + count, token);
        expanded.extend_from_slice(&tokens[at + 1..]);
        Ok(expanded)
    }

    fn check(&self, length: usize) -> Result<()> {
        if length > self.max_tokens {
            return Err(TooLong { tokens: length, max: self.max_tokens }.into());
        }
        Ok(())
    }
}

/// Joins prompt and target; the loss mask covers the target.
fn with_loss_mask(prompt: Vec<u32>, target: Vec<u32>, image: Option<&str>) -> TokenRow {
    let mut loss = vec![false; prompt.len()];
    loss.resize(prompt.len() + target.len(), true);
    let tokens = [prompt, target].concat();
    TokenRow { tokens, loss, image: image.map(str::to_string) }
}

/// The user's turn in the built-in layout, with one placeholder for an image.
fn opening(tokenizer: &Tokenizer, special: SpecialTokens, image: bool, prompt: &str) -> Result<Vec<u32>> {
    let mut tokens = vec![special.user];
    tokens.extend(Some(special.image).filter(|_| image));
    tokens.extend(tokenizer.encode(prompt)?);
    tokens.push(special.assistant);
    Ok(tokens)
}

impl ChatEncoder {
    /// Encodes a row, truncated at the end of its response if it is too long. `None` if no response token fits.
    pub fn truncate_row(&self, row: &Row) -> Result<Option<TokenRow>> {
        self.truncate_sequence(row.image.as_deref(), &row.prompt, &row.response, false)
            .with_context(|| format!("row `{}` of `{}`", row.id, row.dataset))
    }

    /// Encodes a pair, with both responses truncated if they are too long. `None` if no response token fits, or the
    /// truncated sequences are equal.
    pub fn truncate_pair(&self, pair: &Pair) -> Result<Option<TokenPair>> {
        let side = |response: &str, truncated: bool| {
            self.truncate_sequence(pair.image.as_deref(), &pair.prompt, response, truncated)
                .with_context(|| format!("pair `{}` of `{}`", pair.id, pair.dataset))
        };
        let sides = (side(&pair.chosen, pair.chosen_truncated)?, side(&pair.rejected, pair.rejected_truncated)?);
        let (Some(chosen), Some(rejected)) = sides else { return Ok(None) };
        Ok((chosen.tokens != rejected.tokens).then_some(TokenPair { chosen, rejected }))
    }

    /// Encodes the longest end of `text` that leaves `room` for further tokens, and returns that end too. `None` if no
    /// text fits; the tokens of an image are never truncated.
    pub fn truncate_prompt(
        &self,
        key: &str,
        text: &str,
        image: Option<&str>,
        room: usize,
    ) -> Result<Option<(String, TokenPrompt)>> {
        let fits = |start: usize| match self.encode_prompt(key, &text[start..], image) {
            Ok(prompt) => Ok(Some(prompt).filter(|prompt| prompt.tokens.len() + room <= self.max_tokens)),
            Err(error) if TooLong::is(&error) => Ok(None),
            Err(error) => Err(error),
        };
        let starts = suffix_starts(text);
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

    /// As [`ChatEncoder::encode_sequence`], with the target truncated to fit.
    fn truncate_sequence(
        &self,
        image: Option<&str>,
        prompt: &str,
        response: &str,
        truncated: bool,
    ) -> Result<Option<TokenRow>> {
        let (prompt, mut target) = self.parts(image, prompt, response, truncated)?;
        let prompt = match self.expand(prompt, image) {
            Err(error) if TooLong::is(&error) => return Ok(None),
            other => other?,
        };
        target.truncate(self.max_tokens.saturating_sub(prompt.len()));
        Ok((!target.is_empty()).then(|| with_loss_mask(prompt, target, image)))
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

    fn chat(max_tokens: usize) -> ChatEncoder {
        let tokenizer = Tokenizer::train_word(["ab c"], 20).unwrap();
        ChatEncoder::new(tokenizer, Arc::new(|_| Ok(3)), max_tokens).unwrap()
    }

    fn row(image: Option<&str>) -> Row {
        Row {
            id: "1".into(),
            dataset: "toy".into(),
            source: String::new(),
            image: image.map(str::to_string),
            prompt: "ab".into(),
            response: "ab c".into(),
            question: None,
        }
    }

    fn pair(chosen: &str, rejected: &str) -> Pair {
        Pair {
            id: "1#0".into(),
            dataset: "toy".into(),
            image: None,
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
        let token_row = chat(20).encode_row(&row(Some("key"))).unwrap();
        assert_eq!(token_row.tokens, [2, 1, 1, 1, 6, 3, 6, 5, 4]);
        assert_eq!(token_row.loss, [false, false, false, false, false, false, true, true, true]);
        assert_eq!(token_row.image.as_deref(), Some("key"));
        assert_eq!(chat(20).encode_row(&row(None)).unwrap().tokens, [2, 6, 3, 6, 5, 4]);
    }

    #[test]
    fn a_truncated_response_has_no_end_token() {
        let pair = Pair { chosen_truncated: true, ..pair("ab", " c") };
        let pair = chat(20).encode_pair(&pair).unwrap();
        assert_eq!(pair.chosen.tokens, [2, 6, 3, 6]);
        assert_eq!(pair.rejected.tokens, [2, 6, 3, 5, 4]);
        assert_eq!(pair.rejected.loss, [false, false, false, true, true]);
        assert_eq!(chat(20).pieces(None, "ab", "ab c", true).unwrap(), ["ab", " c"]);
        assert_eq!(chat(20).pieces(None, "ab", " c", false).unwrap(), [" c", "<|end|>"]);
    }

    #[test]
    fn a_row_begins_with_its_prompt() {
        let prompt = chat(20).encode_prompt("1", "ab", Some("key")).unwrap();
        let row = chat(20).encode_row(&row(Some("key"))).unwrap();
        assert!(row.tokens.starts_with(&prompt.tokens));
        assert_eq!(prompt.tokens.last(), Some(&3));
    }

    #[test]
    fn a_too_long_sequence_names_its_row() {
        let error = chat(8).encode_row(&row(Some("key"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "row `1` of `toy`: the sequence has 9 tokens, the model allows 8");
        assert!(chat(9).encode_row(&row(Some("key"))).is_ok());
        assert!(chat(5).encode_prompt("1", "ab", Some("key")).is_err());
        assert!(TooLong::is(&error));
    }

    #[test]
    fn a_row_is_truncated_at_the_end() {
        let truncated = |max| chat(max).truncate_row(&row(Some("key"))).unwrap();
        let truncated_to_8 = truncated(8).unwrap();
        assert_eq!(truncated_to_8.tokens, [2, 1, 1, 1, 6, 3, 6, 5]);
        assert_eq!(truncated_to_8.loss, [false, false, false, false, false, false, true, true]);
        assert_eq!(truncated(9).unwrap(), chat(9).encode_row(&row(Some("key"))).unwrap());
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
            let truncated = chat(max).truncate_prompt("1", whole, Some("key"), room).unwrap();
            truncated.map(|(text, prompt)| (text, prompt.tokens))
        };
        // All of it: `<|user|>`, three tokens of the image, four of the text, `<|assistant|>`.
        assert_eq!(truncated(10, 1), Some((whole.to_string(), vec![2, 1, 1, 1, 6, 5, 5, 5, 3])));
        assert_eq!(truncated(9, 1), Some((" c c c".to_string(), vec![2, 1, 1, 1, 5, 5, 5, 3])));
        assert_eq!(truncated(9, 3), Some((" c".to_string(), vec![2, 1, 1, 1, 5, 3])));
        assert_eq!(truncated(9, 4), None);
        assert_eq!(truncated(3, 0), None);
    }
}
