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
//! A rationale states what the question needs of the image, then computes. The stated values are the facts of the item.
//! A value follows its name without a space (`red5`), because small models learn to look up values written like this.

use rand::Rng;

use super::example::Example;
use super::scene::{COLOURS, Figure, Mark, bars, digits, shapes_to_count};
use crate::prompts::option_letters;
use crate::records::AnswerType;
use crate::rng::{permutation, uniform_below};

pub(super) fn chart(rng: &mut impl Rng) -> Example {
    let (image, marks) = bars(rng);
    let (mut first, mut second) = two(rng, &marks);
    let sum = uniform_below(rng, 2) == 1;
    if !sum && first.value < second.value {
        std::mem::swap(&mut first, &mut second);
    }
    let (a, b) = (first.value, second.value);
    let (word, sign, result) = if sum { ("sum", '+', a + b) } else { ("difference", '-', a - b) };
    let question = format!("What is the {word} of {} and {}?", first.colour.name, second.colour.name);
    let rationale = format!("{}. {a}{sign}{b}={result}.", list(&[first, second]));
    Example::number(image, question, result).with_rationale(rationale, facts(&[first, second]))
}

pub(super) fn pick(rng: &mut impl Rng) -> Example {
    let (image, marks) = bars(rng);
    let options: Vec<Mark> = permutation(rng, marks.len()).into_iter().take(3).map(|place| marks[place]).collect();
    let lettered = || option_letters().zip(&options);
    let largest = options.iter().map(|mark| mark.value).max().unwrap_or_default();
    let answer = lettered().find(|(_, mark)| mark.value == largest).map_or('A', |(letter, _)| letter);
    let read: Vec<String> = lettered().map(|(letter, mark)| format!("{letter} {}", named(*mark))).collect();
    let example = Example::text(Some(image), "Which bar is largest?".to_string(), answer.to_string());
    let options_text = options.iter().map(|mark| mark.colour.name.to_string()).collect();
    Example { options: options_text, answer_type: AnswerType::Letter, ..example }
        .with_rationale(format!("{}. Largest:{largest}.", read.join(", ")), facts(&options))
}

pub(super) fn math(rng: &mut impl Rng) -> Example {
    let (image, marks) = digits(rng);
    let (first, second) = two(rng, &marks);
    let (a, b) = (first.value, second.value);
    let question = format!("What is the {} digit plus the {} digit?", first.colour.name, second.colour.name);
    let rationale = format!("{}. {a}+{b}={}.", list(&[first, second]), a + b);
    Example::number(image, question, a + b).with_rationale(rationale, facts(&[first, second]))
}

pub(super) fn doc(rng: &mut impl Rng) -> Example {
    let (image, marks) = digits(rng);
    let cell = uniform_below(rng, marks.len());
    let (row, column) = (cell / 2 + 1, cell % 2 + 1);
    let rationale = format!("Row {row}: {}.", row_text(&marks, row));
    let question = format!("What is in row {row}, column {column}?");
    Example::text(Some(image), question, named(marks[cell])).with_rationale(rationale, facts(&[marks[cell]]))
}

pub(super) fn count(rng: &mut impl Rng) -> Example {
    let counted = uniform_below(rng, COLOURS.len());
    let colour = COLOURS[counted].name;
    let (image, figures) = shapes_to_count(rng, counted);
    let matching = figures.iter().filter(|figure| figure.colour.name == colour).count();
    let colours = colour_list(&figures);
    let question = format!("How many {colour} shapes?");
    // The colours are one fact: a rationale with another colour anywhere in the list does not state it.
    Example::number(image, question, matching).with_rationale(format!("{colours}. {colour}:{matching}."), vec![colours])
}

/// `red5`.
pub(super) fn named(mark: Mark) -> String {
    format!("{}{}", mark.colour.name, mark.value)
}

/// `red5, blue3`.
pub(super) fn list(marks: &[Mark]) -> String {
    facts(marks).join(", ")
}

/// `column 1 red5, column 2 blue3` of row 1 or 2.
pub(super) fn row_text(marks: &[Mark], row: usize) -> String {
    let cells = marks.iter().skip(2 * (row - 1)).take(2).enumerate();
    cells.map(|(column, mark)| format!("column {} {}", column + 1, named(*mark))).collect::<Vec<_>>().join(", ")
}

/// `red, green, blue, green`.
pub(super) fn colour_list(figures: &[Figure]) -> String {
    figures.iter().map(|figure| figure.colour.name).collect::<Vec<_>>().join(", ")
}

fn facts(marks: &[Mark]) -> Vec<String> {
    marks.iter().map(|mark| named(*mark)).collect()
}

/// Two different marks.
fn two(rng: &mut impl Rng, marks: &[Mark]) -> (Mark, Mark) {
    let order = permutation(rng, marks.len());
    (marks[order[0]], marks[order[1]])
}
