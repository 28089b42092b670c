//! Rows of Parquet files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::metadata::RowGroupMetaData;

use super::batches::{Columns, guarded};
use super::{OpenError, Row, StoreBytes};
use ablate_core::base::files;

/// Rows that are in memory together. Images make rows large.
const BATCH_ROWS: usize = 64;

/// A file whose footer was read.
pub(super) struct Reader {
    path: PathBuf,
    builder: ParquetRecordBatchReaderBuilder<std::fs::File>,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Reader, OpenError> {
        let file = files::open_file(path)?;
        let builder = guarded(path, "cannot read the Parquet file", move || {
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())
        })?;
        Ok(Reader { path: path.to_path_buf(), builder })
    }

    pub(super) fn columns(&self) -> Vec<String> {
        self.builder.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    pub(super) fn for_each(
        self,
        wanted: &dyn Fn(&str) -> bool,
        store: &mut StoreBytes<'_>,
        take: &mut dyn FnMut(Row) -> Result<()>,
    ) -> Result<(), OpenError> {
        let Reader { path, builder } = self;
        let columns = Columns::new(&path, builder.schema(), wanted)?;
        check_compression(&path, &builder, wanted)?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns.indices());
        let reader = guarded(&path, "cannot read the Parquet file", move || {
            builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|error| error.to_string())
        })?;
        columns.for_each(&path, Box::new(reader), store, take)
    }
}

/// Refuses column chunks with a compression that is not built in.
fn check_compression(
    path: &Path,
    builder: &ParquetRecordBatchReaderBuilder<std::fs::File>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<(), OpenError> {
    for column in builder.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns) {
        let name = column.column_path().parts().first().map(String::as_str).unwrap_or_default();
        let (Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_)) = column.compression() else {
            if !wanted(name) {
                continue;
            }
            let compression = column.compression().to_string();
            let compression = compression.split('(').next().unwrap_or_default();
            return Err(OpenError::Content(format!(
                "{}: the column `{name}` is compressed with {compression}, which is not supported: write the file with \
                 snappy or zstd, as in `to_parquet(..., compression=\"zstd\")`",
                path.display()
            )));
        };
    }
    Ok(())
}
