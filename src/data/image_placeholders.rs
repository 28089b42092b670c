//! The placeholder `<image>` in a user's turn, which stands for an image of the record
//! ([`ImageKeys::Placed`](super::image_keys::ImageKeys)). A backslash before it makes it the literal text, so `\<image>`
//! is `<image>` and `\\<image>` is `\<image>`.

use std::borrow::Cow;

/// The placeholder of an image in a text.
pub const PLACEHOLDER: &str = "<image>";

/// A part of a user's turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A literal text; never empty.
    Text(Cow<'a, str>),
    /// The next image of the record.
    Image,
}

/// The parts of a text with placeholders.
pub fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    // The literal text since the last image.
    let mut literal: Cow<'_, str> = Cow::Borrowed("");
    for (index, piece) in text.split(PLACEHOLDER).enumerate() {
        if index > 0 {
            if literal.ends_with('\\') {
                let text = literal.to_mut();
                text.pop();
                text.push_str(PLACEHOLDER);
            } else {
                push(&mut parts, std::mem::take(&mut literal));
                parts.push(Part::Image);
            }
        }
        if literal.is_empty() { literal = Cow::Borrowed(piece) } else { literal.to_mut().push_str(piece) }
    }
    push(&mut parts, literal);
    parts
}

fn push<'a>(parts: &mut Vec<Part<'a>>, text: Cow<'a, str>) {
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
}

/// The text of which `parts` are the parts. An image cannot follow a backslash directly, which would make the placeholder
/// literal: a line break is written between them.
pub fn join<'a>(parts: impl IntoIterator<Item = Part<'a>>) -> String {
    let (mut joined, mut literal) = (String::new(), String::new());
    for part in parts {
        match part {
            Part::Text(text) => literal.push_str(&text),
            Part::Image => {
                joined.push_str(&escape(&literal));
                if literal.ends_with('\\') {
                    joined.push('\n');
                }
                literal.clear();
                joined.push_str(PLACEHOLDER);
            }
        }
    }
    joined + &escape(&literal)
}

/// A literal text as a text with placeholders.
pub fn escape(text: &str) -> String {
    text.replace(PLACEHOLDER, "\\<image>")
}

/// The number of images in a text.
pub fn count(text: &str) -> usize {
    parts(text).iter().filter(|part| **part == Part::Image).count()
}

/// The literal text without its images.
pub fn without_images(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    for part in parts(text) {
        if let Part::Text(text) = part {
            literal.push_str(&text);
        }
    }
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let show = |part| match part {
            Part::Text(text) => text.into_owned(),
            Part::Image => "IMAGE".to_string(),
        };
        parts(text).into_iter().map(show).collect()
    }

    #[test]
    fn a_text_is_split_at_its_images() {
        assert_eq!(shown(""), [""; 0]);
        assert_eq!(shown("a"), ["a"]);
        assert_eq!(shown("<image>"), ["IMAGE"]);
        assert_eq!(shown("<image><image>\nWhich?"), ["IMAGE", "IMAGE", "\nWhich?"]);
        assert_eq!(shown("a <image> b <image> c"), ["a ", "IMAGE", " b ", "IMAGE", " c"]);
        assert_eq!(shown("a \\<image> tag, <image>"), ["a <image> tag, ", "IMAGE"]);
        assert_eq!(shown("\\\\<image>"), ["\\<image>"]);
        assert_eq!(shown("<IMAGE> <image 1>"), ["<IMAGE> <image 1>"]);
        assert_eq!(count("<image> \\<image> <image>"), 2);
        assert_eq!(without_images("<image>a\\<image><image>b"), "a<image>b");
    }

    #[test]
    fn joined_parts_are_the_parts() {
        for parts in [
            vec![Part::Text("a\\<image>".into()), Part::Image, Part::Image, Part::Text("<image>".into())],
            vec![Part::Image, Part::Text("\\".into())],
            vec![],
        ] {
            assert_eq!(super::parts(&join(parts.clone())), parts);
        }
        assert_eq!(join([Part::Text("a\\".into()), Part::Image]), "a\\\n<image>");
        assert_eq!(join([Part::Text("<ima".into()), Part::Text("ge>".into())]), "\\<image>");
    }

    #[test]
    fn every_text_can_be_escaped_and_every_list_of_parts_joined() {
        const PIECES: [&str; 6] = ["<image>", "\\", "<ima", "ge>", "a", "\n"];
        let mut texts = vec![String::new()];
        for _ in 0..5 {
            let longer = texts.iter().flat_map(|text| PIECES.map(|piece| text.clone() + piece));
            let longer: Vec<String> = longer.collect();
            texts.extend(longer);
            texts.sort();
            texts.dedup();
        }
        for text in &texts {
            let literal = if text.is_empty() { vec![] } else { vec![Part::Text(text.into())] };
            assert_eq!(parts(&escape(text)), literal, "{text:?}");
            let split = parts(text);
            assert_eq!(parts(&join(split.clone())), split, "{text:?}");
            assert_eq!(count(text), split.iter().filter(|part| **part == Part::Image).count());
        }
    }
}
