//! `cp.async`: copies from global to shared memory that are complete only after a wait.
//!
//! Until the wait, the destination holds NaN: a kernel that does not wait computes with these.

use std::collections::VecDeque;

use crate::machine::Step;
use crate::memory::{READ, WRITE};
use crate::space::Space;
use crate::statement::{Result, Statement};
use crate::translate::Translator;
use crate::types::{PREDICATE, U32};

struct AsyncCopy {
    group: u32,
    to: u64,
    len: u64,
    data: [u8; 16],
}

/// The copies that the threads of a block have not waited for.
#[derive(Default)]
pub(crate) struct AsyncCopies {
    lanes: Vec<Pending>,
}

#[derive(Default)]
struct Pending {
    copies: VecDeque<AsyncCopy>,
    committed: u32,
}

impl AsyncCopies {
    pub(crate) fn clear(&mut self) {
        self.lanes.clear();
    }

    fn lane(&mut self, lane: usize) -> &mut Pending {
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, Pending::default);
        }
        &mut self.lanes[lane]
    }
}

/// The number of bytes that are read from the source.
#[derive(Clone, Copy)]
enum SourceSize {
    All,
    /// The row with the number.
    Row(u32),
    /// None where the predicate in the row is true.
    Ignored(u32),
}

impl Translator<'_> {
    pub(crate) fn async_copy(&mut self, statement: &Statement) -> Result<Step> {
        match statement.code.as_str() {
            "cp.async.commit_group" => {
                return Ok(Box::new(|m, lanes| lanes.each(|lane| m.async_copies.lane(lane).committed += 1)));
            }
            "cp.async.wait_all" => return Ok(wait(None)),
            "cp.async.wait_group" => {
                let groups = statement.operand(0)?.parse().map_err(|_| "the number of groups is not a constant")?;
                return Ok(wait(Some(groups)));
            }
            _ => {}
        }
        statement.allow(&[
            "async",
            "ca",
            "cg",
            "shared",
            "shared::cta",
            "global",
            "L2::64B",
            "L2::128B",
            "L2::256B",
            "L2::cache_hint",
        ])?;
        if !statement.has("async") || !statement.has("global") || !statement.code.contains(".shared") {
            return statement.unsupported();
        }
        let (to, to_offset) = self.address(statement.operand(0)?)?;
        let (from, from_offset) = self.address(statement.operand(1)?)?;
        let bytes: u64 = statement.operand(2)?.parse().map_err(|_| "the number of bytes is not a constant")?;
        if ![4, 8, 16].contains(&bytes) || (statement.has("cg") && bytes != 16) {
            return Err(format!("{bytes} bytes cannot be copied"));
        }
        let hint = usize::from(statement.has("L2::cache_hint"));
        let size = match statement.operands.get(3) {
            Some(_) if statement.operands.len() <= 3 + hint => SourceSize::All,
            None => SourceSize::All,
            Some(size) if self.register(size).is_ok_and(|register| register.bits == 1) => {
                SourceSize::Ignored(self.narrow(size, PREDICATE)?)
            }
            Some(size) => SourceSize::Row(self.narrow(size, U32)?),
        };
        Ok(Box::new(move |m, lanes| {
            let mut known = (0, 0);
            lanes.each(|lane| {
                let to = to.map_or(0, |register| register.get(m, lane)).wrapping_add(to_offset);
                let from = from.map_or(0, |register| register.get(m, lane)).wrapping_add(from_offset);
                let read = match size {
                    SourceSize::All => bytes,
                    SourceSize::Row(row) => u64::from(crate::rows::get32(m, lane, row)),
                    SourceSize::Ignored(row) => {
                        if crate::rows::get32(m, lane, row) != 0 {
                            0
                        } else {
                            bytes
                        }
                    }
                };
                if read > bytes {
                    m.stop(|m| format!("{}: `cp.async` of {bytes} bytes reads {read}", m.place()));
                    return;
                }
                let mut data = [0; 16];
                if read > 0 {
                    // Checked for the alignment of the whole copy, and for the bytes that are read.
                    if from & (bytes - 1) != 0 {
                        m.stop(|m| {
                            format!("{}: `cp.async` reads {bytes} bytes at {from:#x}, which is misaligned", m.place())
                        });
                        return;
                    }
                    for at in 0..read {
                        let Some(pointer) = m.global(from + at, 1, READ, &mut known) else { return };
                        // SAFETY: the byte is allocated.
                        data[at as usize] = unsafe { pointer.read() };
                    }
                }
                let Some(pointer) = Space::Shared.pointer(m, to, bytes, WRITE, lane, &mut known) else { return };
                // SAFETY: `pointer` has `bytes` bytes.
                unsafe { pointer.write_bytes(0xff, bytes as usize) };
                let pending = m.async_copies.lane(lane);
                let group = pending.committed;
                pending.copies.push_back(AsyncCopy { group, to, len: bytes, data });
            });
        }))
    }
}

/// Completes all groups but the newest ones, or everything.
fn wait(newest: Option<u32>) -> Step {
    Box::new(move |m, lanes| {
        lanes.each(|lane| {
            loop {
                let pending = m.async_copies.lane(lane);
                let committed = pending.committed;
                let complete = |copy: &AsyncCopy| newest.is_none_or(|newest| copy.group + newest < committed);
                if !pending.copies.front().is_some_and(complete) {
                    return;
                }
                let Some(copy) = pending.copies.pop_front() else { return };
                let Some(pointer) = Space::Shared.pointer(m, copy.to, copy.len, WRITE, lane, &mut (0, 0)) else {
                    return;
                };
                // SAFETY: `pointer` has `len` bytes.
                unsafe { std::ptr::copy_nonoverlapping(copy.data.as_ptr(), pointer, copy.len as usize) };
            }
        });
    })
}
