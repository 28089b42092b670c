//! The operations as compositions of dfdx's own: every device, one length per batch. Also the yardstick of the fused ones.

use std::ops::Range;

use dfdx::prelude::*;

use super::kernels::attention::Heads;
use super::kernels::elementwise::Rotary;
use super::ops::{Fallible, Matrix, Ops, Source, Vector};

pub(crate) struct Stock;

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

type Tensor4<D, T> = Tensor<(usize, usize, usize, usize), f32, D, T>;

impl<D: Device<f32>> Ops<D> for Stock {
    const PADDED: bool = true;

    type Plan = Plan<D>;

    fn plan(device: &D, heads: Heads, rows: &[Range<usize>], rotary: Option<&Rotary>) -> Fallible<Plan<D>, D> {
        let length = rows.first().map_or(0, ExactSizeIterator::len);
        assert!(rows.iter().all(|row| row.len() == length), "BUG: rows of different lengths in a padded batch");
        let rotation = rotary.map(|rotary| rotation(device, rotary, length)).transpose()?;
        let mask = if heads.causal {
            let group = heads.heads / heads.kv_heads;
            let one = (0..length).flat_map(|i| (0..length).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 }));
            let values = (0..group).flat_map(|_| one.clone()).collect();
            Some(device.try_tensor_from_vec(values, (group * length, length))?)
        } else {
            None
        };
        Ok(Plan { heads, rows: rows.len(), length, rotation, mask })
    }

    fn gather<T: Tape<f32, D>>(table: Matrix<D, T>, indices: &[usize]) -> Fallible<Matrix<D, T>, D> {
        let indices: Tensor<(usize,), usize, D> =
            table.device().try_tensor_from_vec(indices.to_vec(), (indices.len(),))?;
        table.try_gather::<(usize, usize), (usize,)>(indices)
    }

    fn splice<T: Tape<f32, D>>(
        table: Matrix<D, T>,
        features: Option<Matrix<D, T>>,
        sources: &[Source],
    ) -> Fallible<Matrix<D, T>, D> {
        // Each side is gathered for every position and blanked where the other side holds.
        let tokens: Vec<usize> =
            sources.iter().map(|source| if let Source::Token(id) = source { *id as usize } else { 0 }).collect();
        let device = table.device().clone();
        let embedded = <Stock as Ops<D>>::gather(table, &tokens)?; // (n, d)
        let Some(features) = features else { return Ok(embedded) };
        let places: Vec<usize> =
            sources.iter().map(|source| if let Source::Feature(row) = source { *row } else { 0 }).collect();
        let shape = *embedded.shape();
        let is_token = sources.iter().map(|source| f32::from(u8::from(matches!(source, Source::Token(_))))).collect();
        let is_token: Vector<D> = device.try_tensor_from_vec(is_token, (sources.len(),))?;
        let is_feature = is_token.clone().try_negate()?.try_add(1.0)?;
        let text = embedded.try_mul(is_token.retaped::<T>().try_broadcast_like::<_, Axis<1>>(&shape)?)?;
        let image = <Stock as Ops<D>>::gather(features, &places)?;
        let image = image.try_mul(is_feature.retaped::<T>().try_broadcast_like::<_, Axis<1>>(&shape)?)?;
        text.try_add(image)
    }

    fn rms_norm<T: Tape<f32, D>>(x: Matrix<D, T>, weight: &Vector<D>, eps: f32) -> Fallible<Matrix<D, T>, D> {
        let shape = *x.shape();
        let square = x.retaped::<T>().try_square()?.try_mean::<(usize,), Axis<1>>()?; // (n,)
        let inverse = square.try_add(eps)?.try_sqrt()?.try_recip()?;
        let y = x.try_mul(inverse.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
        y.try_mul(weight.retaped::<T>().try_broadcast_like::<_, Axis<0>>(&shape)?)
    }

    fn linear<T: Tape<f32, D>>(x: Matrix<D, T>, weight: &Matrix<D>) -> Fallible<Matrix<D, T>, D> {
        x.try_matmul(weight.retaped::<T>().try_permute::<_, Axes2<1, 0>>()?)
    }

    fn add<T: Tape<f32, D>>(a: Matrix<D, T>, b: Matrix<D, T>) -> Fallible<Matrix<D, T>, D> {
        a.try_add(b)
    }

    fn attention<T: Tape<f32, D>>(
        q: Matrix<D, T>,
        k: Matrix<D, T>,
        v: Matrix<D, T>,
        plan: &Plan<D>,
    ) -> Fallible<Matrix<D, T>, D> {
        let Plan { heads: Heads { heads: h, kv_heads, width: w, .. }, rows: b, length: t, rotation, mask } = plan;
        let (h, kv, w, b, t) = (*h, *kv_heads, *w, *b, *t);
        let by_head = |x: Matrix<D, T>, h: usize| -> Fallible<Tensor4<D, T>, D> {
            x.try_reshape_like(&(b, t, h, w))?.try_permute::<_, Axes4<0, 2, 1, 3>>() // (b, h, t, w)
        };
        let (mut q, mut k, v) = (by_head(q, h)?, by_head(k, kv)?, by_head(v, kv)?);
        if let Some(rotation) = rotation {
            (q, k) = (rotate(q, rotation)?, rotate(k, rotation)?);
        }
        // The query heads of a group become rows of their key head: keys and values are never copied.
        let q = q.try_reshape_like(&(b, kv, h / kv * t, w))?;
        let scores = q.try_matmul(k.try_permute::<_, Axes4<0, 1, 3, 2>>()?)?.try_mul(1.0 / (w as f32).sqrt())?;
        let shape = *scores.shape(); // (b, k, g t, t)
        let scores = match mask {
            Some(mask) => scores.try_add(mask.retaped::<T>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?)?,
            None => scores,
        };
        let out = scores.try_softmax::<Axis<3>>()?.try_matmul(v)?; // (b, k, g t, w)
        let out = out.try_reshape_like(&(b, h, t, w))?.try_permute::<_, Axes4<0, 2, 1, 3>>()?;
        out.try_reshape_like(&(b * t, h * w))
    }

    fn swiglu<T: Tape<f32, D>>(gate: Matrix<D, T>, up: Matrix<D, T>) -> Fallible<Matrix<D, T>, D> {
        let sigmoid = gate.retaped::<T>().try_sigmoid()?;
        gate.try_mul(sigmoid)?.try_mul(up)
    }

    fn gelu<T: Tape<f32, D>>(x: Matrix<D, T>) -> Fallible<Matrix<D, T>, D> {
        // x Phi(x) = (x + |x| erf(|x| / sqrt 2)) / 2, with erf by Abramowitz and Stegun 7.1.26. dfdx has this function,
        // but its derivative (0.13) is off by a factor in the density.
        let size = x.retaped::<T>().try_abs()?;
        let a = size.retaped::<T>().try_mul(std::f32::consts::FRAC_1_SQRT_2)?;
        let t = a.retaped::<T>().try_mul(0.327_591_1)?.try_add(1.0)?.try_recip()?;
        let mut p = t.retaped::<T>().try_mul(1.061_405_4)?;
        for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74] {
            p = p.try_add(coefficient)?.try_mul(t.retaped::<T>())?;
        }
        let p = p.try_add(0.254_829_6)?.try_mul(t)?;
        let erf = p.try_mul(a.try_square()?.try_negate()?.try_exp()?)?.try_negate()?.try_add(1.0)?;
        size.try_mul(erf)?.try_add(x)?.try_mul(0.5)
    }

    fn log_probs<T: Tape<f32, D>>(x: Matrix<D, T>, weight: &Matrix<D>, targets: &[u32]) -> Fallible<Vector<D, T>, D> {
        let targets = targets.iter().map(|&target| target as usize).collect::<Vec<_>>();
        let targets: Tensor<(usize,), usize, D> = x.device().try_tensor_from_vec(targets.clone(), (targets.len(),))?;
        let logits = <Stock as Ops<D>>::linear(x, weight)?; // (n, v)
        logits.try_log_softmax::<Axis<1>>()?.try_select::<(usize,), (usize,)>(targets)
    }
}

fn rotation<D: Device<f32>>(device: &D, rotary: &Rotary, length: usize) -> Fallible<Rotation<D>, D> {
    let half = rotary.half;
    let twice = |table: &[f32]| -> Vec<f32> {
        table.chunks_exact(half).take(length).flat_map(|row| row.iter().chain(row)).copied().collect()
    };
    let mut turn = vec![0.0; 4 * half * half];
    for j in 0..half {
        turn[(j + half) * 2 * half + j] = -1.0;
        turn[j * 2 * half + j + half] = 1.0;
    }
    Ok(Rotation {
        cos: device.try_tensor_from_vec(twice(&rotary.cos), (length, 2 * half))?,
        sin: device.try_tensor_from_vec(twice(&rotary.sin), (length, 2 * half))?,
        half: device.try_tensor_from_vec(turn, (2 * half, 2 * half))?,
    })
}

fn rotate<D: Device<f32>, T: Tape<f32, D>>(x: Tensor4<D, T>, rotation: &Rotation<D>) -> Fallible<Tensor4<D, T>, D> {
    let shape = *x.shape();
    let (b, h, t, w) = shape;
    let turned = x.retaped::<T>().try_reshape_like(&(b * h * t, w))?.try_matmul(rotation.half.clone())?;
    let turned = turned.try_reshape_like(&shape)?;
    let cos = rotation.cos.retaped::<T>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?;
    let sin = rotation.sin.retaped::<T>().try_broadcast_like::<_, Axes2<0, 1>>(&shape)?;
    x.try_mul(cos)?.try_add(turned.try_mul(sin)?)
}
