//! The layers that encoders and decoders are built of, each with its weights in their place. Knows no whole model.

use anyhow::Result;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::architecture::Activation;
use super::ops::{Factor, Ops, Param, Place};

/// One forward pass: the operations, and what is drawn on the way.
pub(crate) struct Pass<'a, O> {
    pub(crate) ops: &'a mut O,
    /// Decides which inputs of an adapter are dropped; none outside training.
    pub(crate) dropout: Option<ChaCha8Rng>,
}

/// A norm of either kind, with what is added to the variance.
pub(crate) enum Norm<P: Place> {
    Rms(Param<P::Vector>, f32),
    Layer(Param<P::Vector>, Param<P::Vector>, f32),
}

/// `x W^T + b`, and what an adapter adds to it.
pub(crate) struct Linear<P: Place> {
    pub(crate) weight: Param<P::Matrix>,
    pub(crate) bias: Option<Param<P::Vector>>,
    pub(crate) adapter: Option<Adapted<P>>,
}

/// `scale * dropout(x) A^T B^T` (Hu et al. 2021).
pub(crate) struct Adapted<P: Place> {
    pub(crate) a: Param<P::Matrix>, // (r, in)
    pub(crate) b: Param<P::Matrix>, // (out, r)
    pub(crate) scale: f32,
    /// Share of the inputs that are dropped in training.
    pub(crate) dropout: f64,
    /// Width of the inputs.
    pub(crate) inputs: usize,
}

/// The feed-forward network of a block.
pub(crate) enum Mlp<P: Place> {
    Gated { gate: Linear<P>, up: Linear<P>, down: Linear<P> },
    Plain { first: Linear<P>, second: Linear<P>, activation: Activation },
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
pub(crate) struct Block<P: Place> {
    pub(crate) attention_norm: Norm<P>,
    pub(crate) q: Linear<P>,
    pub(crate) k: Linear<P>,
    pub(crate) v: Linear<P>,
    pub(crate) o: Linear<P>,
    /// Norms of every query and every key head.
    pub(crate) head_norms: Option<(Norm<P>, Norm<P>)>,
    pub(crate) mlp_norm: Norm<P>,
    pub(crate) mlp: Mlp<P>,
}

impl<P: Place> Norm<P> {
    pub(crate) fn apply<O: Ops<Place = P>>(&self, pass: &mut Pass<O>, x: &O::X) -> Result<O::X> {
        match self {
            Norm::Rms(weight, eps) => pass.ops.rms_norm(x, weight, *eps),
            Norm::Layer(weight, bias, eps) => pass.ops.layer_norm(x, weight, bias, *eps),
        }
    }
}

impl<P: Place> Linear<P> {
    pub(crate) fn apply<O: Ops<Place = P>>(&self, pass: &mut Pass<O>, x: &O::X) -> Result<O::X> {
        let y = pass.ops.linear(x, &self.weight, self.bias.as_ref())?;
        let Some(Adapted { a, b, scale, dropout, inputs }) = &self.adapter else { return Ok(y) };
        let low = match pass.dropout.as_mut().filter(|_| *dropout > 0.0) {
            Some(generator) => {
                let factors = keep(generator, *dropout, pass.ops.rows(x) * inputs);
                let kept = pass.ops.scale(x, Factor::Each(factors))?;
                pass.ops.linear(&kept, a, None)?
            }
            None => pass.ops.linear(x, a, None)?,
        };
        let low = pass.ops.scale(&low, Factor::All(*scale))?;
        let added = pass.ops.linear(&low, b, None)?;
        pass.ops.add(&y, &added)
    }
}

/// For each of `count` numbers 0 with probability `dropout`, else what keeps the sum's expectation.
fn keep(generator: &mut ChaCha8Rng, dropout: f64, count: usize) -> Vec<f32> {
    let kept = (1.0 / (1.0 - dropout)) as f32;
    let uniform = |word: u32| f64::from(word) / (f64::from(u32::MAX) + 1.0);
    (0..count).map(|_| if uniform(generator.next_u32()) < dropout { 0.0 } else { kept }).collect()
}

impl<P: Place> Mlp<P> {
    fn apply<O: Ops<Place = P>>(&self, pass: &mut Pass<O>, x: &O::X) -> Result<O::X> {
        match self {
            Mlp::Gated { gate, up, down } => {
                let (gate, up) = (gate.apply(pass, x)?, up.apply(pass, x)?);
                let gated = pass.ops.swiglu(&gate, &up)?;
                down.apply(pass, &gated)
            }
            Mlp::Plain { first, second, activation } => {
                let hidden = first.apply(pass, x)?;
                let hidden = pass.ops.activate(&hidden, *activation)?;
                second.apply(pass, &hidden)
            }
        }
    }
}

impl<P: Place> Block<P> {
    /// Layer number `layer` of its tower: (n, dim) -> (n, dim). Only the tokens that are wanted go on behind the attention,
    /// if not all of them do.
    pub(crate) fn apply<O: Ops<Place = P>>(
        &self,
        pass: &mut Pass<O>,
        layer: usize,
        x: &O::X,
        plan: &O::Plan,
        wanted: Option<&[usize]>,
    ) -> Result<O::X> {
        let h = self.attention_norm.apply(pass, x)?;
        let (mut q, mut k) = (self.q.apply(pass, &h)?, self.k.apply(pass, &h)?);
        let v = self.v.apply(pass, &h)?;
        if let Some((q_norm, k_norm)) = &self.head_norms {
            (q, k) = (q_norm.apply(pass, &q)?, k_norm.apply(pass, &k)?);
        }
        let heads = pass.ops.attention(layer, q, k, v, plan)?;
        let mut select = |x| wanted.map(|rows| pass.ops.select(x, rows)).transpose();
        let (fewer_heads, fewer) = (select(&heads)?, select(x)?);
        let output = self.o.apply(pass, fewer_heads.as_ref().unwrap_or(&heads))?;
        let x = pass.ops.add(fewer.as_ref().unwrap_or(x), &output)?;
        let h = self.mlp_norm.apply(pass, &x)?;
        let output = self.mlp.apply(pass, &h)?;
        pass.ops.add(&x, &output)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact numbers are what is promised")]
mod tests {
    use super::*;
    use ablate_core::base::Seed;

    #[test]
    fn as_many_inputs_are_dropped_as_asked_and_the_others_make_up_for_them() {
        for dropout in [0.1, 0.5] {
            let count = 100_000;
            let factors = keep(&mut Seed(3).stream("dropout"), dropout, count);
            let dropped = factors.iter().filter(|factor| **factor == 0.0).count() as f64 / count as f64;
            let mean = factors.iter().map(|&factor| f64::from(factor)).sum::<f64>() / count as f64;
            // Four deviations of a share of 100,000 draws are 0.0063 at most.
            assert!((dropped - dropout).abs() < 0.0063 && (mean - 1.0).abs() < 0.013, "{dropped} {mean}");
            let kept = (1.0 / (1.0 - dropout)) as f32;
            assert!(factors.iter().all(|&factor| factor == 0.0 || factor == kept));
        }
    }
}
