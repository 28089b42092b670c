//! Shorthands for tensors of dfdx.

use anyhow::Result;
use dfdx::prelude::*;

use crate::device_error::device_error;
use crate::ops::Matrix;

pub(super) type Tape<D> = OwnedTape<f32, D>;
/// A matrix that carries the tape.
pub(super) type Taped<D> = Matrix<D, Tape<D>>;
pub(super) type Fallible<X, D> = Result<X, <D as HasErr>::Err>;
/// Queries, keys or values of rows, by head: (b, h, t, w).
pub(super) type ByHead<D, T = NoneTape> = Tensor<(usize, usize, usize, usize), f32, D, T>;

pub(super) fn matrix<D: Device<f32>>(device: &D, values: Vec<f32>, rows: usize, columns: usize) -> Result<Matrix<D>> {
    device.try_tensor_from_vec(values, (rows, columns)).map_err(device_error)
}
