//! The memory that an address belongs to: global, shared, private, or the parameters.

use crate::machine::{Lanes, Machine, Word};
use crate::rows::Register;
use crate::statement::{Result, Statement};

/// The register with an address, and what is added to it.
pub(crate) type Address = (Option<Register>, u64);

/// The address of an access of a thread.
#[inline(always)]
pub(crate) fn address_of(m: &Machine<'_>, (base, offset): Address, lane: usize) -> u64 {
    base.map_or(0, |register| register.get(m, lane)).wrapping_add(offset)
}

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

    /// Calls `f` with every thread and the pointer for its access of `BYTES` bytes. A thread whose access is outside stops
    /// the launch.
    #[inline(always)]
    pub(crate) fn each<const BYTES: u64, const HOW: u8>(
        self,
        m: &mut Machine<'_>,
        lanes: Lanes<'_>,
        address: Address,
        mut f: impl FnMut(usize, *mut u8),
    ) {
        match (self, address) {
            (Space::Global, (Some(Register { bits: 64, row }), offset)) => {
                let addresses = u64::row(m, row);
                let mut known = (0, 0);
                lanes.each(|lane| {
                    // SAFETY: a row has a value per thread.
                    let address = unsafe { *addresses.add(lane) }.wrapping_add(offset);
                    if let Some(pointer) = m.global(address, BYTES, HOW, &mut known) {
                        f(lane, pointer);
                    }
                });
            }
            (Space::Shared, (Some(Register { bits: 32, row }), offset)) => {
                let addresses = u32::row(m, row);
                // SAFETY: a row has a value per thread.
                let address = |lane: usize| unsafe { *addresses.add(lane) }.wrapping_add(offset as u32);
                shared_each::<BYTES, HOW>(m, lanes, address, f);
            }
            (Space::Shared, (None, offset)) => shared_each::<BYTES, HOW>(m, lanes, |_| offset as u32, f),
            _ => {
                let mut known = (0, 0);
                lanes.each(|lane| {
                    let address = address_of(m, address, lane);
                    if let Some(pointer) = self.pointer(m, address, BYTES, HOW, lane, &mut known) {
                        f(lane, pointer);
                    }
                });
            }
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
        races.access_any(address as usize, bytes, (lane / 32) as u32, how);
    }
    Some(m.shared.pointer(address as usize))
}

/// [`Space::each`] for shared memory, with everything outside of the loop that is the same for all threads.
#[inline(always)]
fn shared_each<const BYTES: u64, const HOW: u8>(
    m: &mut Machine<'_>,
    lanes: Lanes<'_>,
    address: impl Fn(usize) -> u32,
    mut f: impl FnMut(usize, *mut u8),
) {
    let start = m.shared.start();
    let size = m.shared.len();
    let mut first_outside = None;
    let mut races = m.shared_races.take();
    macro_rules! access {
        ($lane:expr, |$at:ident| $($check:expr)?) => {{
            let $at = u64::from(address($lane));
            if fits($at, BYTES, size) {
                $($check;)?
                // SAFETY: the address is below the size.
                f($lane, unsafe { start.add($at as usize) });
            } else {
                first_outside.get_or_insert($at);
            }
        }};
    }
    // Loops instead of closures, which the compiler does not inline twice.
    match (&mut races, lanes) {
        (None, Lanes::All(count)) => {
            for lane in 0..count {
                access!(lane, |at|);
            }
        }
        (None, Lanes::These(lanes)) => {
            for &lane in lanes {
                access!(lane as usize, |at|);
            }
        }
        (Some(races), Lanes::All(count)) => {
            for lane in 0..count {
                access!(lane, |at| races.access::<BYTES, HOW>(at as usize, (lane / 32) as u32));
            }
        }
        (Some(races), Lanes::These(lanes)) => {
            for &lane in lanes {
                access!(lane as usize, |at| races.access::<BYTES, HOW>(at as usize, lane / 32));
            }
        }
    }
    m.shared_races = races;
    if let Some(address) = first_outside {
        outside(m, address, BYTES, size, "shared");
    }
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
