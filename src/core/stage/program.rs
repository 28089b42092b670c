//! A program of the user's that does a stage's job, as its table describes it. Starts nothing.

/// What to start, and what it is to find. Runs in a clean folder that holds its inputs by name and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments; none is empty.
    pub argv: Vec<String>,
    /// Variables with a value of the table's own.
    pub env: Vec<(String, String)>,
    /// Variables that keep the value they have outside: the names, each of which is also an input
    /// ([`super::InputSource::Environment`]).
    pub passed: Vec<String>,
    /// The folder, below the clean one, in which it starts; empty for the clean one itself.
    pub dir: String,
    /// Role of an input to the name under which it is seen.
    pub visible: Vec<(String, String)>,
}
