//! Copies and fills, and the memory of the host that they use.

use std::collections::BTreeMap;

use crate::state::State;
use crate::status::INVALID_VALUE;
use crate::work::Source;

/// Memory of the host that is pinned, and what copies have not written to it yet.
#[derive(Default)]
pub(crate) struct HostMemory {
    /// Ranges by their start. `Some` has the memory that the driver allocated.
    pinned: BTreeMap<usize, (usize, Option<Vec<u128>>)>,
    pending: Vec<Pending>,
    /// Copies from pinned memory that the host has not waited for. The host must not change the memory until then.
    sources: Vec<Pending>,
}

/// A copy to or from pinned memory that the host has not waited for.
struct Pending {
    stream: usize,
    time: u64,
    /// The address in pinned memory.
    host: usize,
    data: Vec<u8>,
}

impl Pending {
    fn complete(&self) {
        // SAFETY: the caller of the copy gave an address with as many bytes, which stay until the copy is complete.
        unsafe { std::ptr::copy_nonoverlapping(self.data.as_ptr(), self.host as *mut u8, self.data.len()) };
    }

    fn overlaps(&self, start: usize, len: usize) -> bool {
        self.host < start + len && start < self.host + self.data.len()
    }

    fn has_changed(&self) -> bool {
        // SAFETY: as above.
        let now = unsafe { std::slice::from_raw_parts(self.host as *const u8, self.data.len()) };
        now != self.data
    }
}

impl HostMemory {
    pub(crate) fn allocate(&mut self, len: usize) -> usize {
        let memory = vec![u128::MAX; len.div_ceil(16).max(1)];
        let start = memory.as_ptr() as usize;
        self.pinned.insert(start, (len, Some(memory)));
        start
    }

    pub(crate) fn register(&mut self, start: usize, len: usize) {
        self.pinned.insert(start, (len, None));
    }

    /// Ends the use of pinned memory. Copies to it are complete.
    pub(crate) fn release(&mut self, start: usize) -> Result<(), u32> {
        let (len, _) = self.pinned.get(&start).ok_or(INVALID_VALUE)?;
        let len = *len;
        self.complete_overlapping(start, len);
        self.sources.retain(|copy| !copy.overlaps(start, len));
        self.pinned.remove(&start);
        Ok(())
    }

    pub(crate) fn is_pinned(&self, start: usize, len: usize) -> bool {
        let found = self.pinned.range(..=start).next_back();
        found.is_some_and(|(first, (size, _))| start + len <= first + size)
    }

    fn complete_overlapping(&mut self, start: usize, len: usize) {
        self.pending.retain(|copy| {
            let overlaps = copy.overlaps(start, len);
            if overlaps {
                copy.complete();
            }
            !overlaps
        });
    }
}

impl State {
    /// Makes the copies to pinned memory visible that the host has waited for.
    pub(crate) fn complete_copies(&mut self) {
        let streams = &self.streams;
        self.host.pending.retain(|copy| {
            let seen = streams.host_has_seen(copy.stream, copy.time);
            if seen {
                copy.complete();
            }
            !seen
        });
        let is_seen = |copy: &mut Pending| streams.host_has_seen(copy.stream, copy.time);
        let changed = self.host.sources.extract_if(.., is_seen).filter(Pending::has_changed).count();
        for _ in 0..changed {
            self.race("the host changes pinned memory while a copy from it may still read it");
        }
    }

    pub(crate) fn upload(&mut self, stream: usize, to: u64, from: Source, len: u64) -> Result<(), u32> {
        self.trace(format_args!("HtoD {len}"));
        self.count(|counts| counts.host_to_device.add(len));
        self.access("a copy to the device", stream, &[(to, len, true)])?;
        // An earlier copy of the same stream may write this memory.
        self.host.complete_overlapping(from.0, len as usize);
        let len = len as usize;
        // SAFETY: the range is allocated, and the caller gave an address with as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(from.0 as *const u8, to as *mut u8, len) };
        if self.host.is_pinned(from.0, len) {
            // SAFETY: pinned memory has the range.
            let data = unsafe { std::slice::from_raw_parts(from.0 as *const u8, len) }.to_vec();
            let time = self.streams.tick(stream);
            self.host.sources.push(Pending { stream, time, host: from.0, data });
        }
        Ok(())
    }

    pub(crate) fn download(&mut self, stream: usize, to: u64, from: u64, len: u64) -> Result<(), u32> {
        self.trace(format_args!("DtoH {len}"));
        self.count(|counts| counts.device_to_host.add(len));
        self.access("a copy to the host", stream, &[(from, len, false)])?;
        let (to, len) = (to as usize, len as usize);
        self.host.complete_overlapping(to, len);
        // The copy, not the host, changes this memory.
        self.host.sources.retain(|copy| !copy.overlaps(to, len));
        if self.host.is_pinned(to, len) {
            // SAFETY: the range is allocated on the device; pinned memory has the range.
            let data = unsafe {
                std::ptr::write_bytes(to as *mut u8, 0xff, len);
                std::slice::from_raw_parts(from as *const u8, len).to_vec()
            };
            let time = self.streams.tick(stream);
            self.host.pending.push(Pending { stream, time, host: to, data });
            return Ok(());
        }
        // A copy to memory that is not pinned returns when it is complete.
        self.streams.synchronize(stream);
        self.complete_copies();
        // SAFETY: the range is allocated, and the caller gave an address with as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, len) };
        Ok(())
    }

    pub(crate) fn copy(&mut self, stream: usize, to: u64, from: u64, len: u64) -> Result<(), u32> {
        self.trace(format_args!("DtoD {len}"));
        self.count(|counts| counts.device_to_device.add(len));
        self.access("a copy on the device", stream, &[(from, len, false), (to, len, true)])?;
        // SAFETY: both ranges are allocated.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, len as usize) };
        Ok(())
    }

    /// Repeats a pattern of bytes.
    pub(crate) fn fill(&mut self, stream: usize, to: u64, pattern: &[u8], count: u64) -> Result<(), u32> {
        let len = count * pattern.len() as u64;
        self.trace(format_args!("memset {len}"));
        self.count(|counts| counts.memsets.add(len));
        if !to.is_multiple_of(pattern.len() as u64) {
            return Err(INVALID_VALUE);
        }
        self.access("a memset", stream, &[(to, len, true)])?;
        if len > 0 {
            // SAFETY: the range is allocated.
            let bytes = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, len as usize) };
            match pattern {
                [byte] => bytes.fill(*byte),
                _ => bytes.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern)),
            }
        }
        Ok(())
    }
}
