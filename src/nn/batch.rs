//! Sequences of tokens with their images, laid out for one forward pass. Knows no tensor and no file.
//!
//! Rows lie one after the other without padding, or, for devices that want one length, padded to the longest. The
//! last token of a row is only a target, so it is no input. Images that several rows share are there once.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail};

use super::anyres::{PackedFeature, pack_image_features};
use super::architecture::{Architecture, Vision, VisionFamily};
use super::ops::Source;
use super::pixel_values::{PixelSource, PixelValues};
use ablate_core::base::Seed;

/// A sequence as the caller has it.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    pub tokens: &'a [u32],
    /// Whether token i is a target; as long as `tokens`.
    pub loss: &'a [bool],
    /// Key of the image whose features replace the image tokens, in order.
    pub image: Option<&'a str>,
}

/// A batch, ready for [`Model::hidden`](super::model::Model::hidden).
#[derive(Clone, Debug)]
pub struct Batch {
    /// Positions of each sequence.
    pub(crate) rows: Vec<Range<usize>>,
    /// What lies at each position.
    pub(crate) sources: Vec<Source>,
    /// Tiles of the distinct images.
    pub(crate) tiles: usize,
    /// Their patches, raster order within a tile, pixels in the order of the model's family within a patch:
    /// (tiles x patches, values).
    pub(crate) patches: Vec<f32>,
    /// Positions whose next token is a target.
    pub(crate) selected: Vec<usize>,
    /// Those next tokens.
    pub(crate) targets: Vec<u32>,
    /// The sequence that each target belongs to.
    pub(crate) owners: Vec<usize>,
    /// Where what is dropped in training is drawn from; none where nothing is.
    pub(crate) dropout: Option<Seed>,
    /// Positions that are not padding.
    used: usize,
}

impl Batch {
    /// Lays sequences out for a model.
    pub fn new(model: &Architecture, sequences: &[Sequence], padded: bool, images: &dyn PixelSource) -> Result<Batch> {
        let longest = sequences.iter().map(|sequence| sequence.tokens.len().saturating_sub(1)).max().unwrap_or(0);
        let mut batch = Batch {
            rows: Vec::with_capacity(sequences.len()),
            sources: Vec::new(),
            tiles: 0,
            patches: Vec::new(),
            selected: Vec::new(),
            targets: Vec::new(),
            owners: Vec::new(),
            dropout: None,
            used: 0,
        };
        let mut seen: BTreeMap<&str, Vec<Source>> = BTreeMap::new();
        for (owner, sequence) in sequences.iter().enumerate() {
            check(model, sequence, images)?;
            let Some(inputs) = sequence.tokens.len().checked_sub(1).filter(|&inputs| inputs > 0) else {
                bail!("a sequence of {} token(s) has nothing to predict", sequence.tokens.len());
            };
            let features: &[Source] = match (sequence.image, &model.vision) {
                (Some(key), Some(vision)) => {
                    if !seen.contains_key(key) {
                        let pixels = images.pixel_values(key)?;
                        let features = features(vision, key, &pixels, batch.tiles)?;
                        batch.tiles += patchify(vision, key, &pixels, &mut batch.patches)?;
                        seen.insert(key, features);
                    }
                    &seen[key]
                }
                _ => &[],
            };
            let start = batch.sources.len();
            place(model, &sequence.tokens[..inputs], features, &mut batch.sources);
            let targets = sequence.tokens.iter().zip(sequence.loss).enumerate().skip(1);
            for (i, (&token, _)) in targets.filter(|(_, (_, loss))| **loss) {
                batch.selected.push(start + i - 1);
                batch.targets.push(token);
                batch.owners.push(owner);
            }
            batch.used += inputs;
            if padded {
                batch.sources.resize(start + longest, Source::Token(0));
            }
            batch.rows.push(start..batch.sources.len());
        }
        Ok(batch)
    }

    /// Positions in all, padding included.
    pub fn tokens(&self) -> usize {
        self.sources.len()
    }

    /// Positions that hold a token or an image feature of a sequence, padding left out.
    pub fn sources_used(&self) -> usize {
        self.used
    }

    /// The sequence that each target belongs to.
    pub fn owners(&self) -> &[usize] {
        &self.owners
    }

    /// Targets in all.
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Sums numbers that belong to the targets by sequence, in order.
    pub fn sum_by_sequence(&self, values: &[f32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.rows.len()];
        for (&owner, &value) in self.owners.iter().zip(values) {
            sums[owner] += f64::from(value);
        }
        sums
    }
}

/// Refuses what would index outside the model.
pub(crate) fn check(model: &Architecture, sequence: &Sequence, images: &dyn PixelSource) -> Result<()> {
    let Sequence { tokens, loss, image } = sequence;
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
        return match image {
            None => Ok(()),
            Some(key) => bail!("image `{key}`: the model is a language model, which takes no image"),
        };
    };
    let found = tokens.iter().filter(|&&token| token == vision.image_token).count();
    let expected = match image {
        Some(key) => pack_image_features(vision, images.shape(key)?).with_context(|| format!("image `{key}`"))?.len(),
        None => 0,
    };
    if found != expected {
        bail!("a sequence with {found} image tokens where its image has {expected}");
    }
    Ok(())
}

/// The features of an image whose first tile is the `first`-th of a batch, in the order in which they are read.
pub(crate) fn features(vision: &Vision, key: &str, pixels: &PixelValues, first: usize) -> Result<Vec<Source>> {
    let features = pack_image_features(vision, pixels.shape).with_context(|| format!("image `{key}`"))?;
    let start = first * vision.tile_tokens();
    let source = |feature| match feature {
        PackedFeature::Feature(feature) => Source::Feature(start + feature),
        PackedFeature::Newline => Source::Newline,
    };
    Ok(features.into_iter().map(source).collect())
}

/// What lies at each position of a sequence: its image's features stand at the image tokens, in order.
pub(crate) fn place(model: &Architecture, tokens: &[u32], features: &[Source], sources: &mut Vec<Source>) {
    let image_token = model.vision.as_ref().map(|vision| vision.image_token);
    let mut features = features.iter();
    for &token in tokens {
        let feature = if Some(token) == image_token { features.next() } else { None };
        sources.push(feature.copied().unwrap_or(Source::Token(token)));
    }
}

/// Cuts an image's tiles into patches and appends them; how many tiles there were.
pub(crate) fn patchify(vision: &Vision, key: &str, pixels: &PixelValues, patches: &mut Vec<f32>) -> Result<usize> {
    let (size, patch, side) = (vision.image_size, vision.patch_size, vision.side());
    let values = vision.tile_values();
    let (rows, columns) = pixels.shape.grid.unwrap_or((0, 0));
    let expected = 1 + rows as usize * columns as usize;
    if pixels.values.len() != expected * values {
        bail!("image `{key}` came as {} numbers, not {expected} x {size} x {size} x 3", pixels.values.len());
    }
    if pixels.values.iter().any(|value| !value.is_finite()) {
        bail!("image `{key}` has a pixel that is not a number");
    }
    for tile in pixels.values.chunks_exact(values) {
        for (top, left) in (0..side).flat_map(|row| (0..side).map(move |column| (row * patch, column * patch))) {
            match vision.family {
                // Rows of RGB pixels.
                VisionFamily::Plain => {
                    for y in top..top + patch {
                        patches.extend_from_slice(&tile[(y * size + left) * 3..][..patch * 3]);
                    }
                }
                // A plane per channel.
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
        Architecture::of(&config, 10, 1)
    }

    /// Every image holds its numbers in order.
    struct Ramp;

    impl PixelSource for Ramp {
        fn shape(&self, _: &str) -> Result<ImageShape> {
            Ok(ImageShape { width: 4, height: 4, grid: None })
        }

        fn pixel_values(&self, key: &str) -> Result<PixelValues> {
            Ok(PixelValues { shape: self.shape(key)?, values: (0..4 * 4 * 3).map(|i| i as f32).collect() })
        }
    }

    fn lay_out(sequences: &[Sequence], padded: bool) -> Result<Batch> {
        Batch::new(&model(), sequences, padded, &Ramp)
    }

    #[test]
    fn rows_lie_one_after_the_other_and_share_their_image() {
        let with_image = [2, 1, 1, 1, 1, 5, 6, 7];
        let loss = [false, false, false, false, false, false, true, true];
        let image = Sequence { tokens: &with_image, loss: &loss, image: Some("a") };
        let text = Sequence { tokens: &[2, 5, 3], loss: &[false, false, true], image: None };
        let batch = lay_out(&[image, text, image], false).unwrap();
        assert_eq!(batch.rows, [0..7, 7..9, 9..16]);
        assert_eq!(batch.tiles, 1);
        assert_eq!(batch.sources[..4], [Source::Token(2), Source::Feature(0), Source::Feature(1), Source::Feature(2)]);
        assert_eq!(batch.selected, [5, 6, 8, 14, 15]);
        assert_eq!(batch.targets, [6, 7, 3, 6, 7]);
        assert_eq!(batch.sum_by_sequence(&[1.0, 2.0, 4.0, 8.0, 16.0]), [3.0, 4.0, 24.0]);
        // The second patch of a 4 x 4 image starts at pixel (0, 2): number 6; its second row at pixel (1, 2).
        assert_eq!(batch.patches[12..24], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0]);
    }

    #[test]
    fn a_padded_batch_has_rows_of_one_length() {
        let long = Sequence { tokens: &[2, 3, 4, 5], loss: &[true; 4], image: None };
        let short = Sequence { tokens: &[2, 3], loss: &[true; 2], image: None };
        let batch = lay_out(&[short, long], true).unwrap();
        assert_eq!(batch.rows, [0..3, 3..6]);
        assert_eq!(batch.selected, [0, 3, 4, 5]);
    }

    #[test]
    fn sequences_that_do_not_fit_the_model_are_errors() {
        let told = |tokens: &[u32], image: Option<&str>| {
            let loss = vec![true; tokens.len()];
            lay_out(&[Sequence { tokens, loss: &loss, image }], false).unwrap_err().to_string()
        };
        assert_eq!(told(&[2, 10], None), "token 10 lies outside the model's vocabulary of 10");
        assert_eq!(told(&[2, 1, 1, 3], Some("a")), "a sequence with 2 image tokens where its image has 4");
        assert_eq!(told(&[2, 1], None), "a sequence with 1 image tokens where its image has 0");
        assert_eq!(told(&[2], None), "a sequence of 1 token(s) has nothing to predict");
        assert_eq!(told(&[2; 513], None), "a sequence of 513 tokens: the model's `max_positions` is 512");
    }
}
