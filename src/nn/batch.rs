//! Sequences of tokens with their images, laid out for one forward pass. Knows no tensor and no file.
//!
//! Rows lie one after the other without padding, or, for devices that want one length, padded to the longest. The
//! last token of a row is only a target, so it is no input. Images that several rows share are there once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::checkpoint::Checkpoint;
use super::ops::Source;

/// A sequence as the caller has it.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    pub tokens: &'a [u32],
    /// Whether token i is a target; as long as `tokens`.
    pub loss: &'a [bool],
    /// Key of the image whose features replace the image tokens, in order.
    pub image: Option<&'a str>,
}

/// From an image's key and the wanted size to `size * size * 3` numbers.
pub type Pixels<'a> = dyn Fn(&str, usize) -> Result<Arc<[f32]>> + 'a;

/// A batch, ready for [`Model::hidden`](super::model::Model::hidden).
#[derive(Clone, Debug)]
pub struct Batch {
    /// Positions of each sequence.
    pub(crate) rows: Vec<Range<usize>>,
    /// What lies at each position.
    pub(crate) sources: Vec<Source>,
    /// Distinct images.
    pub(crate) images: usize,
    /// Patches of the images, raster order within an image, rows of pixels within a patch: (images x patches, values).
    pub(crate) patches: Vec<f32>,
    /// Positions whose next token is a target.
    pub(crate) selected: Vec<usize>,
    /// Those next tokens.
    pub(crate) targets: Vec<u32>,
    /// The sequence that each target belongs to.
    pub(crate) owners: Vec<usize>,
    /// Positions that are not padding.
    used: usize,
}

impl Batch {
    /// Lays sequences out for a model. `pixels` gives an image's numbers.
    pub fn new(model: &Checkpoint, sequences: &[Sequence], padded: bool, pixels: &Pixels) -> Result<Batch> {
        let longest = sequences.iter().map(|sequence| sequence.tokens.len().saturating_sub(1)).max().unwrap_or(0);
        let mut batch = Batch {
            rows: Vec::with_capacity(sequences.len()),
            sources: Vec::new(),
            images: 0,
            patches: Vec::new(),
            selected: Vec::new(),
            targets: Vec::new(),
            owners: Vec::new(),
            used: 0,
        };
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (owner, sequence) in sequences.iter().enumerate() {
            check(model, sequence)?;
            let Some(inputs) = sequence.tokens.len().checked_sub(1).filter(|&inputs| inputs > 0) else {
                bail!("a sequence of {} token(s) has nothing to predict", sequence.tokens.len());
            };
            let image = match sequence.image {
                None => 0,
                Some(key) => {
                    if !seen.contains_key(key) {
                        batch.add_image(model, key, pixels)?;
                        seen.insert(key, batch.images - 1);
                    }
                    seen[key]
                }
            };
            let start = batch.sources.len();
            place(model, &sequence.tokens[..inputs], image, &mut batch.sources);
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

    fn add_image(&mut self, model: &Checkpoint, key: &str, pixels: &Pixels) -> Result<()> {
        patchify(model, key, &pixels(key, model.config.image_size)?, &mut self.patches)?;
        self.images += 1;
        Ok(())
    }
}

/// Refuses what would index outside the model.
pub(crate) fn check(model: &Checkpoint, sequence: &Sequence) -> Result<()> {
    let Sequence { tokens, loss, image } = sequence;
    if tokens.len() != loss.len() {
        bail!("a sequence of {} tokens with {} loss marks", tokens.len(), loss.len());
    }
    let longest = model.config.decoder.max_positions;
    if tokens.len() > longest {
        bail!("a sequence of {} tokens: the model's `max_positions` is {longest}", tokens.len());
    }
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= model.vocab) {
        bail!("token {token} lies outside the model's vocabulary of {}", model.vocab);
    }
    let found = tokens.iter().filter(|&&token| token == model.image_token).count();
    let expected = if image.is_some() { model.config.image_tokens() } else { 0 };
    if found != expected {
        bail!("a sequence with {found} image tokens where its image has {expected}");
    }
    Ok(())
}

/// What lies at each position of a sequence whose image is the `image`-th.
pub(crate) fn place(model: &Checkpoint, tokens: &[u32], image: usize, sources: &mut Vec<Source>) {
    let mut feature = image * model.config.image_tokens();
    for &token in tokens {
        if token == model.image_token {
            sources.push(Source::Feature(feature));
            feature += 1;
        } else {
            sources.push(Source::Token(token));
        }
    }
}

/// Cuts an image (rows of pixels, RGB last) into patches and appends them.
pub(crate) fn patchify(model: &Checkpoint, key: &str, pixels: &[f32], patches: &mut Vec<f32>) -> Result<()> {
    let (size, patch) = (model.config.image_size, model.config.patch_size);
    if pixels.len() != model.config.pixel_values() {
        bail!("image `{key}` came as {} numbers, not {size} x {size} x 3", pixels.len());
    }
    for top in (0..size).step_by(patch) {
        for left in (0..size).step_by(patch) {
            for y in top..top + patch {
                let start = (y * size + left) * 3;
                patches.extend_from_slice(&pixels[start..start + patch * 3]);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Seed;
    use crate::nn::config::ModelConfig;

    fn model() -> Checkpoint {
        let config = ModelConfig { image_size: 4, patch_size: 2, ..ModelConfig::default() };
        Checkpoint::fresh(&config, 10, 1, Seed(0)).unwrap()
    }

    fn ramp(_: &str, size: usize) -> Arc<[f32]> {
        (0..size * size * 3).map(|i| i as f32).collect()
    }

    fn lay_out(sequences: &[Sequence], padded: bool) -> Result<Batch> {
        Batch::new(&model(), sequences, padded, &|key, size| Ok(ramp(key, size)))
    }

    #[test]
    fn rows_lie_one_after_the_other_and_share_their_image() {
        let with_image = [2, 1, 1, 1, 1, 5, 6, 7];
        let loss = [false, false, false, false, false, false, true, true];
        let image = Sequence { tokens: &with_image, loss: &loss, image: Some("a") };
        let text = Sequence { tokens: &[2, 5, 3], loss: &[false, false, true], image: None };
        let batch = lay_out(&[image, text, image], false).unwrap();
        assert_eq!(batch.rows, [0..7, 7..9, 9..16]);
        assert_eq!(batch.images, 1);
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
