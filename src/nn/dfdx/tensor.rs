//! Shorthands for tensors of dfdx.

use anyhow::Result;
use dfdx::prelude::*;

use crate::device_error::{OutOfMemory, device_error};

pub(super) type Matrix<D, T = NoneTape> = Tensor<(usize, usize), f32, D, T>;
pub(super) type Tape<D> = OwnedTape<f32, D>;
/// A matrix that carries the tape.
pub(super) type Taped<D> = Matrix<D, Tape<D>>;
pub(super) type Fallible<X, D> = Result<X, <D as HasErr>::Err>;
/// Queries, keys or values of rows, by head: (b, h, t, w).
pub(super) type ByHead<D, T = NoneTape> = Tensor<(usize, usize, usize, usize), f32, D, T>;

pub(super) fn matrix<D: Device<f32>>(device: &D, values: Vec<f32>, rows: usize, columns: usize) -> Result<Matrix<D>> {
    device.try_tensor_from_vec(values, (rows, columns)).map_err(device_error)
}

/// The largest tensor that dfdx's kernels support. Beyond that their 32-bit indices wrap around, and results are wrong.
const MAX_ELEMENTS: usize = 1 << 31;

/// Refuses a tensor that is too large for dfdx's kernels.
pub(super) fn check_size(what: &str, sizes: &[usize]) -> Result<()> {
    let count = sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
    if count.is_none_or(|count| count > MAX_ELEMENTS) {
        return Err(OutOfMemory(format!("{what} are too large for dfdx's 32-bit indices: {sizes:?}")).into());
    }
    Ok(())
}

#[test]
fn too_large_tensor_is_out_of_memory() {
    check_size("scores", &[1 << 20, 1 << 11]).unwrap();
    for sizes in [&[1 << 20, 1 << 12][..], &[usize::MAX, 3]] {
        assert!(check_size("scores", sizes).unwrap_err().is::<OutOfMemory>());
    }
}
