//! Rows of Arrow files, in the file format and in the stream format.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Result;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::SchemaRef;

use super::batches::{Batches, Columns, guarded};
use super::{Format, OpenError, Row, StoreBytes};
use ablate_core::base::files;

/// A file whose schema was read.
pub(super) struct Reader {
    path: PathBuf,
    format: Format,
    schema: SchemaRef,
}

impl Reader {
    pub(super) fn open(path: &Path, format: Format) -> Result<Reader, OpenError> {
        let (schema, _) = batches(path, format, None)?;
        Ok(Reader { path: path.to_path_buf(), format, schema })
    }

    pub(super) fn columns(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    pub(super) fn for_each(
        self,
        wanted: &dyn Fn(&str) -> bool,
        store: &mut StoreBytes<'_>,
        take: &mut dyn FnMut(Row) -> Result<()>,
    ) -> Result<(), OpenError> {
        let columns = Columns::new(&self.path, &self.schema, wanted)?;
        let (_, batches) = batches(&self.path, self.format, Some(columns.indices()))?;
        columns.for_each(&self.path, batches, store, take)
    }
}

/// Opens the file and reads its schema.
fn batches(path: &Path, format: Format, columns: Option<Vec<usize>>) -> Result<(SchemaRef, Batches), OpenError> {
    let file: BufReader<File> = files::open(path)?;
    guarded(path, "cannot read the Arrow file", move || {
        let text = |error: arrow_schema::ArrowError| error.to_string();
        Ok(if format == Format::ArrowFile {
            let reader = FileReader::try_new(file, columns).map_err(text)?;
            (reader.schema(), Box::new(reader) as Batches)
        } else {
            let reader = StreamReader::try_new(file, columns).map_err(text)?;
            (reader.schema(), Box::new(reader) as Batches)
        })
    })
}
