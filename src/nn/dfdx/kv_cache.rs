//! The KV cache of a batch of sequences, as tensors of dfdx: one of keys and one of values per layer.
//!
//! Positions are the first axis (letters as in [`crate`]: (t, b k, w)), so that a step appends its own by one copy, and
//! attention over all sequences and heads is one batched product.

use anyhow::Result;
use dfdx::prelude::*;

use super::attention::StepPlan;
use super::tensor::{ByHead, Fallible};
use crate::device_error::device_error;
use crate::kernels::attention::Heads;
use crate::ops::Matrix;

/// (t, b k, w).
type Columns<D> = Tensor<(usize, usize, usize), f32, D>;

pub(super) struct KvCache<D: Device<f32>> {
    device: D,
    /// Sequences that continue each prompt.
    samples: usize,
    /// Rotated keys, and values, by layer.
    layers: Vec<(Columns<D>, Columns<D>)>,
    /// Minus infinity where a prompt is padded: (t, b k, 1). None if all prompts have the same length.
    mask: Option<Columns<D>>,
}

impl<D: Device<f32>> KvCache<D> {
    pub(super) fn new(device: D, samples: usize) -> KvCache<D> {
        KvCache { device, samples, layers: Vec::new(), mask: None }
    }

    fn columns(&self, values: Vec<f32>, shape: (usize, usize, usize)) -> Result<Columns<D>> {
        self.device.try_tensor_from_vec(values, shape).map_err(device_error)
    }

    /// Stores the rotated keys and the values of the prompts for the next layer, once per sample.
    pub(super) fn push_layer(&mut self, keys: ByHead<D>, values: ByHead<D>) -> Fallible<(), D> {
        self.layers.push((self.repeat(keys)?, self.repeat(values)?));
        Ok(())
    }

    /// (b, k, t, w) -> (t, b samples k, w).
    fn repeat(&self, x: ByHead<D>) -> Fallible<Columns<D>, D> {
        let (b, k, t, w) = *x.shape();
        let x = x.try_permute::<_, Axes4<2, 0, 1, 3>>()?;
        let x = x.try_broadcast_like::<_, Axis<2>>(&(t, b, self.samples, k, w))?;
        x.try_reshape_like(&(t, b * self.samples * k, w))
    }

    /// Hides the padding of prompts of these lengths, one per sequence, that were padded to `longest`.
    pub(super) fn mask_padding(&mut self, lengths: &[usize], longest: usize, kv_heads: usize) -> Result<()> {
        if lengths.iter().any(|&length| length < longest) {
            let position = |position: usize| {
                let mask = move |&length: &usize| if position < length { 0.0 } else { f32::NEG_INFINITY };
                lengths.iter().map(mask).flat_map(move |mask| std::iter::repeat_n(mask, kv_heads))
            };
            let mask = (0..longest).flat_map(position).collect();
            self.mask = Some(self.columns(mask, (longest, lengths.len() * kv_heads, 1))?);
        }
        Ok(())
    }

    /// Makes the next position visible to all `width` sequences and key heads.
    pub(super) fn extend_mask(&mut self, width: usize) -> Result<()> {
        if let Some(mask) = self.mask.take() {
            let visible = self.columns(vec![0.0; width], (1, width, 1))?;
            self.mask = Some(append(mask, visible).map_err(device_error)?);
        }
        Ok(())
    }

    /// Keeps only some of `count` sequences.
    pub(super) fn retain(&mut self, sequences: &[usize], count: usize, kv_heads: usize) -> Fallible<(), D> {
        let Some((keys, _)) = self.layers.first() else { return Ok(()) };
        let (t, _, w) = *keys.shape();
        let kept = sequences.len();
        let indices = sequences.iter().copied().cycle().take(t * kept).collect::<Vec<_>>();
        let indices: Tensor<(usize, usize), usize, D> = self.device.try_tensor_from_vec(indices, (t, kept))?;
        let gather = |x: Columns<D>, w: usize| -> Fallible<Columns<D>, D> {
            let x = x.try_reshape_like(&(t, count, kv_heads * w))?;
            let x = x.try_gather::<(usize, usize, usize), (usize, usize)>(indices.clone())?;
            x.try_reshape_like(&(t, kept * kv_heads, w))
        };
        for (keys, values) in &mut self.layers {
            *keys = gather(keys.clone(), w)?;
            *values = gather(values.clone(), w)?;
        }
        self.mask = self.mask.take().map(|mask| gather(mask, 1)).transpose()?;
        Ok(())
    }

    /// Appends a token's key and value to every sequence. Attention of the token over all positions of its sequence:
    /// (n, h w).
    pub(super) fn decode_attention(
        &mut self,
        layer: usize,
        q: Matrix<D>,
        k: Matrix<D>,
        v: Matrix<D>,
        plan: &StepPlan<D>,
    ) -> Fallible<Matrix<D>, D> {
        let Heads { heads: h, kv_heads, width: w, .. } = plan.heads;
        let (n, group) = (q.shape().0, h / kv_heads);
        let (q, k) = (plan.rotate(q, h)?, plan.rotate(k, kv_heads)?);
        let (keys, values) = self.layers[layer].clone();
        let keys = append(keys, k.try_reshape_like(&(1, n * kv_heads, w))?)?;
        let values = append(values, v.try_reshape_like(&(1, n * kv_heads, w))?)?;
        self.layers[layer] = (keys.clone(), values.clone());
        let q = q.try_reshape_like(&(n * kv_heads, group, w))?;
        let scores = q.try_matmul(keys.try_permute::<_, Axes3<1, 2, 0>>()?)?.try_mul(1.0 / (w as f32).sqrt())?;
        let shape = *scores.shape(); // (b k, g, t)
        let scores = match self.mask.clone() {
            Some(mask) => {
                let mask = mask.try_reshape_like(&(shape.2, shape.0))?.try_permute::<_, Axes2<1, 0>>()?;
                scores.try_add(mask.try_broadcast_like::<_, Axis<1>>(&shape)?)?
            }
            None => scores,
        };
        let out = scores.try_softmax::<Axis<2>>()?.try_matmul(values.try_permute::<_, Axes3<1, 0, 2>>()?)?;
        out.try_reshape_like(&(n, h * w))
    }
}

/// Appends positions.
#[expect(deprecated, reason = "its successor compiles a kernel at run time; this one copies")]
fn append<D: Device<f32>>(columns: Columns<D>, more: Columns<D>) -> Fallible<Columns<D>, D> {
    columns.try_concat(more)
}
