//! `atom` and `red`.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use half::{bf16, f16};

use crate::machine::Step;
use crate::memory::{ATOMIC, READ, WRITE};
use crate::rows::get;
use crate::space::{Space, address_of};
use crate::statement::{Result, Statement};
use crate::translate::Translator;
use crate::types::{Kind, Type};

/// The new value of the memory, from the old one and up to two operands.
type Update = fn(u64, u64, u64) -> u64;

const KINDS: &[&str] = &["add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"];
const ORDERS: &[&str] =
    &["relaxed", "acquire", "release", "acq_rel", "gpu", "cta", "sys", "noftz", "global", "shared", "shared::cta"];

impl Translator<'_> {
    pub(crate) fn atomic(&mut self, statement: &Statement) -> Result<Step> {
        let mut allowed = KINDS.to_vec();
        allowed.extend(ORDERS);
        statement.allow(&allowed)?;
        let ty = statement.ty()?;
        let first = usize::from(statement.name() == "atom");
        let old = if first == 1 { Some(self.destination(statement.operand(0)?, ty.bits)?) } else { None };
        let space = Space::of(statement)?;
        let address = self.address(statement.operand(first)?)?;
        let b = self.row(statement.operand(first + 1)?, ty)?;
        let c = statement.operands.get(first + 2).map(|c| self.row(c, ty)).transpose()?;
        let bytes = ty.bytes();
        let Some(update) = statement.one_of(KINDS).and_then(|kind| update(kind, ty)) else {
            return statement.unsupported();
        };
        Ok(Box::new(move |m, lanes| {
            let mut known = (0, 0);
            lanes.each(|lane| {
                let address = address_of(m, address, lane);
                let b = get(m, lane, ty.bits, b);
                let c = c.map_or(0, |c| get(m, lane, ty.bits, c));
                let how = READ | WRITE | ATOMIC;
                let Some(pointer) = space.pointer(m, address, bytes, how, lane, &mut known) else { return };
                // SAFETY: `pointer` has `bytes` bytes and is aligned.
                let before = unsafe {
                    match bytes {
                        2 => {
                            let cell = AtomicU16::from_ptr(pointer.cast());
                            cell.fetch_update(Relaxed, Relaxed, |a| Some(update(a.into(), b, c) as u16))
                                .map_or(0, u64::from)
                        }
                        4 => {
                            let cell = AtomicU32::from_ptr(pointer.cast());
                            cell.fetch_update(Relaxed, Relaxed, |a| Some(update(a.into(), b, c) as u32))
                                .map_or(0, u64::from)
                        }
                        _ => {
                            let cell = AtomicU64::from_ptr(pointer.cast());
                            cell.fetch_update(Relaxed, Relaxed, |a| Some(update(a, b, c))).unwrap_or(0)
                        }
                    }
                };
                if let Some(old) = old {
                    old.set(m, lane, before);
                }
            });
        }))
    }
}

fn update(kind: &str, ty: Type) -> Option<Update> {
    let integer = matches!(ty.kind, Kind::Unsigned | Kind::Signed);
    let whole = matches!(ty.bits, 32 | 64);
    Some(match (kind, ty.kind, ty.bits) {
        ("add", Kind::Float, 32) => {
            |a, b, _| u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits())
        }
        ("add", Kind::Float, 64) => |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        ("add", Kind::Float, 16) => {
            |a, b, _| u64::from((f16::from_bits(a as u16) + f16::from_bits(b as u16)).to_bits())
        }
        ("add", Kind::Bfloat, 16) => {
            |a, b, _| u64::from((bf16::from_bits(a as u16) + bf16::from_bits(b as u16)).to_bits())
        }
        ("add", Kind::FloatPair, 32) => |a, b, _| {
            let add = |shift: u32| {
                u64::from((f16::from_bits((a >> shift) as u16) + f16::from_bits((b >> shift) as u16)).to_bits())
            };
            add(0) | add(16) << 16
        },
        ("add", Kind::BfloatPair, 32) => |a, b, _| {
            let add = |shift: u32| {
                u64::from((bf16::from_bits((a >> shift) as u16) + bf16::from_bits((b >> shift) as u16)).to_bits())
            };
            add(0) | add(16) << 16
        },
        ("add", ..) if integer && whole => |a, b, _| a.wrapping_add(b),
        ("min", Kind::Signed, 32) => |a, b, _| u64::from((a as i32).min(b as i32) as u32),
        ("max", Kind::Signed, 32) => |a, b, _| u64::from((a as i32).max(b as i32) as u32),
        ("min", Kind::Signed, 64) => |a, b, _| (a as i64).min(b as i64) as u64,
        ("max", Kind::Signed, 64) => |a, b, _| (a as i64).max(b as i64) as u64,
        ("min", Kind::Unsigned, 32 | 64) => |a, b, _| a.min(b),
        ("max", Kind::Unsigned, 32 | 64) => |a, b, _| a.max(b),
        ("inc", Kind::Unsigned, 32) => |a, b, _| if a >= b { 0 } else { a + 1 },
        ("dec", Kind::Unsigned, 32) => |a, b, _| if a == 0 || a > b { b } else { a - 1 },
        ("exch", Kind::Bits, 32 | 64) => |_, b, _| b,
        ("cas", Kind::Bits, 16 | 32 | 64) => |a, b, c| if a == b { c } else { a },
        ("and", Kind::Bits, 32 | 64) => |a, b, _| a & b,
        ("or", Kind::Bits, 32 | 64) => |a, b, _| a | b,
        ("xor", Kind::Bits, 32 | 64) => |a, b, _| a ^ b,
        _ => return None,
    })
}
