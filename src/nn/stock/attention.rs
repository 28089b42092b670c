//! Attention as a composition of dfdx's operations: over rows of one length, and what a step of generation needs of it.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::super::kernels::attention::Heads;
use super::super::kernels::rope::RopeTable;
use super::super::ops::{Matrix, countable};
use super::{Stock, Tape, Taping};

pub(crate) type Fallible<X, D> = Result<X, <D as HasErr>::Err>;
/// Keys or values of rows, by head: (b, k, t, w).
pub(crate) type ByHead<D, T = NoneTape> = Tensor<(usize, usize, usize, usize), f32, D, T>;

/// Constants of an attention over `rows` sequences of `length` tokens.
pub(crate) struct Plan<D: Device<f32>> {
    heads: Heads,
    rows: usize,
    length: usize,
    rotation: Option<Rotation<D>>,
    /// Added to the scores: minus infinity where a position may not look; one copy per query head of a group.
    mask: Option<Matrix<D>>, // (g t, t)
}

struct Rotation<D: Device<f32>> {
    cos: Matrix<D>, // (t, w)
    sin: Matrix<D>, // (t, w)
    /// `x half` is `(-x2, x1)`. A product, since dfdx's `slice` has a wrong gradient on the CPU.
    half: Matrix<D>, // (w, w)
}

impl<D: Device<f32>> Rotation<D> {
    fn new(stock: &Stock<D>, turns: &RopeTable, positions: &[usize]) -> Result<Rotation<D>> {
        let half = turns.half;
        let twice = |table: &[f32]| -> Vec<f32> {
            let row = |&position: &usize| &table[position * half..][..half];
            positions.iter().map(row).flat_map(|row| row.iter().chain(row)).copied().collect()
        };
        let mut turn = vec![0.0; 4 * half * half];
        for j in 0..half {
            turn[(j + half) * 2 * half + j] = -1.0;
            turn[j * 2 * half + j + half] = 1.0;
        }
        Ok(Rotation {
            cos: stock.matrix(twice(&turns.cos), positions.len(), 2 * half)?,
            sin: stock.matrix(twice(&turns.sin), positions.len(), 2 * half)?,
            half: stock.matrix(turn, 2 * half, 2 * half)?,
        })
    }

    fn rotate(&self, x: ByHead<D, Tape<D>>) -> Fallible<ByHead<D, Tape<D>>, D> {
        let shape = *x.shape();
        let (b, h, t, w) = shape;
        let turned = x.retaped::<Tape<D>>().try_reshape_like(&(b * h * t, w))?.try_matmul(self.half.clone())?;
        let turned = turned.try_reshape_like(&shape)?;
        let cos = self.cos.retaped::<Tape<D>>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?;
        let sin = self.sin.retaped::<Tape<D>>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?;
        x.try_mul(cos)?.try_add(turned.try_mul(sin)?)
    }
}

impl<D: Device<f32>> Plan<D> {
    pub(super) fn new(
        stock: &Stock<D>,
        heads: Heads,
        rows: &[Range<usize>],
        turns: Option<&Arc<RopeTable>>,
    ) -> Result<Plan<D>> {
        let length = rows.first().map_or(0, ExactSizeIterator::len);
        assert!(rows.iter().all(|row| row.len() == length), "BUG: rows of different lengths in a padded batch");
        countable("the scores of attention", &[rows.len(), heads.heads, length, length])?;
        let positions: Vec<usize> = (0..length).collect();
        let rotation = turns.map(|turns| Rotation::new(stock, turns, &positions)).transpose()?;
        let mask = if heads.causal {
            let group = heads.heads / heads.kv_heads;
            let one = (0..length).flat_map(|i| (0..length).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 }));
            let values = (0..group).flat_map(|_| one.clone()).collect();
            Some(stock.matrix(values, group * length, length)?)
        } else {
            None
        };
        Ok(Plan { heads, rows: rows.len(), length, rotation, mask })
    }

    /// Whether it is one that a text is read by: a position sees itself and those before it.
    pub(crate) fn causal(&self) -> bool {
        self.heads.causal
    }

    fn by_head(&self, x: Taping<D>, h: usize) -> Fallible<ByHead<D, Tape<D>>, D> {
        x.try_reshape_like(&(self.rows, self.length, h, self.heads.width))?.try_permute::<_, Axes4<0, 2, 1, 3>>()
    }

    fn turned(&self, x: Taping<D>, h: usize) -> Fallible<ByHead<D, Tape<D>>, D> {
        let x = self.by_head(x, h)?;
        match &self.rotation {
            Some(rotation) => rotation.rotate(x),
            None => Ok(x),
        }
    }

    pub(super) fn attend(&self, q: Taping<D>, k: Taping<D>, v: Taping<D>) -> Fallible<Taping<D>, D> {
        let Plan { heads: Heads { heads: h, kv_heads: kv, width: w, .. }, rows: b, length: t, .. } = *self;
        let (q, k, v) = (self.turned(q, h)?, self.turned(k, kv)?, self.by_head(v, kv)?);
        // The query heads of a group become rows of their key head: keys and values are never copied.
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

    /// What a step looks back at: the keys, turned, and the values.
    pub(crate) fn read(&self, k: &Matrix<D>, v: &Matrix<D>) -> Fallible<(ByHead<D>, ByHead<D>), D> {
        let kv = self.heads.kv_heads;
        let (k, v) = (self.turned(k.retaped(), kv)?, self.by_head(v.retaped(), kv)?);
        Ok((k.split_tape().0, v.split_tape().0))
    }
}

/// One token of every sequence, each at a position of its own.
pub(crate) struct Token<D: Device<f32>> {
    pub(crate) heads: Heads,
    rotation: Rotation<D>,
}

impl<D: Device<f32>> Token<D> {
    pub(crate) fn new(stock: &Stock<D>, heads: Heads, turns: &RopeTable, positions: &[usize]) -> Result<Token<D>> {
        Ok(Token { heads, rotation: Rotation::new(stock, turns, positions)? })
    }

    /// Queries or keys (b, h w) turned to their positions.
    pub(crate) fn rotate(&self, x: Matrix<D>, h: usize) -> Fallible<Matrix<D>, D> {
        let Rotation { cos, sin, half } = &self.rotation;
        let (flat, w) = (*x.shape(), self.heads.width);
        let shape = (flat.0, h, w);
        let turned = x.clone().try_reshape_like(&(flat.0 * h, w))?.try_matmul(half.clone())?;
        let cos = cos.clone().try_broadcast_like::<_, Axis<1>>(&shape)?;
        let sin = sin.clone().try_broadcast_like::<_, Axis<1>>(&shape)?;
        let turned = turned.try_reshape_like(&shape)?.try_mul(sin)?;
        x.try_reshape_like(&shape)?.try_mul(cos)?.try_add(turned)?.try_reshape_like(&flat)
    }
}
