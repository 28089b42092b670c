//! Attention with rotary positions: within rows, and of one new token per sequence over its cache.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::gpu::{Arg, Gpu};
use super::memory::{Buffer, Part};
use super::state::CudaOps;
use super::tensor::{Biased, CudaTensor, Kind};
use crate::Precision;
use crate::kernels::attention::{Heads, KeyRanges};
use crate::kernels::rope::{RopeTable, Rotations};

/// Positions of a tile, as in `attention.cuh` and `attention_bf16.cuh`.
const TILE: usize = 16;
const WIDE_TILE: usize = 64;
const WARP: usize = 32;
const THREADS: usize = 128;
/// Threads of the decoding kernel.
const DECODE_THREADS: usize = 256;

/// Which positions attend to which, and the rotation of every position.
pub(crate) struct AttentionPlan {
    heads: Heads,
    rope: Option<Rope>,
    over: Over,
}

enum Over {
    /// The tokens of the same row.
    Rows(Tiles),
    /// The cache: one `CachedSequence` of `decode.cuh` per token. Or the last positions of a window, 0 without one.
    Caches(Part, usize),
}

/// Rotations, and the position of every token.
struct Rope {
    positions: Part,
    cos: Rc<Buffer>,
    sin: Rc<Buffer>,
}

/// Rows of tokens, cut into tiles.
#[derive(Clone)]
struct Tiles {
    buffer: Rc<Buffer>,
    count: usize,
    /// The first key of each token and the end of its keys, as `Keys` of `attention.cuh`.
    keys: Option<Rc<Buffer>>,
}

impl AttentionPlan {
    /// Attention within rows of tokens.
    pub(super) fn rows(
        gpu: &Gpu,
        heads: Heads,
        rows: &[Range<usize>],
        rope: Option<&Rotations>,
        keys: Option<&KeyRanges>,
    ) -> Result<AttentionPlan> {
        let size = if is_wide(gpu, heads) && keys.is_none() { WIDE_TILE } else { TILE };
        let mut tiles: Vec<[i32; 3]> = Vec::new();
        for row in rows {
            let (start, length) = (row.start as i32, row.len() as i32);
            tiles.extend((0..row.len()).step_by(size).map(|first| [start, length, first as i32]));
        }
        let rope = rope.map(|rope| Rope::new(gpu, rope.table(), gpu.upload(&positions(rows, rope))?)).transpose()?;
        let bounds =
            |keys: &KeyRanges| keys.iter().map(|range| [range.start as i32, range.end as i32]).collect::<Vec<_>>();
        let keys = keys.map(|keys| gpu.upload(&bounds(keys))).transpose()?;
        let over = Over::Rows(Tiles { buffer: gpu.upload(&tiles)?, count: tiles.len(), keys });
        Ok(AttentionPlan { heads, rope, over })
    }

    /// Attention of one token per sequence: `positions` are those of the tokens (an `int` each), `sequences` their places in the cache
    /// with the token as the last one (a `CachedSequence` each). `window`: how many of the last positions are attended to.
    pub(super) fn step(
        gpu: &Gpu,
        heads: Heads,
        table: &Arc<RopeTable>,
        positions: Part,
        sequences: Part,
        window: Option<usize>,
    ) -> Result<AttentionPlan> {
        let over = Over::Caches(sequences, window.unwrap_or(0));
        Ok(AttentionPlan { heads, rope: Some(Rope::new(gpu, table, positions)?), over })
    }
}

/// The position of every token in the table of its rotation.
fn positions(rows: &[Range<usize>], rope: &Rotations) -> Vec<i32> {
    rows.iter().flat_map(|row| (0..row.len()).map(|at| rope.position(row.start, at) as i32)).collect()
}

impl Rope {
    fn new(gpu: &Gpu, table: &Arc<RopeTable>, positions: impl Into<Part>) -> Result<Rope> {
        let (cos, sin) = gpu.rope(table)?;
        Ok(Rope { positions: positions.into(), cos, sin })
    }
}

/// Queries (n, h w), keys and values (n, k w) of layer `layer` -> (n, h w).
pub(super) fn attend(
    ops: &mut CudaOps,
    layer: usize,
    q: CudaTensor,
    k: CudaTensor,
    v: CudaTensor,
    plan: &AttentionPlan,
) -> Result<CudaTensor> {
    let (gpu, heads, n) = (ops.gpu.clone(), plan.heads, q.rows());
    let (dq, dk, dv) = (q.gradient(), k.gradient(), v.gradient());
    // Rotated in place: the backward pass needs the rotated ones too.
    let (q, k, v, biased) = if plan.rope.is_some() {
        let ((q, of_q), (k, of_k), (v, of_v)) = (q.into_product(&gpu)?, k.into_product(&gpu)?, v.into_product(&gpu)?);
        (q, k, v, [of_q, of_k, of_v])
    } else {
        (q.into_values(&gpu)?, k.into_values(&gpu)?, v.into_values(&gpu)?, [const { None }; 3])
    };
    let cache = ops.cache.as_ref().filter(|_| heads.causal);
    if plan.rope.is_some() || cache.is_some() {
        let places = cache.map(|cache| (cache.keys(layer), cache.values(layer), cache.places()));
        rotate(&gpu, heads, plan.rope.as_ref(), 1.0, [&q, &k, &v], n, places, &biased)?;
    }
    drop(biased);
    let out = gpu.allocate(n * heads.query() * gpu.inner_size())?;
    let shape = shape(heads);
    let tiles = match &plan.over {
        Over::Rows(tiles) => tiles.clone(),
        Over::Caches(sequences, window) => {
            let Some(cache) = cache else { panic!("BUG: a decoding step without a cache") };
            let (keys, values) = (cache.keys(layer), cache.values(layer));
            let inputs: [Arg; 5] = [(&q).into(), keys.into(), values.into(), sequences.into(), (&out).into()];
            let [heads_argument, group, width, _, factor] = shape;
            let arguments = [&inputs[..], &[heads_argument, group, width, factor, (*window).into()]].concat();
            let kernel = by_width(heads.width, DECODE)?;
            gpu.launch(kernel, [n, heads.heads], DECODE_THREADS, 0, &arguments)?;
            return Ok(ops.tensor(Kind::Inner, out, n, heads.query()));
        }
    };
    let lse = if ops.grad_enabled { Some(gpu.allocate(n * heads.heads * size_of::<f32>())?) } else { None };
    let inputs: [Arg; 6] =
        [(&q).into(), (&k).into(), (&v).into(), (&out).into(), lse.as_ref().into(), (&tiles.buffer).into()];
    let kernels = kernels(&gpu, heads, tiles.keys.is_some())?;
    // Those for tensor cores have no ranges of keys.
    let ranges = if kernels.wide { Vec::new() } else { vec![tiles.keys.as_ref().into()] };
    let arguments = [&inputs[..], &shape, &ranges].concat();
    let (kernel, shared) = kernels.forward;
    gpu.launch(kernel, [tiles.count, heads.heads], THREADS, shared, &arguments)?;
    let y = ops.tensor(Kind::Inner, out.clone(), n, heads.query());
    let Some(lse) = lse else { return Ok(y) };
    let rope = plan.rope.as_ref().map(|Rope { positions, cos, sin }| Rope {
        positions: positions.clone(),
        cos: cos.clone(),
        sin: sin.clone(),
    });
    let output = y.gradient();
    ops.on_backward(move |gpu| {
        let Some(dout) = output.take() else { return Ok(()) };
        let (query, key) = (n * heads.query(), n * heads.key());
        let allocate = |count: usize| gpu.allocate(count * gpu.inner_size());
        let (to_q, to_k, to_v) = (allocate(query)?, allocate(key)?, allocate(key)?);
        let delta = gpu.allocate(n * heads.heads * size_of::<f32>())?;
        let common: [Arg; 3] = [(&q).into(), (&k).into(), (&v).into()];
        let of_queries: [Arg; 6] =
            [(&out).into(), (&lse).into(), (&dout).into(), (&to_q).into(), (&delta).into(), (&tiles.buffer).into()];
        let ranges = if kernels.wide { Vec::new() } else { vec![tiles.keys.as_ref().into()] };
        let arguments = [&common[..], &of_queries, &shape, &ranges].concat();
        let (kernel, shared) = kernels.backward_queries;
        gpu.launch(kernel, [tiles.count, heads.heads], THREADS, shared, &arguments)?;
        let of_keys: [Arg; 6] =
            [(&lse).into(), (&dout).into(), (&delta).into(), (&to_k).into(), (&to_v).into(), (&tiles.buffer).into()];
        let arguments = [&common[..], &of_keys, &shape, &ranges].concat();
        let (kernel, shared) = kernels.backward_keys;
        gpu.launch(kernel, [tiles.count, heads.kv_heads], THREADS, shared, &arguments)?;
        if rope.is_some() {
            rotate(gpu, heads, rope.as_ref(), -1.0, [&to_q, &to_k, &to_v], n, None, &[const { None }; 3])?;
        }
        dq.add(gpu, Kind::Inner, to_q, query)?;
        dk.add(gpu, Kind::Inner, to_k, key)?;
        dv.add(gpu, Kind::Inner, to_v, key)
    });
    Ok(y)
}

/// Rotates queries and keys in place, by the negative angles for `sign` -1, and writes keys and values to a cache. Where a product has a
/// bias, their sum is rotated instead.
#[expect(clippy::too_many_arguments, reason = "what is rotated, by what, and where it is written")]
fn rotate(
    gpu: &Gpu,
    heads: Heads,
    rope: Option<&Rope>,
    sign: f32,
    [q, k, v]: [&Rc<Buffer>; 3],
    n: usize,
    cache: Option<(&Rc<Buffer>, &Rc<Buffer>, &Part)>,
    biased: &[Option<Biased>; 3],
) -> Result<()> {
    let [positions, cos, sin] = match rope {
        Some(Rope { positions, cos, sin }) => [positions.into(), cos.into(), sin.into()],
        None => [Arg::Address(0); 3],
    };
    let sizes: [Arg; 3] = [heads.heads.into(), heads.kv_heads.into(), heads.width.into()];
    let [keys, values, places] = match cache {
        Some((keys, values, places)) => [keys.into(), values.into(), places.into()],
        None => [Arg::Address(0); 3],
    };
    let inputs = [q.into(), k.into(), v.into(), positions, cos, sin, sign.into()];
    let biases = biased.each_ref().map(|one| Arg::from(one.as_ref().map(|one| &one.bias)));
    let products = biased.each_ref().map(|one| Arg::from(one.as_ref().map(|one| &one.product)));
    let arguments = [&inputs[..], &sizes, &[keys, values, places], &biases, &products].concat();
    gpu.rows("rope", n, heads.query() + heads.key(), &arguments)
}

/// Heads, query heads per key head, width, whether causal, and the factor of the scores.
fn shape(heads: Heads) -> [Arg; 5] {
    let Heads { heads: count, kv_heads, width, causal, factor } = heads;
    [count.into(), (count / kv_heads).into(), width.into(), causal.into(), factor.into()]
}

/// The kernels of attention within rows, each with its shared memory in bytes.
#[derive(Clone, Copy)]
struct Kernels {
    forward: (&'static str, usize),
    backward_queries: (&'static str, usize),
    backward_keys: (&'static str, usize),
    /// Whether they use tensor cores.
    wide: bool,
}

/// Whether the kernels for tensor cores compute these heads.
fn is_wide(gpu: &Gpu, heads: Heads) -> bool {
    gpu.precision() == Precision::Bf16 && wide_names(heads.width).is_some()
}

/// `ranges`: the keys of each token are limited.
fn kernels(gpu: &Gpu, heads: Heads, ranges: bool) -> Result<Kernels> {
    let wide = wide_names(heads.width).filter(|_| is_wide(gpu, heads) && !ranges);
    if let Some([forward, backward_queries, backward_keys]) = wide {
        // Rows of bf16, with a gap that spreads them over the banks of shared memory.
        let shared = |rows: usize| rows * (heads.width + 8) * size_of::<u16>();
        return Ok(Kernels {
            forward: (forward, shared(2 * WIDE_TILE)),
            backward_queries: (backward_queries, shared(2 * WARP)),
            backward_keys: (backward_keys, shared(2 * WIDE_TILE + 2 * WARP)),
            wide: true,
        });
    }
    let shared = |rows: usize| rows * (heads.width | 1) * size_of::<f32>();
    let backward = shared(2 * TILE + 2 * WARP);
    Ok(Kernels {
        forward: (by_width(heads.width, FORWARD)?, shared(TILE + 2 * WARP)),
        backward_queries: (by_width(heads.width, BACKWARD_QUERIES)?, backward),
        backward_keys: (by_width(heads.width, BACKWARD_KEYS)?, backward),
        wide: false,
    })
}

/// The kernels for tensor cores, by the width of a head.
fn wide_names(width: usize) -> Option<[&'static str; 3]> {
    macro_rules! names {
        ($($width:literal)*) => {
            match width {
                $($width => Some([
                    concat!("wide_attention_forward_", $width),
                    concat!("wide_attention_backward_queries_", $width),
                    concat!("wide_attention_backward_keys_", $width),
                ]),)*
                _ => None,
            }
        };
    }
    names!(16 32 48 64 80 96 112 128)
}

/// A kernel for heads of up to 32, 64, 128 and 256 numbers.
type ByWidth = [&'static str; 4];

const FORWARD: ByWidth = ["attention_forward_1", "attention_forward_2", "attention_forward_4", "attention_forward_8"];
const BACKWARD_QUERIES: ByWidth = [
    "attention_backward_queries_1",
    "attention_backward_queries_2",
    "attention_backward_queries_4",
    "attention_backward_queries_8",
];
const BACKWARD_KEYS: ByWidth = [
    "attention_backward_keys_1",
    "attention_backward_keys_2",
    "attention_backward_keys_4",
    "attention_backward_keys_8",
];
const DECODE: ByWidth = ["decode_attention_1", "decode_attention_2", "decode_attention_4", "decode_attention_8"];

fn by_width(width: usize, kernels: ByWidth) -> Result<&'static str> {
    let [one, two, four, eight] = kernels;
    Ok(match width.div_ceil(WARP) {
        0 | 1 => one,
        2 => two,
        3 | 4 => four,
        5..=8 => eight,
        _ => bail!("attention heads of {width} numbers do not run on a GPU: at most 256"),
    })
}
