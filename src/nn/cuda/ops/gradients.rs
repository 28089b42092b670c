//! The gradients of trainable parameters on a GPU, in f32. The parts of a batch add to them one after the other.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Result;

use super::gpu::Gpu;
use super::memory::Buffer;
use crate::kernels::matmul::Accumulate;
use crate::trainable_model::TrainableModel;

/// The gradients by index.
pub(crate) struct CudaGradients {
    gpu: Gpu,
    slots: Vec<Option<Slot>>,
}

struct Slot {
    count: usize,
    values: Rc<Buffer>,
    /// Whether anything has been added since the last [`CudaGradients::clear`].
    used: RefCell<bool>,
}

/// The gradient of one parameter.
pub(super) struct WeightGradient {
    pub(super) gradients: Rc<CudaGradients>,
    pub(super) index: usize,
}

impl CudaGradients {
    pub(crate) fn new(gpu: &Gpu, trainable_model: &TrainableModel) -> Result<CudaGradients> {
        let slot = |index: usize| -> Result<Option<Slot>> {
            if !trainable_model.is_trainable(index) {
                return Ok(None);
            }
            let count = trainable_model.shape(index).iter().product();
            Ok(Some(Slot { count, values: gpu.allocate(count * size_of::<f32>())?, used: RefCell::new(false) }))
        };
        let slots = (0..trainable_model.count()).map(slot).collect::<Result<_>>()?;
        Ok(CudaGradients { gpu: gpu.clone(), slots })
    }

    /// Resets the sums to zero.
    pub(crate) fn clear(&self) {
        self.slots.iter().flatten().for_each(|slot| {
            slot.used.replace(false);
        });
    }

    /// Zeros for parameters to which nothing was added.
    pub(super) fn finish(&self) -> Result<()> {
        for slot in self.slots.iter().flatten() {
            if !slot.used.replace(true) {
                self.gpu.clear(&slot.values, slot.count * size_of::<f32>())?;
            }
        }
        Ok(())
    }

    pub(super) fn buffer(&self, index: usize) -> &Rc<Buffer> {
        &self.slot(index).values
    }

    /// The gradients on the host by index, empty for frozen parameters.
    #[cfg(test)]
    pub(crate) fn to_host(&self) -> Result<Vec<Vec<f32>>> {
        self.finish()?;
        self.slots
            .iter()
            .map(|slot| slot.as_ref().map_or_else(|| Ok(Vec::new()), |slot| self.gpu.read(&slot.values, slot.count)))
            .collect()
    }

    fn slot(&self, index: usize) -> &Slot {
        match self.slots.get(index) {
            Some(Some(slot)) => slot,
            _ => panic!("BUG: parameter {index} has no gradient"),
        }
    }
}

impl WeightGradient {
    /// Calls `add`, which adds to the gradient or stores it.
    pub(super) fn accumulate(&self, add: impl FnOnce(&Rc<Buffer>, Accumulate) -> Result<()>) -> Result<()> {
        let slot = self.gradients.slot(self.index);
        let into = if slot.used.replace(true) { Accumulate::Yes } else { Accumulate::No };
        add(&slot.values, into)
    }

    /// Calls `add`, which adds to some numbers of the gradient.
    pub(super) fn add_with(&self, add: impl FnOnce(&Rc<Buffer>) -> Result<()>) -> Result<()> {
        let slot = self.gradients.slot(self.index);
        if !slot.used.replace(true) {
            self.gradients.gpu.clear(&slot.values, slot.count * size_of::<f32>())?;
        }
        add(&slot.values)
    }
}
