//! The experiment language: text in, checked and expanded instances out. Knows no kind by name, no store, no graph library.
//!
//! ```text
//! files -text-> Table -vars-> Table -declaration-> stages, axes -own-> own points -expand-> Expansion -report-> specs
//! ```

pub mod compiled;
pub mod instance;
mod limits;
mod load;
mod report;
pub mod schema;
mod selector;
mod settings;
mod sharing;
mod tables;

mod keys;
mod problems;
mod removal;
mod text;
mod tree;
mod vars;

mod axis;
mod declaration;
mod fields;
mod label;
mod mistakes;

mod expand;
mod join;
mod order;
mod own;
mod points;
mod resolve;

pub use axis::Simplex;
pub use instance::{Expansion, Instance, InstanceId, InstanceInput, ParsedStage, Upstream};
pub use limits::Limits;
pub use load::Experiment;
pub use problems::Failure;
pub use report::{Contrast, GroupBy, Metric, Published, ReportSpec, Select};
pub use selector::{DATASET, Selector};
pub use settings::Settings;
pub use sharing::Sharing;

#[cfg(test)]
mod tests;
