//! Matrix products with cuBLAS. All matrices are row-major. cuBLAS has column-major ones, so it computes the transposed product.

use std::rc::Rc;

use anyhow::Result;

use super::driver::Gemm;
use super::gpu::Gpu;
use super::memory::Buffer;
use crate::kernels::matmul::Accumulate;

/// The number type of a product's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// That of the factors.
    Inner,
    /// f32, for gradients of weights and for logits.
    F32,
}

/// A matrix in a buffer.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    buffer: &'a Buffer,
    /// In bytes.
    start: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix that begins `start` bytes after the start of a buffer.
    pub(super) fn at(buffer: &'a Buffer, start: usize) -> Matrix<'a> {
        Matrix { buffer, start }
    }

    fn address(self) -> u64 {
        self.buffer.address() + self.start as u64
    }

    fn bytes(self) -> usize {
        self.buffer.bytes().saturating_sub(self.start)
    }
}

impl<'a> From<&'a Rc<Buffer>> for Matrix<'a> {
    fn from(buffer: &'a Rc<Buffer>) -> Matrix<'a> {
        Matrix { buffer, start: 0 }
    }
}

/// The two factors and their product.
pub(super) struct Product<'a> {
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
    pub(super) c: Matrix<'a>,
    pub(super) output: Output,
    pub(super) accumulate: Accumulate,
    /// Factor of the product.
    pub(super) alpha: f32,
}

impl<'a> Product<'a> {
    /// A product in the type of its factors.
    pub(super) fn inner(
        a: impl Into<Matrix<'a>>,
        b: impl Into<Matrix<'a>>,
        c: impl Into<Matrix<'a>>,
        accumulate: Accumulate,
    ) -> Product<'a> {
        Product { a: a.into(), b: b.into(), c: c.into(), output: Output::Inner, accumulate, alpha: 1.0 }
    }

    /// A product in f32.
    pub(super) fn wide(
        a: impl Into<Matrix<'a>>,
        b: impl Into<Matrix<'a>>,
        c: impl Into<Matrix<'a>>,
        accumulate: Accumulate,
    ) -> Product<'a> {
        Product { output: Output::F32, ..Product::inner(a, b, c, accumulate) }
    }
}

impl Gpu {
    /// `c = a b^T`: (m, k), (n, k) -> (m, n).
    pub(super) fn product_transposed(&self, product: &Product, m: usize, n: usize, k: usize) -> Result<()> {
        self.product(product, [true, false], [n, m, k], [k, k])
    }

    /// `c = a b`: (m, k), (k, n) -> (m, n).
    pub(super) fn product_plain(&self, product: &Product, m: usize, n: usize, k: usize) -> Result<()> {
        self.product(product, [false, false], [n, m, k], [n, k])
    }

    /// `c = a^T b`: (k, m), (k, n) -> (m, n).
    pub(super) fn product_of_transposed(&self, product: &Product, m: usize, n: usize, k: usize) -> Result<()> {
        self.product(product, [false, true], [n, m, k], [n, m])
    }

    /// The transposed product, of `b` and `a`, as cuBLAS takes it: whether each is transposed, the sizes, and the leading
    /// dimensions. The product's leading dimension is its first size.
    fn product(
        &self,
        product: &Product,
        transposed: [bool; 2],
        [m, n, k]: [usize; 3],
        [b_stride, a_stride]: [usize; 2],
    ) -> Result<()> {
        let Product { a, b, c, output, accumulate, alpha } = *product;
        let inner = self.inner_size();
        let output_size = if output == Output::F32 { 4 } else { inner };
        let fits = m * k * inner <= b.bytes() && n * k * inner <= a.bytes() && m * n * output_size <= c.bytes();
        assert!(
            fits,
            "BUG: a product of {m} x {n} x {k} in buffers of {}, {}, {} bytes",
            b.bytes(),
            a.bytes(),
            c.bytes()
        );
        if m == 0 || n == 0 {
            return Ok(());
        }
        let beta: f32 = if accumulate == Accumulate::Yes { 1.0 } else { 0.0 };
        // cuBLAS's first factor is our second one.
        self.driver().gemm(&Gemm {
            transposed,
            m,
            n,
            k,
            a: (b.address(), b_stride),
            b: (a.address(), a_stride),
            c: c.address(),
            alpha,
            beta,
            precision: self.precision(),
            factor_size: inner,
            result_size: output_size,
        })
    }
}
