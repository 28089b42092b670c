//! The key `image` of `eval`: what a model receives of an item's image. Without the image, an evaluation measures what
//! can be answered from the question alone.

use std::borrow::Cow;
use std::collections::BTreeSet;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use ablate_data::image_keys::ImageKeys;
use ablate_data::image_placeholders;
use ablate_data::images::ImageLoader;
use ablate_data::records::Item;
use ablate_nn::{ImageShape, PixelSource, PixelValues};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ImageInput {
    /// The image.
    #[default]
    Given,
    /// No image: the prompt has no image tokens.
    None,
    /// An image of the same size in one colour: the mean colour of the benchmark's images.
    Blank,
}

impl ImageInput {
    /// The images and the prompt that the model receives.
    pub(super) fn apply<'a>(self, images: &'a ImageKeys, prompt: &'a str) -> (&'a ImageKeys, Cow<'a, str>) {
        match (self, images) {
            (ImageInput::None, ImageKeys::Placed(_)) => {
                (&ImageKeys::None, image_placeholders::without_images(prompt).into())
            }
            (ImageInput::None, _) => (&ImageKeys::None, prompt.into()),
            (ImageInput::Given | ImageInput::Blank, _) => (images, prompt.into()),
        }
    }
}

/// Images of the sizes of other images, in one colour.
pub(super) struct BlankImages<'a> {
    images: &'a ImageLoader,
    colour: Rgb<u8>,
}

impl<'a> BlankImages<'a> {
    /// The colour is the mean of the images of all `items`. Every image has the same weight and counts once.
    pub(super) fn new(images: &'a ImageLoader, items: &[Item]) -> Result<BlankImages<'a>> {
        let keys: Vec<&str> = items
            .iter()
            .flat_map(|item| item.images.keys())
            .map(String::as_str)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let means: Vec<[f64; 3]> = keys.par_iter().map(|key| mean_colour(images, key)).collect::<Result<_>>()?;
        let mean = |channel: usize| means.iter().map(|mean| mean[channel]).sum::<f64>() / means.len().max(1) as f64;
        Ok(BlankImages { images, colour: Rgb(std::array::from_fn(|channel| mean(channel).round() as u8)) })
    }
}

impl PixelSource for BlankImages<'_> {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        self.images.shape(key)
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        let shape = self.shape(key)?;
        let blank = RgbImage::from_pixel(shape.width, shape.height, self.colour);
        let values = self.images.processor().process(&blank).with_context(|| format!("the image `{key}`"))?;
        Ok(PixelValues { shape, values: values.into() })
    }
}

/// The mean of red, green and blue over the pixels of an image.
fn mean_colour(images: &ImageLoader, key: &str) -> Result<[f64; 3]> {
    let bytes = images.encoded(key)?;
    let image = images.processor().decode(&bytes).with_context(|| format!("the image `{key}`"))?;
    let mut sums = [0u64; 3];
    for pixel in image.pixels() {
        for (sum, value) in sums.iter_mut().zip(pixel.0) {
            *sum += u64::from(value);
        }
    }
    let pixels = (u64::from(image.width()) * u64::from(image.height())).max(1) as f64;
    Ok(sums.map(|sum| sum as f64 / pixels))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use ablate_data::images::ImageProcessor;
    use ablate_data::records::AnswerType;

    #[test]
    fn without_images_a_prompt_has_no_placeholders() {
        let placed = ImageKeys::Placed(vec!["a".into(), "b".into()]);
        let text = "<image> or <image>? No \\<image>.";
        assert_eq!(ImageInput::None.apply(&placed, text), (&ImageKeys::None, " or ? No <image>.".into()));
        assert_eq!(ImageInput::Given.apply(&placed, text), (&placed, text.into()));
        let leading = ImageKeys::Leading("a".into());
        assert_eq!(ImageInput::None.apply(&leading, "<image>?"), (&ImageKeys::None, "<image>?".into()));
    }

    #[test]
    fn a_blank_image_has_the_size_of_the_image_and_the_mean_colour_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, width: u32, colour: [u8; 3]| -> PathBuf {
            let path = folder.path().join(name);
            RgbImage::from_pixel(width, 4, Rgb(colour)).save(&path).unwrap();
            path
        };
        let (red, blue) = (save("red.png", 4, [200, 0, 0]), save("blue.png", 8, [0, 0, 100]));
        let files = [("red", red.as_path()), ("blue", blue.as_path())];
        let images = ImageLoader::from_files(&files, true, ImageProcessor::Square { size: 4 }).unwrap();
        let item = |image: &str| Item {
            id: image.into(),
            dataset: "toy".into(),
            images: ImageKeys::Leading(image.into()),
            question: "?".into(),
            options: Vec::new(),
            answer_type: AnswerType::Text,
            answers: vec!["a".into()],
            rationale: None,
            rationale_answer: None,
            facts: Vec::new(),
        };
        let blank = BlankImages::new(&images, &[item("red"), item("blue"), item("red")]).unwrap();
        assert_eq!(blank.colour, Rgb([100, 0, 50]));
        let wide = blank.pixel_values("blue").unwrap();
        assert_eq!((wide.shape.width, wide.shape.height), (8, 4));
        // The image fills two of four rows; the others are the padding of every image of this size.
        let rows: Vec<f32> = wide.values.chunks(12).map(|row| row.iter().sum::<f32>() * 255.0 / 4.0).collect();
        assert_eq!(rows.iter().map(|sum| sum.round() as i32).collect::<Vec<_>>(), [0, 150, 150, 0]);
        assert_eq!(blank.pixel_values("red").unwrap().values[..3], [100.0 / 255.0, 0.0, 50.0 / 255.0]);
        assert!(blank.pixel_values("green").is_err());
    }
}
