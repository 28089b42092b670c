//! How the work of a stage grows with the numbers of its table. The time of a stage is predicted from an earlier one with it.

/// The work of a stage relative to other stages of its kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// The product of the numbers that multiply its work, such as steps and rows per step.
    pub amount: f64,
    /// Whether the work is also proportional to the rows of its inputs.
    pub rows: bool,
}

impl Work {
    /// Proportional to the rows of the inputs only.
    pub fn of_rows(_number: Numbers<'_>) -> Work {
        Work { amount: 1.0, rows: true }
    }

    /// The same for all stages whose models have one size.
    pub fn constant(_number: Numbers<'_>) -> Work {
        Work { amount: 1.0, rows: false }
    }

    /// A training: its length in steps, tokens or epochs.
    pub fn training(number: Numbers<'_>) -> Work {
        let batch = number("batch").unwrap_or(1.0);
        match (number("steps"), number("tokens"), number("epochs")) {
            (Some(steps), ..) => Work { amount: steps * batch, rows: false },
            (None, Some(tokens), _) => Work { amount: tokens, rows: false },
            (None, None, epochs) => Work { amount: epochs.unwrap_or(1.0), rows: true },
        }
    }

    /// Responses to questions: a number per question, to all questions or to the first `take`.
    pub fn sampling(number: Numbers<'_>) -> Work {
        let samples = number("samples").unwrap_or(1.0);
        match number("take") {
            Some(take) => Work { amount: samples * take, rows: false },
            None => Work { amount: samples, rows: true },
        }
    }
}

/// The number at a dotted key of the table.
pub type Numbers<'a> = &'a dyn Fn(&str) -> Option<f64>;
