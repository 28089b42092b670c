//! Operations that move rows and compute nothing: look-ups, and their gradients, which add up.

use std::rc::Rc;
use std::sync::Arc;

use super::super::buffer::Buffer;
use super::super::kernels::elementwise as kernel;
use super::super::ops::{Param, Source};
use super::super::profile::timer;
use super::super::shared::Table;
use super::Fused;
use super::value::{Gradient, Value};

/// Rows of a table (r, d) by index -> (n, d).
pub(super) fn lookup(fused: &mut Fused, table: &Param<Table>, indices: &[usize]) -> Value {
    let Table { columns: d, .. } = table.value;
    let _timer = timer("embedding", 0, 2 * indices.len() * d);
    let mut y = Buffer::unset(indices.len() * d);
    for (y, &i) in y.chunks_exact_mut(d).zip(indices) {
        y.copy_from_slice(table.value.row(i));
    }
    let y = Value::new(y, d);
    if let Some(table) = fused.learning(table) {
        let (output, indices) = (y.gradient(), indices.to_vec());
        fused.then(move || {
            let dy = output.take(indices.len() * d);
            table.add(move |sum| {
                for (&i, dy) in indices.iter().zip(dy.chunks_exact(d)) {
                    kernel::accumulate(&mut sum[i * d..(i + 1) * d], dy);
                }
            });
        });
    }
    y
}

/// Rows of a value by index -> (n, d).
pub(super) fn select(fused: &mut Fused, x: &Value, indices: &[usize]) -> Value {
    let d = x.width();
    if indices.iter().copied().eq(0..x.rows()) {
        return x.clone();
    }
    let _timer = timer("select", 0, 2 * indices.len() * d);
    let mut y = Buffer::unset(indices.len() * d);
    for (y, &i) in y.chunks_exact_mut(d).zip(indices) {
        y.copy_from_slice(&x[i * d..(i + 1) * d]);
    }
    let y = Value::new(y, d);
    if fused.recording {
        let (count, x, output, indices) = (x.len(), x.gradient(), y.gradient(), indices.to_vec());
        fused.then(move || {
            let _timer = timer("select, back", 0, 3 * indices.len() * d);
            let dy = output.take(indices.len() * d);
            x.add(count, |dx| {
                for (&i, dy) in indices.iter().zip(dy.chunks_exact(d)) {
                    kernel::accumulate(&mut dx[i * d..(i + 1) * d], dy);
                }
            });
        });
    }
    y
}

/// Rows of a table, of image features and the newline, one of them per position -> (n, d).
pub(super) fn splice(
    fused: &mut Fused,
    table: &Param<Table>,
    features: Option<&Value>,
    newline: Option<&Param<Arc<Vec<f32>>>>,
    sources: &[Source],
) -> Value {
    let d = table.value.columns;
    let _timer = timer("embedding", 0, 2 * sources.len() * d);
    let seen: &[f32] = features.map_or(&[], |features| features);
    let end: &[f32] = newline.map_or(&[], |newline| &newline.value);
    let mut y = Buffer::unset(sources.len() * d);
    for (y, source) in y.chunks_exact_mut(d).zip(sources) {
        y.copy_from_slice(match *source {
            Source::Token(id) => table.value.row(id as usize),
            Source::Feature(row) => &seen[row * d..][..d],
            Source::Newline => end,
        });
    }
    let y = Value::new(y, d);
    if fused.recording {
        let (table, newline) = (fused.learning(table), newline.and_then(|newline| fused.learning(newline)));
        let features = features.map(|features| (features.gradient(), features.len()));
        let (output, sources) = (y.gradient(), sources.to_vec());
        fused.then(move || {
            let dy = output.take(sources.len() * d);
            if let Some((features, count)) = features {
                features.add(count, |dfeatures| {
                    for (source, dy) in sources.iter().zip(dy.chunks_exact(d)) {
                        if let Source::Feature(row) = *source {
                            kernel::accumulate(&mut dfeatures[row * d..][..d], dy);
                        }
                    }
                });
            }
            let given = Rc::new((sources, dy));
            if let Some(newline) = newline {
                let given = given.clone();
                newline.add(move |sum| {
                    for (source, dy) in given.0.iter().zip(given.1.chunks_exact(d)) {
                        if matches!(source, Source::Newline) {
                            kernel::accumulate(sum, dy);
                        }
                    }
                });
            }
            if let Some(table) = table {
                table.add(move |sum| {
                    let _timer = timer("embedding, back", 0, 3 * given.0.len() * d);
                    for (source, dy) in given.0.iter().zip(given.1.chunks_exact(d)) {
                        if let Source::Token(id) = *source {
                            kernel::accumulate(&mut sum[id as usize * d..][..d], dy);
                        }
                    }
                });
            }
        });
    }
    y
}

/// Values of equal length side by side.
pub(super) fn beside(fused: &mut Fused, parts: &[Value]) -> Value {
    let widths: Vec<usize> = parts.iter().map(Value::width).collect();
    let (rows, width) = (parts.first().map_or(0, Value::rows), widths.iter().sum());
    let mut y = Buffer::unset(rows * width);
    let mut start = 0;
    for (part, &d) in parts.iter().zip(&widths) {
        for (y, part) in y.chunks_exact_mut(width).zip(part.chunks_exact(d)) {
            y[start..start + d].copy_from_slice(part);
        }
        start += d;
    }
    let y = Value::new(y, width);
    if fused.recording {
        let (parts, output) = (parts.iter().map(Value::gradient).collect::<Vec<Gradient>>(), y.gradient());
        fused.then(move || {
            let dy = output.take(rows * width);
            let mut start = 0;
            for (part, d) in parts.iter().zip(widths) {
                let mut dx = Buffer::unset(rows * d);
                for (dx, dy) in dx.chunks_exact_mut(d).zip(dy.chunks_exact(width)) {
                    dx.copy_from_slice(&dy[start..start + d]);
                }
                part.put(Rc::new(dx));
                start += d;
            }
        });
    }
    y
}
