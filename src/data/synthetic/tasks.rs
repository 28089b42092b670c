//! The synthetic questions, each with answer and rationale.
//!
//! | dataset | image | question | answer |
//! |---|---|---|---|
//! | chart | bars | sum of three bars, or difference of two | number |
//! | pick | bars | which of three is largest, second or smallest | letter |
//! | math | digits | one digit times another plus a third | text, because a number would also match its neighbours |
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

/// Names of the ranks of three values, from the largest.
const RANKS: [&str; 3] = ["largest", "second", "smallest"];

pub(super) fn chart(rng: &mut impl Rng) -> Example {
    let (image, marks) = bars(rng);
    let mut marks = some(rng, &marks, 3);
    let (question, steps, result) = if uniform_below(rng, 2) == 1 {
        let [a, b, c] = [marks[0], marks[1], marks[2]].map(|mark| mark.value);
        let names = [marks[0], marks[1], marks[2]].map(|mark| mark.colour.name);
        let question = format!("What is the sum of {}, {} and {}?", names[0], names[1], names[2]);
        (question, format!("{a}+{b}={}. {}+{c}={}.", a + b, a + b, a + b + c), a + b + c)
    } else {
        marks.truncate(2);
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.value));
        let [a, b] = [marks[0], marks[1]].map(|mark| mark.value);
        let question = format!("What is the difference of {} and {}?", marks[0].colour.name, marks[1].colour.name);
        (question, format!("{a}-{b}={}.", a - b), a - b)
    };
    Example::number(image, question, result).with_rationale(format!("{}. {steps}", list(&marks)), facts(&marks))
}

pub(super) fn pick(rng: &mut impl Rng) -> Example {
    let (image, marks) = bars(rng);
    let (options, rank) = (some(rng, &marks, 3), uniform_below(rng, 3));
    let (rationale, answer) = compare(&options, rank);
    let example = Example::text(Some(image), format!("Which bar is {}?", RANKS[rank]), answer.to_string());
    let names = options.iter().map(|mark| mark.colour.name.to_string()).collect();
    Example { options: names, answer_type: AnswerType::Letter, ..example }.with_rationale(rationale, facts(&options))
}

/// `red6 A, blue3 B, green1 C. 6 A>3 B>1 C. second:3 B.` and the letter of the option with this rank, here B.
pub(super) fn compare(options: &[Mark], rank: usize) -> (String, char) {
    let mut lettered: Vec<(&Mark, char)> = options.iter().zip(option_letters()).collect();
    let read: Vec<String> = lettered.iter().map(|(mark, letter)| format!("{} {letter}", named(**mark))).collect();
    lettered.sort_by_key(|(mark, _)| std::cmp::Reverse(mark.value));
    let order: Vec<String> = lettered.iter().map(|(mark, letter)| format!("{} {letter}", mark.value)).collect();
    (format!("{}. {}. {}:{}.", read.join(", "), order.join(">"), RANKS[rank], order[rank]), lettered[rank].1)
}

pub(super) fn math(rng: &mut impl Rng) -> Example {
    let (image, marks) = digits(rng);
    let marks = some(rng, &marks, 3);
    let [a, b, c] = [marks[0], marks[1], marks[2]].map(|mark| mark.value);
    let names = [marks[0], marks[1], marks[2]].map(|mark| mark.colour.name);
    let question = format!("What is {} times {} plus {}?", names[0], names[1], names[2]);
    let result = a * b + c;
    let rationale = format!("{}. {a}*{b}={}. {}+{c}={result}.", list(&marks), a * b, a * b);
    Example::text(Some(image), question, result.to_string()).with_rationale(rationale, facts(&marks))
}

pub(super) fn doc(rng: &mut impl Rng) -> Example {
    let (image, marks) = digits(rng);
    let cell = uniform_below(rng, marks.len());
    let (row, column) = (cell / 2 + 1, cell % 2 + 1);
    let rationale = format!("Row {row}: {}. Column {column}.", row_text(&marks, row));
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

/// `red5, blue3`: row 1 or 2.
pub(super) fn row_text(marks: &[Mark], row: usize) -> String {
    list(&marks[2 * (row - 1)..2 * row])
}

/// `red, green, blue, green`.
pub(super) fn colour_list(figures: &[Figure]) -> String {
    figures.iter().map(|figure| figure.colour.name).collect::<Vec<_>>().join(", ")
}

fn facts(marks: &[Mark]) -> Vec<String> {
    marks.iter().map(|mark| named(*mark)).collect()
}

/// Different marks in random order.
pub(super) fn some(rng: &mut impl Rng, marks: &[Mark], count: usize) -> Vec<Mark> {
    permutation(rng, marks.len()).into_iter().take(count).map(|place| marks[place]).collect()
}
