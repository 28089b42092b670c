//! The board: the state of every instance, changed in one function, and the queues and slots that follow from it.
//! Knows no store, no stage's work and no thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::graph::Graph;
use super::run::RunOptions;
use super::slots::Need;
use ablate_core::stage::Pool;
use ablate_experiment::{Expansion, Instance, InstanceId};

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Something that it reads is not done.
    Blocked,
    /// It has a fingerprint, must run, and wants a slot.
    Ready,
    /// A thread of this run works on it, or its commit is under way.
    Running,
    /// Another run holds its lock.
    Elsewhere,
    /// Its record and outputs are there.
    Done,
    Failed,
    /// It will not run: not selected, below a failure, or the run was stopped.
    Left,
}

/// A scarce resource: so many instances at a time.
#[derive(Debug, Default)]
struct Slots {
    size: usize,
    taken: usize,
    /// Whether other runs have what the next instance needs: it is asked for again.
    waits: bool,
    /// Ready instances in the order in which they are started: the longest chain goes first.
    ready: BTreeSet<(Reverse<u64>, InstanceId)>,
}

/// The states of a run's instances.
pub(super) struct Board {
    states: Vec<State>,
    /// Per instance the name of its pool.
    pools: Vec<u16>,
    /// Whether an instance executes a model, and so has use for many threads.
    heavy: Vec<bool>,
    /// GPUs that an instance wants for itself, where its pool is `gpu`.
    gpus: Vec<usize>,
    /// Length of the longest chain from an instance down.
    chains: Vec<u64>,
    names: Vec<String>,
    slots: Vec<Slots>,
    /// Instances whose state is `Running`, and those of them that still have their slot.
    running: usize,
    holders: BTreeSet<InstanceId>,
    /// Model stages of the pool `cpu` that are ready, and that run.
    heavy_ready: usize,
    heavy_running: usize,
    elsewhere: BTreeSet<InstanceId>,
    jobs: usize,
    cores: usize,
    /// Threads of every stage, where the user has said it.
    threads: Option<usize>,
    /// Devices that no instance has.
    devices: BTreeSet<String>,
    /// The devices of each running instance of the pool `gpu`.
    lent: BTreeMap<InstanceId, Vec<String>>,
}

/// The pools that every run has, in the order in which they are served.
const GPU: u16 = 0;
const CPU: u16 = 1;
const TEACHER: u16 = 2;

impl Board {
    pub(super) fn new(expansion: &Expansion, graph: &Graph, options: &RunOptions) -> Board {
        let devices = options.device.split(',').map(str::trim).filter(|device| device.starts_with("cuda"));
        let on_gpu = devices.clone().next().is_some();
        let devices: BTreeSet<String> =
            devices.map(str::to_string).chain(options.gpus.iter().map(|id| format!("cuda:{id}"))).collect();
        let mut names: Vec<String> = ["gpu", "cpu", "teacher"].map(str::to_string).to_vec();
        names.extend(options.pools.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
        let size = |(index, name): (usize, &String)| match index as u16 {
            GPU => devices.len(),
            CPU => options.jobs.max(1),
            TEACHER => options.teachers.max(1),
            _ => options.pools.get(name).copied().unwrap_or(1).max(1),
        };
        let pool = |instance: &Instance| match (&instance.limits.pool, instance.pool) {
            (Some(pool), _) => names.iter().position(|name| name == pool).map_or(CPU, |index| index as u16),
            (None, _) if instance.limits.gpu.is_some_and(|count| count > 0) => GPU,
            (None, Pool::Model) if on_gpu && instance.limits.gpu != Some(0) => GPU,
            (None, Pool::Teacher) => TEACHER,
            (None, Pool::Model | Pool::Light) => CPU,
        };
        let count = expansion.instances.len();
        Board {
            states: vec![State::Blocked; count],
            pools: expansion.instances.iter().map(pool).collect(),
            heavy: expansion.instances.iter().map(|instance| instance.pool == Pool::Model).collect(),
            gpus: expansion.instances.iter().map(|instance| instance.limits.gpu.unwrap_or(1).max(1)).collect(),
            chains: graph.chains(|_| 1.0).into_iter().map(|chain| chain as u64).collect(),
            slots: names.iter().enumerate().map(|slot| Slots { size: size(slot), ..Slots::default() }).collect(),
            names,
            running: 0,
            holders: BTreeSet::new(),
            heavy_ready: 0,
            heavy_running: 0,
            elsewhere: BTreeSet::new(),
            jobs: options.jobs.max(1),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads: options.threads,
            devices,
            lent: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, id: InstanceId) -> State {
        self.states[id.0]
    }

    /// Why an instance could never get a slot; `None` when it can.
    pub(super) fn out_of_reach(&self, id: InstanceId) -> Option<String> {
        let (pool, wanted) = (self.pools[id.0], self.gpus[id.0]);
        let size = self.slots[pool as usize].size;
        if pool != GPU || wanted <= size {
            return None;
        }
        let has = if size == 0 { "none".to_string() } else { format!("only {size}") };
        Some(format!(
            "it needs {wanted} of the pool `{}`, and this run has {has}: name some with `--gpus 0,1`",
            self.names[pool as usize]
        ))
    }

    /// The only place where a state changes; queues and slots follow from it.
    pub(super) fn set(&mut self, id: InstanceId, new: State) {
        let old = self.states[id.0];
        let possible = matches!(
            (old, new),
            (State::Blocked, State::Ready | State::Done | State::Failed | State::Left)
                | (State::Ready, State::Running | State::Failed | State::Left)
                // Ready: to try again.
                | (State::Running, State::Done | State::Failed | State::Left | State::Elsewhere | State::Ready)
                | (State::Elsewhere, State::Ready | State::Left)
        );
        assert!(possible, "BUG: instance {} cannot go from {old:?} to {new:?}", id.0);
        let pool = self.pools[id.0];
        let place = (Reverse(self.chains[id.0]), id);
        let heavy = usize::from(self.heavy[id.0] && pool == CPU);
        match old {
            State::Ready => {
                self.slots[pool as usize].ready.remove(&place);
                self.heavy_ready -= heavy;
            }
            State::Running => {
                self.release(id);
                self.running -= 1;
            }
            State::Elsewhere => drop(self.elsewhere.remove(&id)),
            State::Blocked | State::Done | State::Failed | State::Left => {}
        }
        match new {
            State::Ready => {
                self.slots[pool as usize].ready.insert(place);
                self.heavy_ready += heavy;
            }
            State::Running => {
                self.running += 1;
                self.holders.insert(id);
                self.heavy_running += heavy;
                self.slots[pool as usize].taken += if pool == GPU { self.gpus[id.0] } else { 1 };
            }
            State::Elsewhere => drop(self.elsewhere.insert(id)),
            State::Blocked | State::Done | State::Failed | State::Left => {}
        }
        self.states[id.0] = new;
    }

    /// Gives an instance's slot to others: its work is over, though its commit is not.
    pub(super) fn release(&mut self, id: InstanceId) {
        if !self.holders.remove(&id) {
            return;
        }
        let pool = self.pools[id.0];
        self.heavy_running -= usize::from(self.heavy[id.0] && pool == CPU);
        self.slots[pool as usize].taken -= if pool == GPU { self.gpus[id.0] } else { 1 };
        self.devices.extend(self.lent.remove(&id).into_iter().flatten());
    }

    /// What a ready instance must get from all runs of the store.
    pub(super) fn need(&self, id: InstanceId) -> Need<'_> {
        let pool = self.pools[id.0];
        match pool {
            CPU => Need::Nothing,
            GPU => Need::Devices { free: &self.devices, count: self.gpus[id.0] },
            _ => Need::Slot { pool: &self.names[pool as usize], size: self.slots[pool as usize].size },
        }
    }

    /// Starts a ready instance on these devices.
    pub(super) fn start(&mut self, id: InstanceId, devices: Vec<String>) {
        for device in &devices {
            self.devices.remove(device);
        }
        self.lent.insert(id, devices);
        self.set(id, State::Running);
    }

    /// Lets a ready instance and all others of its pool wait: other runs have what it needs.
    pub(super) fn wait(&mut self, id: InstanceId) {
        self.slots[self.pools[id.0] as usize].waits = true;
    }

    /// Whatever waits for other runs is to be asked for again.
    pub(super) fn ask_again(&mut self) {
        for id in std::mem::take(&mut self.elsewhere) {
            self.set(id, State::Ready);
        }
        self.slots.iter_mut().for_each(|slots| slots.waits = false);
    }

    /// A ready instance for which a slot is free: the one with the longest chain below it.
    pub(super) fn next(&self) -> Option<InstanceId> {
        self.slots.iter().enumerate().find_map(|(pool, slots)| {
            let (_, id) = slots.ready.first().filter(|_| !slots.waits)?;
            let wanted = if pool == GPU as usize { self.gpus[id.0] } else { 1 };
            (slots.taken + wanted <= slots.size).then_some(*id)
        })
    }

    /// The devices of a running instance; none is the CPU.
    pub(super) fn devices(&self, id: InstanceId) -> Vec<String> {
        self.lent.get(&id).cloned().unwrap_or_default()
    }

    pub(super) fn nothing_runs(&self) -> bool {
        self.running == 0
    }

    /// Whether no instance works, and none could begin to.
    pub(super) fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.next().is_none()
    }

    /// Whether nothing waits for other runs.
    pub(super) fn nothing_waits(&self) -> bool {
        self.elsewhere.is_empty() && !self.slots.iter().any(|slots| slots.waits && !slots.ready.is_empty())
    }

    /// Threads for the next stage: as told, else the cores, shared by the model stages that run or could run now.
    /// The others are over soon, and a training that began with one thread beside them would keep it to its end.
    pub(super) fn threads(&self) -> usize {
        if let Some(threads) = self.threads {
            return threads.max(1);
        }
        (self.cores / (self.heavy_running + self.heavy_ready).clamp(1, self.jobs)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toys::Space;
    use serde_json::json;

    #[test]
    fn devices_are_lent_to_one_stage_at_a_time_and_the_longest_chain_goes_first() {
        let space = Space::new();
        let expansion = space.stages(&[
            ("short", json!({ "kind": "model" })),
            ("long", json!({ "kind": "model", "word": "x" })),
            ("below", json!({ "from": ["long"] })),
            ("light", json!({})),
            ("ask", json!({ "kind": "teacher" })),
        ]);
        let options = RunOptions { device: "cuda:0,cuda:1".to_string(), ..space.options() };
        let mut board = Board::new(&expansion, &Graph::of(&expansion), &options);
        for id in [0, 1, 3, 4] {
            board.set(InstanceId(id), State::Ready);
        }
        let mut started = Vec::new();
        while let Some(id) = board.next() {
            let devices = match board.need(id) {
                Need::Devices { free, count } => free.iter().take(count).cloned().collect(),
                _ => Vec::new(),
            };
            board.start(id, devices);
            started.push((id.0, board.devices(id).join(",")));
        }
        let expected = [(1, "cuda:0"), (0, "cuda:1"), (3, ""), (4, "")];
        assert_eq!(started, expected.map(|(id, device)| (id, device.to_string())));
        board.set(InstanceId(1), State::Done);
        board.set(InstanceId(2), State::Ready);
        assert_eq!(board.next(), None, "the one job of this machine is taken by `light`");
        board.set(InstanceId(3), State::Failed);
        assert_eq!(board.next(), Some(InstanceId(2)));
    }
}
