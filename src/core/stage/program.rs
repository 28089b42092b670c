//! A user's program that implements a stage, as its table describes it.

/// The command of a program and what it gets. It runs in an empty folder that contains only its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments. No element is empty.
    pub argv: Vec<String>,
    /// Environment variables with values from the table.
    pub env: Vec<(String, String)>,
    /// Environment variables whose values come from the user's environment. Each name is also an input
    /// ([`super::InputSource::Environment`]).
    pub inherited_env: Vec<String>,
    /// Environment variables whose values come from the user's environment and are not inputs: tokens, caches, search
    /// paths. A name that ends with `*` stands for all variables that begin with the text before it.
    pub passed_env: Vec<String>,
    /// The working directory, relative to the sandbox; empty for the sandbox itself.
    pub working_dir: String,
    /// Pairs of an input's role and its name in the sandbox.
    pub input_names: Vec<(String, String)>,
}
