//! The memory that an address belongs to: global, shared, private, or the parameters.

use crate::machine::Machine;
use crate::memory::{ATOMIC, WRITE};
use crate::statement::{Result, Statement};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Local,
    Param,
    /// The address says which.
    Generic,
}

/// Generic addresses of the other spaces begin here. No memory of the host has such addresses.
const WINDOW: u64 = 1 << 56;
const SHARED: u64 = 0x7d;
const LOCAL: u64 = 0x7e;
const PARAM: u64 = 0x7f;

impl Space {
    /// The space of an instruction.
    pub(crate) fn of(statement: &Statement) -> Result<Space> {
        let spaces = statement.modifiers().filter_map(Space::parse).collect::<Vec<_>>();
        match spaces[..] {
            [] => Ok(Space::Generic),
            [space] => Ok(space),
            _ => statement.unsupported(),
        }
    }

    pub(crate) fn parse(modifier: &str) -> Option<Space> {
        match modifier {
            "global" | "const" => Some(Space::Global),
            "shared" | "shared::cta" => Some(Space::Shared),
            "local" => Some(Space::Local),
            "param" | "param::entry" => Some(Space::Param),
            _ => None,
        }
    }

    /// What a generic address of this space has in addition to the offset.
    pub(crate) fn window(self) -> u64 {
        match self {
            Space::Global | Space::Generic => 0,
            Space::Shared => SHARED * WINDOW,
            Space::Local => LOCAL * WINDOW,
            Space::Param => PARAM * WINDOW,
        }
    }

    /// The pointer for an access of a thread, or `None` and a fault. `bytes` is a power of two.
    #[inline(always)]
    pub(crate) fn pointer(
        self,
        m: &mut Machine<'_>,
        address: u64,
        bytes: u64,
        how: u8,
        lane: usize,
        known: &mut (u64, u64),
    ) -> Option<*mut u8> {
        match self {
            Space::Global => m.global(address, bytes, how, known),
            Space::Shared => shared(m, address, bytes, how, lane),
            Space::Local => local(m, address, bytes, lane),
            Space::Param => param(m, address, bytes),
            Space::Generic => {
                let offset = address & (WINDOW - 1);
                match address / WINDOW {
                    SHARED => shared(m, offset, bytes, how, lane),
                    LOCAL => local(m, offset, bytes, lane),
                    PARAM => param(m, offset, bytes),
                    _ => m.global(address, bytes, how, known),
                }
            }
        }
    }
}

#[inline(always)]
fn fits(address: u64, bytes: u64, size: usize) -> bool {
    address < size as u64 && size as u64 - address >= bytes && address & (bytes - 1) == 0
}

#[inline(always)]
fn shared(m: &mut Machine<'_>, address: u64, bytes: u64, how: u8, lane: usize) -> Option<*mut u8> {
    // A 32-bit address of shared memory stands in a register of 64 bits at times.
    let address = address & 0xffff_ffff;
    if !fits(address, bytes, m.shared.len()) {
        outside(m, address, bytes, m.shared.len(), "shared");
        return None;
    }
    if let Some(races) = &mut m.shared_races {
        let (writes, atomic) = (how & WRITE != 0, how & ATOMIC != 0);
        races.access(address as usize, bytes as usize, (lane / 32) as u32, writes, atomic);
    }
    Some(m.shared.pointer(address as usize))
}

#[inline(always)]
fn local(m: &mut Machine<'_>, address: u64, bytes: u64, lane: usize) -> Option<*mut u8> {
    if !fits(address, bytes, m.local_size) {
        outside(m, address, bytes, m.local_size, "private");
        return None;
    }
    Some(m.local.pointer(lane * m.local_size + address as usize))
}

/// Parameters are only read: they are the same for all blocks.
fn param(m: &mut Machine<'_>, address: u64, bytes: u64) -> Option<*mut u8> {
    let size = m.launch.params.len();
    if !fits(address, bytes, size) {
        outside(m, address, bytes, size, "parameter");
        return None;
    }
    Some(m.launch.params[address as usize..].as_ptr().cast_mut())
}

#[cold]
fn outside(m: &mut Machine<'_>, address: u64, bytes: u64, size: usize, space: &str) {
    m.stop(|m| {
        let problem = if address & (bytes - 1) != 0 { "misaligned" } else { "outside" };
        format!("{}: {bytes} bytes at {address} of {size} bytes of {space} memory are {problem}", m.place())
    });
}
