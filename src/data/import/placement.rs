//! Where the images of a row stand in the user's texts.

use super::rows;
use crate::image_keys::ImageKeys;
use crate::image_placeholders::{self, PLACEHOLDER};

/// Where images stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// No image, or one before the first text; texts are literal.
    Leading,
    /// At the placeholders of the texts.
    Placed,
}

impl Placement {
    pub(super) fn keys(self, mut members: Vec<String>) -> ImageKeys {
        match self {
            Placement::Placed => ImageKeys::Placed(members),
            Placement::Leading => members.pop().map_or(ImageKeys::None, ImageKeys::Leading),
        }
    }
}

/// Places `count` images in texts with placeholders. One image stands before the first text, unless a later one has
/// its placeholder; several stand at their placeholders, or all before the first text if there are none.
pub(super) fn place(count: usize, mut texts: Vec<String>) -> Result<(Placement, Vec<String>), String> {
    let later: usize = texts.iter().skip(1).map(|text| image_placeholders::count(text)).sum();
    if count == 0 || count == 1 && later == 0 {
        let texts = texts.iter().map(|text| rows::parse_question(text, count == 1)).collect::<Result<_, _>>()?;
        return Ok((Placement::Leading, texts));
    }
    let placeholders: usize = texts.iter().map(|text| image_placeholders::count(text)).sum();
    for text in &mut texts {
        *text = text.trim().to_string();
    }
    if placeholders == 0
        && let Some(first) = texts.first_mut()
    {
        first.insert_str(0, &PLACEHOLDER.repeat(count));
    } else if placeholders != count {
        return Err(format!(
            "the texts have {placeholders} `{PLACEHOLDER}`, and the row has {count} images: write one where each image \
             stands, or none to put all images before the first text"
        ));
    }
    Ok((Placement::Placed, texts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(count: usize, texts: &[&str]) -> Result<(Placement, Vec<String>), String> {
        place(count, texts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn images_stand_at_their_placeholders_or_before_the_text() {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(placed(0, &["Is \\<image> a tag?"]), Ok((Placement::Leading, texts(&["Is <image> a tag?"]))));
        assert_eq!(
            placed(1, &["What?\n<image>", "And \\<image>?"]),
            Ok((Placement::Leading, texts(&["What?", "And <image>?"])))
        );
        assert_eq!(placed(1, &["Hello", "<image>What?"]), Ok((Placement::Placed, texts(&["Hello", "<image>What?"]))));
        assert_eq!(placed(2, &[" Same?"]), Ok((Placement::Placed, texts(&["<image><image>Same?"]))));
        assert_eq!(
            placed(2, &["<image> A", "<image> \\<image>"]),
            Ok((Placement::Placed, texts(&["<image> A", "<image> \\<image>"])))
        );
        assert_eq!(
            placed(3, &["<image> A"]).unwrap_err(),
            "the texts have 1 `<image>`, and the row has 3 images: write one where each image stands, or none to put all \
             images before the first text"
        );
        assert!(placed(1, &["<image><image>"]).unwrap_err().starts_with("the question has 2 image placeholders"));
        assert!(
            placed(0, &["a", "<image>"]).unwrap_err().starts_with("the question has `<image>`, but the row has no")
        );
    }
}
