//! What the operations ask of a GPU. All of it happens in the order of the calls, on one stream.

use anyhow::Result;

use crate::Precision;

/// A card (`card`), or a GPU that only counts (`recorder`).
pub(super) trait Driver {
    /// The address of memory with arbitrary content.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::device_error::OutOfMemory).
    fn allocate(&self, bytes: usize) -> Result<u64>;

    fn free(&self, address: u64) -> Result<()>;

    /// Bytes of memory that the driver has left.
    fn free_memory(&self) -> Result<usize>;

    /// Waits until all work has been done.
    fn synchronize(&self) -> Result<()>;

    /// Fills memory with zeros.
    fn clear(&self, address: u64, bytes: usize) -> Result<()>;

    /// Copies values to the GPU.
    fn write(&self, address: u64, values: &[u8]) -> Result<()>;

    /// Copies values to the host, when all work before has been done.
    fn read(&self, address: u64, values: &mut [u8]) -> Result<()>;

    /// Copies memory of the GPU.
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()>;

    fn launch(&self, launch: &Launch) -> Result<()>;

    fn gemm(&self, gemm: &Gemm) -> Result<()>;
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    /// An address on the device; 0: none.
    Address(u64),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
}

/// A kernel and its arguments.
pub(super) struct Launch<'a> {
    pub(super) name: &'static str,
    pub(super) grid: [usize; 2],
    pub(super) threads: usize,
    /// Bytes of dynamic shared memory.
    pub(super) shared: usize,
    pub(super) arguments: &'a [Arg],
}

/// A product as cuBLAS takes it, of column-major matrices: `c = alpha a b + beta c`, (m, k), (k, n) -> (m, n).
pub(super) struct Gemm {
    /// Whether `a` and `b` are transposed.
    pub(super) transposed: [bool; 2],
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    /// Addresses and leading dimensions. That of `c` is `m`.
    pub(super) a: (u64, usize),
    pub(super) b: (u64, usize),
    pub(super) c: u64,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) precision: Precision,
    /// Bytes of a number of the factors, and of the result: 2 is bf16, 4 is f32.
    pub(super) factor_size: usize,
    pub(super) result_size: usize,
}

impl Gemm {
    /// A multiply-add counts as two.
    pub(super) fn flops(&self) -> u64 {
        2 * self.m as u64 * self.n as u64 * self.k as u64
    }

    /// Bytes read and written, each once.
    pub(super) fn bytes(&self) -> u64 {
        let Gemm { m, n, k, factor_size, result_size, .. } = *self;
        let results = if self.beta == 0.0 { 1 } else { 2 };
        ((m * k + k * n) * factor_size + results * m * n * result_size) as u64
    }
}
