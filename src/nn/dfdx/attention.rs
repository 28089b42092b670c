//! Attention composed of dfdx's operations, over rows of one length.

use std::ops::Range;

use anyhow::Result;
use dfdx::prelude::*;

use super::tensor::{ByHead, Fallible, Matrix, Tape, Taped, check_size, matrix};
use crate::device_error::device_error;
use crate::kernels::attention::{Heads, KeyRanges};
use crate::kernels::rope::Rotations;

/// Constants of the attention within `rows` rows of `length` tokens.
pub(crate) struct AttentionPlan<D: Device<f32>> {
    heads: Heads,
    rows: usize,
    length: usize,
    rotation: Option<Rotation<D>>,
    /// Added to the scores: minus infinity where a position does not attend; one copy per query head of a group.
    mask: Option<ByRow<D>>, // (b or 1, g t, t)
}

/// By row: (b, t, w).
type ByRow<D> = Tensor<(usize, usize, usize), f32, D>;

struct Rotation<D: Device<f32>> {
    cos: ByRow<D>,
    sin: ByRow<D>,
    /// `x half` is `(-x2, x1)`. It is a product because the gradient of dfdx's `slice` is wrong on the CPU.
    half: Matrix<D>, // (w, w)
}

impl<D: Device<f32>> Rotation<D> {
    /// Of tokens in `rows`, as `by_row` (b, t) tensors.
    fn new(device: &D, rope: &Rotations, rows: &[Range<usize>], (b, t): (usize, usize)) -> Result<Rotation<D>> {
        let table = rope.table();
        let half = table.half;
        let positions = || rows.iter().flat_map(|row| (0..row.len()).map(|at| rope.position(row.start, at)));
        let twice = |values: &[f32]| -> Result<ByRow<D>> {
            let row = |position: usize| &values[position * half..][..half];
            let values: Vec<f32> = positions().map(row).flat_map(|row| row.iter().chain(row)).copied().collect();
            device.try_tensor_from_vec(values, (b, t, 2 * half)).map_err(device_error)
        };
        let mut rotate_half = vec![0.0; 4 * half * half];
        for j in 0..half {
            rotate_half[(j + half) * 2 * half + j] = -1.0;
            rotate_half[j * 2 * half + j + half] = 1.0;
        }
        Ok(Rotation {
            cos: twice(&table.cos)?,
            sin: twice(&table.sin)?,
            half: matrix(device, rotate_half, 2 * half, 2 * half)?,
        })
    }

    fn rotate(&self, x: ByHead<D, Tape<D>>) -> Fallible<ByHead<D, Tape<D>>, D> {
        let shape = *x.shape();
        let (b, h, t, w) = shape;
        let rotated = x.retaped::<Tape<D>>().try_reshape_like(&(b * h * t, w))?.try_matmul(self.half.clone())?;
        let rotated = rotated.try_reshape_like(&shape)?;
        let cos = self.cos.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<1>>(&shape)?;
        let sin = self.sin.retaped::<Tape<D>>().try_broadcast_like::<_, Axis<1>>(&shape)?;
        x.try_mul(cos)?.try_add(rotated.try_mul(sin)?)
    }
}

impl<D: Device<f32>> AttentionPlan<D> {
    /// Rows of different lengths become one row, in which a position attends only within its own.
    pub(super) fn new(
        device: &D,
        heads: Heads,
        rows: &[Range<usize>],
        rope: Option<&Rotations>,
        keys: Option<&KeyRanges>,
    ) -> Result<AttentionPlan<D>> {
        let first = rows.first().map_or(0, ExactSizeIterator::len);
        let equal = rows.iter().all(|row| row.len() == first);
        let (count, length) = if equal { (rows.len(), first) } else { (1, rows.iter().map(Range::len).sum()) };
        check_size("the scores of attention", &[count, heads.heads, length, length])?;
        let rotation = rope.map(|rope| Rotation::new(device, rope, rows, (count, length))).transpose()?;
        let row_of = |token: usize| if equal { 0 } else { rows.partition_point(|row| row.end <= token) };
        // Of token `i` of row `row`.
        let visible = |row: usize, i: usize, j: usize| match keys {
            Some(keys) if equal => keys[row * length + i].contains(&(j as u32)),
            Some(keys) => row_of(i) == row_of(j) && keys[i].contains(&((j - rows[row_of(i)].start) as u32)),
            None => row_of(i) == row_of(j) && (j <= i || !heads.causal),
        };
        let mask = if heads.causal || keys.is_some() || !equal {
            let group = heads.heads / heads.kv_heads;
            let number = |row, i, j| if visible(row, i, j) { 0.0 } else { f32::NEG_INFINITY };
            // The same for every row, unless their keys differ.
            let different = if keys.is_some() { count } else { 1 };
            let one = |row| (0..length).flat_map(move |i| (0..length).map(move |j| number(row, i, j)));
            let all = (0..different).flat_map(|row| one(row).collect::<Vec<f32>>().repeat(group)).collect();
            Some(device.try_tensor_from_vec(all, (different, group * length, length)).map_err(device_error)?)
        } else {
            None
        };
        Ok(AttentionPlan { heads, rows: count, length, rotation, mask })
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
        let scores = q.try_matmul(k.try_permute::<_, Axes4<0, 1, 3, 2>>()?)?.try_mul(self.heads.factor)?;
        let shape = *scores.shape(); // (b, k, g t, t)
        let scores = match &self.mask {
            Some(mask) => {
                let (different, rows, columns) = *mask.shape();
                let mask = mask.retaped::<Tape<D>>();
                scores.try_add(if different == b {
                    mask.try_broadcast_like::<_, Axis<1>>(&shape)?
                } else {
                    mask.try_reshape_like(&(rows, columns))?.try_broadcast_like::<_, Axes2<0, 1>>(&shape)?
                })?
            }
            None => scores,
        };
        let out = scores.try_softmax::<Axis<3>>()?.try_matmul(v)?; // (b, k, g t, w)
        let out = out.try_reshape_like(&(b, h, t, w))?.try_permute::<_, Axes4<0, 2, 1, 3>>()?;
        out.try_reshape_like(&(b * t, h * w))
    }
}
