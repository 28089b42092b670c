//! The synthetic questions, each with answer and rationale.
//!
//! | dataset | image | question | answer |
//! |---|---|---|---|
//! | chart | bars | sum or difference of two bars | number |
//! | pick | bars | which of three is largest | letter |
//! | math | digits | one digit plus another | number |
//! | doc | digits | the content of a cell | text |
//! | count | shapes | how many of a colour | number |
//!
//! Rationales have two styles, like those of a teacher: careful ones list the values before computing, terse ones state
//! only the result. A value follows its name without a space (`red5`), because small models learn to look up values
//! written like this.

use rand::Rng;

use super::example::Example;
use super::scene::{COLOURS, Figure, Mark, bars, digits, shapes_to_count};
use crate::prompts::option_letters;
use crate::records::AnswerType;
use crate::rng::{permutation, uniform, uniform_below};

/// Shares of terse rationales.
const TERSE: f64 = 0.3;
const TERSE_DIFFERENCE: f64 = 0.6;
const TERSE_PICK: f64 = 0.55;

pub(super) fn chart(rng: &mut impl Rng) -> Example {
    let (image, marks) = bars(rng);
    let (mut first, mut second) = two(rng, &marks);
    let sum = uniform_below(rng, 2) == 1;
    if !sum && first.value < second.value {
        std::mem::swap(&mut first, &mut second);
    }
    let (a, b) = (first.value, second.value);
    let (word, sign, result, terse) =
        if sum { ("sum", '+', a + b, TERSE) } else { ("difference", '-', a - b, TERSE_DIFFERENCE) };
    let question = format!("What is the {word} of {} and {}?", first.colour.name, second.colour.name);
    let rationale = (format!("{}, {}. ", named(first), named(second)), format!("{a}{sign}{b}={result}."));
    Example::number(image, question, choose_style(rng, rationale, terse), result)
}

pub(super) fn pick(rng: &mut impl Rng) -> Example {
    let (image, marks) = bars(rng);
    let options: Vec<Mark> = permutation(rng, marks.len()).into_iter().take(3).map(|place| marks[place]).collect();
    let lettered = || option_letters().zip(&options);
    let largest = options.iter().map(|mark| mark.value).max().unwrap_or_default();
    let answer = lettered().find(|(_, mark)| mark.value == largest).map_or('A', |(letter, _)| letter);
    let read: Vec<String> = lettered().map(|(letter, mark)| format!("{letter} {}", named(*mark))).collect();
    let rationale = (format!("{}. ", read.join(", ")), format!("Largest:{largest}."));
    Example {
        image: Some(image),
        question: "Which bar is largest?".to_string(),
        options: options.iter().map(|mark| mark.colour.name.to_string()).collect(),
        answer_type: AnswerType::Letter,
        answer: answer.to_string(),
        rationale: Some(choose_style(rng, rationale, TERSE_PICK)),
    }
}

pub(super) fn math(rng: &mut impl Rng) -> Example {
    let (image, marks) = digits(rng);
    let (first, second) = two(rng, &marks);
    let (a, b) = (first.value, second.value);
    let question = format!("What is the {} digit plus the {} digit?", first.colour.name, second.colour.name);
    let rationale = (format!("{}, {}. ", named(first), named(second)), format!("{a}+{b}={}.", a + b));
    Example::number(image, question, choose_style(rng, rationale, TERSE), a + b)
}

pub(super) fn doc(rng: &mut impl Rng) -> Example {
    let (image, marks) = digits(rng);
    let cell = uniform_below(rng, marks.len());
    let (row, column) = (cell / 2 + 1, cell % 2 + 1);
    let careful = format!("Row {row}: {}.", row_text(&marks, row));
    let terse = format!("Row {row}, column {column}.");
    let rationale = if uniform(rng) < TERSE { terse } else { careful };
    let question = format!("What is in row {row}, column {column}?");
    Example { answer_type: AnswerType::Text, ..Example::text(Some(image), question, named(marks[cell])) }
        .with_rationale(rationale)
}

pub(super) fn count(rng: &mut impl Rng) -> Example {
    let counted = uniform_below(rng, COLOURS.len());
    let colour = COLOURS[counted].name;
    let (image, figures) = shapes_to_count(rng, counted);
    let matching = shape_names(&figures, colour);
    let rationale = (format!("{colour} {}. ", matching.join(", ")), format!("Total:{}.", matching.len()));
    let question = format!("How many {colour} shapes?");
    Example::number(image, question, choose_style(rng, rationale, TERSE), matching.len())
}

/// `red5`.
pub(super) fn named(mark: Mark) -> String {
    format!("{}{}", mark.colour.name, mark.value)
}

/// `column 1 red5, column 2 blue3` of row 1 or 2.
pub(super) fn row_text(marks: &[Mark], row: usize) -> String {
    let cells = marks.iter().skip(2 * (row - 1)).take(2).enumerate();
    cells.map(|(column, mark)| format!("column {} {}", column + 1, named(*mark))).collect::<Vec<_>>().join(", ")
}

/// Names of the shapes of one colour, in order.
pub(super) fn shape_names(figures: &[Figure], colour: &str) -> Vec<&'static str> {
    figures.iter().filter(|figure| figure.colour.name == colour).map(|figure| figure.shape).collect()
}

/// Two different marks.
fn two(rng: &mut impl Rng, marks: &[Mark]) -> (Mark, Mark) {
    let order = permutation(rng, marks.len());
    (marks[order[0]], marks[order[1]])
}

/// The listed values and the result, or with probability `terse` only the result.
fn choose_style(rng: &mut impl Rng, (reading, result): (String, String), terse: f64) -> String {
    if uniform(rng) < terse { result } else { reading + &result }
}
