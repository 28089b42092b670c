//! Runs a launch: the blocks of the grid side by side, the threads of a block in lockstep.
//!
//! After a branch that divides a block, the threads that are furthest back in the program run first, which brings all
//! together again behind the branch. The order of threads is thus fixed within a block; between blocks it is not, as on a
//! GPU. A missing barrier has no effect in lockstep: [`Order::Warps`] runs each warp as far as it can before the next.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;

use crate::machine::{Lanes, Launch, Machine, Order, Outcome, Word};
use crate::memory::{READ, WRITE};
use crate::program::{End, Program, Reduction, ReductionKind};
use crate::rows::{get32, set32};

const EXITED: u32 = u32::MAX;
/// Set in the place of a thread that waits at a barrier, before the block that it continues with.
const BARRIER: u32 = 1 << 31;
/// Set in the place of a thread that waits for other lanes of its warp.
const WARP: u32 = 1 << 30;
const PLACE: u32 = WARP - 1;
/// Basic blocks after which a kernel counts as an endless loop.
const ENDLESS: u64 = 20_000_000;

/// The progress of one block of the grid.
#[derive(Default)]
struct Progress {
    /// The basic block that each thread is at.
    places: Vec<u32>,
    chosen: Vec<u32>,
    executed: u64,
    uneven_barriers: u64,
    turns: u64,
}

impl Progress {
    /// Counts a basic block. Whether the kernel stops.
    fn count(&mut self, machine: &mut Machine<'_>, steps: usize, lanes: usize) -> bool {
        self.executed += (steps as u64 + 1) * lanes as u64;
        self.turns += 1;
        if self.turns > ENDLESS {
            machine.stop(|m| format!("{}: does not end", m.place()));
        }
        machine.fault.is_some()
    }

    fn run(&mut self, machine: &mut Machine<'_>) {
        self.turns = 0;
        if machine.launch.order == Order::Lockstep {
            self.run_together(machine, 0);
        } else {
            self.places.clear();
            self.places.resize(machine.n, 0);
            self.run_divided(machine);
        }
    }

    /// Runs while all threads are at the same place.
    fn run_together(&mut self, machine: &mut Machine<'_>, mut at: u32) {
        let program = machine.launch.program;
        let n = machine.n;
        loop {
            let block = &program.blocks[at as usize];
            for step in &block.steps {
                step(machine, Lanes::All(n));
            }
            if self.count(machine, block.steps.len(), n) {
                return;
            }
            match &block.end {
                End::Next => at += 1,
                End::Goto(target) => at = *target,
                End::Exit => return,
                End::Barrier(reduction) => {
                    machine.barrier();
                    if let Some(reduction) = reduction {
                        reduce(machine, reduction, |_| true);
                    }
                    at += 1;
                }
                &End::Branch { row, negated, target } => {
                    let flags = u32::row(machine, row);
                    // SAFETY: a row has a value per thread.
                    let is_taken = |lane: usize| (unsafe { *flags.add(lane) } != 0) != negated;
                    let taken = (0..n).filter(|&lane| is_taken(lane)).count();
                    if taken == n {
                        at = target;
                    } else if taken == 0 {
                        at += 1;
                    } else {
                        self.places.clear();
                        self.places.extend((0..n).map(|lane| if is_taken(lane) { target } else { at + 1 }));
                        match self.run_divided(machine) {
                            Some(together) => at = together,
                            None => return,
                        }
                    }
                }
                End::Table { row, targets } => {
                    self.places.clear();
                    for lane in 0..n {
                        let target = table_target(machine, lane, *row, targets);
                        self.places.push(target);
                    }
                    match self.run_divided(machine) {
                        Some(together) => at = together,
                        None => return,
                    }
                }
            }
        }
    }

    /// Runs until all threads are at the same place again, which it returns, or until all have exited.
    fn run_divided(&mut self, machine: &mut Machine<'_>) -> Option<u32> {
        let program = machine.launch.program;
        let order = machine.launch.order;
        let n = machine.n;
        // Whether a thread has run since those that wait for their warp were tried.
        let mut progress = true;
        loop {
            let group = self.group(order, n);
            let waiting = |place: &u32| place & (BARRIER | WARP) != 0;
            let runnable = self.places[group.clone()].iter().copied().filter(|place| !waiting(place)).min();
            let Some(at) = runnable else {
                if self.places.iter().any(|&place| place & WARP != 0 && place != EXITED) {
                    if !std::mem::take(&mut progress) {
                        machine.stop(|m| {
                            format!("{}: an instruction of a warp waits for lanes that do not execute it", m.place())
                        });
                        return None;
                    }
                    self.places.iter_mut().filter(|place| **place != EXITED).for_each(|place| *place &= !WARP);
                    continue;
                }
                if self.places.iter().all(|&place| place == EXITED) {
                    return None;
                }
                self.release(machine);
                continue;
            };
            self.chosen.clear();
            let places = &self.places[group.clone()];
            let lanes =
                (group.start as u32..).zip(places).filter(|(_, place)| **place != EXITED && *place & !WARP == at);
            self.chosen.extend(lanes.map(|(lane, _)| lane));
            let block = &program.blocks[at as usize];
            if let Some(mask) = block.warp_mask {
                self.hold_incomplete_warps(machine, mask, at);
                if self.chosen.is_empty() {
                    continue;
                }
            }
            progress = true;
            if order == Order::Lockstep && self.chosen.len() == n {
                return Some(at);
            }
            let lanes = if self.chosen.len() == n { Lanes::All(n) } else { Lanes::These(&self.chosen) };
            for step in &block.steps {
                step(machine, lanes);
            }
            let places = &mut self.places;
            match &block.end {
                End::Next => lanes.each(|lane| places[lane] = at + 1),
                End::Goto(target) => lanes.each(|lane| places[lane] = *target),
                &End::Branch { row, negated, target } => lanes.each(|lane| {
                    let taken = (get32(machine, lane, row) != 0) != negated;
                    places[lane] = if taken { target } else { at + 1 };
                }),
                End::Table { row, targets } => {
                    lanes.each(|lane| places[lane] = table_target(machine, lane, *row, targets));
                }
                End::Exit => lanes.each(|lane| places[lane] = EXITED),
                End::Barrier(_) => lanes.each(|lane| places[lane] = (at + 1) | BARRIER),
            }
            let (steps, lanes) = (block.steps.len(), lanes.len());
            if self.count(machine, steps, lanes) {
                return None;
            }
        }
    }

    /// The threads from which the next ones are chosen.
    fn group(&self, order: Order, n: usize) -> Range<usize> {
        let Order::Warps { last_first } = order else { return 0..n };
        let warps = n.div_ceil(32);
        (0..warps)
            .map(|warp| if last_first { warps - 1 - warp } else { warp })
            .map(|warp| warp * 32..n.min(warp * 32 + 32))
            .find(|warp| self.places[warp.clone()].iter().any(|place| place & (BARRIER | WARP) == 0))
            .unwrap_or(0..n)
    }

    /// All threads that have not exited wait at a barrier.
    fn release(&mut self, machine: &mut Machine<'_>) {
        machine.barrier();
        let program: &Program = machine.launch.program;
        let first = self.places.iter().copied().filter(|&place| place != EXITED).min().unwrap_or(EXITED);
        self.uneven_barriers += u64::from(self.places.iter().any(|&place| place != EXITED && place != first));
        let at = (first & PLACE) - 1;
        if let End::Barrier(Some(reduction)) = &program.blocks[at as usize].end {
            reduce(machine, reduction, |lane| self.places[lane] == first);
        }
        self.places.iter_mut().filter(|place| **place != EXITED).for_each(|place| *place &= !BARRIER);
    }

    /// Removes the lanes of warps of which not all lanes of the mask are here from those that were chosen.
    fn hold_incomplete_warps(&mut self, machine: &Machine<'_>, mask: u32, at: u32) {
        let mut complete = Vec::new();
        Lanes::These(&self.chosen).each_warp(|first, active| {
            let lane = first + active.trailing_zeros() as usize;
            let warp = &self.places[first..machine.n.min(first + 32)];
            let live = warp.iter().rev().fold(0u32, |live, place| live << 1 | u32::from(*place != EXITED));
            if get32(machine, lane, mask) & live & !active == 0 {
                complete.push(first as u32 / 32);
            }
        });
        self.chosen.retain(|lane| {
            let keep = complete.contains(&(lane / 32));
            self.places[*lane as usize] = if keep { at } else { at | WARP };
            keep
        });
    }
}

fn table_target(machine: &mut Machine<'_>, lane: usize, row: u32, targets: &[u32]) -> u32 {
    let target = targets.get(get32(machine, lane, row) as usize).copied();
    target.unwrap_or_else(|| {
        machine.stop(|m| format!("{}: `brx.idx` with an index outside of its table", m.place()));
        EXITED
    })
}

fn reduce(machine: &Machine<'_>, reduction: &Reduction, takes_part: impl Fn(usize) -> bool) {
    let lanes = || (0..machine.n).filter(|&lane| takes_part(lane));
    let is_true = |lane| (get32(machine, lane, reduction.from) != 0) != reduction.negated;
    let count = lanes().filter(|&lane| is_true(lane)).count();
    let value = match reduction.kind {
        ReductionKind::Count => count as u32,
        ReductionKind::And => u32::from(count == lanes().count()),
        ReductionKind::Or => u32::from(count > 0),
    };
    lanes().for_each(|lane| set32(machine, lane, reduction.to, value));
}

/// Runs a kernel to its end.
pub fn launch(launch: &Launch<'_>) -> Outcome {
    let [x, y, z] = launch.grid.map(u64::from);
    let blocks = x * y * z;
    let next = AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    let total = Mutex::new(Outcome { touched: vec![0; launch.spans.len()], ..Outcome::default() });
    let work = || {
        let mut machine = Machine::new(launch);
        let mut progress = Progress::default();
        while !stopped.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= blocks {
                break;
            }
            machine.enter([index % x, index / x % y, index / x / y].map(|axis| axis as u32));
            progress.run(&mut machine);
            if machine.fault.is_some() {
                stopped.store(true, Ordering::Relaxed);
            }
        }
        let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        collect(&mut total, machine, &progress);
    };
    // Another thread needs several blocks to be worth its start.
    let workers = if launch.find_block_races { 1 } else { launch.workers.min((blocks / 4) as usize).max(1) };
    if workers == 1 {
        work();
    } else {
        (0..workers).into_par_iter().for_each(|_| work());
    }
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn collect(total: &mut Outcome, machine: Machine<'_>, progress: &Progress) {
    let name = &machine.launch.program.name;
    total.executed += progress.executed;
    total.uneven_barriers += progress.uneven_barriers;
    total.fault = total.fault.take().or(machine.fault);
    for (sum, touched) in total.touched.iter_mut().zip(machine.touched) {
        *sum |= touched & (READ | WRITE);
    }
    if let Some(races) = machine.shared_races {
        total.shared_races += races.count;
        if let Some((offset, warp, other)) = races.first {
            let other = if other < 32 { format!("warp {other}") } else { "another warp".to_string() };
            total.race.get_or_insert_with(|| {
                format!(
                    "`{name}`: warp {warp} and {other} use shared memory at {offset} without a barrier between them"
                )
            });
        }
    }
    if let Some(races) = machine.block_races {
        total.block_races += races.count;
        if let Some((address, block, other)) = races.first {
            total.race.get_or_insert_with(|| {
                format!("`{name}`: blocks {other} and {block} use global memory at {address:#x}, one of them writes")
            });
        }
    }
}
