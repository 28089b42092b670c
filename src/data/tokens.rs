//! Rows, pairs and prompts as token ids with a loss mask, in one of two layouts. Knows no model and no batch.
//!
//! That of models that are made here:
//!
//! ```text
//! <|user|> [<|image|> x image_tokens] prompt <|assistant|> response <|end|>
//!                                                          ^^^^^^^^^^^^^^^^ loss
//! ```
//!
//! That of a Hugging Face folder is its chat template's ([`Conversation`]). In both the loss counts on the response and
//! on the token that ends it, and a cut response has no such token: the model must not learn that a text ends where it
//! was cut.

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
    /// Whether token `i` is a target: predicted from the tokens before it, and counted in the loss.
    pub loss: Vec<bool>,
    /// Key of the image whose features stand at the image tokens.
    pub image: Option<String>,
}

/// A preference pair; both sequences share their prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPair {
    pub chosen: TokenRow,
    pub rejected: TokenRow,
}

/// A sequence to be continued: it ends where the assistant's text begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPrompt {
    /// The item's id. A sample depends on it, never on the place in the list.
    pub key: String,
    pub tokens: Vec<u32>,
    pub image: Option<String>,
}

/// A sequence that is longer than the model takes.
#[derive(Debug)]
pub struct TooLong {
    pub tokens: usize,
    pub most: usize,
}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sequence has {} tokens, and the model takes {}", self.tokens, self.most)
    }
}

impl std::error::Error for TooLong {}

impl TooLong {
    /// Whether an error is that a sequence is too long.
    pub fn is(error: &anyhow::Error) -> bool {
        error.downcast_ref::<TooLong>().is_some()
    }
}

/// Number of image tokens that stand for the image of a key.
pub type ImageTokens = Arc<dyn Fn(&str) -> Result<usize> + Send + Sync>;

/// Lays out sequences for one tokenizer and one model.
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
    /// Our own layout. `image_tokens` stand for an image; a sequence of more than `max_tokens` tokens is an error,
    /// [`TooLong`]. It is not cut and not dropped in silence: either would change what an experiment trains on.
    ///
    /// # Errors
    ///
    /// A tokenizer without our special tokens.
    pub fn new(tokenizer: Tokenizer, image_tokens: ImageTokens, max_tokens: usize) -> Result<ChatEncoder> {
        let layout = Layout::BuiltIn { special: tokenizer.special()?, tokenizer: Arc::new(tokenizer) };
        Ok(ChatEncoder { layout, image_tokens, max_tokens })
    }

    /// The layout of a Hugging Face folder, as [`ChatEncoder::new`].
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

    /// How much less likely a token is made that the sequence has already; 1 changes nothing.
    pub fn repetition_penalty(&self) -> f64 {
        match &self.layout {
            Layout::BuiltIn { .. } => 1.0,
            Layout::ChatTemplate(conversation) => conversation.repetition_penalty(),
        }
    }

    /// How many bytes at the start of a generated text are thinking, and no part of the answer.
    pub fn thinking(&self, text: &str) -> usize {
        match &self.layout {
            Layout::BuiltIn { .. } => 0,
            Layout::ChatTemplate(conversation) => conversation.thinking(text),
        }
    }

    /// The token that stands for a feature of an image; none if the model takes no images.
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
        let side = |response: &str, cut: bool| self.encode_sequence(pair.image.as_deref(), &pair.prompt, response, cut);
        let context = |side: &str| format!("the {side} response of pair `{}` of `{}`", pair.id, pair.dataset);
        Ok(TokenPair {
            chosen: side(&pair.chosen, pair.chosen_truncated).with_context(|| context("chosen"))?,
            rejected: side(&pair.rejected, pair.rejected_truncated).with_context(|| context("rejected"))?,
        })
    }

    /// The user's turn, to be answered. `key` is the item's id. It may be as long as `max_tokens`: how much room
    /// an answer needs is for the caller to say.
    pub fn encode_prompt(&self, key: &str, text: &str, image: Option<&str>) -> Result<TokenPrompt> {
        let tokens = match &self.layout {
            Layout::BuiltIn { tokenizer, special } => opening(tokenizer, *special, image.is_some(), text),
            Layout::ChatTemplate(conversation) => conversation.prompt(image.is_some(), text),
        };
        let tokens = tokens.and_then(|tokens| self.expand(tokens, image)).with_context(|| format!("item `{key}`"))?;
        self.check(tokens.len()).with_context(|| format!("item `{key}`"))?;
        Ok(TokenPrompt { key: key.to_string(), tokens, image: image.map(str::to_string) })
    }

    /// A prompt and a given response; a `cut` one has no end.
    pub fn encode_sequence(&self, image: Option<&str>, prompt: &str, response: &str, cut: bool) -> Result<TokenRow> {
        let (prompt, target) = self.parts(image, prompt, response, cut)?;
        let prompt = self.expand(prompt, image)?;
        self.check(prompt.len() + target.len())?;
        Ok(joined(prompt, target, image))
    }

    /// The tokens of the prompt, with one placeholder for an image, and those that are learned.
    fn parts(&self, image: Option<&str>, prompt: &str, response: &str, cut: bool) -> Result<(Vec<u32>, Vec<u32>)> {
        match &self.layout {
            Layout::BuiltIn { tokenizer, special } => {
                let mut target = tokenizer.encode(response)?;
                target.extend(Some(special.end).filter(|_| !cut));
                Ok((opening(tokenizer, *special, image.is_some(), prompt)?, target))
            }
            Layout::ChatTemplate(conversation) => conversation.sequence(image.is_some(), prompt, response, cut),
        }
    }

    /// Tokens that a sequence may have.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The text of each loss token of [`ChatEncoder::encode_sequence`]; the end is written by its name.
    pub fn pieces(&self, image: Option<&str>, prompt: &str, response: &str, cut: bool) -> Result<Vec<String>> {
        match &self.layout {
            Layout::BuiltIn { tokenizer, .. } => {
                let mut pieces = tokenizer.pieces(response)?;
                pieces.extend(Some(END_TOKEN.to_string()).filter(|_| !cut));
                Ok(pieces)
            }
            Layout::ChatTemplate(conversation) => conversation.pieces(image.is_some(), prompt, response, cut),
        }
    }

    /// A prompt in which the placeholder of the image stands as often as the image has features.
    fn expand(&self, tokens: Vec<u32>, image: Option<&str>) -> Result<Vec<u32>> {
        let (Some(key), Some(token)) = (image, self.image_token()) else { return Ok(tokens) };
        let Some(at) = tokens.iter().position(|&id| id == token) else { bail!("BUG: a prompt without its image") };
        let count = (self.image_tokens)(key).with_context(|| format!("image `{key}`"))?;
        // Checked before anything of that size is there.
        self.check(tokens.len() - 1 + count)?;
        let mut expanded = tokens[..at].to_vec();
        expanded.resize(at + count, token);
        expanded.extend_from_slice(&tokens[at + 1..]);
        Ok(expanded)
    }

    fn check(&self, length: usize) -> Result<()> {
        if length > self.max_tokens {
            return Err(TooLong { tokens: length, most: self.max_tokens }.into());
        }
        Ok(())
    }
}

/// A sequence whose loss counts on the target.
fn joined(prompt: Vec<u32>, target: Vec<u32>, image: Option<&str>) -> TokenRow {
    let mut loss = vec![false; prompt.len()];
    loss.resize(prompt.len() + target.len(), true);
    let tokens = [prompt, target].concat();
    TokenRow { tokens, loss, image: image.map(str::to_string) }
}

/// A user's turn in our layout, with one placeholder for an image.
fn opening(tokenizer: &Tokenizer, special: SpecialTokens, image: bool, prompt: &str) -> Result<Vec<u32>> {
    let mut tokens = vec![special.user];
    tokens.extend(Some(special.image).filter(|_| image));
    tokens.extend(tokenizer.encode(prompt)?);
    tokens.push(special.assistant);
    Ok(tokens)
}

impl ChatEncoder {
    /// The row with as much of its response as there is room for; it does not end. None if there is room for nothing.
    pub fn truncate_row(&self, row: &Row) -> Result<Option<TokenRow>> {
        self.truncate_sequence(row.image.as_deref(), &row.prompt, &row.response, false)
            .with_context(|| format!("row `{}` of `{}`", row.id, row.dataset))
    }

    /// The pair with as much of both responses as there is room for. None if there is room for nothing, or for nothing in
    /// which they differ.
    pub fn truncate_pair(&self, pair: &Pair) -> Result<Option<TokenPair>> {
        let side = |response: &str, cut: bool| {
            self.truncate_sequence(pair.image.as_deref(), &pair.prompt, response, cut)
                .with_context(|| format!("pair `{}` of `{}`", pair.id, pair.dataset))
        };
        let sides = (side(&pair.chosen, pair.chosen_truncated)?, side(&pair.rejected, pair.rejected_truncated)?);
        let (Some(chosen), Some(rejected)) = sides else { return Ok(None) };
        Ok((chosen.tokens != rejected.tokens).then_some(TokenPair { chosen, rejected }))
    }

    /// The prompt of an end of `text`, with room for `room` tokens behind it, and that end. None if there is room for no
    /// text: the tokens of an image are never fewer.
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
        let starts = ends(text);
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

    /// As [`ChatEncoder::encode_sequence`], with as much of the target as there is room for.
    fn truncate_sequence(
        &self,
        image: Option<&str>,
        prompt: &str,
        response: &str,
        cut: bool,
    ) -> Result<Option<TokenRow>> {
        let (prompt, mut target) = self.parts(image, prompt, response, cut)?;
        let prompt = match self.expand(prompt, image) {
            Err(error) if TooLong::is(&error) => return Ok(None),
            other => other?,
        };
        target.truncate(self.max_tokens.saturating_sub(prompt.len()));
        Ok((!target.is_empty()).then(|| joined(prompt, target, image)))
    }
}

/// Where the ends of a text may begin: before white space, and beside what is no ASCII, where words need none.
fn ends(text: &str) -> Vec<usize> {
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

    // Ids: <|pad|> 0, <|image|> 1, <|user|> 2, <|assistant|> 3, <|end|> 4, then ` c` 5 and `ab` 6.

    #[test]
    fn the_loss_counts_on_the_response_and_its_end() {
        let token_row = chat(20).encode_row(&row(Some("key"))).unwrap();
        assert_eq!(token_row.tokens, [2, 1, 1, 1, 6, 3, 6, 5, 4]);
        assert_eq!(token_row.loss, [false, false, false, false, false, false, true, true, true]);
        assert_eq!(token_row.image.as_deref(), Some("key"));
        assert_eq!(chat(20).encode_row(&row(None)).unwrap().tokens, [2, 6, 3, 6, 5, 4]);
    }

    #[test]
    fn a_cut_response_has_no_end() {
        let pair = Pair {
            id: "1#0".into(),
            dataset: "toy".into(),
            image: None,
            prompt: "ab".into(),
            chosen: "ab".into(),
            rejected: " c".into(),
            chosen_truncated: true,
            rejected_truncated: false,
            question: None,
        };
        let pair = chat(20).encode_pair(&pair).unwrap();
        assert_eq!(pair.chosen.tokens, [2, 6, 3, 6]);
        assert_eq!(pair.rejected.tokens, [2, 6, 3, 5, 4]);
        assert_eq!(pair.rejected.loss, [false, false, false, true, true]);
        assert_eq!(chat(20).pieces(None, "ab", "ab c", true).unwrap(), ["ab", " c"]);
        assert_eq!(chat(20).pieces(None, "ab", " c", false).unwrap(), [" c", "<|end|>"]);
    }

    #[test]
    fn a_prompt_is_what_a_row_begins_with() {
        let prompt = chat(20).encode_prompt("1", "ab", Some("key")).unwrap();
        let row = chat(20).encode_row(&row(Some("key"))).unwrap();
        assert!(row.tokens.starts_with(&prompt.tokens));
        assert_eq!(prompt.tokens.last(), Some(&3));
    }

    #[test]
    fn a_sequence_that_is_too_long_is_an_error_that_names_its_row() {
        let error = chat(8).encode_row(&row(Some("key"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "row `1` of `toy`: the sequence has 9 tokens, and the model takes 8");
        assert!(chat(9).encode_row(&row(Some("key"))).is_ok());
        assert!(chat(5).encode_prompt("1", "ab", Some("key")).is_err());
        assert!(TooLong::is(&error));
    }

    #[test]
    fn a_row_is_cut_at_its_end_and_never_in_its_image() {
        let cut = |most| chat(most).truncate_row(&row(Some("key"))).unwrap();
        let eight = cut(8).unwrap();
        assert_eq!(eight.tokens, [2, 1, 1, 1, 6, 3, 6, 5]);
        assert_eq!(eight.loss, [false, false, false, false, false, false, true, true]);
        assert_eq!(cut(9).unwrap(), chat(9).encode_row(&row(Some("key"))).unwrap());
        // The prompt has six tokens, three of them its image's.
        assert_eq!(cut(7).unwrap().tokens, [2, 1, 1, 1, 6, 3, 6]);
        for most in 0..7 {
            assert_eq!(cut(most), None, "{most}");
        }
    }

    #[test]
    fn a_pair_that_is_alike_once_cut_is_none() {
        let pair = Pair {
            id: "1#0".into(),
            dataset: "toy".into(),
            image: None,
            prompt: "ab".into(),
            chosen: "ab c c".into(),
            rejected: "ab c".into(),
            chosen_truncated: false,
            rejected_truncated: false,
            question: None,
        };
        let cut = |most| {
            let pair = chat(most).truncate_pair(&pair).unwrap();
            pair.map(|pair| (pair.chosen.tokens, pair.rejected.tokens))
        };
        assert_eq!(cut(6), Some((vec![2, 6, 3, 6, 5, 5], vec![2, 6, 3, 6, 5, 4])));
        assert_eq!([cut(5), cut(4), cut(3)], [None, None, None]);
    }

    #[test]
    fn a_prompt_is_cut_at_the_beginning_of_its_text() {
        let whole = "ab c c c";
        let cut = |most, room| {
            let cut = chat(most).truncate_prompt("1", whole, Some("key"), room).unwrap();
            cut.map(|(text, prompt)| (text, prompt.tokens))
        };
        // Whole: `<|user|>`, three tokens of the image, four of the text, `<|assistant|>`.
        assert_eq!(cut(10, 1), Some((whole.to_string(), vec![2, 1, 1, 1, 6, 5, 5, 5, 3])));
        assert_eq!(cut(9, 1), Some((" c c c".to_string(), vec![2, 1, 1, 1, 5, 5, 5, 3])));
        assert_eq!(cut(9, 3), Some((" c".to_string(), vec![2, 1, 1, 1, 5, 3])));
        assert_eq!(cut(9, 4), None);
        assert_eq!(cut(3, 0), None);
    }
}
