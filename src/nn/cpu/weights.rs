//! Weights in the checkpoint's own memory. They must not change while a model holds them.

use std::sync::Arc;

use anyhow::Result;

use crate::kernels::weight::{PanelPool, Pass, Weight};
use crate::ops::WeightStore;

#[derive(Clone, Debug, Default)]
pub(crate) struct CpuWeights {
    pool: Arc<PanelPool>,
    /// Whether matrices are packed for forward passes when they are loaded.
    prepacked: bool,
}

impl CpuWeights {
    /// Weights that many small forward passes use, as in generation.
    pub(crate) fn prepacked() -> CpuWeights {
        CpuWeights { prepacked: true, ..CpuWeights::default() }
    }
}

/// A vector in the checkpoint's memory.
pub(crate) type SharedVector = Arc<Vec<f32>>;

/// A row-major table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) values: Arc<Vec<f32>>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Table {
    pub(crate) fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.columns..][..self.columns]
    }
}

impl WeightStore for CpuWeights {
    type Matrix = Arc<Weight>;
    type Table = Table;
    type Vector = SharedVector;

    fn matrix(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Arc<Weight>> {
        let weight = Weight::new(values, rows, columns, &self.pool);
        if self.prepacked {
            weight.pack(Pass::Forward);
        }
        Ok(Arc::new(weight))
    }

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Table> {
        Ok(Table { values, rows, columns })
    }

    fn vector(&self, values: Arc<Vec<f32>>, _: usize) -> Result<SharedVector> {
        Ok(values)
    }

    fn tied(&self, table: &Table) -> Result<Arc<Weight>> {
        self.matrix(table.values.clone(), table.rows, table.columns)
    }
}
