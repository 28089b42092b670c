//! Weights as tensors on a device of dfdx.

use std::sync::Arc;

use anyhow::Result;
use dfdx::prelude::*;

use super::tensor::{Matrix, matrix};
use crate::device_error::device_error;
use crate::ops::{Vector, WeightStore};

#[derive(Clone, Debug, Default)]
pub(crate) struct DfdxWeights<D>(pub(crate) D);

impl<D: Device<f32>> WeightStore for DfdxWeights<D> {
    type Matrix = Matrix<D>;
    type Table = Matrix<D>;
    type Vector = Vector<D>;

    fn matrix(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Matrix<D>> {
        matrix(&self.0, Arc::unwrap_or_clone(values), rows, columns)
    }

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Matrix<D>> {
        self.matrix(values, rows, columns)
    }

    fn vector(&self, values: Arc<Vec<f32>>, len: usize, offset: f32) -> Result<Vector<D>> {
        let values = values.iter().map(|value| offset + value).collect();
        self.0.try_tensor_from_vec(values, (len,)).map_err(device_error)
    }

    fn tied(&self, table: &Matrix<D>) -> Result<Matrix<D>> {
        // dfdx's tape treats a clone as the same tensor, so both uses share one gradient.
        Ok(table.clone())
    }
}
