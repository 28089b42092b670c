//! Synthetic images: bars, digits and shapes on black, with noise.
//!
//! An image has 32 x 32 pixels and is made for patches of 8 x 8: every bar is inside one column of patches, and every
//! glyph inside one patch, so that a small model can learn to read them.

use image::{Rgb, RgbImage};
use rand::Rng;

use crate::rng::{approx_normal, permutation, uniform_below};

/// Side of an image in pixels.
const SIZE: u32 = 32;
/// Standard deviation of the noise of every value, relative to full brightness.
const NOISE: f64 = 0.2;
/// Largest value of bars and digits; the smallest is 1.
pub(super) const LARGEST: usize = 6;

/// Shapes of an image.
const SHAPES_PER_IMAGE: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colour {
    pub(super) name: &'static str,
    rgb: [f64; 3],
}

pub(super) const COLOURS: [Colour; 4] = [
    Colour { name: "red", rgb: [1.0, 0.1, 0.1] },
    Colour { name: "green", rgb: [0.1, 0.9, 0.1] },
    Colour { name: "blue", rgb: [0.2, 0.3, 1.0] },
    Colour { name: "yellow", rgb: [1.0, 0.9, 0.1] },
];

/// Shapes by name, 5 x 5.
pub(super) const SHAPES: [(&str, [&str; 5]); 4] = [
    ("square", ["11111", "11111", "11111", "11111", "11111"]),
    ("circle", ["01110", "10001", "10001", "10001", "01110"]),
    ("triangle", ["00100", "00100", "01110", "01110", "11111"]),
    ("cross", ["10001", "01010", "00100", "01010", "10001"]),
];

/// Digits 1 to 6, 3 x 5; every column is drawn twice.
const DIGITS: [[&str; 5]; LARGEST] = [
    ["010", "110", "010", "010", "111"],
    ["111", "001", "111", "100", "111"],
    ["111", "001", "011", "001", "111"],
    ["101", "101", "111", "001", "001"],
    ["111", "100", "111", "001", "111"],
    ["111", "100", "111", "101", "111"],
];

/// A coloured value: a bar's height or a digit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mark {
    pub(super) colour: Colour,
    pub(super) value: usize,
}

/// A coloured shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) colour: Colour,
    pub(super) shape: &'static str,
}

/// Four bars from left to right, with different colours and different values.
pub(super) fn bars(rng: &mut impl Rng) -> (RgbImage, Vec<Mark>) {
    let colours = permutation(rng, COLOURS.len());
    let values = permutation(rng, LARGEST);
    let marks: Vec<Mark> = colours
        .into_iter()
        .zip(values)
        .map(|(colour, value)| Mark { colour: COLOURS[colour], value: value + 1 })
        .collect();
    let mut canvas = Canvas::new();
    for (place, mark) in marks.iter().enumerate() {
        let height = 5 * mark.value + uniform_below(rng, 2);
        let left = 8 * place + 1 + uniform_below(rng, 2);
        for y in SIZE as usize - height..SIZE as usize {
            for x in left..left + 5 {
                canvas.paint(x, y, mark.colour);
            }
        }
    }
    (canvas.finish(rng), marks)
}

/// A digit in each quadrant, row by row, with different colours and independent values.
pub(super) fn digits(rng: &mut impl Rng) -> (RgbImage, Vec<Mark>) {
    let marks: Vec<Mark> = permutation(rng, COLOURS.len())
        .into_iter()
        .map(|colour| Mark { colour: COLOURS[colour], value: uniform_below(rng, LARGEST) + 1 })
        .collect();
    let mut canvas = Canvas::new();
    for (quadrant, mark) in marks.iter().enumerate() {
        let corner = (16 * (quadrant % 2) + 9, 16 * (quadrant / 2) + 9);
        canvas.glyph(corner, DIGITS[mark.value - 1], 2, mark.colour);
    }
    (canvas.finish(rng), marks)
}

/// Shapes in two rows of three, row by row, with independent colours.
pub(super) fn shapes(rng: &mut impl Rng) -> (RgbImage, Vec<Figure>) {
    let colours = (0..SHAPES_PER_IMAGE).map(|_| uniform_below(rng, COLOURS.len())).collect();
    figures(rng, colours)
}

/// As [`shapes`]; the number of shapes of colour `counted` is uniform from 1 to 6.
pub(super) fn shapes_to_count(rng: &mut impl Rng, counted: usize) -> (RgbImage, Vec<Figure>) {
    let matching = uniform_below(rng, SHAPES_PER_IMAGE) + 1;
    let others: Vec<usize> = (0..COLOURS.len()).filter(|&colour| colour != counted).collect();
    let other = |rng: &mut _| others[uniform_below(rng, others.len())];
    let unordered: Vec<usize> =
        (0..SHAPES_PER_IMAGE).map(|place| if place < matching { counted } else { other(rng) }).collect();
    let colours = permutation(rng, SHAPES_PER_IMAGE).into_iter().map(|place| unordered[place]).collect();
    figures(rng, colours)
}

fn figures(rng: &mut impl Rng, colours: Vec<usize>) -> (RgbImage, Vec<Figure>) {
    let mut canvas = Canvas::new();
    let mut figures = Vec::new();
    for (place, colour) in colours.into_iter().enumerate() {
        let (shape, bitmap) = SHAPES[uniform_below(rng, SHAPES.len())];
        canvas.glyph((8 * (place % 3) + 9, 16 * (place / 3) + 9), bitmap, 1, COLOURS[colour]);
        figures.push(Figure { colour: COLOURS[colour], shape });
    }
    (canvas.finish(rng), figures)
}

/// Brightness from 0 to 1, before noise.
struct Canvas(Vec<[f64; 3]>);

impl Canvas {
    fn new() -> Canvas {
        Canvas(vec![[0.0; 3]; (SIZE * SIZE) as usize])
    }

    fn paint(&mut self, x: usize, y: usize, colour: Colour) {
        self.0[y * SIZE as usize + x] = colour.rgb;
    }

    /// Draws a bitmap at its left and top pixel; every column is drawn `width` times.
    fn glyph(&mut self, (left, top): (usize, usize), rows: [&str; 5], width: usize, colour: Colour) {
        for (y, row) in rows.iter().enumerate() {
            for (x, _) in row.bytes().enumerate().filter(|(_, ink)| *ink == b'1') {
                for copy in 0..width {
                    self.paint(left + x * width + copy, top + y, colour);
                }
            }
        }
    }

    /// Adds noise and rounds to bytes.
    fn finish(&self, rng: &mut impl Rng) -> RgbImage {
        RgbImage::from_fn(SIZE, SIZE, |x, y| {
            let pixel = self.0[(y * SIZE + x) as usize];
            Rgb(pixel.map(|value| (255.0 * (value + NOISE * approx_normal(rng))).round().clamp(0.0, 255.0) as u8))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_core::base::Seed;

    /// The image as text: the first letter of the nearest colour, `.` for black. Noise changes some pixels.
    fn drawn(image: &RgbImage) -> String {
        let distance = |pixel: &Rgb<u8>, rgb: [f64; 3]| -> f64 {
            pixel.0.iter().zip(rgb).map(|(&value, full)| (f64::from(value) / 255.0 - full).powi(2)).sum()
        };
        let letter = |pixel: &Rgb<u8>| {
            let dark = (".", [0.0; 3]);
            let known = COLOURS.iter().map(|colour| (&colour.name[..1], colour.rgb)).chain([dark]);
            known.min_by(|one, other| distance(pixel, one.1).total_cmp(&distance(pixel, other.1))).unwrap().0
        };
        let row = |y| (0..SIZE).map(|x| letter(image.get_pixel(x, y))).collect::<String>();
        (0..SIZE).map(|y| row(y) + "\n").collect()
    }

    #[test]
    fn bars_have_the_height_of_their_value() {
        for seed in 0..20 {
            let (image, marks) = bars(&mut Seed(seed).stream("bars"));
            let text = drawn(&image);
            for (place, mark) in marks.iter().enumerate() {
                let letter = &mark.colour.name[..1];
                let column = |line: &str| line[8 * place..8 * place + 8].matches(letter).count();
                let rows: Vec<usize> = text.lines().map(column).filter(|&count| count > 2).collect();
                assert!((5 * mark.value..=5 * mark.value + 1).contains(&rows.len()), "{mark:?}\n{text}");
                assert!(rows.iter().all(|&count| (3..=6).contains(&count)), "{text}");
            }
        }
    }

    #[test]
    fn digits_are_inside_one_patch() {
        let (image, marks) = digits(&mut Seed(3).stream("digits"));
        let names: Vec<String> = marks.iter().map(|mark| format!("{}{}", mark.colour.name, mark.value)).collect();
        expect_test::expect![[r#"
            red4 green4 blue3 yellow4
            ................................
            ................................
            ................................
            ...........................b....
            ................................
            ................................
            .g..............................
            ................................
            ................................
            .........rr..rr..........gg..gg.
            .........rr..rr.......r..gg..gg.
            .........rryrrr..........gggggg.
            .............rr..............gg.
            .............rr..............gg.
            ................................
            ................................
            ................................
            ................................
            .g..............................
            ................................
            ................................
            ......r.........................
            .........................g......
            ................................
            ................g...............
            .........bbbbbb..........yy..yy.
            .............bb..........yy..yg.
            rg....g....bbbb..........yyyyyy.
            .............bb..............yy.
            .........bbbbbb..............yy.
            ..............................g.
            ................................
        "#]]
        .assert_eq(&format!("{}\n{}", names.join(" "), drawn(&image)));
    }

    #[test]
    fn counted_shapes_are_uniform() {
        let mut counts = [0; 7];
        for seed in 0..600 {
            let (_, figures) = shapes_to_count(&mut Seed(seed).stream("count"), 2);
            counts[figures.iter().filter(|figure| figure.colour.name == "blue").count()] += 1;
        }
        assert_eq!(counts[0], 0);
        // 100 expected of each, standard deviation 9.
        assert!(counts[1..].iter().all(|&count: &i32| (count - 100).abs() < 40), "{counts:?}");
    }
}
