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

mod cut;

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::conversation::Conversation;
use super::records::{Pair, Row};
use super::tokenizer::{END, Special, Tokenizer};

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
pub struct Prompt {
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
pub struct Chat {
    layout: Layout,
    image_tokens: ImageTokens,
    max_tokens: usize,
}

#[derive(Clone)]
enum Layout {
    Own { tokenizer: Arc<Tokenizer>, special: Special },
    Template(Arc<Conversation>),
}

impl fmt::Debug for Chat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Chat").field("max_tokens", &self.max_tokens).finish_non_exhaustive()
    }
}

impl Chat {
    /// Our own layout. `image_tokens` stand for an image; a sequence of more than `max_tokens` tokens is an error,
    /// [`TooLong`]. It is not cut and not dropped in silence: either would change what an experiment trains on.
    ///
    /// # Errors
    ///
    /// A tokenizer without our special tokens.
    pub fn new(tokenizer: Tokenizer, image_tokens: ImageTokens, max_tokens: usize) -> Result<Chat> {
        let layout = Layout::Own { special: tokenizer.special()?, tokenizer: Arc::new(tokenizer) };
        Ok(Chat { layout, image_tokens, max_tokens })
    }

    /// The layout of a Hugging Face folder, as [`Chat::new`].
    pub fn hub(conversation: Conversation, image_tokens: ImageTokens, max_tokens: usize) -> Chat {
        Chat { layout: Layout::Template(Arc::new(conversation)), image_tokens, max_tokens }
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        match &self.layout {
            Layout::Own { tokenizer, .. } => tokenizer,
            Layout::Template(conversation) => conversation.tokenizer(),
        }
    }

    /// Tokens that end a response.
    pub fn stop_tokens(&self) -> &[u32] {
        match &self.layout {
            Layout::Own { special, .. } => std::slice::from_ref(&special.end),
            Layout::Template(conversation) => conversation.stop_tokens(),
        }
    }

    /// How much less likely a token is made that the sequence has already; 1 changes nothing.
    pub fn repetition_penalty(&self) -> f64 {
        match &self.layout {
            Layout::Own { .. } => 1.0,
            Layout::Template(conversation) => conversation.repetition_penalty(),
        }
    }

    /// How many bytes at the start of a generated text are thinking, and no part of the answer.
    pub fn thinking(&self, text: &str) -> usize {
        match &self.layout {
            Layout::Own { .. } => 0,
            Layout::Template(conversation) => conversation.thinking(text),
        }
    }

    /// The token that stands for a feature of an image; none if the model takes no images.
    pub fn image_token(&self) -> Option<u32> {
        match &self.layout {
            Layout::Own { special, .. } => Some(special.image),
            Layout::Template(conversation) => conversation.image_token(),
        }
    }

    pub fn row(&self, row: &Row) -> Result<TokenRow> {
        self.sequence(row.image.as_deref(), &row.prompt, &row.response, false)
            .with_context(|| format!("row `{}` of `{}`", row.id, row.dataset))
    }

    pub fn pair(&self, pair: &Pair) -> Result<TokenPair> {
        let side = |response: &str, cut: bool| self.sequence(pair.image.as_deref(), &pair.prompt, response, cut);
        let context = |side: &str| format!("the {side} response of pair `{}` of `{}`", pair.id, pair.dataset);
        Ok(TokenPair {
            chosen: side(&pair.chosen, pair.chosen_cut).with_context(|| context("chosen"))?,
            rejected: side(&pair.rejected, pair.rejected_cut).with_context(|| context("rejected"))?,
        })
    }

    /// The user's turn, to be answered. `key` is the item's id. It may be as long as `max_tokens`: how much room
    /// an answer needs is for the caller to say.
    pub fn prompt(&self, key: &str, text: &str, image: Option<&str>) -> Result<Prompt> {
        let tokens = match &self.layout {
            Layout::Own { tokenizer, special } => opening(tokenizer, *special, image.is_some(), text),
            Layout::Template(conversation) => conversation.prompt(image.is_some(), text),
        };
        let tokens = tokens.and_then(|tokens| self.expand(tokens, image)).with_context(|| format!("item `{key}`"))?;
        self.check(tokens.len()).with_context(|| format!("item `{key}`"))?;
        Ok(Prompt { key: key.to_string(), tokens, image: image.map(str::to_string) })
    }

    /// A prompt and a given response; a `cut` one has no end.
    pub fn sequence(&self, image: Option<&str>, prompt: &str, response: &str, cut: bool) -> Result<TokenRow> {
        let (prompt, target) = self.parts(image, prompt, response, cut)?;
        let prompt = self.expand(prompt, image)?;
        self.check(prompt.len() + target.len())?;
        Ok(joined(prompt, target, image))
    }

    /// The tokens of the prompt, with one placeholder for an image, and those that are learned.
    fn parts(&self, image: Option<&str>, prompt: &str, response: &str, cut: bool) -> Result<(Vec<u32>, Vec<u32>)> {
        match &self.layout {
            Layout::Own { tokenizer, special } => {
                let mut target = tokenizer.encode(response)?;
                target.extend(Some(special.end).filter(|_| !cut));
                Ok((opening(tokenizer, *special, image.is_some(), prompt)?, target))
            }
            Layout::Template(conversation) => conversation.sequence(image.is_some(), prompt, response, cut),
        }
    }

    /// Tokens that a sequence may have.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The text of each loss token of [`Chat::sequence`]; the end is written by its name.
    pub fn pieces(&self, image: Option<&str>, prompt: &str, response: &str, cut: bool) -> Result<Vec<String>> {
        match &self.layout {
            Layout::Own { tokenizer, .. } => {
                let mut pieces = tokenizer.pieces(response)?;
                pieces.extend(Some(END.to_string()).filter(|_| !cut));
                Ok(pieces)
            }
            Layout::Template(conversation) => conversation.pieces(image.is_some(), prompt, response, cut),
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
fn opening(tokenizer: &Tokenizer, special: Special, image: bool, prompt: &str) -> Result<Vec<u32>> {
    let mut tokens = vec![special.user];
    tokens.extend(Some(special.image).filter(|_| image));
    tokens.extend(tokenizer.encode(prompt)?);
    tokens.push(special.assistant);
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn chat(max_tokens: usize) -> Chat {
        let tokenizer = Tokenizer::train_word(["ab c"], 20).unwrap();
        Chat::new(tokenizer, Arc::new(|_| Ok(3)), max_tokens).unwrap()
    }

    pub(super) fn row(image: Option<&str>) -> Row {
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
        let token_row = chat(20).row(&row(Some("key"))).unwrap();
        assert_eq!(token_row.tokens, [2, 1, 1, 1, 6, 3, 6, 5, 4]);
        assert_eq!(token_row.loss, [false, false, false, false, false, false, true, true, true]);
        assert_eq!(token_row.image.as_deref(), Some("key"));
        assert_eq!(chat(20).row(&row(None)).unwrap().tokens, [2, 6, 3, 6, 5, 4]);
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
            chosen_cut: true,
            rejected_cut: false,
            question: None,
        };
        let pair = chat(20).pair(&pair).unwrap();
        assert_eq!(pair.chosen.tokens, [2, 6, 3, 6]);
        assert_eq!(pair.rejected.tokens, [2, 6, 3, 5, 4]);
        assert_eq!(pair.rejected.loss, [false, false, false, true, true]);
        assert_eq!(chat(20).pieces(None, "ab", "ab c", true).unwrap(), ["ab", " c"]);
        assert_eq!(chat(20).pieces(None, "ab", " c", false).unwrap(), [" c", "<|end|>"]);
    }

    #[test]
    fn a_prompt_is_what_a_row_begins_with() {
        let prompt = chat(20).prompt("1", "ab", Some("key")).unwrap();
        let row = chat(20).row(&row(Some("key"))).unwrap();
        assert!(row.tokens.starts_with(&prompt.tokens));
        assert_eq!(prompt.tokens.last(), Some(&3));
    }

    #[test]
    fn a_sequence_that_is_too_long_is_an_error_that_names_its_row() {
        let error = chat(8).row(&row(Some("key"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "row `1` of `toy`: the sequence has 9 tokens, and the model takes 8");
        assert!(chat(9).row(&row(Some("key"))).is_ok());
        assert!(chat(5).prompt("1", "ab", Some("key")).is_err());
        assert!(TooLong::is(&error));
    }
}
