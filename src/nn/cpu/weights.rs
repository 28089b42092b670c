//! Weights in the checkpoint's own memory. They must not change while a model holds them.

use std::sync::Arc;

use anyhow::Result;

use crate::kernels::weight::{PanelPool, Weight};
use crate::ops::WeightStore;

#[derive(Clone, Debug, Default)]
pub(crate) struct CpuWeights {
    pool: Arc<PanelPool>,
}

/// A vector in the checkpoint's memory, or a copy with an offset.
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
        Ok(Arc::new(Weight::new(values, rows, columns, &self.pool)))
    }

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Table> {
        Ok(Table { values, rows, columns })
    }

    fn vector(&self, values: Arc<Vec<f32>>, _: usize, offset: f32) -> Result<SharedVector> {
        Ok(if offset == 0.0 { values } else { Arc::new(values.iter().map(|value| offset + value).collect()) })
    }

    fn tied(&self, table: &Table) -> Result<Arc<Weight>> {
        self.matrix(table.values.clone(), table.rows, table.columns)
    }
}
