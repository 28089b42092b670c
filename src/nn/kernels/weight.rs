//! A weight as the right-hand factor of many products, forward and back.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::super::profile::{Timer, timer};
use super::matmul::{Into, Packed, View, matmul};

/// A matrix (outputs, inputs) that does not change.
pub(crate) struct Weight {
    values: Arc<Vec<f32>>,
    outputs: usize,
    inputs: usize,
    forward: OnceLock<Packed>,
    backward: OnceLock<Packed>,
    spare: Arc<Spare>,
}

/// The memory of layouts that are gone, for those of the next weights of the same shapes: the kernel's comes page by page,
/// which takes longer than laying out.
#[derive(Debug, Default)]
pub(crate) struct Spare(Mutex<Vec<Vec<f32>>>);

impl Spare {
    /// So many numbers, which may be anything.
    fn take(&self, count: usize) -> Vec<f32> {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = memories.iter().position(|memory| memory.len() == count).map(|at| memories.swap_remove(at));
        drop(memories);
        found.unwrap_or_else(|| vec![0.0; count])
    }

    fn give(&self, memory: Vec<f32>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        for layout in [&mut self.forward, &mut self.backward].into_iter().filter_map(OnceLock::take) {
            self.spare.give(layout.into_memory());
        }
    }
}

/// What a product belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Forward,
    Backward,
}

impl Weight {
    /// Its layouts lie in spare memory and leave it there.
    pub(crate) fn new(values: Arc<Vec<f32>>, outputs: usize, inputs: usize, spare: &Arc<Spare>) -> Weight {
        assert!(values.len() == outputs * inputs, "BUG: a weight of another size than its shape");
        let spare = spare.clone();
        Weight { values, outputs, inputs, forward: OnceLock::new(), backward: OnceLock::new(), spare }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Lays it out once for all products to come in such passes, which otherwise each do it for themselves: up to a sixth
    /// of a product. Changes no bit.
    pub(crate) fn lay_out(&self, pass: Pass) {
        let Weight { ref values, outputs, inputs, ref spare, .. } = *self;
        let (layout, matrix, n, k) = match pass {
            Pass::Forward => (&self.forward, View::transposed(values, inputs), outputs, inputs),
            Pass::Backward => (&self.backward, View::rows(values, inputs), inputs, outputs),
        };
        layout.get_or_init(|| {
            let _timer = timer("laying out weights", 0, 2 * n * k);
            Packed::new(matrix, n, k, spare.take(Packed::size(n, k)))
        });
    }

    /// Times a product of `m` rows and it, forward, back, or for its gradient.
    pub(crate) fn timer(&self, operation: &'static str, m: usize) -> Option<Timer> {
        let Weight { outputs: n, inputs: k, .. } = *self;
        timer(operation, 2 * m * n * k, m * k + k * n + m * n)
    }

    /// `y (m, outputs) = x (m, inputs) weight^T`.
    pub(crate) fn forward(&self, x: &[f32], y: &mut [f32]) {
        let Weight { ref values, outputs: n, inputs: k, .. } = *self;
        let m = x.len() / k.max(1);
        assert!(x.len() == m * k && y.len() == m * n, "BUG: a product of other sizes than its weight's");
        match self.forward.get() {
            Some(panels) => panels.multiply(m, x, y, Into::Replace),
            None => matmul(m, n, k, View::rows(x, k), View::transposed(values, k), y, n, Into::Replace),
        }
    }

    /// The gradient of `x` for that of `y`: `dx (m, inputs) = dy (m, outputs) weight`, or adds to it.
    pub(crate) fn backward(&self, dy: &[f32], dx: &mut [f32], into: Into) {
        let Weight { ref values, outputs: k, inputs: n, .. } = *self;
        let m = dy.len() / k.max(1);
        assert!(dy.len() == m * k && dx.len() == m * n, "BUG: a product of other sizes than its weight's");
        match self.backward.get() {
            Some(panels) => panels.multiply(m, dy, dx, into),
            None => matmul(m, n, k, View::rows(dy, k), View::rows(values, n), dx, n, into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_multiplies_as_a_matrix_laid_out_or_not_on_one_thread_or_many() {
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect() };
        let (m, n, k) = (200, 1100, 700);
        let (values, x, dy) = (numbers(n * k), numbers(m * k), numbers(m * n));
        let (mut y, mut dx) = (vec![0.0; m * n], vec![1.0; m * k]);
        let spare = Arc::new(Spare::default());
        let weight = Weight::new(Arc::new(values.clone()), n, k, &spare);
        matmul(m, n, k, View::rows(&x, k), View::transposed(&values, k), &mut y, n, Into::Replace);
        matmul(m, k, n, View::rows(&dy, n), View::rows(&values, k), &mut dx, k, Into::Add);
        let pools = [1, 4].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
        for (laid_out, pool) in [(false, &pools[0]), (true, &pools[0]), (true, &pools[1])] {
            let (mut forward, mut backward) = (vec![f32::NAN; m * n], vec![1.0; m * k]);
            pool.install(|| {
                weight.forward(&x, &mut forward);
                weight.backward(&dy, &mut backward, Into::Add);
            });
            assert!(forward == y && backward == dx, "laid out: {laid_out}");
            weight.lay_out(Pass::Forward);
            weight.lay_out(Pass::Backward);
        }
    }
    #[test]
    fn a_weight_that_is_renewed_is_laid_out_where_the_one_before_was() {
        let spare = Arc::new(Spare::default());
        let (n, k) = (17, 5);
        let laid_out = |number: f32| {
            let weight = Weight::new(Arc::new(vec![number; n * k]), n, k, &spare);
            weight.lay_out(Pass::Forward);
            weight.lay_out(Pass::Backward);
            let (mut y, mut dx) = ([f32::NAN; 17], [f32::NAN; 5]);
            weight.forward(&[1.0; 5], &mut y);
            weight.backward(&[1.0; 17], &mut dx, Into::Replace);
            (y, dx)
        };
        let places = || {
            let mut places: Vec<_> = spare.0.lock().unwrap().iter().map(Vec::as_ptr).collect();
            places.sort_unstable();
            places
        };
        assert_eq!(laid_out(2.0), ([10.0; 17], [34.0; 5]));
        let before = places();
        assert_eq!(before.len(), 2);
        assert_eq!(laid_out(3.0), ([15.0; 17], [51.0; 5]));
        assert_eq!(places(), before);
    }
}
