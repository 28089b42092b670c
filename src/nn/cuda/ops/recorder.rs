//! A GPU that computes nothing and records what it is asked for: kernels, products, copies and memory. With it the operations
//! describe the cost of a pass without a card.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use super::driver::{Arg, Driver, Gemm, Launch};
use crate::Precision;

/// Bytes in which a driver counts memory.
const GRANULE: usize = 512;

/// One thing that a GPU was asked to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Kernel {
        name: &'static str,
        /// Bytes read and written, each once.
        bytes: u64,
        /// A multiply-add counts as two. Only attention counts; other kernels are bound by memory.
        flops: u64,
    },
    /// (m, k), (k, n) -> (m, n).
    Product {
        m: usize,
        n: usize,
        k: usize,
        bytes: u64,
        flops: u64,
    },
    Copy {
        kind: CopyKind,
        bytes: u64,
    },
}

impl Operation {
    /// Bytes read and written, or copied.
    pub(crate) fn bytes(&self) -> u64 {
        let (Operation::Kernel { bytes, .. } | Operation::Product { bytes, .. } | Operation::Copy { bytes, .. }) = self;
        *bytes
    }

    pub(crate) fn flops(&self) -> u64 {
        match self {
            Operation::Kernel { flops, .. } | Operation::Product { flops, .. } => *flops,
            Operation::Copy { .. } => 0,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Kernel { name, .. } => f.write_str(name),
            Operation::Product { m, n, k, .. } => write!(f, "product {m} x {n} x {k}"),
            Operation::Copy { kind: CopyKind::HostToDevice, .. } => f.write_str("copy to the GPU"),
            Operation::Copy { kind: CopyKind::DeviceToHost, .. } => f.write_str("copy to the host"),
            Operation::Copy { kind: CopyKind::DeviceToDevice, .. } => f.write_str("copy on the GPU"),
            Operation::Copy { kind: CopyKind::Memset, .. } => f.write_str("fill with zeros"),
        }
    }
}

/// The direction of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CopyKind {
    HostToDevice,
    DeviceToHost,
    DeviceToDevice,
    /// Fills memory with zeros.
    Memset,
}

/// Records until it is asked for its operations.
pub(crate) struct Recorder {
    record: RefCell<Record>,
    /// Bytes of a number that products read.
    inner: usize,
}

#[derive(Default)]
struct Record {
    operations: Vec<Operation>,
    /// Sizes of the allocated memory by address.
    sizes: BTreeMap<u64, usize>,
    /// What was last copied to an address, if it is small: some kernels have their sizes in such tables.
    tables: BTreeMap<u64, Vec<u8>>,
    used: usize,
    peak: usize,
    /// The first address that is free.
    next: u64,
}

impl Recorder {
    pub(crate) fn new(precision: Precision) -> Recorder {
        Recorder { record: RefCell::default(), inner: if precision == Precision::Bf16 { 2 } else { 4 } }
    }

    /// The operations since the last call.
    pub(crate) fn take(&self) -> Vec<Operation> {
        std::mem::take(&mut self.record.borrow_mut().operations)
    }

    /// Bytes that are allocated now.
    pub(crate) fn used_bytes(&self) -> usize {
        self.record.borrow().used
    }

    /// The most bytes that were allocated at any time.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.record.borrow().peak
    }

    fn push(&self, operation: Operation) {
        self.record.borrow_mut().operations.push(operation);
    }
}

impl Driver for Recorder {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let (mut record, size) = (self.record.borrow_mut(), bytes.next_multiple_of(GRANULE));
        // An address is never 0.
        let address = record.next.max(GRANULE as u64);
        record.next = address + size as u64;
        record.sizes.insert(address, size);
        record.used += size;
        record.peak = record.peak.max(record.used);
        Ok(address)
    }

    fn free(&self, address: u64) -> Result<()> {
        let mut record = self.record.borrow_mut();
        record.used -= record.sizes.remove(&address).unwrap_or(0);
        record.tables.remove(&address);
        Ok(())
    }

    fn free_memory(&self) -> Result<usize> {
        Ok(usize::MAX - self.used_bytes())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn clear(&self, _: u64, bytes: usize) -> Result<()> {
        self.push(Operation::Copy { kind: CopyKind::Memset, bytes: bytes as u64 });
        Ok(())
    }

    fn write(&self, address: u64, values: &[u8]) -> Result<()> {
        /// More than the tables of any kernel.
        const MOST: usize = 1 << 22;
        if values.len() <= MOST {
            self.record.borrow_mut().tables.insert(address, values.to_vec());
        }
        self.push(Operation::Copy { kind: CopyKind::HostToDevice, bytes: values.len() as u64 });
        Ok(())
    }

    fn read(&self, _: u64, values: &mut [u8]) -> Result<()> {
        self.push(Operation::Copy { kind: CopyKind::DeviceToHost, bytes: values.len() as u64 });
        Ok(())
    }

    fn copy(&self, _: u64, _: u64, bytes: usize) -> Result<()> {
        self.push(Operation::Copy { kind: CopyKind::DeviceToDevice, bytes: bytes as u64 });
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let (bytes, flops) = kernel_work(launch, &self.record.borrow(), self.inner);
        self.push(Operation::Kernel { name: launch.name, bytes, flops });
        Ok(())
    }

    fn gemm(&self, gemm: &Gemm) -> Result<()> {
        // Row-major, as the operations see it.
        let Gemm { m: n, n: m, k, .. } = *gemm;
        self.push(Operation::Product { m, n, k, bytes: gemm.bytes(), flops: gemm.flops() });
        Ok(())
    }
}

impl Record {
    /// The bytes from an address to the end of its memory.
    fn bytes_from(&self, address: u64) -> usize {
        let memory = self.sizes.range(..=address).next_back();
        memory.map_or(0, |(start, size)| size.saturating_sub((address - start) as usize))
    }

    /// The words of a table.
    fn words(&self, argument: Arg) -> Vec<u32> {
        let Arg::Address(address) = argument else { return Vec::new() };
        let bytes = self.tables.get(&address).map_or(&[][..], Vec::as_slice);
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
    }
}

/// Bytes that a kernel reads and writes, and its FLOPs. The arguments are those of `kernels/*.cuh`.
fn kernel_work(launch: &Launch, record: &Record, inner: usize) -> (u64, u64) {
    let Launch { name, grid: [blocks, _], arguments, .. } = *launch;
    let integer = |at: usize| match arguments.get(at) {
        Some(Arg::Int(value)) => usize::try_from(*value).unwrap_or(0),
        Some(Arg::Long(value)) => usize::try_from(*value).unwrap_or(0),
        _ => 0,
    };
    let has = |at: usize| matches!(arguments.get(at), Some(Arg::Address(address)) if *address != 0);
    let words = |at: usize| arguments.get(at).map_or_else(Vec::new, |argument| record.words(*argument));
    let wide = size_of::<f32>();
    let stream_or_inner = if name.contains("inner") { inner } else { wide };
    if let Some((shape, products)) = attention(name) {
        let [heads, group, width, causal] = [0, 1, 2, 3].map(|at| integer(shape + at));
        let tiles = words(shape - 1);
        let (mut tokens, mut pairs) = (0, 0);
        // A tile: start and length of its row, and the first position.
        for row in tiles.chunks_exact(3).filter(|tile| tile[2] == 0) {
            let length = row[1] as usize;
            tokens += length;
            pairs += if causal == 1 { length * (length + 1) / 2 } else { length * length };
        }
        let (query, key) = (heads * width, heads / group.max(1) * width);
        // Tensors like queries and like keys: q, out, k, v; q, out and their gradients, k, v; q, its gradient, k, v and theirs.
        let tensors = match products {
            2 => 2 * query + 2 * key,
            3 => 4 * query + 2 * key,
            _ => 2 * query + 4 * key,
        };
        return ((tokens * tensors * inner) as u64, 2 * (products * pairs * query) as u64);
    }
    if name.starts_with("decode_attention") {
        let [heads, group, width] = [5, 6, 7].map(integer);
        // A sequence: its part of the prompt, and its own one, each a start and a length.
        let positions: usize = words(3).chunks_exact(4).take(blocks).map(|one| (one[1] + one[3]) as usize).sum();
        let (query, key) = (heads * width, heads / group.max(1) * width);
        let bytes = (2 * positions * key + 2 * blocks * query) * inner;
        return (bytes as u64, 4 * (positions * query) as u64);
    }
    let bytes = match name {
        "swiglu_forward" | "geglu_forward" | "activate_backward" => 3 * integer(3) * inner,
        "swiglu_backward" | "geglu_backward" => 5 * integer(5) * inner,
        "activate_forward" => 2 * integer(2) * inner,
        "to_inner" | "to_stream" => integer(2) * (inner + wide),
        "add" => 3 * integer(3) * wide,
        "add_inner" => integer(3) * (2 * wide + inner),
        "add_inner_both" => integer(3) * (wide + 2 * inner),
        "accumulate" | "accumulate_inner" => 3 * integer(2) * stream_or_inner,
        "rms_norm_forward" | "layer_norm_forward" | "rms_norm_inner_forward" | "layer_norm_inner_forward" => {
            let sum = if has(1) { inner + stream_or_inner } else { 0 };
            blocks * integer(7) * (stream_or_inner + inner + sum)
        }
        "rms_norm_backward" | "layer_norm_backward" | "rms_norm_inner_backward" | "layer_norm_inner_backward" => {
            integer(7) * integer(8) * (stream_or_inner * (2 + integer(5)) + inner)
        }
        "rope" => {
            let (query, key, width) = (integer(7) * integer(9), integer(8) * integer(9), integer(9));
            let cached = if has(12) { 3 * key * inner } else { 0 };
            // A product with a bias is f32.
            let rotated = |bias, count| count * (inner + if has(bias) { wide } else { inner });
            let values = if has(15) { key * (wide + inner) } else { 0 };
            blocks * (rotated(13, query) + rotated(14, key) + values + width * wide + cached)
        }
        "embed" => blocks * integer(arguments.len() - 1) * (inner + wide),
        "add_segments" | "add_segments_inner" => (words(1).len() + 2 * blocks) * integer(5) * wide,
        "select_rows" | "select_rows_inner" | "unselect_rows" | "unselect_rows_inner" => {
            2 * blocks * integer(3) * stream_or_inner
        }
        "sum_consecutive_rows" => blocks * (integer(2) + 1) * integer(4) * inner,
        "copy_columns_inner" | "repeat_rows" => 2 * blocks * integer(4) * inner,
        // Reads logits, writes weights, reads weights.
        "sample" => 3 * blocks * integer(6) * wide,
        "log_softmax" => blocks * integer(4) * wide,
        "log_softmax_backward" => blocks * integer(5) * (wide + inner),
        "column_sums" => integer(3) * integer(4) * if has(1) { 2 * inner } else { inner },
        "scale_columns" => 2 * integer(3) * inner,
        "add_features" => blocks * integer(4) * (2 * wide + inner),
        "embedding_bag" => blocks * integer(4) * (4 * inner + wide),
        "add_weighted_segments" => (words(1).len() + 2 * blocks) * integer(6) * wide,
        "sum_rows" => (integer(2) + 1) * integer(3) * wide,
        // A parameter has its count in words 10 and 11. AdamW reads gradient, moments and weight and writes the last three.
        "sum_of_squares" => words(0).chunks_exact(16).map(|one| one[10] as usize * wide).sum(),
        "adamw" => words(0).chunks_exact(16).map(|one| one[10] as usize * (7 * wide + one[14] as usize * inner)).sum(),
        // Everything that it is given, once.
        _ => {
            let size =
                |argument: &Arg| if let Arg::Address(address) = argument { record.bytes_from(*address) } else { 0 };
            arguments.iter().map(size).sum()
        }
    };
    (bytes as u64, 0)
}

/// For a kernel of attention within rows, the position of its first size among its arguments, and the number of its products of all
/// pairs of positions: scores and outputs; scores, their slopes and the gradient by the queries; and those of keys and values.
fn attention(name: &str) -> Option<(usize, usize)> {
    let kernels =
        [("attention_forward", 6, 2), ("attention_backward_queries", 9, 3), ("attention_backward_keys", 9, 4)];
    let name = name.strip_prefix("wide_").unwrap_or(name);
    let (_, shape, products) = kernels.into_iter().find(|(start, ..)| name.starts_with(start))?;
    Some((shape, products))
}
