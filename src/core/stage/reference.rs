//! References to outputs of other stages.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A reference to an output of another stage: `stage`, `stage:output`, or with pinned axis values,
/// `stage@axis=value,other=value:output`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    pub stage: String,
    /// Axis name to the label of the value that the referenced instance must have.
    pub pins: BTreeMap<String, String>,
    pub output: Option<String>,
}

impl TryFrom<String> for Reference {
    type Error = String;

    fn try_from(text: String) -> Result<Reference, String> {
        let malformed = || format!("`{text}` is not a reference: write `stage`, `stage:output` or `stage@axis=value`");
        let (head, output) = match text.rsplit_once(':') {
            Some((head, output)) => (head, Some(output.to_string())),
            None => (text.as_str(), None),
        };
        let (stage, pins) = match head.split_once('@') {
            Some((stage, pins)) => (stage, pins),
            None => (head, ""),
        };
        let mut pinned = BTreeMap::new();
        for pin in pins.split(',').filter(|pin| !pin.is_empty()) {
            let (axis, value) = pin.split_once('=').ok_or_else(malformed)?;
            pinned.insert(axis.trim().to_string(), value.trim().to_string());
        }
        if stage.is_empty() || output.as_deref() == Some("") || (head.contains('@') && pinned.is_empty()) {
            return Err(malformed());
        }
        Ok(Reference { stage: stage.to_string(), pins: pinned, output })
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stage)?;
        for (index, (axis, value)) in self.pins.iter().enumerate() {
            write!(f, "{}{axis}={value}", if index == 0 { '@' } else { ',' })?;
        }
        match &self.output {
            Some(output) => write!(f, ":{output}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_survive_parse_and_display() {
        for text in ["sft", "sft:curve", "sft@mix=both,seed=1", "sft@mix=both:model"] {
            assert_eq!(Reference::try_from(text.to_string()).unwrap().to_string(), text);
        }
        assert!(Reference::try_from("@mix=1".to_string()).is_err());
        assert!(Reference::try_from("sft@mix".to_string()).is_err());
    }
}
