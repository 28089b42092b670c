//! The engine: decides which instances must run and why, and runs them in the right order.
//!
//! ```text
//! Expansion -> Graph -> Plan {Fresh | Dirty(reasons) | Waiting} -> Scheduler -> Launcher -> output check -> StageRecord
//! ```
//!
//! Reading order: the fingerprint of an instance ([`identity`]), the reasons to run it ([`dirty`]), the [`plan`], the
//! same as diagnostics ([`why`]), the [`graph`], a whole run ([`run`] and `scheduler`), one execution from lock to
//! commit (`task`), the two launchers ([`launcher`], [`process_launcher`]), and the child process ([`job`]).

pub mod cluster;
pub mod dirty;
pub mod environment;
pub mod estimate;
pub mod follow;
pub mod git;
pub mod graph;
pub mod history;
pub mod identity;
pub mod job;
pub mod launcher;
pub mod links;
pub mod notify;
pub mod observer;
pub mod options;
pub mod past_plan;
pub mod plan;
pub mod process_launcher;
pub mod query;
pub mod render_graph;
pub mod report;
pub mod run;
pub mod run_changes;
pub mod run_time;
pub mod sandbox;
pub mod select;
pub mod shared_results;
pub mod stop;
pub mod supervisor;
pub mod time_estimate;
pub mod time_left;
pub mod why;

mod capped_log;
mod executor;
mod experiment_notes;
mod input_paths;
mod journal;
mod manifest_diff;
mod noop_cache;
mod output_permissions;
mod output_stream;
mod outputs;
mod past_run;
mod process_tree;
mod program_inputs;
mod run_folder;
mod run_number;
mod run_state;
mod scheduler;
mod shared_slots;
mod supervisor_pool;
mod task;
mod time_history;
mod work_done;
mod workers;

#[cfg(test)]
mod tests;

pub use dirty::DirtyReason;
pub use estimate::estimate_requests;
pub use git::GitState;
pub use graph::Graph;
pub use job::{Job, run_job};
pub use launcher::{InProcess, Launcher, Work};
pub use observer::{NullObserver, Observer};
pub use options::RunOptions;
pub use plan::{Plan, PlanEntry, PlanOptions, PlanState, plan};
pub use process_launcher::ProcessLauncher;
pub use render_graph::GraphFormat;
pub use report::{DETACHED, Failure, Headline, InstanceReport, Outcome, RunPhase, RunReport, waits_for_job};
pub use run::run;
pub use select::Selection;
pub use shared_results::{Fetched, Lookup, SharedPlan, SharedResults, fetch_shared, find_shared};
pub use stop::StopFlag;
pub use time_estimate::{StageTime, TimeEstimate, estimate_time};
pub use why::{known_differences, stale_upstream, why, why_waiting};
