//! Token sequences with their images, as one batch for a forward pass.
//!
//! Rows follow each other without padding; for devices that need one length they are padded to the longest. The last token
//! of a row is only a target, not an input. An image that several rows share is encoded once.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail};

use super::anyres::{PackedFeature, pack_image_features};
use super::architecture::{Architecture, Vision, VisionFamily};
use super::pixel_values::{PixelSource, PixelValues};
use ablate_core::base::Seed;

/// A sequence before it is batched.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    pub tokens: &'a [u32],
    /// Whether token i is a target; as long as `tokens`.
    pub loss: &'a [bool],
    /// Keys of the images whose features replace the image tokens, in order.
    pub images: &'a [String],
}

/// The source of the embedding at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmbeddingSource {
    /// A row of the token embedding.
    Token(u32),
    /// A row of the projected image features.
    Feature(usize),
    /// The feature that ends a row of patches.
    Newline,
}

/// Sequences of a batch that were put together first. Its dropout does not depend on the other parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchPart {
    /// Positions, padding included.
    pub(crate) tokens: usize,
    /// Positions whose logits are needed.
    pub(crate) needed: usize,
    pub(crate) tiles: usize,
}

/// The input of [`Model::hidden`](super::model::Model::hidden).
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Positions of each sequence.
    pub(crate) rows: Vec<Range<usize>>,
    pub(crate) sources: Vec<EmbeddingSource>,
    /// The number of tiles of all distinct images.
    pub(crate) tiles: usize,
    /// The number of their features.
    features: usize,
    /// Their patches in raster order, with pixels in the order of the model's family: (tiles x patches, values).
    pub(crate) patches: Vec<f32>,
    /// Positions whose logits are needed, because the next token is a target.
    pub(crate) logit_positions: Vec<usize>,
    /// The next tokens of these positions.
    pub(crate) targets: Vec<u32>,
    /// The row of each target.
    pub(crate) target_rows: Vec<usize>,
    /// In order. One, unless batches were [joined](Batch::join).
    pub(crate) parts: Vec<BatchPart>,
    /// The seed of each part's dropout; empty outside training.
    pub(crate) dropout: Vec<Seed>,
    unpadded_tokens: usize,
}

impl Batch {
    pub fn new(model: &Architecture, sequences: &[Sequence], padded: bool, images: &dyn PixelSource) -> Result<Batch> {
        let longest = sequences.iter().map(|sequence| sequence.tokens.len().saturating_sub(1)).max().unwrap_or(0);
        let mut batch = Batch::default();
        let mut by_image: BTreeMap<&str, Vec<EmbeddingSource>> = BTreeMap::new();
        for (row, sequence) in sequences.iter().enumerate() {
            check_sequence(model, sequence, images)?;
            let Some(inputs) = sequence.tokens.len().checked_sub(1).filter(|&inputs| inputs > 0) else {
                bail!("a sequence of {} token(s) has no token to predict", sequence.tokens.len());
            };
            let mut features: Vec<EmbeddingSource> = Vec::new();
            if let Some(vision) = &model.vision {
                for key in sequence.images {
                    if !by_image.contains_key(key.as_str()) {
                        let pixels = images.pixel_values(key)?;
                        let sources = image_sources(vision, key, &pixels, batch.tiles)?;
                        batch.tiles += patchify(vision, key, &pixels, &mut batch.patches)?;
                        by_image.insert(key, sources);
                    }
                    features.extend_from_slice(&by_image[key.as_str()]);
                }
            }
            let start = batch.sources.len();
            push_sources(model, &sequence.tokens[..inputs], &features, &mut batch.sources);
            let targets = sequence.tokens.iter().zip(sequence.loss).enumerate().skip(1);
            for (i, (&token, _)) in targets.filter(|(_, (_, loss))| **loss) {
                batch.logit_positions.push(start + i - 1);
                batch.targets.push(token);
                batch.target_rows.push(row);
            }
            batch.unpadded_tokens += inputs;
            if padded {
                batch.sources.resize(start + longest, EmbeddingSource::Token(0));
            }
            batch.rows.push(start..batch.sources.len());
        }
        batch.features = model.vision.as_ref().map_or(0, |vision| batch.tiles * vision.tile_tokens());
        batch.parts.push(BatchPart { tokens: batch.tokens(), needed: batch.targets(), tiles: batch.tiles });
        Ok(batch)
    }

    /// Batches in one, as its parts. An image of two batches is encoded twice, as it is when they are computed one after the other.
    #[cfg(feature = "cuda")]
    pub(crate) fn join(batches: &[Batch]) -> Batch {
        let mut whole = Batch::default();
        for batch in batches {
            let (tokens, rows, features) = (whole.sources.len(), whole.rows.len(), whole.features);
            let moved = |source: &EmbeddingSource| match *source {
                EmbeddingSource::Feature(row) => EmbeddingSource::Feature(row + features),
                source => source,
            };
            whole.rows.extend(batch.rows.iter().map(|row| row.start + tokens..row.end + tokens));
            whole.sources.extend(batch.sources.iter().map(moved));
            whole.tiles += batch.tiles;
            whole.features += batch.features;
            whole.patches.extend_from_slice(&batch.patches);
            whole.logit_positions.extend(batch.logit_positions.iter().map(|position| position + tokens));
            whole.targets.extend_from_slice(&batch.targets);
            whole.target_rows.extend(batch.target_rows.iter().map(|row| row + rows));
            whole.parts.extend_from_slice(&batch.parts);
            whole.dropout.extend_from_slice(&batch.dropout);
            whole.unpadded_tokens += batch.unpadded_tokens;
        }
        whole
    }

    /// The number of positions, padding included.
    pub fn tokens(&self) -> usize {
        self.sources.len()
    }

    /// The number of positions, without padding.
    pub fn unpadded_tokens(&self) -> usize {
        self.unpadded_tokens
    }

    /// The row of each target.
    pub fn target_rows(&self) -> &[usize] {
        &self.target_rows
    }

    /// The number of targets.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Sums one value per target by row, in order.
    pub fn sum_by_row(&self, values: &[f32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.rows.len()];
        for (&row, &value) in self.target_rows.iter().zip(values) {
            sums[row] += f64::from(value);
        }
        sums
    }
}

/// Refuses a sequence that does not fit the model.
pub(crate) fn check_sequence(model: &Architecture, sequence: &Sequence, images: &dyn PixelSource) -> Result<()> {
    let Sequence { tokens, loss, images: keys } = sequence;
    if tokens.len() != loss.len() {
        bail!("a sequence of {} tokens with {} loss marks", tokens.len(), loss.len());
    }
    let longest = model.decoder.max_positions;
    if tokens.len() > longest {
        bail!("a sequence of {} tokens: the model's `max_positions` is {longest}", tokens.len());
    }
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= model.vocab) {
        bail!("token {token} lies outside the model's vocabulary of {}", model.vocab);
    }
    let Some(vision) = &model.vision else {
        return match keys.first() {
            None => Ok(()),
            Some(key) => bail!("image `{key}`: the model is a language model, which takes no image"),
        };
    };
    let found = tokens.iter().filter(|&&token| token == vision.image_token).count();
    let mut expected = 0;
    for key in *keys {
        expected += pack_image_features(vision, images.shape(key)?).with_context(|| format!("image `{key}`"))?.len();
    }
    if found != expected {
        bail!("a sequence with {found} image tokens where its {} image(s) have {expected}", keys.len());
    }
    Ok(())
}

/// The embedding sources of an image whose first tile is tile `first` of a batch, in the order of the sequence.
pub(crate) fn image_sources(
    vision: &Vision,
    key: &str,
    pixels: &PixelValues,
    first: usize,
) -> Result<Vec<EmbeddingSource>> {
    let features = pack_image_features(vision, pixels.shape).with_context(|| format!("image `{key}`"))?;
    let start = first * vision.tile_tokens();
    let source = |feature| match feature {
        PackedFeature::Feature(feature) => EmbeddingSource::Feature(start + feature),
        PackedFeature::Newline => EmbeddingSource::Newline,
    };
    Ok(features.into_iter().map(source).collect())
}

/// Appends the embedding sources of a sequence. Those of its images replace the image tokens, in order.
pub(crate) fn push_sources(
    model: &Architecture,
    tokens: &[u32],
    features: &[EmbeddingSource],
    sources: &mut Vec<EmbeddingSource>,
) {
    let image_token = model.vision.as_ref().map(|vision| vision.image_token);
    let mut features = features.iter();
    for &token in tokens {
        let source = if Some(token) == image_token { features.next() } else { None };
        sources.push(source.copied().unwrap_or(EmbeddingSource::Token(token)));
    }
}

/// Cuts an image's tiles into patches and appends these. Returns the number of tiles.
pub(crate) fn patchify(vision: &Vision, key: &str, pixels: &PixelValues, patches: &mut Vec<f32>) -> Result<usize> {
    let (size, patch, side) = (vision.image_size, vision.patch_size, vision.side());
    let values = vision.tile_values();
    let (rows, columns) = pixels.shape.grid.unwrap_or((0, 0));
    let expected = 1 + rows as usize * columns as usize;
    if pixels.values.len() != expected * values {
        bail!("image `{key}` has {} pixel values, not {expected} x {size} x {size} x 3", pixels.values.len());
    }
    if pixels.values.iter().any(|value| !value.is_finite()) {
        bail!("image `{key}` has a pixel value that is not finite");
    }
    for tile in pixels.values.chunks_exact(values) {
        for (top, left) in (0..side).flat_map(|row| (0..side).map(move |column| (row * patch, column * patch))) {
            match vision.family {
                // Height, width, channel.
                VisionFamily::Plain => {
                    for y in top..top + patch {
                        patches.extend_from_slice(&tile[(y * size + left) * 3..][..patch * 3]);
                    }
                }
                // Channel, height, width.
                VisionFamily::Clip | VisionFamily::Siglip => {
                    for (plane, y) in (0..3).flat_map(|plane| (top..top + patch).map(move |y| (plane, y))) {
                        patches.extend_from_slice(&tile[(plane * size + y) * size + left..][..patch]);
                    }
                }
            }
        }
    }
    Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::pixel_values::ImageShape;

    fn model() -> Architecture {
        let config = ModelConfig { image_size: 4, patch_size: 2, ..ModelConfig::default() };
        Architecture::from_config(&config, 10, 1)
    }

    /// Every image holds the values 0, 1, 2, ...
    struct Ramp;

    impl PixelSource for Ramp {
        fn shape(&self, _: &str) -> Result<ImageShape> {
            Ok(ImageShape { width: 4, height: 4, grid: None })
        }

        fn pixel_values(&self, key: &str) -> Result<PixelValues> {
            Ok(PixelValues { shape: self.shape(key)?, values: (0..4 * 4 * 3).map(|i| i as f32).collect() })
        }
    }

    fn build(sequences: &[Sequence], padded: bool) -> Result<Batch> {
        Batch::new(&model(), sequences, padded, &Ramp)
    }

    #[test]
    fn rows_follow_each_other_and_share_an_image() {
        let with_image = [2, 1, 1, 1, 1, 5, 6, 7];
        let loss = [false, false, false, false, false, false, true, true];
        let image = Sequence { tokens: &with_image, loss: &loss, images: &["a".to_string()] };
        let text = Sequence { tokens: &[2, 5, 3], loss: &[false, false, true], images: &[] };
        let batch = build(&[image, text, image], false).unwrap();
        assert_eq!(batch.rows, [0..7, 7..9, 9..16]);
        assert_eq!(batch.tiles, 1);
        assert_eq!(batch.sources[0], EmbeddingSource::Token(2));
        assert_eq!(batch.sources[1..4], [0, 1, 2].map(EmbeddingSource::Feature));
        assert_eq!(batch.logit_positions, [5, 6, 8, 14, 15]);
        assert_eq!(batch.targets, [6, 7, 3, 6, 7]);
        assert_eq!(batch.sum_by_row(&[1.0, 2.0, 4.0, 8.0, 16.0]), [3.0, 4.0, 24.0]);
        // The second patch of a 4 x 4 image starts at pixel (0, 2) with value 6; its second row at pixel (1, 2).
        assert_eq!(batch.patches[12..24], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0]);
    }

    #[test]
    fn several_images_are_placed_in_order_and_encoded_once() {
        let tokens = [2, 1, 1, 1, 1, 5, 1, 1, 1, 1, 1, 1, 1, 1, 6];
        let loss: Vec<bool> = tokens.iter().map(|&token| token == 6).collect();
        let images = ["a", "b", "a"].map(String::from);
        let batch = build(&[Sequence { tokens: &tokens, loss: &loss, images: &images }], false).unwrap();
        assert_eq!(batch.tiles, 2);
        let [before, after] = [2, 5].map(EmbeddingSource::Token);
        let first = [0, 1, 2, 3].map(EmbeddingSource::Feature);
        assert_eq!(batch.sources[..6], [&[before], &first[..], &[after]].concat());
        assert_eq!(batch.sources[6..], [4, 5, 6, 7, 0, 1, 2, 3].map(EmbeddingSource::Feature));
    }

    #[test]
    fn padded_rows_have_one_length() {
        let long = Sequence { tokens: &[2, 3, 4, 5], loss: &[true; 4], images: &[] };
        let short = Sequence { tokens: &[2, 3], loss: &[true; 2], images: &[] };
        let batch = build(&[short, long], true).unwrap();
        assert_eq!(batch.rows, [0..3, 3..6]);
        assert_eq!(batch.logit_positions, [0, 3, 4, 5]);
    }

    #[test]
    fn sequence_that_does_not_fit_is_refused() {
        let error = |tokens: &[u32], images: &[&str]| {
            let loss = vec![true; tokens.len()];
            let images: Vec<String> = images.iter().map(ToString::to_string).collect();
            build(&[Sequence { tokens, loss: &loss, images: &images }], false).unwrap_err().to_string()
        };
        assert_eq!(error(&[2, 10], &[]), "token 10 lies outside the model's vocabulary of 10");
        let expected = "a sequence with 2 image tokens where its 1 image(s) have 4";
        assert_eq!(error(&[2, 1, 1, 3], &["a"]), expected);
        let expected = "a sequence with 4 image tokens where its 2 image(s) have 8";
        assert_eq!(error(&[2, 1, 1, 1, 1, 3], &["a", "b"]), expected);
        assert_eq!(error(&[2, 1], &[]), "a sequence with 1 image tokens where its 0 image(s) have 0");
        assert_eq!(error(&[2], &[]), "a sequence of 1 token(s) has no token to predict");
        assert_eq!(error(&[2; 513], &[]), "a sequence of 513 tokens: the model's `max_positions` is 512");
    }
}
