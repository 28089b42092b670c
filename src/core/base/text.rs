//! A stretch of a shared string: ten thousand short texts without ten thousand allocations.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A piece of text that may share its memory with others.
#[derive(Clone)]
pub struct Text {
    all: Arc<String>,
    start: usize,
    end: usize,
}

impl Text {
    /// The bytes from `start` to `end` of `all`; `None` when there are no such characters.
    pub fn of(all: &Arc<String>, start: usize, end: usize) -> Option<Text> {
        all.get(start..end)?;
        Some(Text { all: all.clone(), start, end })
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.all[self.start..self.end]
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        let end = text.len();
        Text { all: Arc::new(text), start: 0, end }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_what_lies_between() {
        let all = Arc::new("one über two".to_string());
        assert_eq!(&*Text::of(&all, 4, 9).unwrap(), "über");
        assert!(Text::of(&all, 5, 9).is_none());
        assert!(Text::of(&all, 4, 99).is_none());
        assert_eq!(&*Text::from("x".to_string()), "x");
    }
}
