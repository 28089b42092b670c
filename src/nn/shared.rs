//! Weights where the checkpoint has them. While something holds them, they do not change.

use std::sync::Arc;

use anyhow::Result;

use super::kernels::weight::{PanelPool, Weight};
use super::ops::Place;

/// The checkpoint's own memory, and what weights that were there before have left of their layouts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    pool: Arc<PanelPool>,
}

/// A table, row after row.
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

impl Place for Shared {
    type Matrix = Arc<Weight>;
    type Table = Table;
    type Vector = Arc<Vec<f32>>;

    fn matrix(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Arc<Weight>> {
        Ok(Arc::new(Weight::new(values, rows, columns, &self.pool)))
    }

    fn table(&self, values: Arc<Vec<f32>>, rows: usize, columns: usize) -> Result<Table> {
        Ok(Table { values, rows, columns })
    }

    fn vector(&self, values: Arc<Vec<f32>>) -> Result<Arc<Vec<f32>>> {
        Ok(values)
    }

    fn tied(&self, table: &Table) -> Result<Arc<Weight>> {
        self.matrix(table.values.clone(), table.rows, table.columns)
    }
}
