//! The engine: which instances must run and why, in what order, and running them. Knows no tensor and no concrete kind.
//!
//! ```text
//! Expansion -Graph-> order -identity,Store-> Plan{Fresh|Dirty(why)|Waits} -Scheduler-> Executor -check,commit-> StageRecord
//! ```
//!
//! In reading order: what identifies an instance ([`identity`]), how it differs from the last time ([`dirty`]),
//! the [`plan`], how both are told ([`why`]), the [`graph`], who runs what when ([`scheduler`]), one execution from
//! lock to commit ([`worker`]), the two executors ([`executor`], [`process`]), and the child's side ([`job`]).

pub mod confine;
pub mod difference;
pub mod dirty;
pub mod executor;
pub mod graph;
pub mod history;
pub mod identity;
pub mod job;
pub mod plan;
pub mod process;
pub mod query;
pub mod room;
pub mod run;
pub mod scheduler;
pub mod select;
pub mod warden;
pub mod why;
pub mod worker;

mod account;
mod board;
mod bounded;
mod commit;
mod copies;
mod crew;
mod draw;
mod journal;
mod normalize;
mod outputs;
mod processes;
mod publish;
mod slots;
mod standing;
mod stream;
mod wardens;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod idle;
#[cfg(test)]
mod mishaps;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod toys;

pub use dirty::DirtyReason;
pub use draw::GraphFormat;
pub use executor::{Executor, InProcess, Work};
pub use graph::Graph;
pub use job::{Job, run_job};
pub use plan::{Plan, PlanEntry, PlanOptions, PlanState, plan};
pub use process::ProcessExecutor;
pub use run::{Failure, Observer, Outcome, Quiet, RunOptions, RunReport, run};
pub use select::Selection;
pub use why::{chain, so_far, why, why_so_far};
