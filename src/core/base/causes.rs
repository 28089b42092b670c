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
        let marks = error.chain().filter_map(<dyn Error>::downcast_ref::<WrongInput>);
        let mut marks = marks.peekable();
        let input = marks.peek().is_some() && !marks.any(|mark| mark.0.chain().any(is_of_the_world));
        Causes { chain: error.chain().map(ToString::to_string).collect(), input }
    }

    /// A cause of the world, in one sentence.
    pub fn world(cause: impl Into<String>) -> Causes {
        Causes { chain: vec![cause.into()], input: false }
    }
}

/// Whether reading failed for a reason that lies in no file: a disk, a network or a machine that is at its end.
fn is_of_the_world(cause: &(dyn Error + 'static)) -> bool {
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
    // EIO, and too many open files in the system or in the process: they have no kind.
    kinds.contains(&error.kind()) || matches!(error.raw_os_error(), Some(5 | 23 | 24))
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

    #[test]
    fn a_disk_that_fails_is_of_the_world_whatever_was_read_from_it() {
        let marked = |code: i32| {
            let error = anyhow::Error::new(std::io::Error::from_raw_os_error(code));
            [
                wrong_input(error),
                wrong_input(anyhow!(std::io::Error::from_raw_os_error(code)).context("cannot read `a`")),
            ]
            .map(|error| Causes::of(&error.context("stage")).input)
        };
        // No such file, no permission, a folder.
        assert_eq!([2, 13, 21].map(marked), [[true; 2]; 3]);
        // Input/output error, no space left, too many open files.
        assert_eq!([5, 28, 24].map(marked), [[false; 2]; 3]);
    }
}
