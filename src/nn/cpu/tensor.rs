//! The tensors of the CPU operations: values, and a gradient that a backward pass fills.

use std::cell::{OnceCell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use crate::buffer::Buffer;
use crate::kernels::elementwise::accumulate;
use crate::kernels::matmul::Accumulate;

/// Values, a token per row, and their gradient. A clone is the same tensor.
#[derive(Clone)]
pub(crate) struct CpuTensor(Rc<Inner>);

struct Inner {
    values: Buffer,
    width: usize,
    /// Created by the first operation that is recorded.
    gradient: OnceCell<Gradient>,
}

impl CpuTensor {
    /// Rows of `width` values.
    pub(super) fn new(values: Buffer, width: usize) -> CpuTensor {
        CpuTensor(Rc::new(Inner { values, width, gradient: OnceCell::new() }))
    }

    pub(super) fn width(&self) -> usize {
        self.0.width
    }

    pub(super) fn rows(&self) -> usize {
        self.0.values.len() / self.0.width.max(1)
    }

    pub(super) fn gradient(&self) -> Gradient {
        self.0.gradient.get_or_init(Gradient::default).clone()
    }

    /// The values for writing: without a copy if there is no other clone.
    pub(crate) fn into_values(self) -> Buffer {
        Rc::try_unwrap(self.0).map_or_else(|shared| Buffer::copy(&shared.values), |inner| inner.values)
    }
}

impl Deref for CpuTensor {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0.values
    }
}

/// The gradient of a tensor; empty until the first operation that reads the tensor adds to it. A clone is the same
/// gradient and does not keep the tensor's values alive.
#[derive(Clone, Default)]
pub(super) struct Gradient(Rc<RefCell<Option<Rc<Buffer>>>>);

impl Gradient {
    /// The gradient of a tensor of `count` elements. The operation that computed the tensor takes it, once.
    pub(super) fn take(&self, count: usize) -> Rc<Buffer> {
        self.0.take().unwrap_or_else(|| Rc::new(Buffer::zeros(count)))
    }

    /// As [`Gradient::take`], for writing.
    pub(super) fn take_mut(&self, count: usize) -> Buffer {
        Rc::unwrap_or_clone(self.take(count))
    }

    /// Calls `add`, which adds to the gradient or, if it is empty, overwrites unset memory.
    pub(super) fn accumulate(&self, count: usize, add: impl FnOnce(&mut [f32], Accumulate)) {
        let mut gradient = self.0.borrow_mut();
        match &mut *gradient {
            Some(gradient) => add(to_mut(gradient), Accumulate::Yes),
            None => add(to_mut(gradient.insert(Rc::new(Buffer::unset(count)))), Accumulate::No),
        }
    }

    /// Calls `add`, which adds to the gradient. An empty one is zeroed first.
    pub(super) fn add_with(&self, count: usize, add: impl FnOnce(&mut [f32])) {
        add(to_mut(self.0.borrow_mut().get_or_insert_with(|| Rc::new(Buffer::zeros(count)))));
    }

    /// Adds values, which other gradients may share.
    pub(super) fn add(&self, values: Rc<Buffer>) {
        let mut gradient = self.0.borrow_mut();
        match &mut *gradient {
            Some(gradient) => accumulate(to_mut(gradient), &values),
            None => *gradient = Some(values),
        }
    }
}

/// The buffer for writing. A shared one is replaced by a copy.
fn to_mut(values: &mut Rc<Buffer>) -> &mut Buffer {
    Rc::make_mut(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradient_is_the_sum_of_all_additions() {
        let tensor = CpuTensor::new(Buffer::copy(&[1.0, 2.0]), 2);
        let gradient = tensor.gradient();
        let first = Rc::new(Buffer::copy(&[3.0, 4.0]));
        gradient.add(first.clone());
        gradient.add(Rc::new(Buffer::copy(&[1.0, 1.0])));
        assert_eq!(first[..], [3.0, 4.0], "shared values do not change");
        gradient.add_with(2, |sum| sum[0] += 0.5);
        gradient.accumulate(2, |sum, into| {
            assert!(into == Accumulate::Yes);
            sum[1] += 0.5;
        });
        assert_eq!(tensor.gradient().take(2)[..], [4.5, 5.5]);
        assert_eq!(gradient.take_mut(2)[..], [0.0, 0.0], "taken before");
        gradient.accumulate(2, |sum, into| {
            assert!(into == Accumulate::No);
            sum.copy_from_slice(&[7.0, 8.0]);
        });
        assert_eq!(gradient.take(2)[..], [7.0, 8.0]);
    }

    #[test]
    fn only_shared_values_are_copied() {
        let tensor = CpuTensor::new(Buffer::copy(&[1.0, 2.0]), 1);
        let (clone, address) = (tensor.clone(), tensor.as_ptr());
        let mut copy = tensor.into_values();
        copy[0] = 9.0;
        assert_eq!((clone[..].to_vec(), clone.rows(), clone.width()), (vec![1.0, 2.0], 2, 1));
        assert_eq!(clone.into_values().as_ptr(), address);
    }
}
