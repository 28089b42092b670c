//! Pretraining data for a base model: captions, partial descriptions, and sums without image. Each example is a prompt
//! with its own instruction and a response; as items they use the `bare` template.

use rand::Rng;

use super::example::Example;
use super::scene::{COLOURS, LARGEST, Mark, bars, digits, shapes, shapes_to_count};
use super::tasks::{colour_list, list as list_of, named, row_text};
use crate::prompts::option_letters;
use crate::rng::{permutation, uniform_below};

/// A description of everything in the image, in reading order.
pub(super) fn caption(rng: &mut impl Rng) -> Example {
    let kind = uniform_below(rng, 3);
    let (image, response) = if kind < 2 {
        let (image, marks) = if kind == 0 { bars(rng) } else { digits(rng) };
        (image, list_of(&marks) + ".")
    } else {
        let (image, figures) = shapes(rng);
        let named = figures.iter().map(|figure| format!("{} {}", figure.colour.name, figure.shape));
        (image, named.collect::<Vec<_>>().join(", ") + ".")
    };
    Example::text(Some(image), "Describe the image.".to_string(), response)
}

/// A list of the requested parts, in the requested order.
pub(super) fn list(rng: &mut impl Rng) -> Example {
    match uniform_below(rng, 4) {
        kind @ (0 | 1) => {
            let ((image, marks), what) = if kind == 0 { (bars(rng), "") } else { (digits(rng), "the digits ") };
            let (names, response) = some_of(rng, &marks);
            Example::text(Some(image), format!("List {what}{names}."), response)
        }
        2 => {
            let (image, marks) = digits(rng);
            let row = uniform_below(rng, 2) + 1;
            Example::text(Some(image), format!("List row {row}."), row_text(&marks, row) + ".")
        }
        _ => {
            let counted = uniform_below(rng, COLOURS.len());
            let (image, figures) = shapes_to_count(rng, counted);
            Example::text(Some(image), "List the colours.".to_string(), colour_list(&figures) + ".")
        }
    }
}

/// Without image: sums and differences (half of the examples), the largest of three values, the length of a list.
pub(super) fn text(rng: &mut impl Rng) -> Example {
    let (prompt, response) = match uniform_below(rng, 4) {
        0 | 1 => {
            let sums: Vec<String> = (0..3).map(|_| sum(rng)).collect();
            ("Compute.", sums.join(" "))
        }
        2 => {
            let colours = permutation(rng, COLOURS.len());
            let values = permutation(rng, LARGEST);
            let marks: Vec<Mark> = colours
                .into_iter()
                .zip(values)
                .take(3)
                .map(|(colour, value)| Mark { colour: COLOURS[colour], value: value + 1 })
                .collect();
            let largest = marks.iter().map(|mark| mark.value).max().unwrap_or_default();
            let lettered: Vec<(char, &Mark)> = option_letters().zip(&marks).collect();
            let answer = lettered.iter().find(|(_, mark)| mark.value == largest).map_or('A', |(letter, _)| *letter);
            let read: Vec<String> =
                lettered.iter().map(|(letter, mark)| format!("{letter} {}", named(**mark))).collect();
            ("Compare.", format!("{}. Largest:{largest}. {answer}", read.join(", ")))
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
    let order = permutation(rng, marks.len());
    let count = 2 + uniform_below(rng, 2);
    let chosen: Vec<Mark> = order.into_iter().take(count).map(|place| marks[place]).collect();
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
