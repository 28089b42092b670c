//! The log-probabilities of targets, in chunks of rows: no table of all logits is stored.

use std::rc::Rc;

use anyhow::Result;

use super::gpu::Gpu;
use super::gradients::WeightGradient;
use super::memory::Buffer;
use super::products::{Matrix, Product};
use super::state::CudaOps;
use super::tensor::CudaTensor;
use super::weights::CudaMatrix;
use crate::kernels::matmul::Accumulate;
use crate::ops::{Param, TargetGroups};

/// Numbers in the logits of a chunk, at most: 256 MiB.
const CHUNK: usize = 1 << 26;
/// Threads for a row of logits.
const THREADS: usize = 512;

/// The log-probability of every target.
pub(crate) struct CudaLogProbs {
    pub(super) values: Rc<Buffer>,
    pub(super) count: usize,
    /// The groups of the last sums, with the factors of the targets.
    groups: Option<Groups>,
}

struct Groups {
    factors: Rc<Buffer>,
    ends: Rc<Buffer>,
    count: usize,
}

/// What the forward and the backward pass share.
struct Head {
    /// The inputs in the type of products: (n, d).
    x: Rc<Buffer>,
    weight: CudaMatrix,
    targets: Rc<Buffer>,
    lse: Rc<Buffer>,
    n: usize,
    /// Rows of a chunk.
    rows: usize,
}

impl Head {
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (n, rows) = (self.n, self.rows);
        (0..n).step_by(rows).map(move |start| (start, rows.min(n - start)))
    }

    /// The logits of `count` rows from `start` on.
    fn logits(&self, gpu: &Gpu, table: &Rc<Buffer>, start: usize, count: usize) -> Result<()> {
        let CudaMatrix { values, rows: v, columns: d } = &self.weight;
        let x = Matrix::at(&self.x, start * d * gpu.inner_size());
        gpu.product_transposed(&Product::wide(x, values, table, Accumulate::No), count, *v, *d)
    }
}

/// The address of element `index` of a buffer of numbers of four bytes.
fn at(buffer: &Rc<Buffer>, index: usize) -> super::gpu::Arg {
    super::gpu::Arg::Address(buffer.address() + (index * 4) as u64)
}

/// `log softmax(x weight^T)` at each row's target: (n, d), (v, d) -> (n,).
pub(super) fn log_probs(
    ops: &mut CudaOps,
    x: &CudaTensor,
    weight: &Param<CudaMatrix>,
    targets: &[u32],
) -> Result<CudaLogProbs> {
    let (gpu, n, v) = (ops.gpu.clone(), targets.len(), weight.value.rows);
    let rows = (CHUNK / v.max(1)).clamp(1, n.max(1));
    let allocate = |count: usize| gpu.allocate(count * size_of::<f32>());
    let (values, lse) = (allocate(n)?, allocate(n)?);
    let head = Head { x: ops.inner(x)?, weight: weight.value.clone(), targets: gpu.upload(targets)?, lse, n, rows };
    let table = allocate(rows * v)?;
    for (start, count) in head.chunks() {
        head.logits(&gpu, &table, start, count)?;
        let results = [at(&values, start), at(&head.lse, start), v.into()];
        let arguments = [&[(&table).into(), at(&head.targets, start)][..], &results].concat();
        gpu.launch("log_softmax", [count, 1], THREADS, 0, &arguments)?;
    }
    if ops.grad_enabled {
        // The logits of a single chunk are kept.
        let kept = (rows == n).then_some(table);
        let (gradient, seed, x) = (ops.weight_gradient(weight), ops.seed.clone(), x.clone());
        ops.on_backward(move |gpu| {
            let Some(dy) = seed.take() else { return Ok(()) };
            backward(gpu, &head, kept, &x, &dy, gradient.as_ref())
        });
    }
    Ok(CudaLogProbs { values, count: n, groups: None })
}

fn backward(
    gpu: &Gpu,
    head: &Head,
    kept: Option<Rc<Buffer>>,
    x: &CudaTensor,
    dy: &Rc<Buffer>,
    gradient: Option<&WeightGradient>,
) -> Result<()> {
    let CudaMatrix { values: weights, rows: v, columns: d } = &head.weight;
    let (v, d, size) = (*v, *d, gpu.inner_size());
    let computed = kept.is_none();
    let table = kept.map_or_else(|| gpu.allocate(head.rows * v * size_of::<f32>()), Ok)?;
    let slopes = gpu.allocate(head.rows * v * size)?;
    super::add_product(gpu, x, |dx, into| {
        for (start, count) in head.chunks() {
            if computed {
                head.logits(gpu, &table, start, count)?;
            }
            let inputs = [(&table).into(), at(&head.targets, start), at(&head.lse, start), at(dy, start)];
            let arguments = [&inputs[..], &[(&slopes).into(), v.into()]].concat();
            gpu.launch("log_softmax_backward", [count, 1], THREADS, 0, &arguments)?;
            let part = |buffer| Matrix::at(buffer, start * d * size);
            gpu.product_plain(&Product::inner(&slopes, weights, part(dx), into), count, d, v)?;
            if let Some(gradient) = gradient {
                gradient.accumulate(|sum, into| {
                    gpu.product_of_transposed(&Product::wide(&slopes, part(&head.x), sum, into), v, d, count)
                })?;
            }
        }
        Ok(())
    })
}

impl CudaLogProbs {
    /// The sums of each group: with the factors, and without.
    pub(super) fn sums(&mut self, gpu: &Gpu, groups: &TargetGroups) -> Result<Vec<[f64; 2]>> {
        let factors: Vec<f32> = groups.factors.iter().map(|&factor| factor as f32).collect();
        let ends: Vec<i32> = groups.ends.iter().map(|&end| end as i32).collect();
        let count = ends.len();
        let groups = Groups { factors: gpu.upload(&factors)?, ends: gpu.upload(&ends)?, count };
        let sums = gpu.allocate(count * size_of::<[f64; 2]>())?;
        let inputs = [(&self.values).into(), (&groups.factors).into(), (&groups.ends).into(), (&sums).into()];
        gpu.launch("sum_groups", [count, 1], 128, 0, &inputs)?;
        self.groups = Some(groups);
        gpu.read(&sums, count)
    }

    /// The gradient by each log-probability, from the slopes by the two sums of its group.
    pub(super) fn spread(&self, gpu: &Gpu, slopes: &[[f64; 2]]) -> Result<Rc<Buffer>> {
        let Some(Groups { factors, ends, count }) = &self.groups else { panic!("BUG: slopes without sums") };
        assert_eq!(slopes.len(), *count, "BUG: two slopes per group");
        let (slopes, dy) = (gpu.upload(slopes)?, gpu.allocate(self.count * size_of::<f32>())?);
        let arguments = [(&slopes).into(), factors.into(), ends.into(), (&dy).into()];
        gpu.launch("spread_groups", [*count, 1], 128, 0, &arguments)?;
        Ok(dy)
    }
}
