//! Operations that move rows and compute nothing: look-ups, and their gradients, which add up.

use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::super::kernels::elementwise as kernel;
use super::super::ops::{Matrix, Param, Source};
use super::super::profile::timer;
use super::super::raw::slice;
use super::super::shared::Weights;
use super::{Fused, matrix};

/// Rows of a table (r, d) by index -> (n, d).
pub(super) fn lookup(fused: &mut Fused, table: &Param<Weights>, indices: &[usize]) -> Result<Matrix<Cpu>> {
    let Weights { columns: d, .. } = table.value;
    let _timer = timer("embedding", 0, 2 * indices.len() * d);
    let y = matrix(indices.iter().flat_map(|&i| table.value.row(i)).copied().collect(), d)?;
    if let Some(table) = fused.learning(table) {
        let (output, indices) = (y.ghost(), indices.to_vec());
        fused.then(move |gradients| {
            let dy = take!(gradients, output);
            table.add(|sum| {
                for (&i, dy) in indices.iter().zip(dy.chunks_exact(d)) {
                    kernel::accumulate(&mut sum[i * d..(i + 1) * d], dy);
                }
            });
            Ok(())
        });
    }
    Ok(y)
}

/// Rows of a value by index -> (n, d).
pub(super) fn select(fused: &mut Fused, x: &Matrix<Cpu>, indices: &[usize]) -> Result<Matrix<Cpu>> {
    let d = x.shape().1;
    let _timer = timer("select", 0, 2 * indices.len() * d);
    let values = slice(x);
    let y = matrix(indices.iter().flat_map(|&i| &values[i * d..(i + 1) * d]).copied().collect(), d)?;
    if fused.recording {
        let (x, output, indices) = (x.ghost(), y.ghost(), indices.to_vec());
        fused.then(move |gradients| {
            let _timer = timer("select, back", 0, 3 * indices.len() * d);
            let dy = take!(gradients, output);
            let dx = gradients.get_or_alloc_mut(&x)?;
            for (&i, dy) in indices.iter().zip(dy.chunks_exact(d)) {
                kernel::accumulate(&mut dx[i * d..(i + 1) * d], dy);
            }
            Ok(())
        });
    }
    Ok(y)
}

/// Rows of a table, of image features and the newline, one of them per position -> (n, d).
pub(super) fn splice(
    fused: &mut Fused,
    table: &Param<Weights>,
    features: Option<&Matrix<Cpu>>,
    newline: Option<&Param<Arc<Vec<f32>>>>,
    sources: &[Source],
) -> Result<Matrix<Cpu>> {
    let d = table.value.columns;
    let _timer = timer("embedding", 0, 2 * sources.len() * d);
    let (seen, end) = (features.map_or(&[][..], slice), newline.map_or(&[][..], |newline| &newline.value));
    let mut y = Vec::with_capacity(sources.len() * d);
    for source in sources {
        y.extend_from_slice(match *source {
            Source::Token(id) => table.value.row(id as usize),
            Source::Feature(row) => &seen[row * d..][..d],
            Source::Newline => end,
        });
    }
    let y = matrix(y, d)?;
    if fused.recording {
        let (table, newline) = (fused.learning(table), newline.and_then(|newline| fused.learning(newline)));
        let (features, output, sources) = (features.map(Tensor::ghost), y.ghost(), sources.to_vec());
        fused.then(move |gradients| {
            let dy = take!(gradients, output);
            let _timer = timer("embedding, back", 0, 3 * sources.len() * d);
            let rows = || sources.iter().zip(dy.chunks_exact(d));
            if let Some(table) = table {
                table.add(|sum| {
                    for (source, dy) in rows() {
                        if let Source::Token(id) = *source {
                            kernel::accumulate(&mut sum[id as usize * d..][..d], dy);
                        }
                    }
                });
            }
            if let Some(newline) = newline {
                newline.add(|sum| {
                    for (_, dy) in rows().filter(|(source, _)| matches!(source, Source::Newline)) {
                        kernel::accumulate(sum, dy);
                    }
                });
            }
            let Some(features) = features else { return Ok(()) };
            let dfeatures = gradients.get_or_alloc_mut(&features)?;
            for (source, dy) in rows() {
                if let Source::Feature(row) = *source {
                    kernel::accumulate(&mut dfeatures[row * d..][..d], dy);
                }
            }
            Ok(())
        });
    }
    Ok(y)
}

/// Values of equal length side by side.
pub(super) fn beside(fused: &mut Fused, parts: &[Matrix<Cpu>]) -> Result<Matrix<Cpu>> {
    let widths: Vec<usize> = parts.iter().map(|part| part.shape().1).collect();
    let (rows, width) = (parts.first().map_or(0, |part| part.shape().0), widths.iter().sum());
    let mut y = Vec::with_capacity(rows * width);
    for row in 0..rows {
        for (part, &d) in parts.iter().zip(&widths) {
            y.extend_from_slice(&slice(part)[row * d..(row + 1) * d]);
        }
    }
    let y = matrix(y, width)?;
    if fused.recording {
        let (parts, output) = (parts.iter().map(Tensor::ghost).collect::<Vec<_>>(), y.ghost());
        fused.then(move |gradients| {
            let dy = take!(gradients, output);
            let mut start = 0;
            for (part, d) in parts.iter().zip(widths) {
                let dx = gradients.get_or_alloc_mut(part)?;
                for (dx, dy) in dx.chunks_exact_mut(d).zip(dy.chunks_exact(width)) {
                    kernel::accumulate(dx, &dy[start..start + d]);
                }
                start += d;
            }
            Ok(())
        });
    }
    Ok(y)
}
