//! The layers of encoders and decoders: norm, linear layer with its LoRA adapter, MLP, transformer block.

use anyhow::Result;

use super::architecture::Activation;
use super::batch::{Batch, BatchPart};
use super::dropout::Dropout;
use super::ops::{Ops, Param, WeightStore};

/// One forward pass: the operations, and the random numbers of its dropout.
pub(crate) struct ForwardPass<'a, O> {
    pub(crate) ops: &'a mut O,
    /// None outside training.
    pub(crate) dropout: Option<Dropout>,
}

impl<'a, O> ForwardPass<'a, O> {
    /// A pass over a batch.
    pub(crate) fn of(ops: &'a mut O, batch: &Batch) -> ForwardPass<'a, O> {
        let dropout = (!batch.dropout.is_empty()).then(|| Dropout::new(&batch.dropout, &batch.parts));
        ForwardPass { ops, dropout }
    }

    /// Sets the rows that each part of the batch has in the tensors that are computed next.
    pub(crate) fn set_rows(&mut self, rows: impl Fn(&BatchPart) -> usize) {
        if let Some(dropout) = &mut self.dropout {
            dropout.set_rows(rows);
        }
    }
}

/// What the norms of a part of a model have in common.
#[derive(Clone, Copy)]
pub(crate) struct NormStyle {
    pub(crate) eps: f64,
    /// Whether a norm multiplies by 1 plus its weight (Gemma).
    pub(crate) offset: bool,
}

impl NormStyle {
    /// Norms that multiply by their weight.
    pub(crate) fn plain(eps: f64) -> NormStyle {
        NormStyle { eps, offset: false }
    }
}

/// A norm with its epsilon.
pub(crate) enum Norm<P: WeightStore> {
    Rms(Param<P::Vector>, f32),
    Layer(Param<P::Vector>, Param<P::Vector>, f32),
}

/// `x W^T + b`, plus the output of an adapter.
pub(crate) struct Linear<P: WeightStore> {
    pub(crate) weight: Param<P::Matrix>,
    pub(crate) bias: Option<Param<P::Vector>>,
    pub(crate) lora: Option<Lora<P>>,
}

/// `scale * dropout(x) A^T B^T` (Hu et al. 2021).
pub(crate) struct Lora<P: WeightStore> {
    pub(crate) a: Param<P::Matrix>, // (r, in)
    pub(crate) b: Param<P::Matrix>, // (out, r)
    pub(crate) scale: f32,
    /// Probability that an input is dropped in training.
    pub(crate) dropout: f64,
}

/// The projections to queries, keys and values.
pub(crate) enum Qkv<P: WeightStore> {
    Separate([Linear<P>; 3]),
    /// Their outputs side by side.
    Fused(Linear<P>),
}

/// The feed-forward network of a block.
pub(crate) enum Mlp<P: WeightStore> {
    Gated { gate: Linear<P>, up: Linear<P>, down: Linear<P>, activation: Activation },
    Plain { fc1: Linear<P>, fc2: Linear<P>, activation: Activation },
}

/// What an output passes through before it is added to the residual stream.
pub(crate) enum OutputLayer<P: WeightStore> {
    /// Factors of the columns (`InternViT`).
    Scale(Param<P::Vector>),
    /// Gemma 3.
    Norm(Norm<P>),
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
pub(crate) struct Block<P: WeightStore> {
    pub(crate) attention_norm: Norm<P>,
    pub(crate) qkv: Qkv<P>,
    pub(crate) o: Linear<P>,
    /// Norms of every query head and every key head (Qwen3).
    pub(crate) qk_norms: Option<(Norm<P>, Norm<P>)>,
    pub(crate) mlp_norm: Norm<P>,
    pub(crate) mlp: Mlp<P>,
    /// Of the outputs of attention and MLP.
    pub(crate) output_layers: Option<[OutputLayer<P>; 2]>,
}

impl<P: WeightStore> Norm<P> {
    pub(crate) fn forward<O: Ops<Weights = P>>(&self, pass: &mut ForwardPass<O>, x: &O::Tensor) -> Result<O::Tensor> {
        match self {
            Norm::Rms(weight, eps) => pass.ops.rms_norm(x, weight, *eps),
            Norm::Layer(weight, bias, eps) => pass.ops.layer_norm(x, weight, bias, *eps),
        }
    }
}

impl<P: WeightStore> Linear<P> {
    pub(crate) fn forward<O: Ops<Weights = P>>(&self, pass: &mut ForwardPass<O>, x: &O::Tensor) -> Result<O::Tensor> {
        let y = pass.ops.linear(x, &self.weight, self.bias.as_ref())?;
        let Some(Lora { a, b, scale, dropout: rate }) = &self.lora else { return Ok(y) };
        let dropout = pass.dropout.as_mut().filter(|_| *rate > 0.0).map(|dropout| (dropout, *rate));
        pass.ops.add_lora(y, x, [a, b], *scale, dropout)
    }
}

impl<P: WeightStore> Qkv<P> {
    /// (n, d) -> queries, keys and values.
    fn forward<O: Ops<Weights = P>>(&self, pass: &mut ForwardPass<O>, x: &O::Tensor) -> Result<[O::Tensor; 3]> {
        match self {
            Qkv::Separate([q, k, v]) => Ok([q.forward(pass, x)?, k.forward(pass, x)?, v.forward(pass, x)?]),
            Qkv::Fused(layer) => {
                let all = layer.forward(pass, x)?;
                let parts = pass.ops.split_columns(&all, 3)?;
                Ok(parts.try_into().unwrap_or_else(|_| panic!("BUG: three parts")))
            }
        }
    }
}

impl<P: WeightStore> Mlp<P> {
    fn forward<O: Ops<Weights = P>>(&self, pass: &mut ForwardPass<O>, x: &O::Tensor) -> Result<O::Tensor> {
        match self {
            Mlp::Gated { gate, up, down, activation } => {
                let (gate, up) = (gate.forward(pass, x)?, up.forward(pass, x)?);
                let gated = pass.ops.gated(&gate, &up, *activation)?;
                down.forward(pass, &gated)
            }
            Mlp::Plain { fc1, fc2, activation } => {
                let hidden = fc1.forward(pass, x)?;
                let hidden = pass.ops.activate(&hidden, *activation)?;
                fc2.forward(pass, &hidden)
            }
        }
    }
}

impl<P: WeightStore> OutputLayer<P> {
    fn forward<O: Ops<Weights = P>>(&self, pass: &mut ForwardPass<O>, x: &O::Tensor) -> Result<O::Tensor> {
        match self {
            OutputLayer::Scale(scale) => pass.ops.scale_columns(x, scale),
            OutputLayer::Norm(norm) => norm.forward(pass, x),
        }
    }
}

impl<P: WeightStore> Block<P> {
    /// Block number `layer`: (n, dim) -> (n, dim). With `needed`, only these positions are computed after the attention:
    /// (needed, dim).
    pub(crate) fn forward<O: Ops<Weights = P>>(
        &self,
        pass: &mut ForwardPass<O>,
        layer: usize,
        x: &O::Tensor,
        attention: &O::AttentionPlan,
        needed: Option<&[usize]>,
    ) -> Result<O::Tensor> {
        let h = self.attention_norm.forward(pass, x)?;
        let [mut q, mut k, v] = self.qkv.forward(pass, &h)?;
        if let Some((q_norm, k_norm)) = &self.qk_norms {
            (q, k) = (q_norm.forward(pass, &q)?, k_norm.forward(pass, &k)?);
        }
        let heads = pass.ops.attention(layer, q, k, v, attention)?;
        let mut select = |x| needed.map(|rows| pass.ops.select_rows(x, rows)).transpose();
        let (needed_heads, needed_x) = (select(&heads)?, select(x)?);
        if needed.is_some() {
            pass.set_rows(|part| part.needed);
        }
        let mut output = self.o.forward(pass, needed_heads.as_ref().unwrap_or(&heads))?;
        if let Some([layer, _]) = &self.output_layers {
            output = layer.forward(pass, &output)?;
        }
        let x = pass.ops.add(needed_x.as_ref().unwrap_or(x), &output)?;
        let h = self.mlp_norm.forward(pass, &x)?;
        let mut output = self.mlp.forward(pass, &h)?;
        if let Some([_, layer]) = &self.output_layers {
            output = layer.forward(pass, &output)?;
        }
        pass.ops.add(&x, &output)
    }
}
