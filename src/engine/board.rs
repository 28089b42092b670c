//! The board: the state of every instance, changed in one function, and the queues and slots that follow from it.
//! Knows no store, no stage's work and no thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::graph::Graph;
use super::run::RunOptions;
use crate::experiment::{Expansion, InstanceId};
use crate::stage::Pool;

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Something that it reads is not done.
    Blocked,
    /// It has a fingerprint, must run, and wants a slot.
    Ready,
    /// A thread of this run works on it.
    Running,
    /// Another run holds its lock.
    Elsewhere,
    /// Its record and outputs are there.
    Done,
    Failed,
    /// It will not run: not selected, below a failure, or the run was stopped.
    Left,
}

/// The resource that an instance occupies while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Gpu,
    Cpu,
    Teacher,
}

/// The states of a run's instances.
pub(super) struct Board {
    states: Vec<State>,
    slots: Vec<Slot>,
    /// Whether an instance executes a model, and so has use for many threads.
    heavy: Vec<bool>,
    /// Length of the longest chain from an instance down: the longest goes first.
    chains: Vec<u64>,
    /// Per slot, the ready instances in the order in which they are started.
    ready: BTreeMap<Slot, BTreeSet<(Reverse<u64>, InstanceId)>>,
    running: BTreeMap<Slot, BTreeSet<InstanceId>>,
    elsewhere: BTreeSet<InstanceId>,
    jobs: usize,
    /// Threads of every stage, where the user has said it.
    threads: Option<usize>,
    teachers: usize,
    /// Devices that no instance has.
    devices: BTreeSet<String>,
    /// The device of each running instance of the `gpu` slot.
    lent: BTreeMap<InstanceId, String>,
}

impl Board {
    pub(super) fn new(expansion: &Expansion, graph: &Graph, options: &RunOptions) -> Board {
        let devices = options.device.split(',').map(str::trim).filter(|device| device.starts_with("cuda"));
        let devices: BTreeSet<String> = devices.map(str::to_string).collect();
        let slots = expansion.instances.iter().map(|instance| match instance.kind.pool {
            Pool::Teacher => Slot::Teacher,
            Pool::Model if !devices.is_empty() => Slot::Gpu,
            Pool::Model | Pool::Light => Slot::Cpu,
        });
        Board {
            states: vec![State::Blocked; expansion.instances.len()],
            slots: slots.collect(),
            heavy: expansion.instances.iter().map(|instance| instance.kind.pool == Pool::Model).collect(),
            chains: graph.chains(|_| 1.0).into_iter().map(|chain| chain as u64).collect(),
            ready: BTreeMap::new(),
            running: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            jobs: options.jobs.max(1),
            threads: options.threads,
            teachers: options.teachers.max(1),
            devices,
            lent: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, id: InstanceId) -> State {
        self.states[id.0]
    }

    /// The only place where a state changes; queues and slots follow from it.
    pub(super) fn set(&mut self, id: InstanceId, new: State) {
        let old = self.states[id.0];
        let possible = matches!(
            (old, new),
            (State::Blocked, State::Ready | State::Done | State::Failed | State::Left)
                | (State::Ready, State::Running | State::Left)
                | (State::Running, State::Done | State::Failed | State::Left | State::Elsewhere)
                | (State::Elsewhere, State::Ready | State::Left)
        );
        assert!(possible, "BUG: instance {} cannot go from {old:?} to {new:?}", id.0);
        let slot = self.slots[id.0];
        let place = (Reverse(self.chains[id.0]), id);
        match old {
            State::Ready => drop(self.ready.entry(slot).or_default().remove(&place)),
            State::Running => {
                self.running.entry(slot).or_default().remove(&id);
                self.devices.extend(self.lent.remove(&id));
            }
            State::Elsewhere => drop(self.elsewhere.remove(&id)),
            State::Blocked | State::Done | State::Failed | State::Left => {}
        }
        match new {
            State::Ready => drop(self.ready.entry(slot).or_default().insert(place)),
            State::Running => {
                self.running.entry(slot).or_default().insert(id);
                if slot == Slot::Gpu {
                    let device = self.devices.pop_first();
                    self.lent.insert(id, device.unwrap_or_else(|| panic!("BUG: a slot without a device")));
                }
            }
            State::Elsewhere => drop(self.elsewhere.insert(id)),
            State::Blocked | State::Done | State::Failed | State::Left => {}
        }
        self.states[id.0] = new;
    }

    /// A ready instance for which a slot is free: the one with the longest chain below it.
    pub(super) fn next(&self) -> Option<InstanceId> {
        [Slot::Gpu, Slot::Cpu, Slot::Teacher].into_iter().filter(|slot| self.has_room(*slot)).find_map(|slot| {
            let (_, id) = self.ready.get(&slot)?.first()?;
            Some(*id)
        })
    }

    /// The device of a running instance.
    pub(super) fn device(&self, id: InstanceId) -> String {
        self.lent.get(&id).cloned().unwrap_or_else(|| "cpu".to_string())
    }

    pub(super) fn nothing_runs(&self) -> bool {
        self.running.values().all(BTreeSet::is_empty)
    }

    /// The instances that other runs work on.
    pub(super) fn elsewhere(&self) -> Vec<InstanceId> {
        self.elsewhere.iter().copied().collect()
    }

    /// Threads for the next stage: as told, else the cores, shared by the model stages that run or could run now.
    /// The others are over soon, and a training that began with one thread beside them would keep it to its end.
    pub(super) fn threads(&self) -> usize {
        if let Some(threads) = self.threads {
            return threads.max(1);
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let running = self.running.get(&Slot::Cpu).into_iter().flatten();
        let ready = self.ready.get(&Slot::Cpu).into_iter().flatten().map(|(_, id)| id);
        let running = running.filter(|id| self.heavy[id.0]).count();
        let ready = ready.filter(|id| self.heavy[id.0]).count();
        (cores / (running + ready).clamp(1, self.jobs)).max(1)
    }

    fn has_room(&self, slot: Slot) -> bool {
        let taken = self.running.get(&slot).map_or(0, BTreeSet::len);
        match slot {
            Slot::Cpu => taken < self.jobs,
            Slot::Gpu => !self.devices.is_empty(),
            Slot::Teacher => taken < self.teachers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::toys::Space;
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
            board.set(id, State::Running);
            started.push((id.0, board.device(id)));
        }
        let expected = [(1, "cuda:0"), (0, "cuda:1"), (3, "cpu"), (4, "cpu")];
        assert_eq!(started, expected.map(|(id, device)| (id, device.to_string())));
        board.set(InstanceId(1), State::Done);
        board.set(InstanceId(2), State::Ready);
        assert_eq!(board.next(), None, "the one job of this machine is taken by `light`");
        board.set(InstanceId(3), State::Failed);
        assert_eq!(board.next(), Some(InstanceId(2)));
    }
}
