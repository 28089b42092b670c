//! Generation on the CPU: weights packed once, a key/value cache per sequence, which shares that of its prompt with the
//! other samples. The arithmetic of a sequence does not depend on those beside it.

use std::sync::Arc;

use anyhow::Result;

use crate::batch::{features, patchify, place};
use crate::buffer::Buffer;
use crate::cache::{Cache, Stretch};
use crate::eyes::Learning;
use crate::layers::Pass;
use crate::learner::Learner;
use crate::model::Model;
use crate::ops::{Ops, Source};
use crate::packed::{Packed, Packing, Plan, Rows};
use crate::{Architecture, Checkpoint, PixelValues};
use ablate_core::base::alloc::keep_freed_memory;

/// A model's weights, laid out for forward passes.
pub(super) struct Weights(Model<Packing>);

impl Weights {
    pub(super) fn new(model: &Checkpoint) -> Result<Weights> {
        keep_freed_memory();
        Ok(Weights(Model::new(&Packing, &Learner::frozen(model))?))
    }
}

/// Sequences that are being continued, each with its cache.
pub(super) struct Decoder<'a> {
    architecture: &'a Architecture,
    model: &'a Model<Packing>,
    ops: Packed,
    /// Memory of sequences that have left, for those to come.
    spare: Vec<Stretch>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(architecture: &'a Architecture, weights: &'a Weights) -> Decoder<'a> {
        Decoder { architecture, model: &weights.0, ops: Packed::default(), spare: Vec::new() }
    }

    /// Reads a prompt, with its image, and adds `samples` sequences that continue it by up to `max_tokens` tokens. The
    /// logits of the first token: (v,).
    pub(super) fn start(
        &mut self,
        tokens: &[u32],
        image: Option<(&str, &PixelValues)>,
        samples: usize,
        max_tokens: usize,
    ) -> Result<Buffer> {
        let (layers, positions) = (self.architecture.decoder.layers, self.architecture.decoder.max_positions);
        let (heads, count) = (self.model.heads, tokens.len());
        let (features, order) = match image {
            Some((key, pixels)) => self.see(key, pixels)?,
            None => (None, Vec::new()),
        };
        let mut sources = Vec::with_capacity(count);
        place(self.architecture, tokens, &order, &mut sources);
        let turns = self.model.rotary.table(count);
        self.ops.reading = Some(Stretch::new(layers, heads, count));
        let mut pass = Pass { ops: &mut self.ops, dropout: None };
        let x = self.model.embed(&mut pass, features.as_ref(), &sources)?;
        let plan = pass.ops.plan(heads, std::slice::from_ref(&(0..count)), Some(&turns))?;
        let last = self.model.decode(&mut pass, x, &plan, Some(&[count - 1]))?;
        let logits = self.model.logits(pass.ops, &last)?.values;
        let Some(mut read) = self.ops.reading.take() else { panic!("BUG: the prompt's cache is gone") };
        read.advance(count);
        let prompt = Arc::new(read);
        let capacity = max_tokens.min(positions - count);
        for _ in 0..samples {
            let fits = self.spare.iter().position(|spare| spare.fits(capacity));
            let own = if let Some(index) = fits {
                let mut own = self.spare.swap_remove(index);
                own.clear();
                own
            } else {
                // One that is too small goes for each that comes: there are never more than were needed at once.
                self.spare.pop();
                Stretch::new(layers, heads, capacity)
            };
            self.ops.caches.push(Cache { prompt: prompt.clone(), own });
        }
        Ok(logits)
    }

    /// Continues every sequence by its token. The logits of the next ones: (sequences, v).
    pub(super) fn step(&mut self, tokens: &[u32]) -> Result<Buffer> {
        assert_eq!(tokens.len(), self.ops.caches.len(), "BUG: one token per sequence");
        let turns = self.model.rotary.table(self.ops.longest() + 1);
        let sources: Vec<Source> = tokens.iter().map(|&token| Source::Token(token)).collect();
        let mut pass = Pass { ops: &mut self.ops, dropout: None };
        let x = self.model.embed(&mut pass, None, &sources)?;
        let hidden = self.model.decode(&mut pass, x, &Plan::Step { heads: self.model.heads, turns }, None)?;
        let logits = self.model.logits(pass.ops, &hidden)?.values;
        self.ops.advance();
        Ok(logits)
    }

    /// Takes the sequence at `index` out. The others keep their order, in which the samples of a prompt stand together.
    pub(super) fn leave(&mut self, index: usize) {
        let cache = self.ops.caches.remove(index);
        self.spare.push(cache.own);
    }

    /// An image's features, and the order in which the decoder reads them.
    fn see(&mut self, key: &str, pixels: &PixelValues) -> Result<(Option<Rows>, Vec<Source>)> {
        let (Some(vision), Some(eyes)) = (&self.architecture.vision, &self.model.eyes) else {
            return Ok((None, Vec::new()));
        };
        let mut patches = Vec::with_capacity(pixels.values.len());
        let tiles = patchify(vision, key, pixels, &mut patches)?;
        let frozen = Learning { encoder: false, projector: false };
        let mut pass = Pass { ops: &mut self.ops, dropout: None };
        let seen = eyes.see(&mut pass, tiles, patches, frozen, false)?;
        Ok((Some(seen), features(vision, key, pixels, 0)?))
    }
}
