//! The API key of an endpoint, and its masking in texts.

use std::fmt;

/// Shorter keys are not masked. They are placeholders for local servers (`none`, `EMPTY`, `token`), and masking would
/// change texts that contain such a word by chance.
const MIN_MASKED_LENGTH: usize = 8;

/// An API key, or none.
#[derive(Clone, Default)]
pub(super) struct ApiKey(Option<String>);

impl ApiKey {
    /// The key in the value of an environment variable; `None` if it is blank.
    pub(super) fn new(value: &str) -> Option<ApiKey> {
        let key = value.trim();
        (!key.is_empty()).then(|| ApiKey(Some(key.to_string())))
    }

    pub(super) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Replaces the key by `[API key]`, in plain and in JSON-escaped form.
    pub(super) fn mask(&self, text: &str) -> String {
        let Some(key) = self.0.as_deref().filter(|key| key.chars().count() >= MIN_MASKED_LENGTH) else {
            return text.to_string();
        };
        let json = serde_json::Value::from(key).to_string();
        let forms = [key.to_string(), json.trim_matches('"').to_string(), key.replace('/', "\\/")];
        forms.iter().fold(text.to_string(), |text, form| text.replace(form, "[API key]"))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "[API key]" } else { "none" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_masked_and_placeholder_is_not() {
        let key = ApiKey::new(" sk-a/b\"c-123\n").unwrap();
        assert_eq!(key.get(), Some("sk-a/b\"c-123"));
        let text = r#"{"a": "sk-a/b\"c-123"} sk-a/b"c-123; Bearer sk-a/b"c-123"#;
        assert_eq!(key.mask(text), r#"{"a": "[API key]"} [API key]; Bearer [API key]"#);
        assert_eq!(ApiKey::new("secret/key").unwrap().mask(r"no secret\/key here"), "no [API key] here");
        assert_eq!(format!("{key:?}"), "[API key]");
        assert_eq!(ApiKey::new("EMPTY").unwrap().mask("The box is EMPTY."), "The box is EMPTY.");
        assert!(ApiKey::new(" \n").is_none());
    }
}
