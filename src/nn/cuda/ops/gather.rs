//! Operations that copy rows or columns, and their gradients, which add them up in a fixed order; dropout.

use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::Result;

use super::add_gradient;
use super::gpu::{Arg, Gpu};
use super::memory::{Buffer, Part};
use super::state::CudaOps;
use super::tensor::{CudaTensor, Kind, bytes_of};
use super::weights::{CudaMatrix, CudaVector};
use crate::batch::EmbeddingSource;
use crate::dropout::Dropout;
use crate::kernels::matmul::Accumulate;
use crate::ops::{Bag, Param};

/// Rows of a tensor by index, none of them twice -> (n, d).
pub(super) fn select_rows(ops: &mut CudaOps, x: &CudaTensor, indices: &[usize]) -> Result<CudaTensor> {
    let d = x.width();
    if indices.iter().copied().eq(0..x.rows()) {
        return Ok(x.clone());
    }
    let gpu = ops.gpu.clone();
    let (values, y) = (x.values(&gpu)?, gpu.allocate(indices.len() * d * bytes_of(&gpu, x.kind()))?);
    let uploaded = gpu.upload(&indices.iter().map(|&index| index as i32).collect::<Vec<_>>())?;
    let kernel = x.kind().of("select_rows", "select_rows_inner");
    gpu.rows(kernel, indices.len(), d, &[(&values).into(), (&uploaded).into(), (&y).into(), d.into()])?;
    let y = ops.tensor(x.kind(), y, indices.len(), d);
    if ops.grad_enabled && x.gradient().is_tracked() {
        let mut inverse = vec![-1; x.rows()];
        for (at, &index) in indices.iter().enumerate() {
            inverse[index] = at as i32;
        }
        let (gradient, kind, rows, output) = (x.gradient(), x.kind(), x.rows(), y.gradient());
        ops.on_backward(move |gpu| {
            let Some(dy) = output.take() else { return Ok(()) };
            let inverse = gpu.upload(&inverse)?;
            gradient.accumulate(gpu, rows * d * bytes_of(gpu, kind), |dx, into| {
                let kernel = kind.of("unselect_rows", "unselect_rows_inner");
                let accumulate = into == Accumulate::Yes;
                let arguments = [(&dy).into(), (&inverse).into(), dx.into(), d.into(), accumulate.into()];
                gpu.rows(kernel, rows, d, &arguments)
            })
        });
    }
    Ok(y)
}

/// The positions that read each row of a table.
struct Segments {
    positions: Vec<i32>,
    ends: Vec<i32>,
    rows: Vec<i32>,
}

impl Segments {
    /// From the row that each position reads, if it reads one.
    fn new(sources: &[EmbeddingSource], row: impl Fn(&EmbeddingSource) -> Option<usize>) -> Segments {
        let mut by_row: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
        for (position, source) in sources.iter().enumerate() {
            if let Some(row) = row(source) {
                by_row.entry(row).or_default().push(position as i32);
            }
        }
        let mut segments = Segments { positions: Vec::new(), ends: Vec::new(), rows: Vec::new() };
        for (row, positions) in by_row {
            segments.positions.extend(positions);
            segments.ends.push(segments.positions.len() as i32);
            segments.rows.push(row as i32);
        }
        segments
    }

    /// The positions that read each row of the image features.
    fn of_features(sources: &[EmbeddingSource]) -> Segments {
        let row = |source: &EmbeddingSource| if let EmbeddingSource::Feature(row) = *source { Some(row) } else { None };
        Segments::new(sources, row)
    }

    /// Adds the sums of the rows of `dy` (n, d), times a factor, to those of `sums`.
    fn add(
        &self,
        gpu: &Gpu,
        kernel: &'static str,
        (dy, factor): (&Rc<Buffer>, f32),
        sums: &Rc<Buffer>,
        d: usize,
    ) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let (positions, ends, rows) = (gpu.upload(&self.positions)?, gpu.upload(&self.ends)?, gpu.upload(&self.rows)?);
        let inputs: [Arg; 4] = [dy.into(), (&positions).into(), (&ends).into(), (&rows).into()];
        let outputs = [sums.into(), d.into(), true.into(), factor.into()];
        gpu.rows(kernel, self.rows.len(), d, &[&inputs[..], &outputs].concat())
    }
}

/// For each position a row of a table times `scale`, a row of the image features, or the newline -> (n, d).
pub(super) fn merge_image_features(
    ops: &mut CudaOps,
    table: &Param<CudaMatrix>,
    scale: Option<f32>,
    features: Option<&CudaTensor>,
    newline: Option<&Param<CudaVector>>,
    sources: &[EmbeddingSource],
) -> Result<CudaTensor> {
    let (gpu, n, d, scale) = (ops.gpu.clone(), sources.len(), table.value.columns, scale.unwrap_or(1.0));
    let code = |source: &EmbeddingSource| match *source {
        EmbeddingSource::Token(id) => id as i32,
        EmbeddingSource::Newline => -1,
        EmbeddingSource::Feature(row) => -2 - row as i32,
    };
    let codes = gpu.upload(&sources.iter().map(code).collect::<Vec<_>>())?;
    let values = features.map(|features| ops.inner(features)).transpose()?;
    let y = gpu.allocate(n * d * size_of::<f32>())?;
    let newline_values = newline.map(|newline| newline.value.values.clone());
    let inputs: [Arg; 4] =
        [(&table.value.values).into(), values.as_ref().into(), newline_values.as_ref().into(), (&codes).into()];
    let rest = [Arg::Address(0), (&y).into(), scale.into(), d.into()];
    gpu.rows("embed", n, d, &[&inputs[..], &rest].concat())?;
    let y = ops.tensor(Kind::Stream, y, n, d);
    if ops.grad_enabled {
        let of_table = ops.weight_gradient(table).map(|gradient| {
            let row = |source: &EmbeddingSource| {
                if let EmbeddingSource::Token(id) = *source { Some(id as usize) } else { None }
            };
            (gradient, Segments::new(sources, row), scale)
        });
        let of_newline = newline.and_then(|newline| ops.weight_gradient(newline)).map(|gradient| {
            let row = |source: &EmbeddingSource| matches!(source, EmbeddingSource::Newline).then_some(0);
            (gradient, Segments::new(sources, row), 1.0)
        });
        let of_features = features
            .filter(|features| features.gradient().is_tracked())
            .map(|features| (features.gradient(), features.kind(), features.len(), Segments::of_features(sources)));
        let output = y.gradient();
        ops.on_backward(move |gpu| {
            let Some(dy) = output.take() else { return Ok(()) };
            if let Some((gradient, kind, count, segments)) = of_features {
                let sums = gpu.zeros(count * gpu.inner_size())?;
                segments.add(gpu, "add_segments_inner", (&dy, 1.0), &sums, d)?;
                add_gradient(gpu, &gradient, kind, &sums, Kind::Inner, count)?;
            }
            for (gradient, segments, factor) in of_table.into_iter().chain(of_newline) {
                gradient.add_with(|sums| segments.add(gpu, "add_segments", (&dy, factor), sums, d))?;
            }
            Ok(())
        });
    }
    Ok(y)
}

/// The row of the image features that each position reads, or -1.
fn feature_rows(sources: &[EmbeddingSource]) -> Vec<i32> {
    let row = |source: &EmbeddingSource| if let EmbeddingSource::Feature(row) = *source { row as i32 } else { -1 };
    sources.iter().map(row).collect()
}

/// Adds to each position the row of the image features that it reads.
pub(super) fn add_image_features(
    ops: &mut CudaOps,
    x: &CudaTensor,
    features: &CudaTensor,
    sources: &[EmbeddingSource],
) -> Result<CudaTensor> {
    let (gpu, n, d) = (ops.gpu.clone(), x.rows(), x.width());
    let (stream, values) = (x.values(&gpu)?, ops.inner(features)?);
    let (rows, y) = (gpu.upload(&feature_rows(sources))?, gpu.allocate(n * d * size_of::<f32>())?);
    let arguments = [(&stream).into(), (&values).into(), (&rows).into(), (&y).into(), d.into()];
    gpu.rows("add_features", n, d, &arguments)?;
    let y = ops.tensor(Kind::Stream, y, n, d);
    if ops.grad_enabled {
        let segments = features.gradient().is_tracked().then(|| Segments::of_features(sources));
        let (from, gradient, kind, count) = (x.gradient(), features.gradient(), features.kind(), features.len());
        let output = y.gradient();
        ops.on_backward(move |gpu| {
            let Some(dy) = output.take() else { return Ok(()) };
            if let Some(segments) = segments {
                let sums = gpu.zeros(count * gpu.inner_size())?;
                segments.add(gpu, "add_segments_inner", (&dy, 1.0), &sums, d)?;
                add_gradient(gpu, &gradient, kind, &sums, Kind::Inner, count)?;
            }
            from.add(gpu, Kind::Stream, dy, n * d)
        });
    }
    Ok(y)
}

/// Weighted sums of rows of a table.
pub(super) fn embedding_bag(ops: &mut CudaOps, table: &Param<CudaMatrix>, bags: &[Bag]) -> Result<CudaTensor> {
    let (gpu, n, d) = (ops.gpu.clone(), bags.len(), table.value.columns);
    let entries = || bags.iter().flatten();
    let rows = gpu.upload(&entries().map(|&(row, _)| row as i32).collect::<Vec<_>>())?;
    let weights = gpu.upload(&entries().map(|&(_, weight)| weight).collect::<Vec<_>>())?;
    let y = gpu.allocate(n * d * size_of::<f32>())?;
    let arguments = [(&table.value.values).into(), (&rows).into(), (&weights).into(), (&y).into(), d.into()];
    gpu.rows("embedding_bag", n, d, &arguments)?;
    let y = ops.tensor(Kind::Stream, y, n, d);
    if let Some(gradient) = ops.weight_gradient(table) {
        let mut by_row: BTreeMap<usize, Vec<(i32, f32)>> = BTreeMap::new();
        for (position, bag) in bags.iter().enumerate() {
            for &(row, weight) in bag {
                by_row.entry(row).or_default().push((position as i32, weight));
            }
        }
        let output = y.gradient();
        ops.on_backward(move |gpu| {
            let Some(dy) = output.take() else { return Ok(()) };
            let (positions, weights): (Vec<i32>, Vec<f32>) = by_row.values().flatten().copied().unzip();
            let (mut ends, mut end) = (Vec::with_capacity(by_row.len()), 0);
            for entries in by_row.values() {
                end += entries.len() as i32;
                ends.push(end);
            }
            let rows: Vec<i32> = by_row.keys().map(|&row| row as i32).collect();
            let (positions, weights) = (gpu.upload(&positions)?, gpu.upload(&weights)?);
            let (ends, uploaded) = (gpu.upload(&ends)?, gpu.upload(&rows)?);
            gradient.add_with(|sums| {
                let inputs = [(&dy).into(), (&positions).into(), (&weights).into(), (&ends).into(), (&uploaded).into()];
                let outputs = [sums.into(), d.into()];
                gpu.rows("add_weighted_segments", rows.len(), d, &[&inputs[..], &outputs].concat())
            })
        });
    }
    Ok(y)
}

/// The embeddings of `n` tokens, times `scale`, for a step of generation: row `i` is that of token `tokens[slots[i]]`, both `int` -> (n, d).
pub(super) fn embed_tokens(
    gpu: &Gpu,
    table: &CudaMatrix,
    scale: Option<f32>,
    tokens: &Rc<Buffer>,
    slots: &Part,
    n: usize,
) -> Result<CudaTensor> {
    let d = table.columns;
    let y = gpu.allocate(n * d * size_of::<f32>())?;
    let none = Arg::Address(0);
    let inputs: [Arg; 5] = [(&table.values).into(), none, none, tokens.into(), slots.into()];
    gpu.rows("embed", n, d, &[&inputs[..], &[(&y).into(), scale.unwrap_or(1.0).into(), d.into()]].concat())?;
    Ok(CudaTensor::new(Kind::Stream, y, n, d, false))
}

/// The mean of each `count` consecutive rows.
pub(super) fn average_rows(ops: &mut CudaOps, x: &CudaTensor, count: usize) -> Result<CudaTensor> {
    let (gpu, rows, d, factor) = (ops.gpu.clone(), x.rows() / count, x.width(), 1.0 / count as f32);
    let (values, y) = (ops.inner(x)?, gpu.allocate(rows * d * gpu.inner_size())?);
    let arguments = move |from: &Rc<Buffer>, to: &Rc<Buffer>| -> [Arg; 5] {
        [from.into(), to.into(), count.into(), factor.into(), d.into()]
    };
    gpu.rows("sum_consecutive_rows", rows, d, &arguments(&values, &y))?;
    let y = ops.tensor(Kind::Inner, y, rows, d);
    if ops.grad_enabled && x.gradient().is_tracked() {
        let (gradient, kind, elements, output) = (x.gradient(), x.kind(), x.len(), y.gradient());
        ops.on_backward(move |gpu| {
            let Some(dy) = output.take() else { return Ok(()) };
            let dx = gpu.allocate(elements * gpu.inner_size())?;
            gpu.rows("repeat_rows", rows * count, d, &arguments(&dy, &dx))?;
            add_gradient(gpu, &gradient, kind, &dx, Kind::Inner, elements)
        });
    }
    Ok(y)
}

/// Consecutive rows side by side: the same values, as fewer and wider rows.
pub(super) fn join_rows(ops: &mut CudaOps, x: &CudaTensor, count: usize) -> Result<CudaTensor> {
    let values = x.values(&ops.gpu)?;
    let y = ops.tensor(x.kind(), values, x.rows() / count, x.width() * count);
    if ops.grad_enabled && x.gradient().is_tracked() {
        let (gradient, kind, elements, output) = (x.gradient(), x.kind(), x.len(), y.gradient());
        ops.on_backward(move |gpu| match output.take() {
            Some(dy) => gradient.add(gpu, kind, dy, elements),
            None => Ok(()),
        });
    }
    Ok(y)
}

/// Columns in `count` parts of the same width.
pub(super) fn split_columns(ops: &mut CudaOps, x: &CudaTensor, count: usize) -> Result<Vec<CudaTensor>> {
    let (gpu, rows, width) = (ops.gpu.clone(), x.rows(), x.width());
    let (d, size) = (width / count, gpu.inner_size());
    let (values, mut parts) = (ops.inner(x)?, Vec::with_capacity(count));
    for part in 0..count {
        let y = gpu.allocate(rows * d * size)?;
        let from = Arg::Address(values.address() + (part * d * size) as u64);
        gpu.rows("copy_columns_inner", rows, d, &[from, (&y).into(), width.into(), d.into(), d.into()])?;
        parts.push(ops.tensor(Kind::Inner, y, rows, d));
    }
    if ops.grad_enabled && x.gradient().is_tracked() {
        let outputs: Vec<_> = parts.iter().map(CudaTensor::gradient).collect();
        let (gradient, kind) = (x.gradient(), x.kind());
        ops.on_backward(move |gpu| {
            let dx = gpu.zeros(rows * width * size)?;
            for (part, output) in outputs.iter().enumerate() {
                let Some(dy) = output.take() else { continue };
                let to = Arg::Address(dx.address() + (part * d * size) as u64);
                gpu.rows("copy_columns_inner", rows, d, &[(&dy).into(), to, d.into(), width.into(), d.into()])?;
            }
            add_gradient(gpu, &gradient, kind, &dx, Kind::Inner, rows * width)
        });
    }
    Ok(parts)
}

/// Tensors with the same number of rows, side by side.
pub(super) fn concat_columns(ops: &mut CudaOps, parts: &[CudaTensor]) -> Result<CudaTensor> {
    let gpu = ops.gpu.clone();
    let rows = parts.first().map_or(0, CudaTensor::rows);
    let width: usize = parts.iter().map(CudaTensor::width).sum();
    // A projector reads the result, so it has the type of products.
    let size = gpu.inner_size();
    let y = gpu.allocate(rows * width * size)?;
    let mut start = 0;
    for part in parts {
        let values = ops.inner(part)?;
        let to = Arg::Address(y.address() + (start * size) as u64);
        let d = part.width();
        gpu.rows("copy_columns_inner", rows, d, &[(&values).into(), to, d.into(), width.into(), d.into()])?;
        start += d;
    }
    let y = ops.tensor(Kind::Inner, y, rows, width);
    if ops.grad_enabled {
        let parts: Vec<_> = parts.iter().map(|part| (part.gradient(), part.kind(), part.width())).collect();
        let output = y.gradient();
        ops.on_backward(move |gpu| {
            let Some(dy) = output.take() else { return Ok(()) };
            let mut start = 0;
            for (gradient, kind, d) in parts {
                let dx = gpu.allocate(rows * d * size)?;
                let from = Arg::Address(dy.address() + (start * size) as u64);
                gpu.rows("copy_columns_inner", rows, d, &[from, (&dx).into(), width.into(), d.into(), d.into()])?;
                add_gradient(gpu, &gradient, kind, &dx, Kind::Inner, rows * d)?;
                start += d;
            }
            Ok(())
        });
    }
    Ok(y)
}

/// A segment of the kernel: 8 words of the key, the first word of the stream, and the segment's first and last element, each
/// number of 64 bits as two words.
type DropoutSegment = [u32; 14];

/// `x` with elements dropped, as the CPU drops them.
pub(super) fn drop_elements(ops: &mut CudaOps, x: &CudaTensor, dropout: &mut Dropout, rate: f64) -> Result<CudaTensor> {
    let gpu = ops.gpu.clone();
    let mut segments: Vec<DropoutSegment> = Vec::new();
    let (mut longest, mut start) = (0, 0);
    for (key, word, count) in dropout.take(x.width()) {
        let mut segment = DropoutSegment::default();
        for (word, bytes) in segment.iter_mut().zip(key.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for (at, number) in [(8, word), (10, start as u64), (12, (start + count) as u64)] {
            (segment[at], segment[at + 1]) = (number as u32, (number >> 32) as u32);
        }
        segments.push(segment);
        start += count;
        longest = longest.max(count);
    }
    assert_eq!(start, x.len(), "BUG: the parts of the dropout are the rows of a tensor");
    let below = (rate * (f64::from(u32::MAX) + 1.0)).ceil() as i64;
    let kept = (1.0 / (1.0 - rate)) as f32;
    let (uploaded, count) = (gpu.upload(&segments)?, segments.len());
    let run = move |gpu: &Gpu, from: &Rc<Buffer>, to: &Rc<Buffer>| {
        let arguments = [from.into(), to.into(), (&uploaded).into(), Arg::Long(below), kept.into()];
        // A block of the stream has 16 words, and a segment may begin within one.
        gpu.launch("dropout", [(longest / 16 + 2).div_ceil(128), count], 128, 0, &arguments)
    };
    let (values, y) = (ops.inner(x)?, gpu.allocate(x.len() * gpu.inner_size())?);
    run(&gpu, &values, &y)?;
    let y = ops.tensor(Kind::Inner, y, x.rows(), x.width());
    if ops.grad_enabled && x.gradient().is_tracked() {
        let (gradient, kind, count, output) = (x.gradient(), x.kind(), x.len(), y.gradient());
        ops.on_backward(move |gpu| {
            let Some(dy) = output.take() else { return Ok(()) };
            let dx = gpu.allocate(count * gpu.inner_size())?;
            run(gpu, &dy, &dx)?;
            add_gradient(gpu, &gradient, kind, &dx, Kind::Inner, count)
        });
    }
    Ok(y)
}
