//! A weight as the right-hand factor of many products, forward and back.

use std::sync::{Arc, OnceLock};

use super::matmul::{Into, Packed, View, matmul};

/// A matrix (outputs, inputs) that does not change.
pub(crate) struct Weight {
    values: Arc<Vec<f32>>,
    outputs: usize,
    inputs: usize,
    forward: OnceLock<Packed>,
    backward: OnceLock<Packed>,
}

/// What a product belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Forward,
    Backward,
}

impl Weight {
    pub(crate) fn new(values: Arc<Vec<f32>>, outputs: usize, inputs: usize) -> Weight {
        assert!(values.len() == outputs * inputs, "BUG: a weight of another size than its shape");
        Weight { values, outputs, inputs, forward: OnceLock::new(), backward: OnceLock::new() }
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
        let Weight { ref values, outputs, inputs, .. } = *self;
        match pass {
            Pass::Forward => {
                self.forward.get_or_init(|| Packed::new(View::transposed(values, inputs), outputs, inputs));
            }
            Pass::Backward => {
                self.backward.get_or_init(|| Packed::new(View::rows(values, inputs), inputs, outputs));
            }
        }
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
        let weight = Weight::new(Arc::new(values.clone()), n, k);
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
}
