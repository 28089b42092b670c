//! Operations that copy rows or columns, and their gradients, which add them up.

use std::rc::Rc;

use super::state::CpuOps;
use super::tensor::{CpuTensor, Gradient};
use super::weights::{SharedVector, Table};
use crate::batch::EmbeddingSource;
use crate::buffer::Buffer;
use crate::kernels::elementwise as kernel;
use crate::ops::{Bag, Param};
use crate::profile::timer;

/// Rows of a tensor by index -> (n, d).
pub(super) fn select_rows(ops: &mut CpuOps, x: &CpuTensor, indices: &[usize]) -> CpuTensor {
    let d = x.width();
    if indices.iter().copied().eq(0..x.rows()) {
        return x.clone();
    }
    let _timer = timer("select", 0, 2 * indices.len() * d);
    let mut y = Buffer::unset(indices.len() * d);
    for (y, &i) in y.chunks_exact_mut(d).zip(indices) {
        y.copy_from_slice(&x[i * d..(i + 1) * d]);
    }
    let y = CpuTensor::new(y, d);
    if ops.grad_enabled {
        let (count, x, output, indices) = (x.len(), x.gradient(), y.gradient(), indices.to_vec());
        ops.on_backward(move || {
            let _timer = timer("select, backward", 0, 3 * indices.len() * d);
            let dy = output.take(indices.len() * d);
            x.add_with(count, |dx| {
                for (&i, dy) in indices.iter().zip(dy.chunks_exact(d)) {
                    kernel::accumulate(&mut dx[i * d..(i + 1) * d], dy);
                }
            });
        });
    }
    y
}

/// For each position a row of a table times `scale`, a row of the image features, or the newline -> (n, d).
pub(super) fn merge_image_features(
    ops: &mut CpuOps,
    table: &Param<Table>,
    scale: Option<f32>,
    features: Option<&CpuTensor>,
    newline: Option<&Param<SharedVector>>,
    sources: &[EmbeddingSource],
) -> CpuTensor {
    let d = table.value.columns;
    let _timer = timer("embedding", 0, 2 * sources.len() * d);
    let feature_rows: &[f32] = features.map_or(&[], |features| features);
    let newline_row: &[f32] = newline.map_or(&[], |newline| &newline.value);
    let mut y = Buffer::unset(sources.len() * d);
    for (y, source) in y.chunks_exact_mut(d).zip(sources) {
        y.copy_from_slice(match *source {
            EmbeddingSource::Token(id) => table.value.row(id as usize),
            EmbeddingSource::Feature(row) => &feature_rows[row * d..][..d],
            EmbeddingSource::Newline => newline_row,
        });
        if let (EmbeddingSource::Token(_), Some(scale)) = (source, scale) {
            kernel::scale(y, scale);
        }
    }
    let y = CpuTensor::new(y, d);
    if ops.grad_enabled {
        let (table, newline) = (ops.weight_gradient(table), newline.and_then(|newline| ops.weight_gradient(newline)));
        let features = features.map(|features| (features.gradient(), features.len()));
        let (output, sources) = (y.gradient(), sources.to_vec());
        ops.on_backward(move || {
            let dy = output.take(sources.len() * d);
            if let Some((features, count)) = features {
                features.add_with(count, |sum| add_feature_rows(sum, &sources, &dy, d));
            }
            let rows = Rc::new((sources, dy));
            if let Some(newline) = newline {
                let rows = rows.clone();
                newline.add_with(move |sum| {
                    for (source, dy) in rows.0.iter().zip(rows.1.chunks_exact(d)) {
                        if matches!(source, EmbeddingSource::Newline) {
                            kernel::accumulate(sum, dy);
                        }
                    }
                });
            }
            if let Some(table) = table {
                table.add_with(move |sum| {
                    let _timer = timer("embedding, backward", 0, 3 * rows.0.len() * d);
                    for (source, dy) in rows.0.iter().zip(rows.1.chunks_exact(d)) {
                        if let EmbeddingSource::Token(id) = *source {
                            kernel::accumulate_scaled(&mut sum[id as usize * d..][..d], dy, scale.unwrap_or(1.0));
                        }
                    }
                });
            }
        });
    }
    y
}

/// The mean of each `count` consecutive rows.
pub(super) fn average_rows(ops: &mut CpuOps, x: &CpuTensor, count: usize) -> CpuTensor {
    let (d, factor) = (x.width(), 1.0 / count as f32);
    let _timer = timer("average", 0, x.len());
    let mut y = Buffer::zeros(x.len() / count);
    for (y, rows) in y.chunks_exact_mut(d).zip(x.chunks_exact(count * d)) {
        rows.chunks_exact(d).for_each(|row| kernel::accumulate(y, row));
    }
    kernel::scale(&mut y, factor);
    let y = CpuTensor::new(y, d);
    if ops.grad_enabled {
        let (length, x, output) = (x.len(), x.gradient(), y.gradient());
        ops.on_backward(move || {
            let _timer = timer("average, backward", 0, length);
            let dy = output.take(length / count);
            x.add_with(length, |dx| {
                for (dx, dy) in dx.chunks_exact_mut(count * d).zip(dy.chunks_exact(d)) {
                    dx.chunks_exact_mut(d).for_each(|dx| kernel::accumulate_scaled(dx, dy, factor));
                }
            });
        });
    }
    y
}

/// Adds to each position the row of the image features that it reads.
pub(super) fn add_image_features(
    ops: &mut CpuOps,
    x: CpuTensor,
    features: &CpuTensor,
    sources: &[EmbeddingSource],
) -> CpuTensor {
    let (count, d) = (x.len(), x.width());
    let _timer = timer("add", 0, 3 * count);
    let gradient = ops.grad_enabled.then(|| x.gradient());
    let mut y = x.into_values();
    for (source, y) in sources.iter().zip(y.chunks_exact_mut(d)) {
        if let EmbeddingSource::Feature(row) = *source {
            kernel::accumulate(y, &features[row * d..][..d]);
        }
    }
    let y = CpuTensor::new(y, d);
    if let Some(gradient) = gradient {
        let (features, elements) = (features.gradient(), features.len());
        let (output, sources) = (y.gradient(), sources.to_vec());
        ops.on_backward(move || {
            let _timer = timer("add, backward", 0, 3 * count);
            let dy = output.take(count);
            features.add_with(elements, |sum| add_feature_rows(sum, &sources, &dy, d));
            gradient.add(dy);
        });
    }
    y
}

/// Adds the gradient of each position (n, d) to that of the row of image features that it reads.
fn add_feature_rows(sum: &mut [f32], sources: &[EmbeddingSource], dy: &[f32], d: usize) {
    for (source, dy) in sources.iter().zip(dy.chunks_exact(d)) {
        if let EmbeddingSource::Feature(row) = *source {
            kernel::accumulate(&mut sum[row * d..][..d], dy);
        }
    }
}

/// Weighted sums of rows of a table.
pub(super) fn embedding_bag(ops: &mut CpuOps, table: &Param<Table>, bags: &[Bag]) -> CpuTensor {
    let d = table.value.columns;
    let elements = bags.len() * d;
    let _timer = timer("embedding", 0, 5 * elements);
    let mut y = Buffer::zeros(elements);
    for (y, bag) in y.chunks_exact_mut(d).zip(bags) {
        for &(row, weight) in bag {
            kernel::accumulate_scaled(y, table.value.row(row), weight);
        }
    }
    let y = CpuTensor::new(y, d);
    if let Some(table) = ops.weight_gradient(table) {
        let (output, bags) = (y.gradient(), bags.to_vec());
        ops.on_backward(move || {
            let dy = output.take(elements);
            table.add_with(move |sum| {
                let _timer = timer("embedding, backward", 0, 12 * elements);
                for (bag, dy) in bags.iter().zip(dy.chunks_exact(d)) {
                    for &(row, weight) in bag {
                        kernel::accumulate_scaled(&mut sum[row * d..][..d], dy, weight);
                    }
                }
            });
        });
    }
    y
}

/// Consecutive rows side by side: the same values, as fewer and wider rows.
pub(super) fn join_rows(ops: &mut CpuOps, x: CpuTensor, count: usize) -> CpuTensor {
    let (width, gradient) = (x.width() * count, ops.grad_enabled.then(|| x.gradient()));
    let y = CpuTensor::new(x.into_values(), width);
    if let Some(gradient) = gradient {
        let (count, output) = (y.len(), y.gradient());
        ops.on_backward(move || gradient.add(output.take(count)));
    }
    y
}

/// Columns in `count` parts of the same width.
pub(super) fn split_columns(ops: &mut CpuOps, x: &CpuTensor, count: usize) -> Vec<CpuTensor> {
    let (rows, width) = (x.rows(), x.width());
    let d = width / count;
    let _timer = timer("select", 0, 2 * x.len());
    let part = |part: usize| {
        let mut y = Buffer::unset(rows * d);
        for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(width)) {
            y.copy_from_slice(&x[part * d..(part + 1) * d]);
        }
        CpuTensor::new(y, d)
    };
    let parts: Vec<CpuTensor> = (0..count).map(part).collect();
    if ops.grad_enabled {
        let (gradient, outputs) = (x.gradient(), parts.iter().map(CpuTensor::gradient).collect::<Vec<Gradient>>());
        ops.on_backward(move || {
            let _timer = timer("select, backward", 0, 2 * rows * width);
            let mut dx = Buffer::unset(rows * width);
            for (part, output) in outputs.iter().enumerate() {
                let dy = output.take(rows * d);
                for (dx, dy) in dx.chunks_exact_mut(width).zip(dy.chunks_exact(d)) {
                    dx[part * d..(part + 1) * d].copy_from_slice(dy);
                }
            }
            gradient.add(Rc::new(dx));
        });
    }
    parts
}

/// Tensors with the same number of rows, side by side.
pub(super) fn concat_columns(ops: &mut CpuOps, parts: &[CpuTensor]) -> CpuTensor {
    let widths: Vec<usize> = parts.iter().map(CpuTensor::width).collect();
    let (rows, width) = (parts.first().map_or(0, CpuTensor::rows), widths.iter().sum());
    let mut y = Buffer::unset(rows * width);
    let mut start = 0;
    for (part, &d) in parts.iter().zip(&widths) {
        for (y, part) in y.chunks_exact_mut(width).zip(part.chunks_exact(d)) {
            y[start..start + d].copy_from_slice(part);
        }
        start += d;
    }
    let y = CpuTensor::new(y, width);
    if ops.grad_enabled {
        let (parts, output) = (parts.iter().map(CpuTensor::gradient).collect::<Vec<Gradient>>(), y.gradient());
        ops.on_backward(move || {
            let dy = output.take(rows * width);
            let mut start = 0;
            for (part, d) in parts.iter().zip(widths) {
                let mut dx = Buffer::unset(rows * d);
                for (dx, dy) in dx.chunks_exact_mut(d).zip(dy.chunks_exact(width)) {
                    dx.copy_from_slice(&dy[start..start + d]);
                }
                part.add(Rc::new(dx));
                start += d;
            }
        });
    }
    y
}
