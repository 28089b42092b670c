//! The weight of a linear layer, packed for the products of the forward and the backward pass.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::matmul::{Accumulate, MatrixView, PackedMatrix, matmul};
use crate::profile::{Timer, timer};

/// A constant matrix (outputs, inputs).
pub(crate) struct Weight {
    values: Arc<Vec<f32>>,
    outputs: usize,
    inputs: usize,
    forward: OnceLock<PackedMatrix>,
    backward: OnceLock<PackedMatrix>,
    pool: Arc<PanelPool>,
}

/// Memory of dropped packed weights, for the next ones of the same shapes. New memory is mapped page by page by the kernel,
/// which takes longer than packing.
#[derive(Debug, Default)]
pub(crate) struct PanelPool(Mutex<Vec<Vec<f32>>>);

impl PanelPool {
    /// Memory for `count` numbers with arbitrary contents.
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
        for packed in [&mut self.forward, &mut self.backward].into_iter().filter_map(OnceLock::take) {
            self.pool.give(packed.into_memory());
        }
    }
}

/// The pass that a product belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Forward,
    Backward,
}

impl Weight {
    /// Its packed forms take their memory from `pool` and give it back.
    pub(crate) fn new(values: Arc<Vec<f32>>, outputs: usize, inputs: usize, pool: &Arc<PanelPool>) -> Weight {
        assert!(values.len() == outputs * inputs, "BUG: the size of a weight differs from its shape");
        let pool = pool.clone();
        Weight { values, outputs, inputs, forward: OnceLock::new(), backward: OnceLock::new(), pool }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Packs the weight once for all later products of a pass. Otherwise each product packs it for itself, which takes up to
    /// a sixth of its time. The results have the same bits.
    pub(crate) fn pack(&self, pass: Pass) {
        let Weight { ref values, outputs, inputs, ref pool, .. } = *self;
        let (packed, matrix, n, k) = match pass {
            Pass::Forward => (&self.forward, MatrixView::transposed(values, inputs), outputs, inputs),
            Pass::Backward => (&self.backward, MatrixView::row_major(values, inputs), inputs, outputs),
        };
        packed.get_or_init(|| {
            let _timer = timer("packing weights", 0, 2 * n * k);
            PackedMatrix::new(matrix, n, k, pool.take(PackedMatrix::size(n, k)))
        });
    }

    /// Times a product with `m` rows: forward, backward, or for the gradient of the weight.
    pub(crate) fn timer(&self, operation: &'static str, m: usize) -> Option<Timer> {
        let Weight { outputs: n, inputs: k, .. } = *self;
        timer(operation, 2 * m * n * k, m * k + k * n + m * n)
    }

    /// `y (m, outputs) = x (m, inputs) weight^T`.
    pub(crate) fn forward(&self, x: &[f32], y: &mut [f32]) {
        let Weight { ref values, outputs: n, inputs: k, .. } = *self;
        let m = x.len() / k.max(1);
        assert!(x.len() == m * k && y.len() == m * n, "BUG: the sizes of a product differ from those of its weight");
        match self.forward.get() {
            Some(packed) => packed.multiply(m, x, y, Accumulate::No),
            None => {
                matmul(m, n, k, MatrixView::row_major(x, k), MatrixView::transposed(values, k), y, n, Accumulate::No);
            }
        }
    }

    /// The gradient of `x` for that of `y`: `dx (m, inputs) = dy (m, outputs) weight`.
    pub(crate) fn backward(&self, dy: &[f32], dx: &mut [f32], accumulate: Accumulate) {
        let Weight { ref values, outputs: k, inputs: n, .. } = *self;
        let m = dy.len() / k.max(1);
        assert!(dy.len() == m * k && dx.len() == m * n, "BUG: the sizes of a product differ from those of its weight");
        match self.backward.get() {
            Some(packed) => packed.multiply(m, dy, dx, accumulate),
            None => matmul(m, n, k, MatrixView::row_major(dy, k), MatrixView::row_major(values, n), dx, n, accumulate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_weight_multiplies_like_its_matrix() {
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect() };
        let (m, n, k) = (200, 1100, 700);
        let (values, x, dy) = (numbers(n * k), numbers(m * k), numbers(m * n));
        let (mut y, mut dx) = (vec![0.0; m * n], vec![1.0; m * k]);
        let pool = Arc::new(PanelPool::default());
        let weight = Weight::new(Arc::new(values.clone()), n, k, &pool);
        matmul(m, n, k, MatrixView::row_major(&x, k), MatrixView::transposed(&values, k), &mut y, n, Accumulate::No);
        matmul(m, k, n, MatrixView::row_major(&dy, n), MatrixView::row_major(&values, k), &mut dx, k, Accumulate::Yes);
        let pools = [1, 4].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
        for (packed, threads) in [(false, &pools[0]), (true, &pools[0]), (true, &pools[1])] {
            let (mut forward, mut backward) = (vec![f32::NAN; m * n], vec![1.0; m * k]);
            threads.install(|| {
                weight.forward(&x, &mut forward);
                weight.backward(&dy, &mut backward, Accumulate::Yes);
            });
            assert!(forward == y && backward == dx, "packed: {packed}");
            weight.pack(Pass::Forward);
            weight.pack(Pass::Backward);
        }
    }

    #[test]
    fn a_new_weight_uses_the_packed_memory_of_the_old_one() {
        let pool = Arc::new(PanelPool::default());
        let (n, k) = (17, 5);
        let products = |number: f32| {
            let weight = Weight::new(Arc::new(vec![number; n * k]), n, k, &pool);
            weight.pack(Pass::Forward);
            weight.pack(Pass::Backward);
            let (mut y, mut dx) = ([f32::NAN; 17], [f32::NAN; 5]);
            weight.forward(&[1.0; 5], &mut y);
            weight.backward(&[1.0; 17], &mut dx, Accumulate::No);
            (y, dx)
        };
        let addresses = || {
            let mut addresses: Vec<_> = pool.0.lock().unwrap().iter().map(Vec::as_ptr).collect();
            addresses.sort_unstable();
            addresses
        };
        assert_eq!(products(2.0), ([10.0; 17], [34.0; 5]));
        let before = addresses();
        assert_eq!(before.len(), 2);
        assert_eq!(products(3.0), ([15.0; 17], [51.0; 5]));
        assert_eq!(addresses(), before);
    }
}
