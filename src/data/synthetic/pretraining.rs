//! Pretraining data for a base model: captions, partial descriptions, and sums without image. Each example is a prompt
//! with its own instruction and a response; as items they use the `bare` template.

use rand::Rng;

use super::example::Example;
use super::scene::{COLOURS, LARGEST, Mark, bars, digits, shapes, shapes_to_count};
use super::tasks::{colour_list, compare, list as list_of, row_text, some};
use crate::rng::uniform_below;

/// A description of everything in the image, in reading order.
pub(super) fn caption(rng: &mut impl Rng) -> Example {
    let kind = uniform_below(rng, 5);
    let (image, response) = if kind < 4 {
        let (image, marks) = if kind < 2 { bars(rng) } else { digits(rng) };
        (image, list_of(&marks))
    } else {
        let (image, figures) = shapes(rng);
        (image, colour_list(&figures))
    };
    Example::text(Some(image), "Describe the image.".to_string(), response + ".")
}

/// A list of the requested parts, in the requested order.
pub(super) fn list(rng: &mut impl Rng) -> Example {
    match uniform_below(rng, 7) {
        kind @ 0..4 => {
            let ((image, marks), what) = if kind < 2 { (bars(rng), "") } else { (digits(rng), "the digits ") };
            let (names, response) = some_of(rng, &marks);
            Example::text(Some(image), format!("List {what}{names}."), response)
        }
        4 | 5 => {
            let (image, marks) = digits(rng);
            let line = uniform_below(rng, 2) + 1;
            let (word, listed) = if uniform_below(rng, 2) == 1 {
                ("row", row_text(&marks, line))
            } else {
                ("column", list_of(&[marks[line - 1], marks[line + 1]]))
            };
            Example::text(Some(image), format!("List {word} {line}."), listed + ".")
        }
        _ => {
            let counted = uniform_below(rng, COLOURS.len());
            let (image, figures) = shapes_to_count(rng, counted);
            Example::text(Some(image), "List the colours.".to_string(), colour_list(&figures) + ".")
        }
    }
}

/// Without image: sums and differences, the order of three values, the number of a colour in a list.
pub(super) fn text(rng: &mut impl Rng) -> Example {
    let (prompt, response) = match uniform_below(rng, 4) {
        0 | 1 => {
            let sums: Vec<String> = (0..3).map(|_| sum(rng)).collect();
            ("Compute.", sums.join(" "))
        }
        2 => {
            let (_, marks) = bars(rng);
            let (options, rank) = (some(rng, &marks, 3), uniform_below(rng, 3));
            let (comparison, letter) = compare(&options, rank);
            ("Compare.", format!("{comparison} {letter}"))
        }
        _ => {
            let counted = uniform_below(rng, COLOURS.len());
            let colour = COLOURS[counted].name;
            let (_, figures) = shapes_to_count(rng, counted);
            let count = figures.iter().filter(|figure| figure.colour.name == colour).count();
            ("Count.", format!("{}. {colour}:{count}.", colour_list(&figures)))
        }
    };
    Example::text(None, prompt.to_string(), response)
}

/// Two or three marks in random order: their names and the list.
fn some_of(rng: &mut impl Rng, marks: &[Mark]) -> (String, String) {
    let count = 2 + uniform_below(rng, 2);
    let chosen = some(rng, marks, count);
    let names: Vec<&str> = chosen.iter().map(|mark| mark.colour.name).collect();
    (names.join(", "), list_of(&chosen) + ".")
}

fn sum(rng: &mut impl Rng) -> String {
    let (a, b) = (uniform_below(rng, LARGEST) + 1, uniform_below(rng, LARGEST) + 1);
    if uniform_below(rng, 2) == 1 {
        return format!("{a}+{b}={}.", a + b);
    }
    let (a, b) = (a.max(b), a.min(b));
    format!("{a}-{b}={}.", a - b)
}
