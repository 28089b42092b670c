//! The memory of a training or a generation.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use super::{BatchShape, Workload, training};

/// Bytes that a process needs on a GPU besides what it allocates: the driver's context, the kernels, and cuBLAS with its
/// workspace. An assumption.
const CONTEXT: usize = 640 << 20;

/// Bytes on a GPU by what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// In the types in which products and norms read them.
    pub weights: usize,
    /// The f32 originals of trained matrices that products read as bf16.
    pub master: usize,
    pub gradients: usize,
    /// Of AdamW: two per trained number.
    pub moments: usize,
    /// What the backward pass needs from the forward pass, the logits of a chunk included.
    pub activations: usize,
    /// Keys and values of generation.
    pub cache: usize,
    /// What else a pass needs at its highest point, and freed memory whose size does not fit.
    pub temporary: usize,
}

impl Memory {
    /// With what is missing up to a total as `temporary`.
    pub(super) fn up_to(self, total: usize) -> Memory {
        Memory { temporary: total.saturating_sub(self.allocated()), ..self }
    }

    /// The most bytes that are allocated.
    pub fn allocated(&self) -> usize {
        let Memory { weights, master, gradients, moments, activations, cache, temporary } = *self;
        weights + master + gradients + moments + activations + cache + temporary
    }

    /// The bytes that a process needs: those allocated, and those of driver and libraries.
    pub fn total(&self) -> usize {
        self.allocated() + CONTEXT
    }

    /// Name and bytes of each part that is not empty, without that of driver and libraries.
    pub fn parts(&self) -> Vec<(&'static str, usize)> {
        let Memory { weights, master, gradients, moments, activations, cache, temporary } = *self;
        let parts = [
            ("weights", weights),
            ("f32 weights", master),
            ("gradients", gradients),
            ("moments", moments),
            ("activations", activations),
            ("cache", cache),
            ("temporary", temporary),
        ];
        parts.into_iter().filter(|(_, bytes)| *bytes > 0).collect()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
        write!(f, "{:.1} GiB:", gib(self.total()))?;
        self.parts().into_iter().try_for_each(|(name, bytes)| write!(f, " {name} {:.1},", gib(bytes)))?;
        write!(f, " driver and libraries {:.1}", gib(CONTEXT))
    }
}

/// The largest number of rows of a training batch whose memory is at most `free` bytes; 0 if a single row needs more. `free` is what
/// the driver reports to a process that has not opened the GPU yet. `shape` gives the sizes of a row, and the largest number of
/// rows.
///
/// # Errors
/// As [`training`].
pub fn largest_batch(free: u64, workload: &Workload, shape: &BatchShape) -> Result<usize> {
    let fits = |rows: usize| -> Result<bool> {
        Ok(training(workload, &BatchShape { rows, ..*shape })?.memory.total() as u64 <= free)
    };
    if fits(shape.rows)? {
        return Ok(shape.rows);
    }
    // `low` rows fit, `high` rows do not.
    let (mut low, mut high) = (0, shape.rows);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle)? { low = middle } else { high = middle }
    }
    Ok(low)
}
