//! Estimates how long a run still takes, from the run times of earlier results.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::Graph;
use super::plan::{Plan, PlanState};
use ablate_experiment::{Expansion, InstanceId};
use ablate_store::{ExperimentId, Store};

/// The expected run times of the instances of a run.
#[derive(Debug)]
pub struct RunTime {
    graph: Graph,
    /// Stage and kind of each instance.
    names: Vec<(String, &'static str)>,
    /// Seconds of the last result of the same name.
    last: Vec<Option<f64>>,
    /// Sum and number of the run times by stage, and by kind.
    stages: BTreeMap<String, (f64, usize)>,
    kinds: BTreeMap<&'static str, (f64, usize)>,
    /// Selected instances without an outcome.
    unfinished: BTreeSet<InstanceId>,
    /// The most instances that run at the same time.
    jobs: usize,
}

impl RunTime {
    /// Reads the run times of the last results of all selected instances.
    pub fn new(
        expansion: &Expansion,
        store: &Store,
        experiment: &ExperimentId,
        plan: &Plan,
        selected: &BTreeSet<InstanceId>,
        jobs: usize,
    ) -> RunTime {
        let mut time = RunTime {
            graph: Graph::new(expansion),
            names: expansion.instances.iter().map(|one| (one.stage.clone(), one.kind.name)).collect(),
            last: vec![None; expansion.instances.len()],
            stages: BTreeMap::new(),
            kinds: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            jobs: jobs.max(1),
        };
        for id in expansion.ids() {
            let entry = plan.get(id);
            if let Some(record) = &entry.record {
                time.learn(id, record.seconds);
            } else if selected.contains(&id) {
                let note = store.latest(experiment, &expansion.get(id).name);
                let record = note.fingerprint.and_then(|fingerprint| store.slim_record(fingerprint));
                if let Some(record) = record {
                    time.learn(id, record.seconds);
                    time.last[id.0] = Some(record.seconds);
                }
            }
            if selected.contains(&id) && entry.state != PlanState::Fresh {
                time.unfinished.insert(id);
            }
        }
        time
    }

    /// An instance has an outcome. With `seconds`, it ran to its end.
    pub fn finished(&mut self, id: InstanceId, seconds: Option<f64>) {
        self.unfinished.remove(&id);
        if let Some(seconds) = seconds {
            self.learn(id, seconds);
        }
    }

    /// About how many seconds the run still takes: its longest path, or its work divided by the number of jobs if that is
    /// more. `running` returns the seconds since the start of a running instance, and its seconds left if they are known.
    /// `None` if the run time of a kind is not known.
    pub fn left(&self, running: &dyn Fn(InstanceId) -> Option<(f64, Option<f64>)>) -> Option<f64> {
        let mut left = vec![0.0; self.last.len()];
        for id in &self.unfinished {
            left[id.0] = match running(*id) {
                Some((_, Some(left))) => left,
                Some((elapsed, None)) => (self.expected(*id)? - elapsed).max(0.0),
                None => self.expected(*id)?,
            };
        }
        let longest = self.graph.longest_paths(|id| left[id.0]).into_iter().fold(0.0, f64::max);
        Some(longest.max(left.iter().sum::<f64>() / self.jobs as f64))
    }

    /// The seconds of the last result of the same name, or the mean of the stage, or that of the kind.
    fn expected(&self, id: InstanceId) -> Option<f64> {
        let (stage, kind) = &self.names[id.0];
        let mean = |found: Option<&(f64, usize)>| found.map(|(sum, count)| sum / *count as f64);
        self.last[id.0].or_else(|| mean(self.stages.get(stage))).or_else(|| mean(self.kinds.get(kind)))
    }

    fn learn(&mut self, id: InstanceId, seconds: f64) {
        let (stage, kind) = &self.names[id.0];
        for (sum, count) in [self.stages.entry(stage.clone()).or_default(), self.kinds.entry(kind).or_default()] {
            *sum += seconds;
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{PlanOptions, plan};
    use crate::tests::support::TestProject;
    use serde_json::json;

    #[test]
    fn time_left_is_the_longest_path_or_the_work_of_all_jobs() {
        let project = TestProject::new();
        let expansion = project.stages(&[
            ("first", json!({})),
            ("second", json!({ "from": ["first"] })),
            ("other", json!({ "word": "x" })),
            ("another", json!({ "word": "y" })),
        ]);
        let store = project.store();
        let plan = plan(&expansion, &store, &PlanOptions::default()).unwrap();
        let selected = expansion.ids().collect();
        let mut time = RunTime::new(&expansion, &store, &"test".into(), &plan, &selected, 2);
        let none = |_: InstanceId| None;
        assert_eq!(time.left(&none), None, "no stage of the kind has run");
        time.finished(InstanceId(0), Some(10.0));
        assert_eq!(time.left(&none), Some(15.0), "three stages of 10 s in two jobs");
        let running = |id: InstanceId| (id.0 > 1).then_some((8.0, (id.0 == 3).then_some(30.0)));
        assert_eq!(time.left(&running), Some(30.0), "the longest one");
        for id in [2, 3] {
            time.finished(InstanceId(id), None);
        }
        assert_eq!(time.left(&none), Some(10.0));
        time.finished(InstanceId(1), Some(99.0));
        assert_eq!(time.left(&none), Some(0.0));
    }
}
