//! How the work of a stage grows with the numbers of its table. The time of a stage is predicted from an earlier one with it.

/// The work of a stage, to compare it with other stages of its kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// The same for all stages whose models have one size.
    Constant,
    /// So much per row of the inputs: epochs, or samples per question.
    Rows(f64),
    /// A number of examples, whatever the inputs are: steps times rows per step, or samples of the first questions.
    Examples(f64),
    /// A number of tokens to train on.
    Tokens(f64),
}

/// The number at a dotted key of the table.
pub type Numbers<'a> = &'a dyn Fn(&str) -> Option<f64>;

impl Work {
    /// Proportional to the rows of the inputs.
    pub fn of_rows(_number: Numbers<'_>) -> Work {
        Work::Rows(1.0)
    }

    pub fn constant(_number: Numbers<'_>) -> Work {
        Work::Constant
    }

    /// A training: its length in steps, tokens or epochs.
    pub fn training(number: Numbers<'_>) -> Work {
        let batch = number("batch").unwrap_or(1.0);
        match (number("steps"), number("tokens"), number("epochs")) {
            (Some(steps), ..) => Work::Examples(steps * batch),
            (None, Some(tokens), _) => Work::Tokens(tokens),
            (None, None, epochs) => Work::Rows(epochs.unwrap_or(1.0)),
        }
    }

    /// Responses to questions: a number per question, to all questions or to the first `take`.
    pub fn sampling(number: Numbers<'_>) -> Work {
        let samples = number("samples").unwrap_or(1.0);
        number("take").map_or(Work::Rows(samples), |take| Work::Examples(samples * take))
    }
}
