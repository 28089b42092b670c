//! A slice of a shared string. Ten thousand short texts need one allocation.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A reference-counted string slice.
#[derive(Clone)]
pub struct SharedStr {
    all: Arc<String>,
    start: usize,
    end: usize,
}

impl SharedStr {
    /// The bytes from `start` to `end` of `all`; `None` if they are out of range or not at character boundaries.
    pub fn slice(all: &Arc<String>, start: usize, end: usize) -> Option<SharedStr> {
        all.get(start..end)?;
        Some(SharedStr { all: all.clone(), start, end })
    }
}

impl Deref for SharedStr {
    type Target = str;

    fn deref(&self) -> &str {
        &self.all[self.start..self.end]
    }
}

impl From<String> for SharedStr {
    fn from(text: String) -> SharedStr {
        let end = text.len();
        SharedStr { all: Arc::new(text), start: 0, end }
    }
}

impl fmt::Debug for SharedStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_returns_the_given_range() {
        let all = Arc::new("one über two".to_string());
        assert_eq!(&*SharedStr::slice(&all, 4, 9).unwrap(), "über");
        assert!(SharedStr::slice(&all, 5, 9).is_none());
        assert!(SharedStr::slice(&all, 4, 99).is_none());
        assert_eq!(&*SharedStr::from("x".to_string()), "x");
    }
}
