//! Generation with dfdx's operations, on any device: the sequences of a group are read together and then continued token
//! by token. What they have read is one tensor of keys and one of values per layer, which stay on the device.
//!
//! Positions come first in those tensors (letters as in [`super`]: (t, b k, w)), so that a step adds its own behind them
//! by one copy, and attention over all sequences and heads is one batched product.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::Resources;
use super::architecture::Activation;
use super::batch::Batch;
use super::checkpoint::Checkpoint;
use super::device::Device as Where;
use super::kernels::attention::Heads;
use super::kernels::rope::RopeTable;
use super::layers::Pass;
use super::learner::Learner;
use super::model::Model;
use super::ops::{Factor, Matrix, OnDevice, Ops, Param, Source, Taped, Vector, device_error};
use super::stock::Stock;
use super::stock::attention::{self as stock, ByHead, Fallible, Token};

/// Sequences that are read and continued together.
pub(crate) trait Steps {
    /// Reads texts; `samples` sequences will continue each. The batch is padded and selects the last position of each
    /// text. The logits after each of them: (texts, v).
    fn read(&mut self, texts: &Batch, samples: usize) -> Result<Vec<f32>>;

    /// Continues every sequence by its token. The logits of the next ones: (sequences, v).
    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;

    /// Goes on with these sequences only, in this order.
    fn keep(&mut self, sequences: &[usize]) -> Result<()>;
}

/// A model on the device of a run.
pub(crate) fn steps(model: &Checkpoint, resources: &Resources) -> Result<Box<dyn Steps>> {
    match resources.device {
        #[cfg(feature = "cuda")]
        Where::Cuda(ordinal) => Ok(Box::new(Stepping::new(super::cuda::open(ordinal)?, model)?)),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(_) => anyhow::bail!("this program was built for the CPU only"),
        Where::Cpu => Ok(Box::new(Stepping::new(Cpu::default(), model)?)),
    }
}

struct Stepping<D: Device<f32>> {
    model: Model<OnDevice<D>>,
    ops: Cached<D>,
    /// Positions that each sequence had been read to.
    lengths: Vec<usize>,
    /// Tokens that each has been continued by.
    taken: usize,
}

impl<D: Device<f32>> Stepping<D> {
    fn new(device: D, model: &Checkpoint) -> Result<Stepping<D>> {
        let model = Model::new(&OnDevice(device), &Learner::frozen(model))?;
        let ops = Cached::new(model.place(), 1);
        Ok(Stepping { model, ops, lengths: Vec::new(), taken: 0 })
    }

    fn width(&self) -> usize {
        self.lengths.len() * self.model.heads.kv_heads
    }
}

impl<D: Device<f32>> Steps for Stepping<D> {
    fn read(&mut self, texts: &Batch, samples: usize) -> Result<Vec<f32>> {
        self.ops = Cached::new(self.model.place(), samples);
        self.taken = 0;
        let length = |(row, last): (&Range<usize>, &usize)| last + 1 - row.start;
        let lengths = texts.rows.iter().zip(&texts.selected).map(length);
        self.lengths = lengths.flat_map(|length| std::iter::repeat_n(length, samples)).collect();
        let last = self.model.hidden(&mut self.ops, texts, false)?;
        let logits = self.model.logits(&mut self.ops, &last)?.as_vec();
        let longest = texts.rows.first().map_or(0, ExactSizeIterator::len);
        if self.lengths.iter().any(|&length| length < longest) {
            let kv_heads = self.model.heads.kv_heads;
            let column = |position: usize| {
                let hidden = move |&length: &usize| if position < length { 0.0 } else { f32::NEG_INFINITY };
                self.lengths.iter().map(hidden).flat_map(move |mask| std::iter::repeat_n(mask, kv_heads))
            };
            let mask = (0..longest).flat_map(column).collect();
            self.ops.mask = Some(self.ops.column(mask, (longest, self.width(), 1))?);
        }
        Ok(logits)
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        assert_eq!(tokens.len(), self.lengths.len(), "BUG: one token per sequence");
        let positions: Vec<usize> = self.lengths.iter().map(|length| length + self.taken).collect();
        let turns = self.model.rotary.table(positions.iter().max().map_or(0, |last| last + 1));
        let sources: Vec<Source> = tokens.iter().map(|&token| Source::Token(token)).collect();
        let plan = Plan::Step(Token::new(&self.ops.stock, self.model.heads, &turns, &positions)?);
        if let Some(mask) = self.ops.mask.take() {
            let seen = self.ops.column(vec![0.0; self.width()], (1, self.width(), 1))?;
            self.ops.mask = Some(append(mask, seen).map_err(device_error)?);
        }
        let mut pass = Pass { ops: &mut self.ops, dropout: None };
        let x = self.model.embed(&mut pass, None, &sources)?;
        let hidden = self.model.decode(&mut pass, x, &plan, None)?;
        let logits = self.model.logits(&mut self.ops, &hidden)?.as_vec();
        self.taken += 1;
        Ok(logits)
    }

    fn keep(&mut self, sequences: &[usize]) -> Result<()> {
        let kv_heads = self.model.heads.kv_heads;
        self.ops.keep(sequences, self.lengths.len(), kv_heads).map_err(device_error)?;
        self.lengths = sequences.iter().map(|&sequence| self.lengths[sequence]).collect();
        Ok(())
    }
}

/// Positions of all sequences and key heads: (t, b k, w).
type Columns<D> = Tensor<(usize, usize, usize), f32, D>;

/// The operations of [`Stock`] with a memory.
struct Cached<D: Device<f32>> {
    device: D,
    stock: Stock<D>,
    /// Sequences that continue each text that is read.
    samples: usize,
    /// Keys, turned, and values, by layer.
    layers: Vec<(Columns<D>, Columns<D>)>,
    /// Minus infinity where a text had ended and others went on: (t, b k, 1).
    mask: Option<Columns<D>>,
}

enum Plan<D: Device<f32>> {
    /// Texts from their beginning.
    Read(stock::Plan<D>),
    /// One token of every sequence.
    Step(Token<D>),
}

impl<D: Device<f32>> Cached<D> {
    fn new(place: &OnDevice<D>, samples: usize) -> Cached<D> {
        Cached { device: place.0.clone(), stock: Stock::new(place, None), samples, layers: Vec::new(), mask: None }
    }

    fn column(&self, values: Vec<f32>, shape: (usize, usize, usize)) -> Result<Columns<D>> {
        self.device.try_tensor_from_vec(values, shape).map_err(device_error)
    }

    /// Remembers keys or values of texts, (b, k, t, w), for every sample.
    fn columns(&self, x: ByHead<D>) -> Fallible<Columns<D>, D> {
        let (b, k, t, w) = *x.shape();
        let x = x.try_permute::<_, Axes4<2, 0, 1, 3>>()?;
        let x = x.try_broadcast_like::<_, Axis<2>>(&(t, b, self.samples, k, w))?;
        x.try_reshape_like(&(t, b * self.samples * k, w))
    }

    fn keep(&mut self, sequences: &[usize], count: usize, kv_heads: usize) -> Fallible<(), D> {
        let Some((keys, _)) = self.layers.first() else { return Ok(()) };
        let (t, _, w) = *keys.shape();
        let kept = sequences.len();
        let indices = sequences.iter().copied().cycle().take(t * kept).collect::<Vec<_>>();
        let indices: Tensor<(usize, usize), usize, D> = self.device.try_tensor_from_vec(indices, (t, kept))?;
        let of = |x: Columns<D>, w: usize| -> Fallible<Columns<D>, D> {
            let x = x.try_reshape_like(&(t, count, kv_heads * w))?;
            let x = x.try_gather::<(usize, usize, usize), (usize, usize)>(indices.clone())?;
            x.try_reshape_like(&(t, kept * kv_heads, w))
        };
        for (keys, values) in &mut self.layers {
            *keys = of(keys.clone(), w)?;
            *values = of(values.clone(), w)?;
        }
        self.mask = self.mask.take().map(|mask| of(mask, 1)).transpose()?;
        Ok(())
    }

    /// A token of every sequence looks at all that its sequence has read, itself included.
    fn look(
        &mut self,
        layer: usize,
        q: Matrix<D>,
        k: Matrix<D>,
        v: Matrix<D>,
        token: &Token<D>,
    ) -> Fallible<Matrix<D>, D> {
        let Heads { heads: h, kv_heads, width: w, .. } = token.heads;
        let (n, group) = (q.shape().0, h / kv_heads);
        let (q, k) = (token.rotate(q, h)?, token.rotate(k, kv_heads)?);
        let (keys, values) = self.layers[layer].clone();
        let keys = append(keys, k.try_reshape_like(&(1, n * kv_heads, w))?)?;
        let values = append(values, v.try_reshape_like(&(1, n * kv_heads, w))?)?;
        self.layers[layer] = (keys.clone(), values.clone());
        let q = q.try_reshape_like(&(n * kv_heads, group, w))?;
        let scores = q.try_matmul(keys.try_permute::<_, Axes3<1, 2, 0>>()?)?.try_mul(1.0 / (w as f32).sqrt())?;
        let shape = *scores.shape(); // (b k, g, t)
        let scores = match self.mask.clone() {
            Some(mask) => {
                let mask = mask.try_reshape_like(&(shape.2, shape.0))?.try_permute::<_, Axes2<1, 0>>()?;
                scores.try_add(mask.try_broadcast_like::<_, Axis<1>>(&shape)?)?
            }
            None => scores,
        };
        let out = scores.try_softmax::<Axis<2>>()?.try_matmul(values.try_permute::<_, Axes3<1, 0, 2>>()?)?;
        out.try_reshape_like(&(n, h * w))
    }
}

/// More positions behind those that are there.
#[expect(deprecated, reason = "its successor compiles a kernel when it runs; this one copies")]
fn append<D: Device<f32>>(columns: Columns<D>, more: Columns<D>) -> Fallible<Columns<D>, D> {
    columns.try_concat(more)
}

impl<D: Device<f32>> Ops for Cached<D> {
    type Place = OnDevice<D>;
    type X = Matrix<D>;
    type Plan = Plan<D>;

    const PADDED: bool = true;

    fn record(&mut self, on: bool) {
        self.stock.record(on);
    }

    fn rows(&self, x: &Matrix<D>) -> usize {
        self.stock.rows(x)
    }

    fn input(&mut self, values: Vec<f32>, width: usize) -> Result<Matrix<D>> {
        self.stock.input(values, width)
    }

    fn plan(&mut self, heads: Heads, rows: &[Range<usize>], turns: Option<&Arc<RopeTable>>) -> Result<Plan<D>> {
        self.stock.plan(heads, rows, turns).map(Plan::Read)
    }

    fn lookup(&mut self, table: &Param<Matrix<D>>, indices: &[usize]) -> Result<Matrix<D>> {
        self.stock.lookup(table, indices)
    }

    fn select(&mut self, x: &Matrix<D>, indices: &[usize]) -> Result<Matrix<D>> {
        self.stock.select(x, indices)
    }

    fn splice(
        &mut self,
        table: &Param<Matrix<D>>,
        features: Option<&Matrix<D>>,
        newline: Option<&Param<Vector<D>>>,
        sources: &[Source],
    ) -> Result<Matrix<D>> {
        self.stock.splice(table, features, newline, sources)
    }

    fn rms_norm(&mut self, x: &Matrix<D>, weight: &Param<Vector<D>>, eps: f32) -> Result<Matrix<D>> {
        self.stock.rms_norm(x, weight, eps)
    }

    fn layer_norm(
        &mut self,
        x: &Matrix<D>,
        weight: &Param<Vector<D>>,
        bias: &Param<Vector<D>>,
        eps: f32,
    ) -> Result<Matrix<D>> {
        self.stock.layer_norm(x, weight, bias, eps)
    }

    fn linear(
        &mut self,
        x: &Matrix<D>,
        weight: &Param<Matrix<D>>,
        bias: Option<&Param<Vector<D>>>,
    ) -> Result<Matrix<D>> {
        self.stock.linear(x, weight, bias)
    }

    fn add(&mut self, a: &Matrix<D>, b: &Matrix<D>) -> Result<Matrix<D>> {
        self.stock.add(a, b)
    }

    fn scale(&mut self, x: &Matrix<D>, factor: Factor) -> Result<Matrix<D>> {
        self.stock.scale(x, factor)
    }

    fn beside(&mut self, parts: &[Matrix<D>]) -> Result<Matrix<D>> {
        self.stock.beside(parts)
    }

    fn attention(
        &mut self,
        layer: usize,
        q: Matrix<D>,
        k: Matrix<D>,
        v: Matrix<D>,
        plan: &Plan<D>,
    ) -> Result<Matrix<D>> {
        match plan {
            Plan::Read(plan) => {
                if plan.causal() {
                    let (keys, values) = plan.read(&k, &v).map_err(device_error)?;
                    let columns = (self.columns(keys), self.columns(values));
                    self.layers.push((columns.0.map_err(device_error)?, columns.1.map_err(device_error)?));
                }
                self.stock.attention(layer, q, k, v, plan)
            }
            Plan::Step(token) => self.look(layer, q, k, v, token).map_err(device_error),
        }
    }

    fn swiglu(&mut self, gate: &Matrix<D>, up: &Matrix<D>) -> Result<Matrix<D>> {
        self.stock.swiglu(gate, up)
    }

    fn activate(&mut self, x: &Matrix<D>, activation: Activation) -> Result<Matrix<D>> {
        self.stock.activate(x, activation)
    }
}
