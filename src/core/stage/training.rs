//! What a stage states about the model that its output comes from. Training budgets are compared with it.

/// Where the model of a stage's output comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelOrigin {
    /// From the input with this role. The stage trains this model further, samples from it or evaluates it.
    Input(&'static str),
    /// The stage initializes its parameters.
    Initialized,
    /// It was trained elsewhere. The text says what it is, for example `an imported checkpoint`.
    Elsewhere(&'static str),
}

/// How long a stage trains its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Training {
    pub length: TrainingLength,
    /// Rows per step.
    pub batch: u64,
}

/// The key that limits a training, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrainingLength {
    /// Passes over the data: the number of steps depends on the data.
    Epochs(u64),
    Steps(u64),
    Tokens(u64),
}
