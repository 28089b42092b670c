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

mod truncation;

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};

use super::chat_prompt::ChatPrompt;
use super::conversation::{Conversation, EncodedChat};
use super::image_placeholders::Part;
use super::image_text::ImageText;
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

/// Returns what stands for an image in a conversation, by the image's key.
pub type ImageTexts = Arc<dyn Fn(&str) -> Result<ImageText> + Send + Sync>;

/// Encodes sequences for one tokenizer and one model.
#[derive(Clone)]
pub struct ChatEncoder {
    layout: Layout,
    image_texts: ImageTexts,
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
    pub fn new(tokenizer: Tokenizer, image_texts: ImageTexts, max_tokens: usize) -> Result<ChatEncoder> {
        let layout = Layout::BuiltIn { special: tokenizer.special()?, tokenizer: Arc::new(tokenizer) };
        Ok(ChatEncoder { layout, image_texts, max_tokens })
    }

    /// An encoder with the chat template of a Hugging Face folder; otherwise as [`ChatEncoder::new`].
    pub fn from_conversation(conversation: Conversation, image_texts: ImageTexts, max_tokens: usize) -> ChatEncoder {
        ChatEncoder { layout: Layout::ChatTemplate(Arc::new(conversation)), image_texts, max_tokens }
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
            let images = self.texts_of(prompt)?;
            let tokens = match &self.layout {
                Layout::BuiltIn { tokenizer, special } => opening(tokenizer, *special, prompt)?.prompt,
                Layout::ChatTemplate(conversation) => conversation.prompt(prompt, &images)?,
            };
            let masked = vec![false; tokens.len()];
            let Expanded { tokens, .. } = self.expand(&tokens, &masked, &images, false)?;
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
        let images = self.texts_of(prompt)?;
        let EncodedChat { prompt: tokens, loss, target } =
            self.encode_chat(prompt, &images, response, truncated, mask_history)?;
        let Expanded { mut tokens, mut loss, .. } = self.expand(&tokens, &loss, &images, false)?;
        self.check(tokens.len() + target.len())?;
        tokens.extend_from_slice(&target);
        loss.resize(tokens.len(), true);
        Ok(TokenRow { tokens, loss, images: prompt.images.keys().to_vec() })
    }

    /// What stands for each image of a conversation.
    fn texts_of(&self, prompt: &ChatPrompt) -> Result<Vec<ImageText>> {
        let text = |key: &String| (self.image_texts)(key).with_context(|| format!("image `{key}`"));
        prompt.images.keys().iter().map(text).collect()
    }

    /// The tokens of a conversation, with one image token per run.
    fn encode_chat(
        &self,
        prompt: &ChatPrompt,
        images: &[ImageText],
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
            Layout::ChatTemplate(conversation) => {
                conversation.sequence(prompt, images, response, truncated, mask_history)?
            }
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
            Layout::ChatTemplate(conversation) => {
                conversation.pieces(prompt, &self.texts_of(prompt)?, response, truncated)
            }
        }
    }

    /// Repeats the image token of each run. With `cut`, tokens beyond `max_tokens` are left out, otherwise they are an error.
    fn expand(&self, tokens: &[u32], loss: &[bool], images: &[ImageText], cut: bool) -> Result<Expanded> {
        // The length of each run, and whether it is the last one of its image.
        let of_image = |image: &ImageText| {
            let lengths: Vec<usize> = image.runs.iter().map(|(_, length)| *length).collect();
            let last = lengths.len();
            lengths.into_iter().enumerate().map(move |(index, length)| (length, index + 1 == last))
        };
        let runs: Vec<(usize, bool)> = images.iter().flat_map(of_image).collect();
        let placeholder = self.image_token().filter(|_| !images.is_empty());
        let found = tokens.iter().filter(|&&token| Some(token) == placeholder).count();
        if found != runs.len() {
            bail!("BUG: a prompt with {found} image tokens for {} runs", runs.len());
        }
        // Checked before memory of that size is allocated.
        let total = tokens.len() - found + runs.iter().map(|(length, _)| length).sum::<usize>();
        if !cut {
            self.check(total)?;
        }
        let mut expanded = Expanded { tokens: Vec::new(), loss: Vec::new(), image_ends: Vec::new() };
        let mut runs = runs.into_iter();
        for (&token, &is_target) in tokens.iter().zip(loss) {
            if expanded.tokens.len() >= self.max_tokens && cut {
                break;
            }
            let run = if Some(token) == placeholder { runs.next() } else { None };
            let (repeats, ends_image) = run.unwrap_or((1, false));
            expanded.tokens.resize(expanded.tokens.len() + repeats, token);
            expanded.loss.resize(expanded.tokens.len(), is_target);
            if ends_image {
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
