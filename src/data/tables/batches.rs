//! Rows of files that store columns: reads one record batch at a time and converts it row by row.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{ArrowError, Schema};
use serde_json::Value;

use super::cells::{self, CellError};
use super::class_labels::ClassLabels;
use super::{OpenError, Row, StoreBytes, object};
use ablate_core::base::resource_limits::{Limits, run_limited};

/// Limits of reading one batch. A damaged file may state any size, and a library may panic on it.
const LIMITS: Limits = Limits { bytes: 16 << 30, requests: 1 << 32, time: Duration::from_secs(3600) };

/// An iterator of record batches that may move to another thread.
pub(super) type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// Runs work of a library on a file; a panic or an excess of memory becomes an error. `what` names the work.
pub(super) fn guarded<T: Send + 'static>(
    path: &Path,
    what: &str,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, OpenError> {
    let content = |why: String| OpenError::Content(format!("{}: {what}: {why}", path.display()));
    run_limited(LIMITS, work).map_err(|limit| content(format!("the file is damaged: it {limit}")))?.map_err(content)
}

/// The columns of a schema that are read, with their class labels.
pub(super) struct Columns {
    /// Index in the schema, name and class labels.
    read: Vec<(usize, String, ClassLabels)>,
}

impl Columns {
    /// Selects the `wanted` columns, and checks their types.
    pub(super) fn new(path: &Path, schema: &Schema, wanted: &dyn Fn(&str) -> bool) -> Result<Columns, OpenError> {
        let features = schema.metadata().get("huggingface").map(String::as_str).unwrap_or_default();
        let mut labels = ClassLabels::of_columns(features);
        let mut read = Vec::new();
        for (index, field) in schema.fields().iter().enumerate().filter(|(_, field)| wanted(field.name())) {
            let name = field.name();
            cells::check_type(name, field.data_type())
                .map_err(|what| OpenError::Content(format!("{}: {what}", path.display())))?;
            read.push((index, name.clone(), labels.remove(name).unwrap_or_default()));
        }
        Ok(Columns { read })
    }

    /// The indices of the columns in the schema.
    pub(super) fn indices(&self) -> Vec<usize> {
        self.read.iter().map(|(index, ..)| *index).collect()
    }

    /// Calls `take` with every row of all batches, which hold only these columns, in their order.
    pub(super) fn for_each(
        &self,
        path: &Path,
        mut batches: Batches,
        store: &mut StoreBytes<'_>,
        take: &mut dyn FnMut(Row) -> Result<()>,
    ) -> Result<(), OpenError> {
        let mut number = 0;
        loop {
            let what = format!("cannot read the rows after row {number}");
            let (rest, batch) = guarded(path, &what, move || {
                let batch = batches.next().transpose().map_err(|error| error.to_string())?;
                Ok((batches, batch))
            })?;
            batches = rest;
            let Some(batch) = batch else { return Ok(()) };
            for row in 0..batch.num_rows() {
                number += 1;
                let location = format!("{}: row {number}", path.display());
                take(Row { location, value: self.row(&batch, row, store)? })?;
            }
        }
    }

    /// A row as an object.
    fn row(&self, batch: &RecordBatch, row: usize, store: &mut StoreBytes<'_>) -> Result<Result<Value, String>> {
        let mut values = Vec::with_capacity(self.read.len());
        for ((_, name, labels), array) in self.read.iter().zip(batch.columns()) {
            if array.is_null(row) {
                continue;
            }
            match cells::value(array, row, labels, name, store) {
                Ok(value) => values.push((name.clone(), value)),
                Err(CellError::Row(what)) => return Ok(Err(what)),
                Err(CellError::Io(error)) => return Err(error),
            }
        }
        Ok(Ok(Value::Object(object(values.into_iter()))))
    }
}
