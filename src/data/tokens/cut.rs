//! Sequences cut to the length that a model takes: a response at its end, a prompt at the beginning of its text, and
//! never inside the tokens of an image. Knows no stage.

use anyhow::{Context, Result};

use super::{Chat, Prompt, TokenPair, TokenRow, TooLong, joined};
use crate::records::{Pair, Row};

impl Chat {
    /// The row with as much of its response as there is room for; it does not end. None if there is room for nothing.
    pub fn cut_row(&self, row: &Row) -> Result<Option<TokenRow>> {
        self.cut_sequence(row.image.as_deref(), &row.prompt, &row.response, false)
            .with_context(|| format!("row `{}` of `{}`", row.id, row.dataset))
    }

    /// The pair with as much of both responses as there is room for. None if there is room for nothing, or for nothing in
    /// which they differ.
    pub fn cut_pair(&self, pair: &Pair) -> Result<Option<TokenPair>> {
        let side = |response: &str, cut: bool| {
            self.cut_sequence(pair.image.as_deref(), &pair.prompt, response, cut)
                .with_context(|| format!("pair `{}` of `{}`", pair.id, pair.dataset))
        };
        let sides = (side(&pair.chosen, pair.chosen_cut)?, side(&pair.rejected, pair.rejected_cut)?);
        let (Some(chosen), Some(rejected)) = sides else { return Ok(None) };
        Ok((chosen.tokens != rejected.tokens).then_some(TokenPair { chosen, rejected }))
    }

    /// The prompt of an end of `text`, with room for `room` tokens behind it, and that end. None if there is room for no
    /// text: the tokens of an image are never fewer.
    pub fn cut_prompt(
        &self,
        key: &str,
        text: &str,
        image: Option<&str>,
        room: usize,
    ) -> Result<Option<(String, Prompt)>> {
        let fits = |start: usize| match self.prompt(key, &text[start..], image) {
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

    /// As [`Chat::sequence`], with as much of the target as there is room for.
    fn cut_sequence(&self, image: Option<&str>, prompt: &str, response: &str, cut: bool) -> Result<Option<TokenRow>> {
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
    use super::super::tests::{chat, row};
    use super::*;

    #[test]
    fn a_row_is_cut_at_its_end_and_never_in_its_image() {
        let cut = |most| chat(most).cut_row(&row(Some("key"))).unwrap();
        let eight = cut(8).unwrap();
        assert_eq!(eight.tokens, [2, 1, 1, 1, 6, 3, 6, 5]);
        assert_eq!(eight.loss, [false, false, false, false, false, false, true, true]);
        assert_eq!(cut(9).unwrap(), chat(9).row(&row(Some("key"))).unwrap());
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
            chosen_cut: false,
            rejected_cut: false,
            question: None,
        };
        let cut = |most| {
            let pair = chat(most).cut_pair(&pair).unwrap();
            pair.map(|pair| (pair.chosen.tokens, pair.rejected.tokens))
        };
        assert_eq!(cut(6), Some((vec![2, 6, 3, 6, 5, 5], vec![2, 6, 3, 6, 5, 4])));
        assert_eq!([cut(5), cut(4), cut(3)], [None, None, None]);
    }

    #[test]
    fn a_prompt_is_cut_at_the_beginning_of_its_text() {
        let whole = "ab c c c";
        let cut = |most, room| {
            let cut = chat(most).cut_prompt("1", whole, Some("key"), room).unwrap();
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
