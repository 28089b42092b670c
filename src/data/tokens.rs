//! The chat layout: rows, pairs and prompts as token ids with a loss mask. Knows no model and no batch.
//!
//! ```text
//! <|user|> [<|image|> x image_tokens] prompt <|assistant|> response <|end|>
//!                                                          ^^^^^^^^^^^^^^^^ loss
//! ```
//!
//! A cut response has no `<|end|>`: the model must not learn that a text ends where it was cut.

use anyhow::{Context, Result, bail};

use super::records::{Pair, Row};
use super::tokenizer::{END, Tokenizer};

/// A training sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    pub tokens: Vec<u32>,
    /// Whether token `i` is a target: predicted from the tokens before it, and counted in the loss.
    pub loss: Vec<bool>,
    /// Key of the image whose patches stand at the `<|image|>` tokens.
    pub image: Option<String>,
}

/// A preference pair; both sequences share their prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPair {
    pub chosen: TokenRow,
    pub rejected: TokenRow,
}

/// A sequence to be continued: it ends with `<|assistant|>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The item's id. A sample depends on it, never on the place in the list.
    pub key: String,
    pub tokens: Vec<u32>,
    pub image: Option<String>,
}

/// Lays out sequences for one tokenizer and one model.
#[derive(Clone, Debug)]
pub struct Chat {
    tokenizer: Tokenizer,
    image_tokens: usize,
    max_tokens: usize,
}

impl Chat {
    /// `image_tokens` stand for one image; a sequence of more than `max_tokens` tokens is an error. It is not cut
    /// and not dropped in silence: either would change what an experiment trains on.
    pub fn new(tokenizer: Tokenizer, image_tokens: usize, max_tokens: usize) -> Chat {
        Chat { tokenizer, image_tokens, max_tokens }
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
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
        let tokens = self.opening(image, text).with_context(|| format!("item `{key}`"))?;
        self.check(tokens.len()).with_context(|| format!("item `{key}`"))?;
        Ok(Prompt { key: key.to_string(), tokens, image: image.map(str::to_string) })
    }

    /// A prompt and a given response; a `cut` one has no end.
    pub fn sequence(&self, image: Option<&str>, prompt: &str, response: &str, cut: bool) -> Result<TokenRow> {
        let mut tokens = self.opening(image, prompt)?;
        let mut loss = vec![false; tokens.len()];
        tokens.extend(self.tokenizer.encode(response)?);
        if !cut {
            tokens.push(self.tokenizer.special().end);
        }
        loss.resize(tokens.len(), true);
        self.check(tokens.len())?;
        Ok(TokenRow { tokens, loss, image: image.map(str::to_string) })
    }

    /// The text of each loss token of [`Chat::sequence`]; the end is written by its name.
    pub fn pieces(&self, response: &str, cut: bool) -> Result<Vec<String>> {
        let mut pieces = self.tokenizer.pieces(response)?;
        if !cut {
            pieces.push(END.to_string());
        }
        Ok(pieces)
    }

    fn opening(&self, image: Option<&str>, prompt: &str) -> Result<Vec<u32>> {
        let special = self.tokenizer.special();
        let mut tokens = vec![special.user];
        if image.is_some() {
            tokens.resize(1 + self.image_tokens, special.image);
        }
        tokens.extend(self.tokenizer.encode(prompt)?);
        tokens.push(special.assistant);
        Ok(tokens)
    }

    fn check(&self, length: usize) -> Result<()> {
        if length > self.max_tokens {
            bail!("the sequence has {length} tokens, and the model takes {}", self.max_tokens);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(max_tokens: usize) -> Chat {
        Chat::new(Tokenizer::train_word(["ab c"], 20).unwrap(), 3, max_tokens)
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
        assert_eq!(chat(20).pieces("ab c", true).unwrap(), ["ab", " c"]);
        assert_eq!(chat(20).pieces(" c", false).unwrap(), [" c", "<|end|>"]);
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
    }
}
