//! The state of a block of threads while it runs.
//!
//! A register is a row with a value per thread, and an instruction a loop over the threads that execute it.

use crate::async_copy::AsyncCopies;
use crate::block_races::BlockRaces;
use crate::memory::{ATOMIC, Buffer, Spans, WRITE};
use crate::program::{Program, Special};
use crate::shared_races::SharedRaces;

/// A launch of a kernel.
pub struct Launch<'a> {
    pub program: &'a Program,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: usize,
    /// The values of the parameters, at [`crate::Param::offset`].
    pub params: Vec<u8>,
    pub spans: &'a Spans,
    /// CPU threads.
    pub workers: usize,
    pub order: Order,
    /// Whether races between warps in shared memory are looked for.
    pub find_shared_races: bool,
    /// Whether races between blocks in global memory are looked for: slow, and on one CPU thread.
    pub find_block_races: bool,
}

/// The order of the threads of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// All threads together.
    #[default]
    Lockstep,
    /// One warp after another, each as far as it can, from the first or from the last.
    Warps { last_first: bool },
}

/// The result of a launch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The first error that stops a GPU.
    pub fault: Option<String>,
    /// Instructions times threads.
    pub executed: u64,
    /// Barriers at which some threads of a block waited and others at another barrier: undefined for `bar.sync`.
    pub uneven_barriers: u64,
    pub shared_races: u64,
    pub block_races: u64,
    /// The first race of the two kinds.
    pub race: Option<String>,
    /// Whether each allocation was read or written.
    pub touched: Vec<u8>,
}

/// The threads that execute an instruction.
#[derive(Clone, Copy)]
pub(crate) enum Lanes<'a> {
    /// All threads of the block, and their number.
    All(usize),
    /// In ascending order.
    These(&'a [u32]),
}

impl Lanes<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Lanes::All(count) => count,
            Lanes::These(lanes) => lanes.len(),
        }
    }

    #[inline(always)]
    pub(crate) fn each(self, mut f: impl FnMut(usize)) {
        match self {
            Lanes::All(count) => (0..count).for_each(f),
            Lanes::These(lanes) => lanes.iter().for_each(|&lane| f(lane as usize)),
        }
    }

    /// Calls `f` for every warp with its first thread and the mask of its lanes.
    #[inline(always)]
    pub(crate) fn each_warp(self, mut f: impl FnMut(usize, u32)) {
        match self {
            Lanes::All(count) => {
                for first in (0..count).step_by(32) {
                    f(first, if count - first >= 32 { u32::MAX } else { (1 << (count - first)) - 1 });
                }
            }
            Lanes::These(lanes) => {
                for warp in lanes.chunk_by(|a, b| a / 32 == b / 32) {
                    f(warp[0] as usize / 32 * 32, warp.iter().fold(0, |mask, lane| mask | 1 << (lane % 32)));
                }
            }
        }
    }
}

/// Calls `f` for every lane of a mask.
#[inline(always)]
pub(crate) fn each_lane(mut mask: u32, mut f: impl FnMut(usize)) {
    while mask != 0 {
        f(mask.trailing_zeros() as usize);
        mask &= mask - 1;
    }
}

/// An instruction, ready to run.
pub(crate) type Step = Box<dyn Fn(&mut Machine<'_>, Lanes<'_>) + Send + Sync>;

pub(crate) struct Machine<'a> {
    /// Threads of the block.
    pub(crate) n: usize,
    narrow: Vec<u32>,
    wide: Vec<u64>,
    pub(crate) shared: Buffer,
    /// Private memory, thread by thread.
    pub(crate) local: Buffer,
    pub(crate) local_size: usize,
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) touched: Vec<u8>,
    pub(crate) fault: Option<String>,
    pub(crate) async_copies: AsyncCopies,
    pub(crate) shared_races: Option<SharedRaces>,
    pub(crate) block_races: Option<BlockRaces>,
    block: [u32; 3],
}

/// The type of a row: `u64`, or `u32` for registers of 32 bits and fewer.
pub(crate) trait Word: Copy + Send + Sync + 'static {
    fn row(machine: &Machine<'_>, row: u32) -> *mut Self;
}

impl Word for u32 {
    #[inline(always)]
    fn row(machine: &Machine<'_>, row: u32) -> *mut u32 {
        debug_assert!((row as usize + 1) * machine.n <= machine.narrow.len());
        // SAFETY: the translator uses only rows that it has counted.
        unsafe { machine.narrow.as_ptr().cast_mut().add(row as usize * machine.n) }
    }
}

impl Word for u64 {
    #[inline(always)]
    fn row(machine: &Machine<'_>, row: u32) -> *mut u64 {
        debug_assert!((row as usize + 1) * machine.n <= machine.wide.len());
        // SAFETY: as above.
        unsafe { machine.wide.as_ptr().cast_mut().add(row as usize * machine.n) }
    }
}

impl<'a> Machine<'a> {
    pub(crate) fn new(launch: &'a Launch<'a>) -> Machine<'a> {
        let program = launch.program;
        let n = launch.block.iter().product::<u32>() as usize;
        let shared = program.shared + launch.dynamic_shared;
        let mut machine = Machine {
            n,
            // Uninitialized registers are NaN.
            narrow: vec![u32::MAX; program.narrow as usize * n],
            wide: vec![u64::MAX; program.wide as usize * n],
            shared: Buffer::new(shared, 0xff),
            local: Buffer::new(program.local * n, 0xff),
            local_size: program.local,
            launch,
            touched: vec![0; launch.spans.len()],
            fault: None,
            async_copies: AsyncCopies::default(),
            shared_races: (launch.find_shared_races && shared > 0).then(|| SharedRaces::new(shared)),
            block_races: launch.find_block_races.then(BlockRaces::default),
            block: [0; 3],
        };
        for &(row, value) in &program.narrow_constants {
            machine.fill(row, value);
        }
        for &(row, value) in &program.wide_constants {
            machine.fill(row, value);
        }
        for &(row, special) in &program.specials {
            let [x, y, _] = launch.block;
            for lane in 0..n as u32 {
                let value = match special {
                    Special::Tid(0) => lane % x,
                    Special::Tid(1) => lane / x % y,
                    Special::Tid(_) => lane / x / y,
                    Special::Ntid(axis) => launch.block[axis],
                    Special::Nctaid(axis) => launch.grid[axis],
                    Special::Lane => lane % 32,
                    Special::Warp => lane / 32,
                    Special::Warps => (n as u32).div_ceil(32),
                    Special::LaneMask(mask) => mask.of(lane % 32),
                    Special::DynamicShared => launch.dynamic_shared as u32,
                    Special::Zero => 0,
                    Special::Ctaid(_) => continue,
                };
                // SAFETY: the row belongs to the program, and the lane to the block.
                unsafe { *u32::row(&machine, row).add(lane as usize) = value };
            }
        }
        machine
    }

    fn fill<T: Word>(&mut self, row: u32, value: T) {
        let at = T::row(self, row);
        for lane in 0..self.n {
            // SAFETY: a row has `n` values.
            unsafe { *at.add(lane) = value };
        }
    }

    /// Prepares for another block of the grid.
    pub(crate) fn enter(&mut self, block: [u32; 3]) {
        self.block = block;
        for &(row, special) in &self.launch.program.specials {
            if let Special::Ctaid(axis) = special {
                self.fill(row, block[axis]);
            }
        }
        self.shared.fill(0xff);
        self.async_copies.clear();
        self.barrier();
    }

    pub(crate) fn barrier(&mut self) {
        if let Some(races) = &mut self.shared_races {
            races.barrier();
        }
    }

    /// The kernel and the block, for messages.
    pub(crate) fn place(&self) -> String {
        format!("`{}`, block {:?}", self.launch.program.name, self.block)
    }

    /// Stops the launch with an error, unless there was one before.
    pub(crate) fn stop(&mut self, what: impl FnOnce(&Machine<'_>) -> String) {
        if self.fault.is_none() {
            self.fault = Some(what(self));
        }
    }

    /// The pointer for an access to global memory, or `None` and a fault. `known` is the range of the last access.
    #[inline(always)]
    pub(crate) fn global(&mut self, address: u64, len: u64, how: u8, known: &mut (u64, u64)) -> Option<*mut u8> {
        if address >= known.0 && address < known.1 && known.1 - address >= len && address & (len - 1) == 0 {
            return Some(address as *mut u8);
        }
        self.look_up(address, len, how, known)
    }

    #[cold]
    fn look_up(&mut self, address: u64, len: u64, how: u8, known: &mut (u64, u64)) -> Option<*mut u8> {
        let spans = self.launch.spans;
        let verb = if how & WRITE != 0 { "writes" } else { "reads" };
        if address & (len - 1) != 0 {
            self.stop(|m| format!("{}: {verb} {len} bytes at {address:#x}, which is misaligned", m.place()));
            return None;
        }
        match spans.find(address) {
            Some((index, span)) if span.end - address >= len => {
                self.touched[index] |= how;
                if let Some(races) = &mut self.block_races {
                    let [x, y, _] = self.launch.grid.map(u64::from);
                    let [i, j, k] = self.block.map(u64::from);
                    races.access(address, len, i + x * (j + y * k), how & WRITE != 0, how & ATOMIC != 0);
                } else {
                    *known = (span.start, span.end);
                }
                Some(address as *mut u8)
            }
            _ => {
                let nearest = spans.describe(address);
                self.stop(|m| format!("{}: {verb} {len} bytes at {address:#x}, {nearest}", m.place()));
                None
            }
        }
    }
}
