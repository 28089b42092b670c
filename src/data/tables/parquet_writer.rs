//! Writes a table as a Parquet file.

use std::sync::Arc;

use anyhow::{Context, Result};
use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;

/// A column of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub values: ColumnValues,
}

/// The values of a column, which have one type. A missing value is `None`.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnValues {
    Text(Vec<Option<String>>),
    Number(Vec<Option<f64>>),
    Whole(Vec<Option<i64>>),
    Boolean(Vec<Option<bool>>),
}

impl ColumnValues {
    pub fn len(&self) -> usize {
        match self {
            ColumnValues::Text(values) => values.len(),
            ColumnValues::Number(values) => values.len(),
            ColumnValues::Whole(values) => values.len(),
            ColumnValues::Boolean(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The bytes of a Parquet file, uncompressed. All columns have the same length.
pub fn write(columns: &[Column]) -> Result<Vec<u8>> {
    let array = |values: &ColumnValues| -> ArrayRef {
        match values {
            ColumnValues::Text(values) => Arc::new(values.iter().map(Option::as_deref).collect::<StringArray>()),
            ColumnValues::Number(values) => Arc::new(values.iter().copied().collect::<Float64Array>()),
            ColumnValues::Whole(values) => Arc::new(values.iter().copied().collect::<Int64Array>()),
            ColumnValues::Boolean(values) => Arc::new(values.iter().copied().collect::<BooleanArray>()),
        }
    };
    let arrays = columns.iter().map(|column| (column.name.as_str(), array(&column.values), true));
    let batch = RecordBatch::try_from_iter_with_nullable(arrays).context("cannot make a table for Parquet")?;
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).context("cannot write Parquet")?;
    writer.write(&batch).and_then(|()| writer.close()).context("cannot write Parquet")?;
    Ok(bytes)
}
