//! The API key, which no text that leaves this program may hold.

use std::fmt;

/// Keys with fewer characters (`none`, `EMPTY`, `token`) are words that local servers are given, not secrets: masking
/// them would change texts that only happen to hold such a word.
const SHORTEST: usize = 8;

/// An API key, or none.
#[derive(Clone, Default)]
pub(super) struct Secret(Option<String>);

impl Secret {
    /// The key in the value of a variable; `None` for a blank value.
    pub(super) fn new(value: &str) -> Option<Secret> {
        let key = value.trim();
        (!key.is_empty()).then(|| Secret(Some(key.to_string())))
    }

    pub(super) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The text with `[API key]` wherever the key stands in it, as it is or as JSON writes it.
    pub(super) fn mask(&self, text: &str) -> String {
        let Some(key) = self.0.as_deref().filter(|key| key.chars().count() >= SHORTEST) else {
            return text.to_string();
        };
        let json = serde_json::Value::from(key).to_string();
        let forms = [key.to_string(), json.trim_matches('"').to_string(), key.replace('/', "\\/")];
        forms.iter().fold(text.to_string(), |text, form| text.replace(form, "[API key]"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "[API key]" } else { "none" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_masked_in_every_form_and_a_word_is_not() {
        let key = Secret::new(" sk-a/b\"c-123\n").unwrap();
        assert_eq!(key.get(), Some("sk-a/b\"c-123"));
        let text = r#"{"a": "sk-a/b\"c-123"} sk-a/b"c-123; Bearer sk-a/b"c-123"#;
        assert_eq!(key.mask(text), r#"{"a": "[API key]"} [API key]; Bearer [API key]"#);
        assert_eq!(Secret::new("secret/key").unwrap().mask(r"no secret\/key here"), "no [API key] here");
        assert_eq!(format!("{key:?}"), "[API key]");
        assert_eq!(Secret::new("EMPTY").unwrap().mask("The box is EMPTY."), "The box is EMPTY.");
        assert!(Secret::new(" \n").is_none());
    }
}
