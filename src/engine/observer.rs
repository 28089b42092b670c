//! Callbacks that follow a run.

use std::collections::BTreeSet;

use super::dirty::DirtyReason;
use super::plan::Plan;
use super::report::{Outcome, RunReport};
use ablate_core::base::StageEvent;
use ablate_experiment::{Instance, InstanceId};

/// Every callback is called on the thread that called [`run`](crate::run()).
pub trait Observer {
    /// The plan at the start of the run, and the selected instances.
    fn planned(&self, _plan: &Plan, _selected: &BTreeSet<InstanceId>) {}
    /// The stage of an instance is about to run.
    fn started(&self, _id: InstanceId, _instance: &Instance, _reasons: &[DirtyReason]) {}
    /// The instance waits for another run. Called once per instance.
    fn waits(&self, _id: InstanceId, _instance: &Instance, _why: &str) {}
    /// The state of the instance's job in the queue of a cluster has changed.
    fn queued(&self, _id: InstanceId, _instance: &Instance, _state: &str) {}
    /// A problem that fails no instance.
    fn warning(&self, _text: &str) {}
    /// The running stage reports progress, a note or a warning.
    fn event(&self, _id: InstanceId, _instance: &Instance, _event: &StageEvent) {}
    fn finished(&self, _id: InstanceId, _instance: &Instance, _outcome: &Outcome, _seconds: f64) {}
    /// Called several times per second while the run goes on.
    fn tick(&self) {}
    fn ended(&self, _report: &RunReport) {}
}

/// An observer that ignores every callback.
pub struct NullObserver;

impl Observer for NullObserver {}
