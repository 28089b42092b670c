//! Token sequences with their images, as one batch for a forward pass.
//!
//! Rows follow each other without padding; for devices that need one length they are padded to the longest. The last token
//! of a row is only a target, not an input. An image that several rows share is encoded once.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, bail};

use super::anyres::{PackedFeature, pack_image_features};
use super::architecture::{Architecture, DynamicVit, TileShape, Tower, Vision, VisionFamily, Vit};
use super::kernels::rope::Point;
use super::key_ranges;
use super::mrope;
use super::patch_order::patch_order;
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
    /// Positions of the images in the vision tower.
    pub(crate) tower_positions: usize,
    /// Features of the images.
    pub(crate) features: usize,
}

/// Distinct images of sequences, as the vision tower reads them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageBatch {
    /// The tiles of all images.
    pub(crate) tiles: Vec<TileShape>,
    /// The number of their features.
    pub(crate) features: usize,
    /// Their patches in raster order, with pixels in the order of the model's family: (patches, values).
    pub(crate) patches: Vec<f32>,
}

/// The input of [`Model::hidden`](super::model::Model::hidden).
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Positions of each sequence.
    pub(crate) rows: Vec<Range<usize>>,
    pub(crate) sources: Vec<EmbeddingSource>,
    /// The images, without repetitions.
    pub(crate) images: ImageBatch,
    /// The position of every token in time, height and width (Qwen2-VL); empty if all are the number of the token in the row.
    pub(crate) points: Vec<Point>,
    /// The end of the keys that each token attends to, in its row; empty if that is behind itself.
    pub(crate) key_ends: Vec<u32>,
    /// Of each row, by how much the position of the next token is below the number of tokens.
    pub(crate) behind: Vec<usize>,
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
                        by_image.insert(key, batch.images.push(vision, key, &images.pixel_values(key)?)?);
                    }
                    features.extend_from_slice(&by_image[key.as_str()]);
                }
            }
            let start = batch.sources.len();
            push_sources(model, &sequence.tokens[..inputs], &features, &mut batch.sources);
            let behind =
                mrope::push_row(model, &sequence.tokens[..inputs], sequence.images, images, &mut batch.points)?;
            batch.behind.push(behind);
            key_ranges::push_ends(model, &sequence.tokens[..inputs], &mut batch.key_ends);
            let targets = sequence.tokens.iter().zip(sequence.loss).enumerate().skip(1);
            for (i, (&token, _)) in targets.filter(|(_, (_, loss))| **loss) {
                batch.logit_positions.push(start + i - 1);
                batch.targets.push(token);
                batch.target_rows.push(row);
            }
            batch.unpadded_tokens += inputs;
            if padded {
                batch.sources.resize(start + longest, EmbeddingSource::Token(0));
                if !batch.points.is_empty() {
                    batch.points.resize(start + longest, [0; 3]);
                }
                if !batch.key_ends.is_empty() {
                    batch.key_ends.extend(inputs as u32 + 1..=longest as u32);
                }
            }
            batch.rows.push(start..batch.sources.len());
        }
        if batch.images.tiles.is_empty() {
            batch.points.clear();
            batch.key_ends.clear();
        }
        batch.parts.push(batch.part(model));
        Ok(batch)
    }

    /// Batches in one, as its parts. An image of two batches is encoded twice, as it is when they are computed one after the other.
    #[cfg(feature = "cuda")]
    pub(crate) fn join(batches: &[Batch]) -> Batch {
        let mut whole = Batch::default();
        for batch in batches {
            let (tokens, rows, features) = (whole.sources.len(), whole.rows.len(), whole.images.features);
            let moved = |source: &EmbeddingSource| match *source {
                EmbeddingSource::Feature(row) => EmbeddingSource::Feature(row + features),
                source => source,
            };
            whole.rows.extend(batch.rows.iter().map(|row| row.start + tokens..row.end + tokens));
            whole.sources.extend(batch.sources.iter().map(moved));
            whole.behind.extend_from_slice(&batch.behind);
            whole.images.tiles.extend_from_slice(&batch.images.tiles);
            whole.images.features += batch.images.features;
            whole.images.patches.extend_from_slice(&batch.images.patches);
            whole.logit_positions.extend(batch.logit_positions.iter().map(|position| position + tokens));
            whole.targets.extend_from_slice(&batch.targets);
            whole.target_rows.extend(batch.target_rows.iter().map(|row| row + rows));
            whole.parts.extend_from_slice(&batch.parts);
            whole.dropout.extend_from_slice(&batch.dropout);
            whole.unpadded_tokens += batch.unpadded_tokens;
        }
        if batches.iter().any(|batch| !batch.points.is_empty()) {
            whole.points = batches.iter().flat_map(Batch::all_points).collect();
        }
        if batches.iter().any(|batch| !batch.key_ends.is_empty()) {
            whole.key_ends = batches.iter().flat_map(Batch::all_key_ends).collect();
        }
        whole
    }

    /// The end of the keys of all tokens.
    #[cfg(feature = "cuda")]
    fn all_key_ends(&self) -> Vec<u32> {
        if !self.key_ends.is_empty() {
            return self.key_ends.clone();
        }
        self.rows.iter().flat_map(|row| 1..=row.len() as u32).collect()
    }

    /// The positions of all tokens.
    #[cfg(feature = "cuda")]
    pub(crate) fn all_points(&self) -> Vec<Point> {
        if !self.points.is_empty() {
            return self.points.clone();
        }
        self.rows.iter().flat_map(|row| (0..row.len() as u32).map(|position| [position; 3])).collect()
    }

    /// The sizes of this batch as a part.
    pub(crate) fn part(&self, model: &Architecture) -> BatchPart {
        let positions = |vision: &Vision| self.images.tiles.iter().map(|&tile| vision.positions(tile)).sum();
        BatchPart {
            tokens: self.tokens(),
            needed: self.targets(),
            tower_positions: model.vision.as_ref().map_or(0, positions),
            features: self.images.features,
        }
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

impl ImageBatch {
    /// Appends an image. Returns the sources of its features, in the order of the sequence.
    pub(crate) fn push(&mut self, vision: &Vision, key: &str, pixels: &PixelValues) -> Result<Vec<EmbeddingSource>> {
        let context = || format!("image `{key}`");
        let packed = pack_image_features(vision, pixels.shape).with_context(context)?;
        let start = self.features;
        let source = |feature| match feature {
            PackedFeature::Feature(feature) => EmbeddingSource::Feature(start + feature),
            PackedFeature::Newline => EmbeddingSource::Newline,
        };
        let tile = vision.tile(pixels.shape.tile);
        push_patches(vision, pixels, &mut self.patches).with_context(context)?;
        let tiles = pixels.shape.tiles as usize;
        self.tiles.extend(vec![tile; tiles]);
        self.features += tiles * vision.tile_tokens(tile);
        Ok(packed.into_iter().map(source).collect())
    }
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

/// Cuts an image's tiles into patches and appends these.
fn push_patches(vision: &Vision, pixels: &PixelValues, patches: &mut Vec<f32>) -> Result<()> {
    let (tiles, (height, width)) = (pixels.shape.tiles as usize, pixels.shape.tile);
    let (height, width) = (height as usize, width as usize);
    let values = height * width * 3;
    let right = match &vision.tower {
        Tower::Vit(vit) => (height, width) == (vit.image_size, vit.image_size),
        Tower::Dynamic(vit) => {
            tiles == 1 && [height, width].iter().all(|side| side % (vit.patch_size * vit.merge) == 0)
        }
    };
    if !right {
        bail!("has {tiles} tile(s) of {height} x {width} pixels, which the vision tower does not take");
    }
    if pixels.values.len() != tiles * values {
        bail!("has {} pixel values, not {tiles} x {height} x {width} x 3", pixels.values.len());
    }
    if pixels.values.iter().any(|value| !value.is_finite()) {
        bail!("has a pixel value that is not finite");
    }
    for tile in pixels.values.chunks_exact(values) {
        match &vision.tower {
            Tower::Vit(vit) => push_tile(vit, tile, patches),
            Tower::Dynamic(vit) => push_image(vit, vision.tile(pixels.shape.tile), tile, patches),
        }
    }
    Ok(())
}

/// Appends the patches of a tile, row by row.
fn push_tile(vit: &Vit, tile: &[f32], patches: &mut Vec<f32>) {
    let Vit { image_size: size, patch_size: patch, family, .. } = *vit;
    let side = vit.side();
    for (top, left) in (0..side).flat_map(|row| (0..side).map(move |column| (row * patch, column * patch))) {
        match family {
            // Height, width, channel.
            VisionFamily::Plain => {
                for y in top..top + patch {
                    patches.extend_from_slice(&tile[(y * size + left) * 3..][..patch * 3]);
                }
            }
            // Channel, height, width.
            VisionFamily::Clip | VisionFamily::Siglip | VisionFamily::InternVit => {
                for (plane, y) in (0..3).flat_map(|plane| (top..top + patch).map(move |y| (plane, y))) {
                    patches.extend_from_slice(&tile[(plane * size + y) * size + left..][..patch]);
                }
            }
        }
    }
}

/// Appends the patches of an image in the order of the tower: channel, frame, height, width.
fn push_image(vit: &DynamicVit, shape: TileShape, image: &[f32], patches: &mut Vec<f32>) {
    let DynamicVit { patch_size: patch, frames, .. } = *vit;
    let (height, width) = (shape.rows * patch, shape.columns * patch);
    for (row, column) in patch_order(vit, shape) {
        for (plane, _) in (0..3).flat_map(|plane| (0..frames).map(move |frame| (plane, frame))) {
            for y in row * patch..(row + 1) * patch {
                patches.extend_from_slice(&image[(plane * height + y) * width + column * patch..][..patch]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageShape;
    use crate::config::ModelConfig;

    fn model() -> Architecture {
        let config = ModelConfig { image_size: 4, patch_size: 2, ..ModelConfig::default() };
        Architecture::from_config(&config, 10, 1)
    }

    /// Every image holds the values 0, 1, 2, ...
    struct Ramp;

    impl PixelSource for Ramp {
        fn shape(&self, _: &str) -> Result<ImageShape> {
            Ok(ImageShape::single(4, 4, 4))
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
        assert_eq!(batch.images.tiles.len(), 1);
        assert_eq!(batch.sources[0], EmbeddingSource::Token(2));
        assert_eq!(batch.sources[1..4], [0, 1, 2].map(EmbeddingSource::Feature));
        assert_eq!(batch.logit_positions, [5, 6, 8, 14, 15]);
        assert_eq!(batch.targets, [6, 7, 3, 6, 7]);
        assert_eq!(batch.sum_by_row(&[1.0, 2.0, 4.0, 8.0, 16.0]), [3.0, 4.0, 24.0]);
        // The second patch of a 4 x 4 image starts at pixel (0, 2) with value 6; its second row at pixel (1, 2).
        assert_eq!(batch.images.patches[12..24], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0]);
    }

    #[test]
    fn several_images_are_placed_in_order_and_encoded_once() {
        let tokens = [2, 1, 1, 1, 1, 5, 1, 1, 1, 1, 1, 1, 1, 1, 6];
        let loss: Vec<bool> = tokens.iter().map(|&token| token == 6).collect();
        let images = ["a", "b", "a"].map(String::from);
        let batch = build(&[Sequence { tokens: &tokens, loss: &loss, images: &images }], false).unwrap();
        assert_eq!(batch.images.tiles.len(), 2);
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
