//! Work on a stream: it runs at once, or is recorded in a graph.

use std::collections::HashMap;

use crate::launches::KernelLaunch;
use crate::state::State;
use crate::status::CAPTURE_UNSUPPORTED;

pub(crate) enum Work {
    Launch(KernelLaunch),
    Upload { to: u64, data: Source, len: u64 },
    Download { to: u64, from: u64, len: u64 },
    Copy { to: u64, from: u64, len: u64 },
    Fill { to: u64, pattern: Vec<u8>, count: u64 },
    Product(Product),
}

/// The bytes of a copy to the device: an address of the host, which a graph reads again at each launch.
#[derive(Clone, Copy)]
pub(crate) struct Source(pub(crate) usize);

/// A call of cuBLAS, which the emulated cuBLAS computes.
pub(crate) struct Product {
    pub(crate) name: String,
    pub(crate) matrices: u64,
    pub(crate) flops: f64,
    pub(crate) data: usize,
    pub(crate) run: Run,
    pub(crate) release: Release,
}

/// Computes: calls the function with its context for all ranges before it uses them. 0, or the status of the failure.
pub(crate) type Run = unsafe extern "C" fn(data: usize, access: Access, context: usize) -> u32;
pub(crate) type Release = unsafe extern "C" fn(data: usize);
pub(crate) type Access = unsafe extern "C" fn(context: usize, ranges: *const Range, count: usize) -> u32;

/// A range of device memory that a function of cuBLAS uses.
#[repr(C)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) writes: u64,
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: cuBLAS gave both, and nothing uses the data afterwards.
        unsafe { (self.release)(self.data) };
    }
}

/// Graphs that are being recorded.
#[derive(Default)]
pub(crate) struct Captures {
    /// The recording that a stream belongs to.
    pub(crate) streams: HashMap<usize, usize>,
    pub(crate) recordings: HashMap<usize, Vec<Work>>,
    /// Events that were recorded in a capturing stream.
    pub(crate) events: HashMap<usize, usize>,
    pub(crate) next: usize,
}

impl State {
    /// Runs work on a stream, or records it if the stream is capturing.
    pub(crate) fn submit(&mut self, stream: usize, work: Work) -> Result<(), u32> {
        if let Some(recording) = self.captures.streams.get(&stream) {
            self.captures.recordings.entry(*recording).or_default().push(work);
            return Ok(());
        }
        self.perform(stream, &work)
    }

    pub(crate) fn perform(&mut self, stream: usize, work: &Work) -> Result<(), u32> {
        match work {
            Work::Launch(launch) => self.run_kernel(stream, launch),
            Work::Upload { to, data, len } => self.upload(stream, *to, *data, *len),
            Work::Download { to, from, len } => self.download(stream, *to, *from, *len),
            Work::Copy { to, from, len } => self.copy(stream, *to, *from, *len),
            Work::Fill { to, pattern, count } => self.fill(stream, *to, pattern, *count),
            Work::Product(product) => self.product(stream, product),
        }
    }

    /// An error if a graph is being recorded on a stream: the call cannot be recorded.
    pub(crate) fn not_capturing(&self, stream: usize) -> Result<(), u32> {
        if self.captures.streams.contains_key(&stream) { Err(CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }
}
