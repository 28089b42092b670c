//! An error as data that can be sent to another process: its chain of causes, and whether the user's input is wrong.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The messages of an error and its causes, outermost first. Child processes send it to the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorChain {
    #[serde(rename = "causes")]
    pub chain: Vec<String>,
    /// The user's input is wrong: a retry fails until the user changes something.
    #[serde(default)]
    pub input: bool,
}

impl ErrorChain {
    pub fn of(error: &anyhow::Error) -> ErrorChain {
        let marks = error.chain().filter_map(<dyn Error>::downcast_ref::<WrongInput>);
        let mut marks = marks.peekable();
        let input = marks.peek().is_some() && !marks.any(|mark| mark.0.chain().any(is_system_failure));
        ErrorChain { chain: error.chain().map(ToString::to_string).collect(), input }
    }

    /// A system failure with one message.
    pub fn system(cause: impl Into<String>) -> ErrorChain {
        ErrorChain { chain: vec![cause.into()], input: false }
    }
}

/// Whether a read failed because of the disk, the network or the machine, and not because of the file.
fn is_system_failure(cause: &(dyn Error + 'static)) -> bool {
    use std::io::ErrorKind;
    let Some(error) = cause.downcast_ref::<std::io::Error>() else { return false };
    let kinds = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::OutOfMemory,
        ErrorKind::StaleNetworkFileHandle,
        ErrorKind::TimedOut,
        ErrorKind::ResourceBusy,
        ErrorKind::NetworkDown,
        ErrorKind::NetworkUnreachable,
        ErrorKind::HostUnreachable,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::ConnectionRefused,
        ErrorKind::NotConnected,
    ];
    // EIO (5), ENFILE (23) and EMFILE (24) have no `ErrorKind`.
    kinds.contains(&error.kind()) || matches!(error.raw_os_error(), Some(5 | 23 | 24))
}

/// The error of a stage that ends although an endpoint still works on its requests. A later attempt continues. The text says what
/// it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached(pub String);

impl Detached {
    /// The mark in the chain of an error.
    pub fn find(error: &anyhow::Error) -> Option<&Detached> {
        let in_chain = || error.chain().find_map(<dyn Error>::downcast_ref::<Detached>);
        error.downcast_ref::<Detached>().or_else(in_chain)
    }
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Detached {}

/// Marks an error as one of the user's input. Displays the same text as the error.
struct WrongInput(anyhow::Error);

/// Marks an error as one of the user's input; for `map_err`.
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
    fn mark_survives_context_and_adds_no_text() {
        let error = wrong_input(anyhow!("line 3").context("not JSON")).context("cannot read `a.jsonl`");
        let causes = ErrorChain::of(&error);
        assert_eq!(causes.chain, ["cannot read `a.jsonl`", "not JSON", "line 3"]);
        assert!(causes.input);
        assert!(!ErrorChain::of(&anyhow!("disk full")).input);
    }

    #[test]
    fn detaching_is_found_below_and_in_context() {
        let detached = || Detached("batch 7 with 3 requests".to_string());
        let errors = [anyhow!(detached()).context("item 1").context("teach"), anyhow!("later").context(detached())];
        assert_eq!(errors.each_ref().map(Detached::find), [Some(&detached()), Some(&detached())]);
        assert_eq!(Detached::find(&anyhow!("batch 7 with 3 requests")), None);
    }

    #[test]
    fn disk_failure_is_never_a_user_error() {
        let marked = |code: i32| {
            let error = || anyhow!(std::io::Error::from_raw_os_error(code));
            let marked = [wrong_input(error()), wrong_input(error().context("cannot read `a`"))];
            marked.map(|error| ErrorChain::of(&error.context("stage")).input)
        };
        // No such file, no permission, a folder.
        assert_eq!([2, 13, 21].map(marked), [[true; 2]; 3]);
        // Input/output error, no space left, too many open files.
        assert_eq!([5, 28, 24].map(marked), [[false; 2]; 3]);
    }
}
