//! The experiment language: from TOML files to checked stage instances and report specifications.
//!
//! ```text
//! files -extends, overrides, vars-> Table -declaration-> stages, axes -stage_variants-> variants -expand-> Expansion
//!                                                                                   Expansion -report-> ReportSpec
//! ```

mod diagnostics;
mod extends;
mod foreign_keys;
mod key_path;
mod overrides;
mod removal;
mod spanned_toml;
mod sweep;
mod vars;
mod varying;

mod label;
mod limits;
mod report_spec;
mod section;
mod selector;
mod settings;
mod tables;

mod arm;
mod axis;
mod constraints;
mod declaration;
pub mod hub_cache;
mod stage_errors;

mod dedup_stats;
mod expand;
mod instance;
mod join;
mod lineage;
mod references;
mod stage_variants;
mod toposort;

mod budget_notes;
pub mod compiled;
mod configuration;
mod load;
mod portable;
mod report;
pub mod schema;

pub use arm::{Arm, TrainedPoint};
pub use axis::Simplex;
pub use budget_notes::budget_notes;
pub use configuration::{Configuration, ExecutorName, JobResources, PROJECT_FILE, RemoteTable, SlurmTable};
pub use dedup_stats::DedupStats;
pub use diagnostics::LoadError;
pub use instance::{Alias, Expansion, Instance, InstanceId, InstanceInput, ParsedStage, Upstream};
pub use limits::Limits;
pub use lineage::Lineage;
pub use load::Experiment;
pub use portable::PortableInstance;
pub use report_spec::{Contrast, GroupBy, Metric, Published, ReportSpec, Select};
pub use selector::{DATASET, Selector};
pub use settings::{DEFAULT_POOLS, Settings};

#[cfg(test)]
mod tests;
