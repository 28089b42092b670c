//! The state of the driver: allocations, streams, sections, counts.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use ptx::{Span, Spans};
use serde_json::json;

use crate::abi::current_device;
use crate::counts::Counts;
use crate::settings::memory;
use crate::status::{ILLEGAL_ADDRESS, INVALID_VALUE, OUT_OF_MEMORY};
use crate::streams::{Streams, Uses};
use crate::transfers::HostMemory;
use crate::work::Captures;

#[derive(Default)]
pub(crate) struct State {
    allocations: BTreeMap<u64, Allocation>,
    devices: Vec<Device>,
    /// Freed memory that is not used again yet, so that a late use is found.
    quarantine: VecDeque<(u64, u64)>,
    quarantined: u64,
    pub(crate) streams: Streams,
    pub(crate) events: HashMap<usize, Instant>,
    pub(crate) host: HostMemory,
    pub(crate) captures: Captures,
    /// After a fault, the context is lost: every call fails with this status.
    pub(crate) broken: Option<u32>,
    counts: Counts,
    sections: Vec<(String, Counts)>,
    section: Option<usize>,
    trace: Option<File>,
}

#[derive(Default)]
struct Device {
    used: u64,
    peak: u64,
    counts: Counts,
    /// The allocations as kernels see them, until they change.
    spans: Option<Arc<Spans>>,
}

struct Allocation {
    len: u64,
    device: usize,
    /// Data of a module is not in the heap of the device.
    is_data: bool,
    uses: Uses,
}

pub(crate) fn state() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    let open = |path| File::options().append(true).create(true).open(path).ok();
    let new = || Mutex::new(State { trace: std::env::var_os("EMULATED_GPU_TRACE").and_then(open), ..State::default() });
    STATE.get_or_init(new).lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The driver gives out memory in pieces of this size.
const GRANULARITY: u64 = 512;
const QUARANTINE: u64 = 64 << 20;

fn layout(len: u64) -> Layout {
    Layout::from_size_align(len as usize, 256).expect("a size that fits")
}

impl State {
    pub(crate) fn trace(&mut self, line: std::fmt::Arguments<'_>) {
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{} {line}", std::process::id());
        }
    }

    /// Counts in all, for the device of the current context, and in the current section.
    pub(crate) fn count(&mut self, mut add: impl FnMut(&mut Counts)) {
        add(&mut self.counts);
        if let Ok(device) = current_device() {
            add(&mut self.device(device).counts);
        }
        if let Some(section) = self.section {
            add(&mut self.sections[section].1);
        }
    }

    /// Starts the section of a name, or none. A section that existed before continues.
    pub(crate) fn start_section(&mut self, name: Option<&str>) {
        self.section = name.map(|name| {
            let found = self.sections.iter().position(|(other, _)| other == name);
            found.unwrap_or_else(|| {
                self.sections.push((name.to_string(), Counts::default()));
                self.sections.len() - 1
            })
        });
        self.note_use();
    }

    fn device(&mut self, device: usize) -> &mut Device {
        if self.devices.len() <= device {
            self.devices.resize_with(device + 1, Device::default);
        }
        &mut self.devices[device]
    }

    pub(crate) fn used(&self, device: usize) -> u64 {
        self.devices.get(device).map_or(0, |device| device.used)
    }

    pub(crate) fn peak(&self, device: usize) -> u64 {
        self.devices.get(device).map_or(0, |device| device.peak)
    }

    /// Updates the bytes in use of the counts.
    fn note_use(&mut self) {
        let used = self.devices.iter().map(|device| device.used).sum();
        self.count(|counts| {
            counts.bytes_in_use = used;
            counts.peak_bytes = counts.peak_bytes.max(used);
        });
    }

    pub(crate) fn allocate(&mut self, device: usize, len: u64) -> Result<u64, u32> {
        if len == 0 {
            return Ok(0);
        }
        let taken = len.next_multiple_of(GRANULARITY);
        if self.used(device) + taken > memory() {
            return Err(OUT_OF_MEMORY);
        }
        // SAFETY: the size is not zero. These bytes are NaN, and an index that does not exist.
        let start = unsafe {
            let start = alloc(layout(len));
            if start.is_null() {
                return Err(OUT_OF_MEMORY);
            }
            start.write_bytes(0xff, len as usize);
            start as u64
        };
        let allocation = Allocation { len, device, is_data: false, uses: Uses::default() };
        self.allocations.insert(start, allocation);
        self.count(|counts| counts.allocations.add(len));
        let device = self.device(device);
        device.used += taken;
        device.peak = device.peak.max(device.used);
        device.spans = None;
        self.note_use();
        Ok(start)
    }

    /// Frees memory after the work of a stream.
    pub(crate) fn free(&mut self, start: u64, stream: usize) -> Result<(), u32> {
        if start == 0 {
            return Ok(());
        }
        let allocation = self.allocations.get(&start).filter(|allocation| !allocation.is_data).ok_or(INVALID_VALUE)?;
        let (len, index) = (allocation.len, allocation.device);
        self.access("a free", stream, &[(start, len, true)])?;
        self.allocations.remove(&start);
        self.count(|counts| counts.frees += 1);
        let device = self.device(index);
        device.used -= len.next_multiple_of(GRANULARITY);
        device.spans = None;
        self.note_use();
        self.quarantine.push_back((start, len));
        self.quarantined += len;
        while self.quarantined > QUARANTINE
            && let Some((start, len)) = self.quarantine.pop_front()
        {
            self.quarantined -= len;
            // SAFETY: it was allocated with this layout and leaves the quarantine once.
            unsafe { dealloc(start as *mut u8, layout(len)) };
        }
        Ok(())
    }

    /// Makes data of a module known to the kernels of a device.
    pub(crate) fn add_data(&mut self, device: usize, start: u64, len: u64) {
        if len > 0 {
            self.allocations.insert(start, Allocation { len, device, is_data: true, uses: Uses::default() });
            self.device(device).spans = None;
        }
    }

    /// The start and the length of the allocation that contains an address.
    pub(crate) fn find(&self, address: u64) -> Option<(u64, u64)> {
        let (start, allocation) = self.allocations.range(..=address).next_back()?;
        (address < start + allocation.len).then_some((*start, allocation.len))
    }

    pub(crate) fn spans(&mut self, device: usize) -> Arc<Spans> {
        if let Some(spans) = &self.device(device).spans {
            return spans.clone();
        }
        let own = self.allocations.iter().filter(|(_, allocation)| allocation.device == device);
        let spans = own.map(|(&start, allocation)| Span { start, end: start + allocation.len }).collect();
        let spans = Arc::new(Spans::new(spans));
        self.device(device).spans = Some(spans.clone());
        spans
    }

    /// Records that a piece of work on a stream uses ranges of memory, and whether it writes them.
    pub(crate) fn access(&mut self, what: &str, stream: usize, ranges: &[(u64, u64, bool)]) -> Result<(), u32> {
        let time = self.streams.tick(stream);
        for &(start, len, writes) in ranges {
            if len == 0 {
                continue;
            }
            let allocation = self.allocations.range_mut(..=start).next_back();
            let contains = |first: u64, size: u64| start - first < size && size - (start - first) >= len;
            let Some((_, allocation)) = allocation.filter(|(first, found)| contains(**first, found.len)) else {
                return Err(
                    self.fault(ILLEGAL_ADDRESS, &format!("{what}: {len} bytes at {start:#x} are not all allocated"))
                );
            };
            // Addresses beyond the range of memory were refused above.
            let race = self.streams.add_use(&mut allocation.uses, stream, time, writes, (start, start + len));
            if let Some(other) = race {
                let verb = if writes { "writes" } else { "reads" };
                self.race(&format!("{what} on stream {stream} {verb} memory that stream {other} may still use"));
            }
        }
        Ok(())
    }

    pub(crate) fn race(&mut self, race: &str) {
        self.count(|counts| counts.race(race));
    }

    /// Records an error that stops a GPU. From now on, every call fails with the status.
    pub(crate) fn fault(&mut self, status: u32, what: &str) -> u32 {
        self.report(what);
        self.broken = Some(status);
        status
    }

    /// Records an error.
    pub(crate) fn report(&mut self, what: &str) {
        eprintln!("emulated GPU: {what}");
        self.count(|counts| counts.faults.push(what.to_string()));
    }

    /// All counts, as JSON.
    pub(crate) fn json(&self) -> String {
        let sections: serde_json::Map<_, _> =
            self.sections.iter().map(|(name, counts)| (name.clone(), counts.json())).collect();
        let device = |device: &Device| {
            let mut counts = device.counts.json();
            counts["bytes_in_use"] = device.used.into();
            counts["peak_bytes"] = device.peak.into();
            counts
        };
        json!({
            "pid": std::process::id(),
            "all": self.counts.json(),
            "sections": sections,
            "devices": self.devices.iter().map(device).collect::<Vec<_>>(),
        })
        .to_string()
    }
}
