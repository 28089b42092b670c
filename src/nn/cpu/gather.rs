//! Operations that copy rows or columns, and their gradients, which add them up.

use std::rc::Rc;

use super::state::CpuOps;
use super::tensor::{CpuTensor, Gradient};
use super::weights::{SharedVector, Table};
use crate::batch::EmbeddingSource;
use crate::buffer::Buffer;
use crate::kernels::elementwise as kernel;
use crate::ops::Param;
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

/// For each position a row of a table, a row of the image features, or the newline -> (n, d).
pub(super) fn merge_image_features(
    ops: &mut CpuOps,
    table: &Param<Table>,
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
    }
    let y = CpuTensor::new(y, d);
    if ops.grad_enabled {
        let (table, newline) = (ops.weight_gradient(table), newline.and_then(|newline| ops.weight_gradient(newline)));
        let features = features.map(|features| (features.gradient(), features.len()));
        let (output, sources) = (y.gradient(), sources.to_vec());
        ops.on_backward(move || {
            let dy = output.take(sources.len() * d);
            if let Some((features, count)) = features {
                features.add_with(count, |dfeatures| {
                    for (source, dy) in sources.iter().zip(dy.chunks_exact(d)) {
                        if let EmbeddingSource::Feature(row) = *source {
                            kernel::accumulate(&mut dfeatures[row * d..][..d], dy);
                        }
                    }
                });
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
                            kernel::accumulate(&mut sum[id as usize * d..][..d], dy);
                        }
                    }
                });
            }
        });
    }
    y
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
