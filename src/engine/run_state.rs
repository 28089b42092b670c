//! The states of the instances of a run, and the ready queues, slots and devices that follow from them. One function
//! changes a state. Starts no thread and reads no store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::graph::Graph;
use super::options::RunOptions;
use super::shared_slots::SlotRequest;
use ablate_core::stage::Pool;
use ablate_experiment::{DEFAULT_POOLS, Expansion, Instance, InstanceId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstanceState {
    /// An upstream instance is not done.
    Blocked,
    /// It has a fingerprint, must run, and waits for a slot.
    Ready,
    /// A thread of this run executes or commits it.
    Running,
    /// Another run holds its lock.
    RunningElsewhere,
    /// Its record and outputs are in the store.
    Done,
    Failed,
    /// It has no result in this run: it is not selected, an upstream instance failed, it or an upstream instance waits for
    /// an endpoint, or the run was stopped.
    Skipped,
}

/// A pool of slots.
#[derive(Debug, Default)]
struct PoolState {
    size: usize,
    taken: usize,
    /// Whether other runs use what the next instance needs. The scheduler asks again later.
    waits: bool,
    /// Ready instances in the order in which they start: the longest path first.
    ready: BTreeSet<(Reverse<u64>, InstanceId)>,
}

pub(super) struct RunState {
    states: Vec<InstanceState>,
    /// Index of each instance's pool in `pools` and `pool_names`.
    pool_of: Vec<u16>,
    /// Whether a job of the cluster executes each instance.
    has_job: Vec<bool>,
    /// Whether each instance runs a model, and so can use many threads.
    is_model: Vec<bool>,
    /// The number of GPUs that each instance needs if its pool is `gpu` or if it has a job.
    gpus: Vec<usize>,
    /// The length of the longest path that starts at each instance.
    path_lengths: Vec<u64>,
    pool_names: Vec<String>,
    pools: Vec<PoolState>,
    /// Number of instances in the state `Running`.
    running: usize,
    /// The running instances that still hold their slot.
    slot_holders: BTreeSet<InstanceId>,
    /// Number of ready, and of running, model stages in the pool `cpu`.
    models_ready: usize,
    models_running: usize,
    running_elsewhere: BTreeSet<InstanceId>,
    jobs: usize,
    cores: usize,
    /// Threads per stage, if the user set them.
    threads: Option<usize>,
    /// Devices that no instance uses.
    free_devices: BTreeSet<String>,
    /// The devices of each running instance in the pool `gpu`.
    used_devices: BTreeMap<InstanceId, Vec<String>>,
}

/// Indices of the pools that every run has. The order is the order in which they are served.
const GPU: u16 = 0;
const CPU: u16 = 1;
const TEACHER: u16 = 2;
/// The jobs of a cluster.
const JOBS: u16 = 3;

impl RunState {
    pub(super) fn new(expansion: &Expansion, graph: &Graph, options: &RunOptions) -> RunState {
        let devices = options.device.split(',').map(str::trim).filter(|device| device.starts_with("cuda"));
        let on_gpu = devices.clone().next().is_some();
        let free_devices: BTreeSet<String> =
            devices.map(str::to_string).chain(options.gpus.iter().map(|id| format!("cuda:{id}"))).collect();
        // No pool of an experiment has an empty name.
        let mut pool_names: Vec<String> = ["gpu", "cpu", "teacher", ""].map(str::to_string).to_vec();
        let has_job = |instance: &Instance| options.cluster.as_ref().is_some_and(|cluster| !cluster.is_local(instance));
        pool_names.extend(options.pools.keys().filter(|name| !pool_names.contains(name)).cloned().collect::<Vec<_>>());
        let size = |(index, name): (usize, &String)| match index as u16 {
            GPU => free_devices.len(),
            CPU => options.jobs.max(1),
            TEACHER => options.teachers.max(1),
            JOBS => options.cluster.as_ref().map_or(1, |cluster| cluster.table.max_jobs),
            _ => options.pools.get(name).copied().unwrap_or(1).max(1),
        };
        let pool = |instance: &Instance| match (&instance.limits.pool, instance.pool) {
            // Slots of the machine do not limit jobs.
            (pool, _)
                if has_job(instance) && pool.as_ref().is_none_or(|pool| DEFAULT_POOLS.contains(&pool.as_str())) =>
            {
                JOBS
            }
            (Some(pool), _) => pool_names.iter().position(|name| name == pool).map_or(CPU, |index| index as u16),
            (None, _) if instance.limits.gpu.is_some_and(|count| count > 0) => GPU,
            (None, Pool::Model) if on_gpu && instance.limits.gpu != Some(0) => GPU,
            (None, Pool::Teacher) => TEACHER,
            (None, Pool::Model | Pool::Light) => CPU,
        };
        let gpus = |instance: &Instance| match &options.cluster {
            Some(cluster) if has_job(instance) => {
                let resources = cluster.resources(instance);
                resources.gpu * resources.nodes
            }
            _ => instance.limits.gpu.unwrap_or(1).max(1),
        };
        let count = expansion.instances.len();
        let pools = pool_names.iter().enumerate().map(|pool| PoolState { size: size(pool), ..PoolState::default() });
        RunState {
            states: vec![InstanceState::Blocked; count],
            pool_of: expansion.instances.iter().map(pool).collect(),
            has_job: expansion.instances.iter().map(has_job).collect(),
            is_model: expansion.instances.iter().map(|instance| instance.pool == Pool::Model).collect(),
            gpus: expansion.instances.iter().map(gpus).collect(),
            path_lengths: graph.longest_paths(|_| 1.0).into_iter().map(|length| length as u64).collect(),
            pools: pools.collect(),
            pool_names,
            running: 0,
            slot_holders: BTreeSet::new(),
            models_ready: 0,
            models_running: 0,
            running_elsewhere: BTreeSet::new(),
            jobs: options.jobs.max(1),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads: options.threads,
            free_devices,
            used_devices: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, id: InstanceId) -> InstanceState {
        self.states[id.0]
    }

    /// Why an instance could never get its slots in this run; `None` if it can.
    pub(super) fn unavailable(&self, id: InstanceId) -> Option<String> {
        let needed = self.gpus[id.0];
        let size = self.pools[self.pool_of[id.0] as usize].size;
        if self.pool_of[id.0] != GPU || needed <= size {
            return None;
        }
        let needed = if needed == 1 { "a GPU".to_string() } else { format!("{needed} GPUs") };
        let size = if size == 0 { "none".to_string() } else { format!("only {size}") };
        Some(format!("it needs {needed}, and this run has {size}: name GPUs with `--gpus 0,1`"))
    }

    /// Changes the state of an instance, and with it the queues and slots. No other function changes a state.
    pub(super) fn set(&mut self, id: InstanceId, new: InstanceState) {
        use InstanceState::{Blocked, Done, Failed, Ready, Running, RunningElsewhere, Skipped};
        let old = self.states[id.0];
        let possible = matches!(
            (old, new),
            (Blocked, Ready | Done | Failed | Skipped)
                | (Ready, Running | Failed | Skipped)
                // `Ready` for a retry.
                | (Running, Done | Failed | Skipped | RunningElsewhere | Ready)
                | (RunningElsewhere, Ready | Skipped)
        );
        assert!(possible, "BUG: instance {} cannot go from {old:?} to {new:?}", id.0);
        let pool = self.pool_of[id.0];
        let queue_key = (Reverse(self.path_lengths[id.0]), id);
        let model_on_cpu = usize::from(self.is_model[id.0] && pool == CPU);
        match old {
            Ready => {
                self.pools[pool as usize].ready.remove(&queue_key);
                self.models_ready -= model_on_cpu;
            }
            Running => {
                self.release(id);
                self.running -= 1;
            }
            RunningElsewhere => drop(self.running_elsewhere.remove(&id)),
            Blocked | Done | Failed | Skipped => {}
        }
        match new {
            Ready => {
                self.pools[pool as usize].ready.insert(queue_key);
                self.models_ready += model_on_cpu;
            }
            Running => {
                self.running += 1;
                self.slot_holders.insert(id);
                self.models_running += model_on_cpu;
                self.pools[pool as usize].taken += if pool == GPU { self.gpus[id.0] } else { 1 };
            }
            RunningElsewhere => drop(self.running_elsewhere.insert(id)),
            Blocked | Done | Failed | Skipped => {}
        }
        self.states[id.0] = new;
    }

    /// Frees the slots and devices of an instance whose execution is over, even if its commit is not.
    pub(super) fn release(&mut self, id: InstanceId) {
        if !self.slot_holders.remove(&id) {
            return;
        }
        let pool = self.pool_of[id.0];
        self.models_running -= usize::from(self.is_model[id.0] && pool == CPU);
        self.pools[pool as usize].taken -= if pool == GPU { self.gpus[id.0] } else { 1 };
        self.free_devices.extend(self.used_devices.remove(&id).into_iter().flatten());
    }

    /// What a ready instance needs from the slots that all runs of the store share.
    pub(super) fn slot_request(&self, id: InstanceId) -> SlotRequest<'_> {
        let pool = self.pool_of[id.0];
        match pool {
            CPU | JOBS => SlotRequest::None,
            GPU => SlotRequest::Devices { free: &self.free_devices, count: self.gpus[id.0] },
            _ => SlotRequest::Pool { name: &self.pool_names[pool as usize], size: self.pools[pool as usize].size },
        }
    }

    /// Starts a ready instance on these devices.
    pub(super) fn start(&mut self, id: InstanceId, devices: Vec<String>) {
        for device in &devices {
            self.free_devices.remove(device);
        }
        self.used_devices.insert(id, devices);
        self.set(id, InstanceState::Running);
    }

    /// Pauses the pool of an instance, because other runs use what the instance needs.
    pub(super) fn pause_pool(&mut self, id: InstanceId) {
        self.pools[self.pool_of[id.0] as usize].waits = true;
    }

    /// Makes everything that waits for other runs eligible again.
    pub(super) fn retry_waiting(&mut self) {
        for id in std::mem::take(&mut self.running_elsewhere) {
            self.set(id, InstanceState::Ready);
        }
        self.pools.iter_mut().for_each(|pool| pool.waits = false);
    }

    /// The next instance to start: ready, with a free slot, and with the longest path.
    pub(super) fn next(&self) -> Option<InstanceId> {
        self.pools.iter().enumerate().find_map(|(index, pool)| {
            let (_, id) = pool.ready.first().filter(|_| !pool.waits)?;
            let needed = if index == GPU as usize { self.gpus[id.0] } else { 1 };
            (pool.taken + needed <= pool.size).then_some(*id)
        })
    }

    /// Whether a job of the cluster executes an instance.
    pub(super) fn has_job(&self, id: InstanceId) -> bool {
        self.has_job[id.0]
    }

    /// The devices of a running instance; empty on the CPU.
    pub(super) fn devices(&self, id: InstanceId) -> Vec<String> {
        self.used_devices.get(&id).cloned().unwrap_or_default()
    }

    /// The number of GPUs that an instance takes; 0 outside the pool `gpu` and jobs.
    pub(super) fn gpus_of(&self, id: InstanceId) -> usize {
        if self.pool_of[id.0] == GPU || self.has_job[id.0] { self.gpus[id.0] } else { 0 }
    }

    /// Free devices for a ready instance, as many as it needs.
    pub(super) fn free_devices_for(&self, id: InstanceId) -> Vec<String> {
        self.free_devices.iter().take(self.gpus_of(id)).cloned().collect()
    }

    pub(super) fn cores(&self) -> usize {
        self.cores
    }

    pub(super) fn nothing_runs(&self) -> bool {
        self.running == 0
    }

    /// Whether no instance executes, and none could start.
    pub(super) fn is_idle(&self) -> bool {
        self.slot_holders.is_empty() && self.next().is_none()
    }

    /// Whether no instance waits for another run.
    pub(super) fn nothing_waits(&self) -> bool {
        self.running_elsewhere.is_empty() && !self.pools.iter().any(|pool| pool.waits && !pool.ready.is_empty())
    }

    /// Threads for the next stage: the user's number, or else the cores divided by the model stages that run or are
    /// ready. Other stages do not count, because they end soon, while a training keeps its number of threads to its end.
    pub(super) fn threads(&self) -> usize {
        if let Some(threads) = self.threads {
            return threads.max(1);
        }
        (self.cores / (self.models_running + self.models_ready).clamp(1, self.jobs)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::support::TestProject;
    use serde_json::json;

    #[test]
    fn devices_are_exclusive_and_longest_path_goes_first() {
        let project = TestProject::new();
        let expansion = project.stages(&[
            ("short", json!({ "kind": "model" })),
            ("long", json!({ "kind": "model", "word": "x" })),
            ("reader", json!({ "from": ["long"] })),
            ("light", json!({})),
            ("ask", json!({ "kind": "teacher" })),
        ]);
        let options = RunOptions { device: "cuda:0,cuda:1".to_string(), ..project.options() };
        let mut state = RunState::new(&expansion, &Graph::new(&expansion), &options);
        for id in [0, 1, 3, 4] {
            state.set(InstanceId(id), InstanceState::Ready);
        }
        let mut started = Vec::new();
        while let Some(id) = state.next() {
            let devices = match state.slot_request(id) {
                SlotRequest::Devices { free, count } => free.iter().take(count).cloned().collect(),
                _ => Vec::new(),
            };
            state.start(id, devices);
            started.push((id.0, state.devices(id).join(",")));
        }
        let expected = [(1, "cuda:0"), (0, "cuda:1"), (3, ""), (4, "")];
        assert_eq!(started, expected.map(|(id, device)| (id, device.to_string())));
        state.set(InstanceId(1), InstanceState::Done);
        state.set(InstanceId(2), InstanceState::Ready);
        assert_eq!(state.next(), None, "`light` holds the only CPU job");
        state.set(InstanceId(3), InstanceState::Failed);
        assert_eq!(state.next(), Some(InstanceId(2)));
    }
}
