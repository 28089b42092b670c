//! The result of reading an answer.

/// What an answer names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Parsed<T> {
    One(T),
    /// Several different ones: the answer is readable and wrong.
    Ambiguous,
    /// None: the answer is unreadable.
    Nothing,
}
