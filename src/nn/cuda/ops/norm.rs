//! RMSNorm and LayerNorm, with the addition before them.

use anyhow::{Result, bail};

use super::gpu::Arg;
use super::state::CudaOps;
use super::sum_rows;
use super::tensor::{CudaTensor, Kind};
use super::weights::CudaVector;
use crate::kernels::matmul::Accumulate;
use crate::ops::Param;

/// Largest number of blocks of the backward kernel, each with its own sums for the gradients of the weights.
const BLOCKS: usize = 264;
/// Sums that fit into the shared memory of a block.
const MAX_SUMS: usize = 12_288;

/// A LayerNorm if there is a bias, else an RMSNorm. A row that is wider than the weight is normalized piece by piece.
pub(super) fn norm(
    ops: &mut CudaOps,
    x: &CudaTensor,
    weight: &Param<CudaVector>,
    bias: Option<&Param<CudaVector>>,
    eps: f32,
) -> Result<CudaTensor> {
    let (gpu, width) = (ops.gpu.clone(), weight.value.len);
    let rows = x.len() / width.max(1);
    let (forward, backward) = match (x.kind(), bias.is_some()) {
        (Kind::Stream, false) => ("rms_norm_forward", "rms_norm_backward"),
        (Kind::Stream, true) => ("layer_norm_forward", "layer_norm_backward"),
        (Kind::Inner, false) => ("rms_norm_inner_forward", "rms_norm_inner_backward"),
        (Kind::Inner, true) => ("layer_norm_inner_forward", "layer_norm_inner_backward"),
    };
    let moments = if ops.grad_enabled { Some(gpu.allocate(rows * 2 * size_of::<f32>())?) } else { None };
    let y = gpu.allocate(x.len() * gpu.inner_size())?;
    let weights = &weight.value.values;
    let bias_values = bias.map(|bias| bias.value.values.clone());
    let offset = weight.value.offset;
    let inputs = [weights.into(), bias_values.as_ref().into(), (&y).into(), moments.as_ref().into()];
    let rest = [&inputs[..], &[width.into(), eps.into(), offset.into()]].concat();
    // The sum is stored, because the next residual connection and the backward pass read it.
    let (values, delta, sum) = match x.open_sum().filter(|_| x.width() == width) {
        Some((stream, delta)) => (stream.values(&gpu)?, Some(delta.values(&gpu)?), Some(gpu.allocate(x.bytes(&gpu))?)),
        None => (x.values(&gpu)?, None, None),
    };
    let first = [(&values).into(), delta.as_ref().into(), sum.as_ref().into()];
    gpu.rows(forward, rows, width, &[&first[..], &rest].concat())?;
    if let Some(sum) = sum {
        x.set(sum);
    }
    let y = ops.tensor(Kind::Inner, y, x.rows(), x.width());
    let Some(moments) = moments else { return Ok(y) };
    let weight_gradient = ops.weight_gradient(weight);
    let bias_gradient = bias.and_then(|bias| ops.weight_gradient(bias));
    let kept = if bias.is_some() { 2 * width } else { width };
    let summed = weight_gradient.is_some() || bias_gradient.is_some();
    if summed && kept > MAX_SUMS {
        bail!(
            "a norm of {width} numbers is too wide to be trained on a GPU: at most {MAX_SUMS} fit, LayerNorm has two per number"
        );
    }
    let (x, weights, output) = (x.clone(), weights.clone(), y.gradient());
    ops.on_backward(move |gpu| {
        let Some(dy) = output.take() else { return Ok(()) };
        let blocks = rows.min(BLOCKS);
        let partial = if summed { Some(gpu.allocate(blocks * kept * size_of::<f32>())?) } else { None };
        let shared = if summed { kept * size_of::<f32>() } else { 0 };
        let values = x.values(gpu)?;
        let run = |dx: Arg, into: Accumulate| {
            let inputs = [(&values).into(), (&weights).into(), (&moments).into(), (&dy).into(), dx];
            let outputs = [(into == Accumulate::Yes).into(), partial.as_ref().into()];
            let sizes = [rows.into(), width.into(), offset.into()];
            let threads = width.next_multiple_of(32).clamp(32, 512);
            gpu.launch(backward, [blocks, 1], threads, shared, &[&inputs[..], &outputs, &sizes].concat())
        };
        x.gradient().accumulate(gpu, x.bytes(gpu), |dx, into| run(dx.into(), into))?;
        let Some(partial) = &partial else { return Ok(()) };
        if !x.gradient().is_tracked() {
            let dropped = gpu.allocate(x.bytes(gpu))?;
            run((&dropped).into(), Accumulate::No)?;
        }
        for (gradient, start) in [(&weight_gradient, 0), (&bias_gradient, width)] {
            let Some(gradient) = gradient else { continue };
            let start = partial.address() + (start * size_of::<f32>()) as u64;
            gradient.accumulate(|sum, into| sum_rows(gpu, start, sum, blocks, width, kept, into))?;
        }
        Ok(())
    });
    Ok(y)
}
