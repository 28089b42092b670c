//! Launches of kernels.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ptx::{Launch, Module, Program, READ, WRITE, launch};

use crate::counts::Kernel;
use crate::settings::{SHARED, SHARED_OPT_IN, find_block_races, find_shared_races, order, workers};
use crate::state::State;
use crate::status::{ASSERT, ILLEGAL_ADDRESS, INVALID_PTX, INVALID_VALUE};

/// A function of a module. Its handle points to it.
pub(crate) struct Function {
    pub(crate) module: Arc<Module>,
    pub(crate) name: String,
    program: OnceLock<Result<Program, String>>,
    /// The attribute for dynamic shared memory.
    pub(crate) max_dynamic_shared: AtomicUsize,
}

pub(crate) struct KernelLaunch {
    pub(crate) function: &'static Function,
    pub(crate) device: usize,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: usize,
    pub(crate) params: Vec<u8>,
}

impl Function {
    pub(crate) fn new(module: Arc<Module>, name: String) -> Function {
        Function { module, name, program: OnceLock::new(), max_dynamic_shared: AtomicUsize::new(0) }
    }

    /// The program, which is translated once.
    pub(crate) fn program(&self) -> Result<&Program, &String> {
        self.program.get_or_init(|| self.module.kernels[&self.name].compile(&self.module)).as_ref()
    }

    /// The number of bytes of all parameters.
    pub(crate) fn params_size(&self) -> usize {
        self.module.kernels[&self.name].params.last().map_or(0, |last| last.offset + last.size)
    }

    /// Why a launch is not possible, if so.
    fn check(&self, launch: &KernelLaunch, program: &Program) -> Option<String> {
        let threads = launch.block.iter().map(|&axis| u64::from(axis)).product::<u64>();
        let [x, y, z] = launch.grid;
        let is_grid = x > 0 && y > 0 && z > 0 && i32::try_from(x).is_ok() && y <= 65_535 && z <= 65_535;
        if !is_grid || threads == 0 || threads > 1024 || launch.block[2] > 64 {
            return Some(format!("is launched with {:?} blocks of {:?} threads", launch.grid, launch.block));
        }
        let shared = program.shared + launch.dynamic_shared;
        let attribute = self.max_dynamic_shared.load(Relaxed);
        if shared > SHARED && (launch.dynamic_shared > attribute || shared > SHARED_OPT_IN) {
            return Some(format!(
                "is launched with {} + {} bytes of static and dynamic shared memory; the attribute allows {attribute}",
                program.shared, launch.dynamic_shared
            ));
        }
        None
    }
}

impl State {
    pub(crate) fn run_kernel(&mut self, stream: usize, work: &KernelLaunch) -> Result<(), u32> {
        let function = work.function;
        let name = &function.name;
        let program = match function.program() {
            Ok(program) => program,
            Err(error) => {
                self.report(error);
                return Err(INVALID_PTX);
            }
        };
        if let Some(problem) = function.check(work, program) {
            self.report(&format!("`{name}` {problem}"));
            return Err(INVALID_VALUE);
        }
        let began = Instant::now();
        let spans = self.spans(work.device);
        // The device does one thing at a time: the state stays locked.
        let outcome = launch(&Launch {
            program,
            grid: work.grid,
            block: work.block,
            dynamic_shared: work.dynamic_shared,
            params: work.params.clone(),
            spans: &spans,
            workers: workers(),
            order: order(),
            find_shared_races: find_shared_races(),
            find_block_races: find_block_races(),
        });
        let threads = work.block.iter().chain(&work.grid).map(|&axis| u64::from(axis)).product::<u64>();
        let kernel = Kernel {
            launches: 1,
            threads,
            instructions: outcome.executed,
            uneven_barriers: outcome.uneven_barriers,
            shared_races: outcome.shared_races,
            block_races: outcome.block_races,
            time: began.elapsed(),
        };
        let seconds = kernel.time.as_secs_f64();
        self.trace(format_args!("launch {name} {:?} {:?} stream {stream} {seconds:.6}", work.grid, work.block));
        self.count(|counts| counts.kernels.entry(name.clone()).or_default().add(&kernel));
        if let Some(race) = outcome.race {
            self.race(&race);
        }
        if let Some(fault) = outcome.fault {
            let status = if fault.contains("an assertion failed") { ASSERT } else { ILLEGAL_ADDRESS };
            return Err(self.fault(status, &fault));
        }
        let touched = outcome.touched.iter().enumerate().filter(|(_, touched)| **touched & (READ | WRITE) != 0);
        let ranges: Vec<(u64, u64, bool)> = touched
            .map(|(index, touched)| {
                let span = spans.at(index);
                (span.start, span.end - span.start, touched & WRITE != 0)
            })
            .collect();
        self.access(&format!("`{name}`"), stream, &ranges)
    }
}
