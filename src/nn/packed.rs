//! The operations without a tape, on weights that are laid out for products once: for generation on the CPU. Attention
//! reads and fills the caches of keys and values; the arithmetic of a sequence does not depend on those beside it.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use super::architecture::Activation;
use super::buffer::Buffer;
use super::cache::{Cache, Scratch, Step, Stretch, attend};
use super::kernels::attention::{Heads, attention};
use super::kernels::elementwise as kernel;
use super::kernels::layer_norm::layer_norm;
use super::kernels::matmul;
use super::kernels::rope::RopeTable;
use super::ops::{Factor, Ops, Param, Place, Source};
use super::shared::Table;

/// Weights where the checkpoint has them, those of products packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing;

/// Numbers, a token per row.
pub(crate) struct Rows {
    pub(crate) values: Buffer,
    pub(crate) width: usize,
}

impl Place for Packing {
    type Matrix = Arc<matmul::PackedMatrix>;
    type Table = Table;
    type Vector = Arc<Vec<f32>>;

    fn matrix(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Arc<matmul::PackedMatrix>> {
        Ok(Arc::new(matmul::PackedMatrix::of_weight(&values, rows, columns)))
    }

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Table> {
        Ok(Table { values, rows, columns })
    }

    fn vector(&self, values: Arc<Vec<f32>>) -> Result<Arc<Vec<f32>>> {
        Ok(values)
    }

    fn tied(&self, table: &Table) -> Result<Arc<matmul::PackedMatrix>> {
        self.matrix(table.values.clone(), table.rows, table.columns)
    }
}

/// The operations, and the sequences that are being continued.
#[derive(Default)]
pub(crate) struct Packed {
    /// One per sequence: a step's token `i` continues sequence `i`.
    pub(crate) caches: Vec<Cache>,
    /// Takes the keys and values of a prompt that is read.
    pub(crate) reading: Option<Stretch>,
    scratch: Scratch,
}

/// How attention runs.
pub(crate) enum Plan {
    /// Over rows of tokens that are all here.
    Rows { heads: Heads, rows: Vec<Range<usize>>, turns: Option<Arc<RopeTable>> },
    /// One token for every sequence, over its cache.
    Step { heads: Heads, turns: Arc<RopeTable> },
}

impl Packed {
    /// Longest sequence that is being continued.
    pub(crate) fn longest(&self) -> usize {
        self.caches.iter().map(Cache::length).max().unwrap_or(0)
    }

    /// After a step every sequence is a position longer.
    pub(crate) fn advance(&mut self) {
        for cache in &mut self.caches {
            cache.own.advance(1);
        }
    }
}

impl Ops for Packed {
    type Place = Packing;
    type X = Rows;
    type Plan = Plan;

    const PADDED: bool = false;

    fn record(&mut self, _: bool) {}

    fn rows(&self, x: &Rows) -> usize {
        x.count()
    }

    fn input(&mut self, values: Vec<f32>, width: usize) -> Result<Rows> {
        Ok(Rows { values: values.into(), width })
    }

    fn plan(&mut self, heads: Heads, rows: &[Range<usize>], turns: Option<&Arc<RopeTable>>) -> Result<Plan> {
        Ok(Plan::Rows { heads, rows: rows.to_vec(), turns: turns.cloned() })
    }

    fn lookup(&mut self, table: &Param<Table>, indices: &[usize]) -> Result<Rows> {
        let mut y = Rows::unset(indices.len(), table.value.columns);
        for (row, &index) in indices.iter().enumerate() {
            y.row_mut(row).copy_from_slice(table.value.row(index));
        }
        Ok(y)
    }

    fn select(&mut self, x: &Rows, indices: &[usize]) -> Result<Rows> {
        let mut y = Rows::unset(indices.len(), x.width);
        for (row, &index) in indices.iter().enumerate() {
            y.row_mut(row).copy_from_slice(x.row(index));
        }
        Ok(y)
    }

    fn splice(
        &mut self,
        table: &Param<Table>,
        features: Option<&Rows>,
        newline: Option<&Param<Arc<Vec<f32>>>>,
        sources: &[Source],
    ) -> Result<Rows> {
        let mut y = Rows::unset(sources.len(), table.value.columns);
        for (row, source) in sources.iter().enumerate() {
            let from = match *source {
                Source::Token(id) => table.value.row(id as usize),
                Source::Feature(row) => features.map_or(&[][..], |features| features.row(row)),
                Source::Newline => newline.map_or(&[][..], |newline| &newline.value),
            };
            y.row_mut(row).copy_from_slice(from);
        }
        Ok(y)
    }

    fn rms_norm(&mut self, x: &Rows, weight: &Param<Arc<Vec<f32>>>, eps: f32) -> Result<Rows> {
        let (mut y, mut inverse) = (x.like(x.width), vec![0.0; x.values.len() / weight.value.len()]);
        kernel::rms_norm(&x.values, &weight.value, eps, &mut y.values, &mut inverse);
        Ok(y)
    }

    fn layer_norm(
        &mut self,
        x: &Rows,
        weight: &Param<Arc<Vec<f32>>>,
        bias: &Param<Arc<Vec<f32>>>,
        eps: f32,
    ) -> Result<Rows> {
        let (mut y, mut moments) = (x.like(x.width), vec![(0.0, 0.0); x.count()]);
        layer_norm(&x.values, &weight.value, &bias.value, eps, &mut y.values, &mut moments);
        Ok(y)
    }

    fn linear(
        &mut self,
        x: &Rows,
        weight: &Param<Arc<matmul::PackedMatrix>>,
        bias: Option<&Param<Arc<Vec<f32>>>>,
    ) -> Result<Rows> {
        let mut y = x.like(weight.value.outputs());
        weight.value.multiply(x.count(), &x.values, &mut y.values);
        if let Some(bias) = bias {
            kernel::add_bias(&mut y.values, &bias.value);
        }
        Ok(y)
    }

    fn add(&mut self, a: &Rows, b: &Rows) -> Result<Rows> {
        let mut y = a.like(a.width);
        kernel::add(&a.values, &b.values, &mut y.values);
        Ok(y)
    }

    fn scale(&mut self, x: &Rows, factor: Factor) -> Result<Rows> {
        let mut y = Rows { values: x.values.clone(), width: x.width };
        factor.multiply(&mut y.values);
        Ok(y)
    }

    fn beside(&mut self, parts: &[Rows]) -> Result<Rows> {
        let rows = parts.first().map_or(0, Rows::count);
        let values: Vec<f32> =
            (0..rows).flat_map(|row| parts.iter().flat_map(move |part| part.row(row))).copied().collect();
        Ok(Rows { values: values.into(), width: parts.iter().map(|part| part.width).sum() })
    }

    fn attention(&mut self, layer: usize, mut q: Rows, mut k: Rows, v: Rows, plan: &Plan) -> Result<Rows> {
        let mut out = q.like(q.width);
        match plan {
            Plan::Rows { heads, rows, turns } => {
                if let Some(turns) = turns {
                    for row in rows {
                        for (position, token) in row.clone().enumerate() {
                            turns.rotate(q.row_mut(token), position);
                            turns.rotate(k.row_mut(token), position);
                        }
                    }
                }
                if let Some(cache) = self.reading.as_mut().filter(|_| heads.causal) {
                    let w = heads.width;
                    for (token, kv) in (0..k.count()).flat_map(|token| (0..heads.kv_heads).map(move |kv| (token, kv))) {
                        cache.put(layer, kv, token, &k.row(token)[kv * w..][..w], &v.row(token)[kv * w..][..w]);
                    }
                }
                let mut sums = vec![0.0; q.count() * heads.heads];
                attention(*heads, rows, &q.values, &k.values, &v.values, &mut out.values, &mut sums);
            }
            Plan::Step { heads, turns } => {
                for (token, cache) in self.caches.iter().enumerate() {
                    let position = cache.length();
                    turns.rotate(q.row_mut(token), position);
                    turns.rotate(k.row_mut(token), position);
                }
                let mut first = 0;
                for sequences in self.caches.chunk_by_mut(|one, next| Arc::ptr_eq(&one.prompt, &next.prompt)) {
                    let tokens = first..first + sequences.len();
                    first = tokens.end;
                    let step = Step { queries: q.rows(&tokens), keys: k.rows(&tokens), values: v.rows(&tokens) };
                    attend(sequences, layer, *heads, &step, out.rows_mut(&tokens), &mut self.scratch);
                }
            }
        }
        Ok(out)
    }

    fn swiglu(&mut self, gate: &Rows, up: &Rows) -> Result<Rows> {
        let mut y = gate.like(gate.width);
        kernel::swiglu(&gate.values, &up.values, &mut y.values);
        Ok(y)
    }

    fn activate(&mut self, x: &Rows, activation: Activation) -> Result<Rows> {
        let mut y = x.like(x.width);
        kernel::activate(activation, &x.values, &mut y.values);
        Ok(y)
    }
}

impl Rows {
    pub(crate) fn count(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Numbers that may be anything.
    fn unset(count: usize, width: usize) -> Rows {
        Rows { values: Buffer::unset(count * width), width }
    }

    /// As many rows of another width.
    fn like(&self, width: usize) -> Rows {
        Rows::unset(self.count(), width)
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    fn rows(&self, rows: &Range<usize>) -> &[f32] {
        &self.values[rows.start * self.width..rows.end * self.width]
    }

    fn rows_mut(&mut self, rows: &Range<usize>) -> &mut [f32] {
        &mut self.values[rows.start * self.width..rows.end * self.width]
    }

    fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.values[index * self.width..][..self.width]
    }
}
