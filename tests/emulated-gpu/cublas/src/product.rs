//! `C = alpha op(A) op(B) + beta C` for one or many matrices that lie column by column.

use std::ffi::CStr;

use crate::driver::{Access, Handle, Range, Work, submit};
use crate::format::{Format, to_tf32};
use crate::gemm::{Packed, multiply};
use crate::status::{INVALID_VALUE, NOT_SUPPORTED, SUCCESS};

/// Where the matrices of a batch are.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// The first one, and the elements from one to the next.
    Strided { start: u64, stride: i64 },
    /// An array of pointers in device memory.
    Pointers(u64),
}

#[derive(Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) place: Place,
    pub(crate) format: Format,
    /// Elements from one column to the next.
    pub(crate) leading: i32,
}

/// A call of one of the functions.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// 0, or 1 for a transposed matrix, or 2, which is the same for real numbers.
    pub(crate) transposed: [u32; 2],
    pub(crate) m: i32,
    pub(crate) n: i32,
    pub(crate) k: i32,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
    pub(crate) count: i32,
    /// Whether factors are rounded to TF32.
    pub(crate) rounds: bool,
}

impl Product {
    /// Checks the arguments and gives the product to the driver.
    pub(crate) fn submit(self, name: &CStr, stream: Handle) -> u32 {
        let Product { m, n, k, count, .. } = self;
        let leading = [self.a, self.b, self.c].map(|matrix| matrix.leading);
        let wrong = |what: &str| {
            eprintln!(
                "emulated cuBLAS: {name:?}: {what} (m {m}, n {n}, k {k}, lda, ldb, ldc {leading:?}, {count} times)"
            );
            INVALID_VALUE
        };
        if self.transposed.iter().any(|&operation| operation > 2) {
            return wrong("an operation that does not exist");
        }
        if m < 0 || n < 0 || k < 0 || count < 0 {
            return wrong("a negative size");
        }
        let [(rows_a, _), (rows_b, _), _] = self.shapes();
        if leading[0] < rows_a.max(1) || leading[1] < rows_b.max(1) || leading[2] < m.max(1) {
            return wrong("a leading dimension is too small");
        }
        let supported = match (self.a.format, self.b.format, self.c.format) {
            (Format::F32, Format::F32, c) => c == Format::F32,
            (a, b, c) => a == b && (c == a || c == Format::F32),
        };
        if !supported {
            eprintln!("emulated cuBLAS: {name:?}: cuBLAS does not have this combination of types");
            return NOT_SUPPORTED;
        }
        if m == 0 || n == 0 || count == 0 {
            return SUCCESS;
        }
        let flops = 2.0 * f64::from(m) * f64::from(n) * f64::from(k) * f64::from(count);
        submit(name, stream, count as u64, flops, Box::new(self))
    }

    /// Rows and columns of the matrices, as they lie in memory.
    fn shapes(&self) -> [(i32, i32); 3] {
        let Product { m, n, k, .. } = *self;
        let [a, b] = self.transposed.map(|operation| operation != 0);
        [if a { (k, m) } else { (m, k) }, if b { (n, k) } else { (k, n) }, (m, n)]
    }

    /// The first addresses of the matrices of a batch. An array of pointers is read now.
    fn starts(&self, matrix: Matrix, access: &Access) -> Result<Vec<u64>, u32> {
        let count = self.count as u64;
        match matrix.place {
            Place::Strided { start, stride } => {
                let bytes = stride * matrix.format.bytes() as i64;
                Ok((0..count as i64).map(|index| start.wrapping_add((index * bytes) as u64)).collect())
            }
            Place::Pointers(array) => {
                access.check(&[Range { start: array, len: 8 * count, writes: 0 }])?;
                // SAFETY: the driver has found the array allocated.
                let pointers = unsafe { std::slice::from_raw_parts(array as *const u64, count as usize) };
                Ok(pointers.to_vec())
            }
        }
    }

    fn multiply(&self, [a, b, c]: [u64; 3]) {
        let [m, n, k] = [self.m, self.n, self.k].map(|size| size as usize);
        let [lda, ldb, ldc] = [self.a, self.b, self.c].map(|matrix| matrix.leading as usize);
        let [transposed_a, transposed_b] = self.transposed.map(|operation| operation != 0);
        let (format_a, format_b, format_c) = (self.a.format, self.b.format, self.c.format);
        let round = |value: f32| if self.rounds { to_tf32(value) } else { value };
        // SAFETY: the driver has found all elements allocated, here and below.
        let left = Packed::left(m, k, |row, column| unsafe {
            let index = if transposed_a { row * lda + column } else { column * lda + row };
            round(format_a.read(a, index))
        });
        let right = Packed::right(n, k, |row, column| unsafe {
            let index = if transposed_b { row * ldb + column } else { column * ldb + row };
            round(format_b.read(b, index))
        });
        let (alpha, beta) = (self.alpha, self.beta);
        multiply(m, n, &left, &right, |row, column, sum| {
            let index = column * ldc + row;
            // SAFETY: as above. C is not read where beta is 0: it may hold NaN.
            unsafe {
                let old = if beta == 0.0 { 0.0 } else { beta * format_c.read(c, index) };
                format_c.write(c, index, alpha * sum + old);
            }
        });
    }
}

impl Work for Product {
    fn run(&self, access: &Access) -> Result<(), u32> {
        let matrices = [self.a, self.b, self.c];
        let mut starts = Vec::new();
        for matrix in matrices {
            starts.push(self.starts(matrix, access)?);
        }
        let mut ranges = Vec::new();
        for (index, (matrix, (rows, columns))) in matrices.iter().zip(self.shapes()).enumerate() {
            if rows == 0 || columns == 0 {
                continue;
            }
            let elements = (i64::from(columns) - 1) * i64::from(matrix.leading) + i64::from(rows);
            let len = elements as u64 * matrix.format.bytes();
            let writes = u64::from(index == 2);
            match matrix.place {
                // One range, unless the matrices lie in descending order.
                Place::Strided { start, stride } if stride >= 0 => {
                    let last = starts[index].last().copied().unwrap_or(start);
                    ranges.push(Range { start, len: last + len - start, writes });
                }
                _ => ranges.extend(starts[index].iter().map(|&start| Range { start, len, writes })),
            }
        }
        access.check(&ranges)?;
        for ((&a, &b), &c) in starts[0].iter().zip(&starts[1]).zip(&starts[2]) {
            self.multiply([a, b, c]);
        }
        Ok(())
    }
}
