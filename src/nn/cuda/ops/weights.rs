//! Weights on a GPU. They change in place when the model learns.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::gpu::Gpu;
use super::memory::Buffer;
use crate::Precision;
use crate::ops::WeightStore;

/// Where weights are kept.
#[derive(Clone)]
pub(crate) struct CudaWeights(pub(crate) Gpu);

/// (rows, columns), row-major, in the type of the factors of products. A clone shares the weights.
#[derive(Clone)]
pub(crate) struct CudaMatrix {
    pub(super) values: Rc<Buffer>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// A vector in f32. A clone shares the weights.
#[derive(Clone)]
pub(crate) struct CudaVector {
    pub(super) values: Rc<Buffer>,
    pub(super) len: usize,
    /// What a norm adds to each value. The values are those of the parameter, which the optimizer changes.
    pub(super) offset: f32,
}

impl WeightStore for CudaWeights {
    type Matrix = CudaMatrix;
    type Table = CudaMatrix;
    type Vector = CudaVector;

    fn matrix(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<CudaMatrix> {
        let count = rows * columns;
        let values = match self.0.precision() {
            Precision::F32 | Precision::Tf32 => self.0.upload_parameter(&values, count)?,
            Precision::Bf16 => {
                let mut rounded = vec![bf16::ZERO; values.len()];
                rounded.convert_from_f32_slice(&values);
                let bits: Vec<u16> = rounded.into_iter().map(bf16::to_bits).collect();
                self.0.upload_parameter(&bits, count)?
            }
        };
        Ok(CudaMatrix { values, rows, columns })
    }

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<CudaMatrix> {
        self.matrix(values, rows, columns)
    }

    fn vector(&self, values: Arc<Vec<f32>>, len: usize, offset: f32) -> Result<CudaVector> {
        Ok(CudaVector { values: self.0.upload_parameter(&values, len)?, len, offset })
    }

    fn tied(&self, table: &CudaMatrix) -> Result<CudaMatrix> {
        Ok(table.clone())
    }
}
