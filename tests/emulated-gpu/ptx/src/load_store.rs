//! `ld` and `st`, of single values and of vectors.

use crate::machine::{Lanes, Machine, Step, Word};
use crate::memory::{READ, WRITE};
use crate::rows::Register;
use crate::space::{Address, Space, address_of};
use crate::statement::{Result, Statement, elements};
use crate::translate::Translator;
use crate::types::Type;

/// Modifiers that do not change what is loaded or stored here: caches, and the order that other threads see.
const HINTS: &[&str] = &[
    "nc",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "weak",
    "gpu",
    "sys",
    "cta",
    "cluster",
    "L1::no_allocate",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "L2::evict_first",
    "L2::evict_last",
    "L2::evict_normal",
    "L2::cache_hint",
];
const SPACES: &[&str] = &["global", "const", "shared", "shared::cta", "local", "param", "param::entry"];

/// The number of elements of a vector.
fn vector_length(statement: &Statement) -> Result<usize> {
    let mut allowed = vec!["v2", "v4"];
    allowed.extend(HINTS);
    allowed.extend(SPACES);
    statement.allow(&allowed)?;
    Ok(match statement.one_of(&["v2", "v4"]) {
        Some("v2") => 2,
        Some(_) => 4,
        None => 1,
    })
}

impl Translator<'_> {
    pub(crate) fn load(&mut self, statement: &Statement) -> Result<Step> {
        let length = vector_length(statement)?;
        let ty = statement.ty()?;
        let targets = elements(statement.operand(0)?);
        if targets.len() != length {
            return Err(format!("{length} registers are needed"));
        }
        let targets = targets.iter().map(|name| self.destination(name, ty.bits)).collect::<Result<Vec<_>>>()?;
        let address = self.address(statement.operand(1)?)?;
        let space = match Space::of(statement)? {
            Space::Param if self.is_call_param(statement.operand(1)?) => Space::Local,
            space => space,
        };
        Ok(match (space, &targets[..], ty.bits) {
            (Space::Param, ..) if address.0.is_none() => load_param(address.1, ty, targets),
            (_, &[a @ Register { bits: 32, .. }], 32) => load_vector::<u32, 1, 4>(space, address, [a]),
            (_, &[a, b], 32) => load_vector::<u32, 2, 8>(space, address, [a, b]),
            (_, &[a, b, c, d], 32) => load_vector::<u32, 4, 16>(space, address, [a, b, c, d]),
            (_, &[a], 64) => load_vector::<u64, 1, 8>(space, address, [a]),
            (_, &[a, b], 64) => load_vector::<u64, 2, 16>(space, address, [a, b]),
            (_, &[a], 16) if a.bits <= 32 && !ty.is_signed() => load_half(space, address, a),
            _ => load_any(space, address, ty, targets),
        })
    }

    pub(crate) fn store(&mut self, statement: &Statement) -> Result<Step> {
        let length = vector_length(statement)?;
        let ty = statement.ty()?;
        let sources = elements(statement.operand(1)?);
        if sources.len() != length {
            return Err(format!("{length} registers are needed"));
        }
        let mut registers = Vec::new();
        for source in &sources {
            registers.push(match self.register(source) {
                Ok(register) => register,
                Err(_) => Register { bits: if ty.is_wide() { 64 } else { 32 }, row: self.row(source, ty)? },
            });
        }
        let address = self.address(statement.operand(0)?)?;
        let space = match Space::of(statement)? {
            Space::Param if self.is_call_param(statement.operand(0)?) => Space::Local,
            space => space,
        };
        if space == Space::Param {
            return Err("parameters of a kernel cannot be written".to_string());
        }
        Ok(match (space, &registers[..], ty.bits) {
            (_, &[a], 32) if a.bits <= 32 => store_vector::<u32, 1, 4>(space, address, [a]),
            (_, &[a, b], 32) if a.bits.max(b.bits) <= 32 => store_vector::<u32, 2, 8>(space, address, [a, b]),
            (_, &[a, b, c, d], 32) => store_vector::<u32, 4, 16>(space, address, [a, b, c, d]),
            (_, &[a], 64) => store_vector::<u64, 1, 8>(space, address, [a]),
            (_, &[a], 16) if a.bits <= 32 => store_half(space, address, a),
            _ => store_any(space, address, ty, registers),
        })
    }
}

/// Values of 32 or 64 bits, which registers hold as they are.
fn load_vector<T: Word, const N: usize, const BYTES: u64>(
    space: Space,
    address: Address,
    targets: [Register; N],
) -> Step {
    const { assert!(size_of::<T>() * N == BYTES as usize) };
    Box::new(move |m, lanes| {
        let targets = targets.map(|target| T::row(m, target.row));
        space.each::<BYTES, READ>(m, lanes, address, |lane, pointer| {
            for (index, target) in targets.iter().enumerate() {
                // SAFETY: `pointer` has `BYTES` bytes, and a row a value per thread.
                unsafe { *target.add(lane) = pointer.cast::<T>().add(index).read() };
            }
        });
    })
}

fn store_vector<T: Word, const N: usize, const BYTES: u64>(
    space: Space,
    address: Address,
    sources: [Register; N],
) -> Step {
    const { assert!(size_of::<T>() * N == BYTES as usize) };
    Box::new(move |m, lanes| {
        let sources = sources.map(|source| T::row(m, source.row));
        space.each::<BYTES, WRITE>(m, lanes, address, |lane, pointer| {
            for (index, source) in sources.iter().enumerate() {
                // SAFETY: `pointer` has `BYTES` bytes, and a row a value per thread.
                unsafe { pointer.cast::<T>().add(index).write(*source.add(lane)) };
            }
        });
    })
}

fn load_half(space: Space, address: Address, target: Register) -> Step {
    Box::new(move |m, lanes| {
        let target = u32::row(m, target.row);
        space.each::<2, READ>(m, lanes, address, |lane, pointer| {
            // SAFETY: `pointer` has 2 bytes, and a row a value per thread.
            unsafe { *target.add(lane) = u32::from(pointer.cast::<u16>().read()) };
        });
    })
}

fn store_half(space: Space, address: Address, source: Register) -> Step {
    Box::new(move |m, lanes| {
        let source = u32::row(m, source.row);
        space.each::<2, WRITE>(m, lanes, address, |lane, pointer| {
            // SAFETY: as above.
            unsafe { pointer.cast::<u16>().write(*source.add(lane) as u16) };
        });
    })
}

/// # Safety
/// `pointer` has the bytes of the type.
#[inline(always)]
unsafe fn read(pointer: *const u8, bytes: u64) -> u64 {
    // SAFETY: as the caller says.
    unsafe {
        match bytes {
            1 => u64::from(pointer.read()),
            2 => u64::from(pointer.cast::<u16>().read()),
            4 => u64::from(pointer.cast::<u32>().read()),
            _ => pointer.cast::<u64>().read(),
        }
    }
}

/// A value of a type as a register holds it.
#[inline(always)]
fn extended(ty: Type, target: Register, value: u64) -> u64 {
    ty.extend(value) & (u64::MAX >> (64 - target.bits))
}

fn load_any(space: Space, address: Address, ty: Type, targets: Vec<Register>) -> Step {
    let bytes = ty.bytes();
    let all = bytes * targets.len() as u64;
    Box::new(move |m, lanes| {
        let mut known = (0, 0);
        lanes.each(|lane| {
            let address = address_of(m, address, lane);
            let Some(pointer) = space.pointer(m, address, all, READ, lane, &mut known) else { return };
            for (index, target) in targets.iter().enumerate() {
                // SAFETY: `pointer` has `all` bytes.
                let value = unsafe { read(pointer.add(index * bytes as usize), bytes) };
                target.set(m, lane, extended(ty, *target, value));
            }
        });
    })
}

fn store_any(space: Space, address: Address, ty: Type, sources: Vec<Register>) -> Step {
    let bytes = ty.bytes();
    let all = bytes * sources.len() as u64;
    Box::new(move |m, lanes| {
        let mut known = (0, 0);
        lanes.each(|lane| {
            let address = address_of(m, address, lane);
            let Some(pointer) = space.pointer(m, address, all, WRITE, lane, &mut known) else { return };
            for (index, source) in sources.iter().enumerate() {
                let value = source.get(m, lane);
                // SAFETY: `pointer` has `all` bytes.
                unsafe {
                    let pointer = pointer.add(index * bytes as usize);
                    match bytes {
                        1 => pointer.write(value as u8),
                        2 => pointer.cast::<u16>().write(value as u16),
                        4 => pointer.cast::<u32>().write(value as u32),
                        _ => pointer.cast::<u64>().write(value),
                    }
                }
            }
        });
    })
}

/// A parameter has the same value for all threads.
fn load_param(offset: u64, ty: Type, targets: Vec<Register>) -> Step {
    let bytes = ty.bits as usize / 8;
    Box::new(move |m, lanes| {
        for (index, target) in targets.iter().enumerate() {
            let at = offset as usize + index * bytes;
            let Some(from) = m.launch.params.get(at..at + bytes) else {
                m.stop(|m| format!("{}: reads behind the parameters", m.place()));
                return;
            };
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(from);
            let value = extended(ty, *target, u64::from_le_bytes(value));
            set_all(m, lanes, *target, value);
        }
    })
}

fn set_all(m: &Machine<'_>, lanes: Lanes<'_>, target: Register, value: u64) {
    lanes.each(|lane| target.set(m, lane, value));
}
