//! Generation on the CPU: weights packed once, a key/value cache per sequence, no tensors. The arithmetic of a sequence
//! does not depend on those beside it.

use anyhow::{Result, bail};

use super::cache::Cache;
use crate::nn::batch::{patchify, place};
use crate::nn::kernels::attention::{Heads, attention};
use crate::nn::kernels::elementwise::{Rotary, accumulate, gelu, rms_norm, swiglu};
use crate::nn::kernels::matmul::Packed;
use crate::nn::model::heads;
use crate::nn::ops::Source;
use crate::nn::{Checkpoint, DecoderConfig};

/// A model's weights, laid out for forward passes.
pub(super) struct Weights {
    patch_embedding: Packed,
    position_embedding: Vec<f32>,
    encoder: Vec<Block>,
    encoder_norm: Vec<f32>,
    linear_1: Packed,
    linear_2: Packed,
    embedding: Vec<f32>,
    decoder: Vec<Block>,
    decoder_norm: Vec<f32>,
    head: Packed,
    rotary: Rotary,
    eps: f32,
}

/// From queries, keys (both to be rotated in place) and values to the heads' outputs.
type Attend<'a> = dyn FnMut(&mut [f32], &mut [f32], &[f32], &mut [f32]) + 'a;

struct Block {
    attention_norm: Vec<f32>,
    q: Packed,
    k: Packed,
    v: Packed,
    o: Packed,
    mlp_norm: Vec<f32>,
    gate: Packed,
    up: Packed,
    down: Packed,
    dim: usize,
    kv_dim: usize,
    ff: usize,
}

impl Weights {
    pub(super) fn new(model: &Checkpoint) -> Weights {
        let config = &model.config;
        let DecoderConfig { dim, heads, rope_theta, max_positions, norm_eps, tied_head, .. } = config.decoder;
        let parameters = model.list();
        let mut next = parameters.iter().zip(&model.weights).map(|(parameter, values)| (&parameter.shape[..], values));
        let mut take = || next.next().unwrap_or_else(|| panic!("BUG: the model has too few parameters"));
        let (patch_embedding, position_embedding) = (packed(take()), take().1.clone());
        let encoder = (0..config.vision.layers).map(|_| Block::new(&mut take)).collect();
        let encoder_norm = take().1.clone();
        let (linear_1, linear_2) = (packed(take()), packed(take()));
        let table = take();
        let decoder = (0..config.decoder.layers).map(|_| Block::new(&mut take)).collect();
        let decoder_norm = take().1.clone();
        let head = packed(if tied_head { table } else { take() });
        Weights {
            patch_embedding,
            position_embedding,
            encoder,
            encoder_norm,
            linear_1,
            linear_2,
            embedding: table.1.clone(),
            decoder,
            decoder_norm,
            head,
            rotary: Rotary::new(max_positions, dim / heads, rope_theta),
            eps: norm_eps as f32,
        }
    }
}

impl Block {
    fn new<'a>(take: &mut impl FnMut() -> (&'a [usize], &'a Vec<f32>)) -> Block {
        let attention_norm = take().1.clone();
        let (q, k) = (packed(take()), take());
        let (kv_dim, dim) = (k.0[0], k.0[1]);
        let (k, v, o) = (packed(k), packed(take()), packed(take()));
        let mlp_norm = take().1.clone();
        let gate = take();
        let ff = gate.0[0];
        let (gate, up, down) = (packed(gate), packed(take()), packed(take()));
        Block { attention_norm, q, k, v, o, mlp_norm, gate, up, down, dim, kv_dim, ff }
    }

    /// `x (m, dim)` through the block; `attend` turns queries, keys and values into the heads' outputs.
    fn run(&self, x: &mut [f32], eps: f32, attend: &mut Attend) {
        let Block { dim, kv_dim, ff, .. } = *self;
        let m = x.len() / dim;
        let (mut h, mut inverse, mut y) = (vec![0.0; m * dim], vec![0.0; m], vec![0.0; m * dim]);
        rms_norm(x, &self.attention_norm, eps, &mut h, &mut inverse);
        let (mut q, mut k, mut v) = (vec![0.0; m * dim], vec![0.0; m * kv_dim], vec![0.0; m * kv_dim]);
        self.q.apply(m, &h, &mut q);
        self.k.apply(m, &h, &mut k);
        self.v.apply(m, &h, &mut v);
        attend(&mut q, &mut k, &v, &mut h);
        self.o.apply(m, &h, &mut y);
        accumulate(x, &y);
        rms_norm(x, &self.mlp_norm, eps, &mut h, &mut inverse);
        let (mut gate, mut up, mut a) = (vec![0.0; m * ff], vec![0.0; m * ff], vec![0.0; m * ff]);
        self.gate.apply(m, &h, &mut gate);
        self.up.apply(m, &h, &mut up);
        swiglu(&gate, &up, &mut a);
        self.down.apply(m, &a, &mut y);
        accumulate(x, &y);
    }
}

/// Sequences that are being continued, each with its cache.
pub(super) struct Decoder<'a> {
    model: &'a Checkpoint,
    weights: &'a Weights,
    heads: Heads,
    caches: Vec<Cache>,
    /// Caches of sequences that have left, for those to come.
    spare: Vec<Cache>,
    scores: Vec<f32>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(model: &'a Checkpoint, weights: &'a Weights) -> Decoder<'a> {
        let (_, heads) = heads(model);
        Decoder { model, weights, heads, caches: Vec::new(), spare: Vec::new(), scores: Vec::new() }
    }

    /// Reads a prompt, with its image's key and pixels, and adds `samples` sequences that continue it by up to
    /// `max_tokens` tokens. The logits of the first token: (v,).
    pub(super) fn start(
        &mut self,
        tokens: &[u32],
        image: Option<(&str, &[f32])>,
        samples: usize,
        max_tokens: usize,
    ) -> Result<Vec<f32>> {
        let Weights { decoder, embedding, rotary, eps, .. } = self.weights;
        let dim = self.model.config.decoder.dim;
        let features = match image {
            Some((key, pixels)) => self.encode(key, pixels)?,
            None => Vec::new(),
        };
        let mut sources = Vec::with_capacity(tokens.len());
        place(self.model, tokens, 0, &mut sources);
        let mut x = Vec::with_capacity(tokens.len() * dim);
        for source in sources {
            x.extend_from_slice(match source {
                Source::Token(id) => &embedding[id as usize * dim..][..dim],
                Source::Feature(row) => &features[row * dim..][..dim],
            });
        }
        let (heads, count) = (self.heads, tokens.len());
        let mut read = Cache::new(decoder.len(), heads, count);
        let mut sums = vec![0.0; count * heads.heads];
        for (layer, block) in decoder.iter().enumerate() {
            block.run(&mut x, *eps, &mut |q, k, v, out| {
                let both = q.chunks_exact_mut(heads.query()).zip(k.chunks_exact_mut(heads.key()));
                for (position, ((q, k), v)) in both.zip(v.chunks_exact(heads.key())).enumerate() {
                    rotary.turn(q, position);
                    rotary.turn(k, position);
                    read.put(layer, heads, position, k, v);
                }
                attention(heads, std::slice::from_ref(&(0..count)), q, k, v, out, &mut sums);
            });
        }
        read.length = count;
        let capacity = (count + max_tokens).min(self.model.config.decoder.max_positions);
        for _ in 0..samples {
            let fits = self.spare.iter().position(|spare| spare.capacity() >= capacity);
            let mut cache = match fits {
                Some(index) => self.spare.swap_remove(index),
                None => Cache::new(decoder.len(), heads, capacity),
            };
            cache.fork(heads, &read);
            self.caches.push(cache);
        }
        Ok(self.logits(&x[(count - 1) * dim..]))
    }

    /// Continues every sequence by its token. The logits of the next ones: (sequences, v).
    pub(super) fn step(&mut self, tokens: &[u32]) -> Vec<f32> {
        let Weights { decoder, embedding, rotary, eps, .. } = self.weights;
        let (heads, dim) = (self.heads, self.model.config.decoder.dim);
        assert_eq!(tokens.len(), self.caches.len(), "BUG: one token per sequence");
        let mut x: Vec<f32> = tokens.iter().flat_map(|&id| &embedding[id as usize * dim..][..dim]).copied().collect();
        let (caches, scores) = (&mut self.caches, &mut self.scores);
        for (layer, block) in decoder.iter().enumerate() {
            block.run(&mut x, *eps, &mut |q, k, v, out| {
                let both = q.chunks_exact_mut(heads.query()).zip(k.chunks_exact_mut(heads.key()));
                let rows = both.zip(v.chunks_exact(heads.key()).zip(out.chunks_exact_mut(heads.query())));
                for (cache, ((q, k), (v, out))) in caches.iter_mut().zip(rows) {
                    let position = cache.length;
                    rotary.turn(q, position);
                    rotary.turn(k, position);
                    cache.put(layer, heads, position, k, v);
                    cache.attend(layer, heads, position + 1, q, out, scores);
                }
            });
        }
        for cache in &mut self.caches {
            cache.length += 1;
        }
        self.logits(&x)
    }

    /// Takes the sequence at `index` out; the last one takes its place.
    pub(super) fn leave(&mut self, index: usize) {
        let cache = self.caches.swap_remove(index);
        self.spare.push(cache);
    }

    fn logits(&self, x: &[f32]) -> Vec<f32> {
        let Weights { decoder_norm, head, eps, .. } = self.weights;
        let m = x.len() / decoder_norm.len();
        let (mut h, mut inverse) = (vec![0.0; x.len()], vec![0.0; m]);
        rms_norm(x, decoder_norm, *eps, &mut h, &mut inverse);
        let mut logits = vec![0.0; m * self.model.vocab];
        head.apply(m, &h, &mut logits);
        logits
    }

    /// Pixels to image features: (patches, dim).
    fn encode(&self, key: &str, pixels: &[f32]) -> Result<Vec<f32>> {
        let Weights { patch_embedding, position_embedding, encoder, encoder_norm, linear_1, linear_2, eps, .. } =
            self.weights;
        let config = &self.model.config;
        let (count, vision) = (config.image_tokens(), config.vision.dim);
        let mut patches = Vec::with_capacity(config.pixel_values());
        patchify(self.model, key, pixels, &mut patches)?;
        if patches.iter().any(|value| !value.is_finite()) {
            bail!("image `{key}` has a pixel that is not a number");
        }
        let mut x = vec![0.0; count * vision];
        patch_embedding.apply(count, &patches, &mut x);
        accumulate(&mut x, position_embedding);
        let (heads, _) = heads(self.model);
        let mut sums = vec![0.0; count * heads.heads];
        for block in encoder {
            block.run(&mut x, *eps, &mut |q, k, v, out| {
                attention(heads, std::slice::from_ref(&(0..count)), q, k, v, out, &mut sums);
            });
        }
        let (mut h, mut inverse) = (vec![0.0; x.len()], vec![0.0; count]);
        rms_norm(&x, encoder_norm, *eps, &mut h, &mut inverse);
        let hidden = config.projector.hidden;
        let (mut a, mut b) = (vec![0.0; count * hidden], vec![0.0; count * hidden]);
        linear_1.apply(count, &h, &mut a);
        gelu(&a, &mut b);
        let mut features = vec![0.0; count * config.decoder.dim];
        linear_2.apply(count, &b, &mut features);
        Ok(features)
    }
}

fn packed((shape, values): (&[usize], &Vec<f32>)) -> Packed {
    Packed::linear(values, shape[0], shape[1])
}
