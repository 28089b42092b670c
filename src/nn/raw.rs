//! The numbers of a dfdx CPU tensor as a slice, without a copy. The one place of `unsafe` around tensors.

use dfdx::prelude::{Cpu, HasShape, Shape, Tensor};

/// Borrows the storage of a contiguous CPU tensor.
///
/// dfdx 0.13 has no public accessor, but `Index` gives references into the buffer: one step along each axis shows
/// whether the tensor is laid out row by row, which every tensor is that the fused operations make.
pub(crate) fn slice<S: Shape, T>(tensor: &Tensor<S, f32, Cpu, T>) -> &[f32] {
    let shape = tensor.shape();
    let count = shape.num_elements();
    if count == 0 {
        return &[];
    }
    let first = S::Concrete::default();
    let start = std::ptr::from_ref(&tensor[first]);
    let (sizes, strides) = (shape.concrete(), shape.strides());
    for axis in 0..S::NUM_DIMS {
        if sizes[axis] > 1 {
            let mut next = first;
            next[axis] = 1;
            let step = std::ptr::from_ref(&tensor[next]).addr().wrapping_sub(start.addr()) / size_of::<f32>();
            assert_eq!(step, strides[axis], "BUG: a fused operation got a tensor that is not contiguous");
        }
    }
    // SAFETY: the tensor owns at least `count` numbers from `start` on, since the last index of a contiguous layout is
    // `count - 1` and dfdx allocates by the shape; they live as long as the borrow of the tensor.
    unsafe { std::slice::from_raw_parts(start, count) }
}
