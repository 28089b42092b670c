//! A conversation up to the user's last turn, from the fields of a record.

use super::image_keys::ImageKeys;
use super::image_placeholders::{self, Part};
use super::records::{Exchange, Pair, Row};

/// A conversation up to the user's last turn.
#[derive(Clone, Copy, Debug)]
pub struct ChatPrompt<'a> {
    pub images: &'a ImageKeys,
    pub system: Option<&'a str>,
    /// The earlier turns.
    pub history: &'a [Exchange],
    /// The user's last turn.
    pub prompt: &'a str,
}

impl<'a> ChatPrompt<'a> {
    /// A single turn.
    pub fn new(images: &'a ImageKeys, prompt: &'a str) -> ChatPrompt<'a> {
        ChatPrompt { images, system: None, history: &[], prompt }
    }

    /// The user's turns, in order.
    pub fn user_turns(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.history.iter().map(|exchange| exchange.prompt.as_str()).chain([self.prompt])
    }

    /// Images and literal texts of each user's turn, in order.
    pub fn parts(&self) -> Vec<Vec<Part<'a>>> {
        let parts = |(turn, text): (usize, &'a str)| match self.images {
            ImageKeys::Placed(_) => image_placeholders::parts(text),
            ImageKeys::Leading(_) if turn == 0 => vec![Part::Image, Part::Text(text.into())],
            ImageKeys::Leading(_) | ImageKeys::None => vec![Part::Text(text.into())],
        };
        self.user_turns().enumerate().map(parts).collect()
    }
}

impl<'a> From<&'a Row> for ChatPrompt<'a> {
    fn from(row: &'a Row) -> ChatPrompt<'a> {
        ChatPrompt { images: &row.images, system: row.system.as_deref(), history: &row.history, prompt: &row.prompt }
    }
}

impl<'a> From<&'a Pair> for ChatPrompt<'a> {
    fn from(pair: &'a Pair) -> ChatPrompt<'a> {
        ChatPrompt {
            images: &pair.images,
            system: pair.system.as_deref(),
            history: &pair.history,
            prompt: &pair.prompt,
        }
    }
}
