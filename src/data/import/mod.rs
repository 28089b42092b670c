//! Imports rows of files that others have released: items, training rows and preference pairs.

mod alpaca;
pub mod cells;
pub mod columns;
mod conversations;
mod example;
mod images;
mod layout;
pub mod llava;
mod messages;
mod option_lists;
pub mod options;
mod placement;
pub mod preferences;
mod python_literals;
mod read;
mod rows;
mod vlmevalkit;

pub use images::{RowImages, read_image};
pub use read::{Located, ReadFile, Source, check_files, read_items, read_rows};
pub use rows::parse_question;
