//! Why something failed, as data: the chain of causes, and whether it is the user's input that is wrong.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// An error's chain, outermost first. Crosses the process border.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Causes {
    #[serde(rename = "causes")]
    pub chain: Vec<String>,
    /// The input is wrong: the same command can only fail again until the user has changed something.
    #[serde(default)]
    pub input: bool,
}

impl Causes {
    pub fn of(error: &anyhow::Error) -> Causes {
        let input = error.chain().any(<dyn Error>::is::<WrongInput>);
        Causes { chain: error.chain().map(ToString::to_string).collect(), input }
    }

    /// A cause of the world, in one sentence.
    pub fn world(cause: impl Into<String>) -> Causes {
        Causes { chain: vec![cause.into()], input: false }
    }
}

/// Marks an error as one of the user's input. Says what the error says.
struct WrongInput(anyhow::Error);

/// For `map_err`: marks an error as one of the user's input.
pub fn wrong_input(error: anyhow::Error) -> anyhow::Error {
    anyhow::Error::new(WrongInput(error))
}

impl fmt::Display for WrongInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for WrongInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for WrongInput {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.chain().nth(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn the_mark_survives_context_and_adds_no_words() {
        let error = wrong_input(anyhow!("line 3").context("not JSON")).context("cannot read `a.jsonl`");
        let causes = Causes::of(&error);
        assert_eq!(causes.chain, ["cannot read `a.jsonl`", "not JSON", "line 3"]);
        assert!(causes.input);
        assert!(!Causes::of(&anyhow!("disk full")).input);
    }
}
