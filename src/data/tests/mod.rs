//! Tests that serve several files or are long.

mod answer_table;
mod answers;
mod conversation;
mod gold_answers;
mod golden_pixels;
mod image_formats;
mod jpeg;
mod layouts;
mod llava;
mod parity;
mod published;
pub(crate) mod support;
mod tokens;
