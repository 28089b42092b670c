//! `[report.NAME]`: from a table of the file to a checked [`ReportSpec`].

mod baseline;
mod checker;
mod published;
mod read;
mod select;
mod spec;

pub(crate) use read::read;
pub use spec::{Contrast, GroupBy, Metric, Published, ReportSpec, Select};
