//! Attention composed of dfdx's operations, over rows of one length.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::tensor::{ByHead, Fallible, Matrix, Tape, Taped, check_size, matrix};
use crate::kernels::attention::Heads;
use crate::kernels::rope::RopeTable;

/// Constants of the attention within `rows` rows of `length` tokens.
pub(crate) struct AttentionPlan<D: Device<f32>> {
    heads: Heads,
    rows: usize,
    length: usize,
    rotation: Option<Rotation<D>>,
    /// Added to the scores: minus infinity at later positions; one copy per query head of a group.
    mask: Option<Matrix<D>>, // (g t, t)
}

struct Rotation<D: Device<f32>> {
    cos: Matrix<D>, // (t, w)
    sin: Matrix<D>, // (t, w)
    /// `x half` is `(-x2, x1)`. It is a product because the gradient of dfdx's `slice` is wrong on the CPU.
    half: Matrix<D>, // (w, w)
}

impl<D: Device<f32>> Rotation<D> {
    /// Of the positions `0..length`.
    fn new(device: &D, rope: &RopeTable, length: usize) -> Result<Rotation<D>> {
        let half = rope.half;
        let twice = |table: &[f32]| -> Vec<f32> {
            let row = |position: usize| &table[position * half..][..half];
            (0..length).map(row).flat_map(|row| row.iter().chain(row)).copied().collect()
        };
        let mut rotate_half = vec![0.0; 4 * half * half];
        for j in 0..half {
            rotate_half[(j + half) * 2 * half + j] = -1.0;
            rotate_half[j * 2 * half + j + half] = 1.0;
        }
        Ok(Rotation {
            cos: matrix(device, twice(&rope.cos), length, 2 * half)?,
            sin: matrix(device, twice(&rope.sin), length, 2 * half)?,
            half: matrix(device, rotate_half, 2 * half, 2 * half)?,
        })
    }

    fn rotate(&self, x: ByHead<D, Tape<D>>) -> Fallible<ByHead<D, Tape<D>>, D> {
        let shape = *x.shape();
        let (b, h, t, w) = shape;
        let rotated = x.retaped::<Tape<D>>().try_reshape_like(&(b * h * t, w))?.try_matmul(self.half.clone())?;
        let rotated = rotated.try_reshape_like(&shape)?;
        let cos = self.cos.retaped::<Tape<D>>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?;
        let sin = self.sin.retaped::<Tape<D>>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?;
        x.try_mul(cos)?.try_add(rotated.try_mul(sin)?)
    }
}

impl<D: Device<f32>> AttentionPlan<D> {
    pub(super) fn new(
        device: &D,
        heads: Heads,
        rows: &[Range<usize>],
        rope: Option<&Arc<RopeTable>>,
    ) -> Result<AttentionPlan<D>> {
        let length = rows.first().map_or(0, ExactSizeIterator::len);
        assert!(rows.iter().all(|row| row.len() == length), "BUG: rows of different lengths in a padded batch");
        check_size("the scores of attention", &[rows.len(), heads.heads, length, length])?;
        let rotation = rope.map(|rope| Rotation::new(device, rope, length)).transpose()?;
        let mask = if heads.causal {
            let group = heads.heads / heads.kv_heads;
            let one = (0..length).flat_map(|i| (0..length).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 }));
            let values = (0..group).flat_map(|_| one.clone()).collect();
            Some(matrix(device, values, group * length, length)?)
        } else {
            None
        };
        Ok(AttentionPlan { heads, rows: rows.len(), length, rotation, mask })
    }

    fn by_head(&self, x: Taped<D>, h: usize) -> Fallible<ByHead<D, Tape<D>>, D> {
        x.try_reshape_like(&(self.rows, self.length, h, self.heads.width))?.try_permute::<_, Axes4<0, 2, 1, 3>>()
    }

    fn rotated(&self, x: Taped<D>, h: usize) -> Fallible<ByHead<D, Tape<D>>, D> {
        let x = self.by_head(x, h)?;
        match &self.rotation {
            Some(rotation) => rotation.rotate(x),
            None => Ok(x),
        }
    }

    pub(super) fn attend(&self, q: Taped<D>, k: Taped<D>, v: Taped<D>) -> Fallible<Taped<D>, D> {
        let AttentionPlan { heads: Heads { heads: h, kv_heads: kv, width: w, .. }, rows: b, length: t, .. } = *self;
        let (q, k, v) = (self.rotated(q, h)?, self.rotated(k, kv)?, self.by_head(v, kv)?);
        // The query heads of a group become rows of their key head, so keys and values are not copied.
        let q = q.try_reshape_like(&(b, kv, h / kv * t, w))?;
        let scores = q.try_matmul(k.try_permute::<_, Axes4<0, 1, 3, 2>>()?)?.try_mul(1.0 / (w as f32).sqrt())?;
        let shape = *scores.shape(); // (b, k, g t, t)
        let scores = match &self.mask {
            Some(mask) => scores.try_add(mask.retaped::<Tape<D>>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?)?,
            None => scores,
        };
        let out = scores.try_softmax::<Axis<3>>()?.try_matmul(v)?; // (b, k, g t, w)
        let out = out.try_reshape_like(&(b, h, t, w))?.try_permute::<_, Axes4<0, 2, 1, 3>>()?;
        out.try_reshape_like(&(b * t, h * w))
    }
}
