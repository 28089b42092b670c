//! `cvt`: conversions between types.

use half::{bf16, f16};

use crate::float::{NAN16, flushed, to_tf32};
use crate::machine::Step;
use crate::rows::{Register, binary, unary};
use crate::statement::{Result, Statement};
use crate::translate::Translator;
use crate::types::{Kind, Type};

/// The bits of a float as a double, which has all of its values.
fn reader(ty: Type) -> Option<fn(u64) -> f64> {
    Some(match (ty.kind, ty.bits) {
        (Kind::Float, 16) => |a| f16::from_bits(a as u16).to_f64(),
        (Kind::Float, 32) => |a| f64::from(f32::from_bits(a as u32)),
        (Kind::Float, 64) => f64::from_bits,
        (Kind::Bfloat, 16) => |a| bf16::from_bits(a as u16).to_f64(),
        _ => return None,
    })
}

/// A double as the bits of a float, rounded to the nearest.
fn writer(ty: Type) -> Option<fn(f64) -> u64> {
    Some(match (ty.kind, ty.bits) {
        (Kind::Float, 16) => |value| if value.is_nan() { NAN16 } else { u64::from(f16::from_f64(value).to_bits()) },
        (Kind::Float, 32) => |value| u64::from((value as f32).to_bits()),
        (Kind::Float, 64) => f64::to_bits,
        (Kind::Bfloat, 16) => |value| if value.is_nan() { NAN16 } else { u64::from(bf16::from_f64(value).to_bits()) },
        (Kind::Tf32, 32) => |value| u64::from(to_tf32(value as f32).to_bits()),
        _ => return None,
    })
}

/// Rounds to the nearest bfloat16.
#[inline(always)]
fn to_bfloat(bits: u32) -> u32 {
    if bits & 0x7fff_ffff > 0x7f80_0000 { NAN16 as u32 } else { bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// The most frequent conversions, without the way through `f64`.
fn frequent(to: Type, from: Type, is_plain: bool, target: Register, a: u32) -> Option<Step> {
    if !is_plain || target.bits != to.bits {
        return None;
    }
    let d = target.row;
    Some(match ((to.kind, to.bits), (from.kind, from.bits)) {
        ((Kind::Bfloat, 16), (Kind::Float, 32)) => unary(d, a, to_bfloat),
        ((Kind::Float, 32), (Kind::Bfloat, 16)) => unary(d, a, |a: u32| a << 16),
        ((Kind::Float, 32), (Kind::Float, 16)) => unary(d, a, |a: u32| f16::from_bits(a as u16).to_f32().to_bits()),
        ((Kind::Float, 32), (Kind::Signed, 32)) => unary(d, a, |a: u32| (a as i32 as f32).to_bits()),
        ((Kind::Float, 32), (Kind::Unsigned, 32)) => unary(d, a, |a: u32| (a as f32).to_bits()),
        _ => return None,
    })
}

const INTEGER_ROUNDINGS: &[&str] = &["rni", "rzi", "rmi", "rpi"];

impl Translator<'_> {
    pub(crate) fn convert(&mut self, statement: &Statement) -> Result<Step> {
        let mut allowed = INTEGER_ROUNDINGS.to_vec();
        allowed.extend(["rn", "rna", "rz", "ftz", "sat", "relu"]);
        statement.allow(&allowed)?;
        let types = statement.types();
        let [to, from] = types[..] else { return statement.unsupported() };
        if matches!(to.kind, Kind::FloatPair | Kind::BfloatPair) {
            return self.convert_pair(statement, to, from);
        }
        let [d, a] = statement.operands()?;
        let (target, a) = (self.register(d)?, self.row(a, from)?);
        let (d, wide) = (target.row, target.bits == 64);
        let round = INTEGER_ROUNDINGS.iter().position(|mode| statement.has(mode));
        let saturated = statement.has("sat");
        let flush = statement.has("ftz");
        let relu = statement.has("relu");
        let to_nearest = !statement.has("rz");
        let whole = move |value: f64| match round {
            Some(0) => value.round_ties_even(),
            Some(1) => value.trunc(),
            Some(2) => value.floor(),
            Some(3) => value.ceil(),
            _ => value,
        };
        let limit = move |value: f64| match value {
            _ if saturated && value.is_nan() => 0.0,
            _ if saturated => value.clamp(0.0, 1.0),
            _ if relu && !value.is_nan() => value.max(0.0),
            _ => value,
        };
        // In a register that is wider than the type, an integer is extended.
        let stored = move |value: u64| {
            Type { bits: target.bits, ..to }.extend(to.extend(value)) & (u64::MAX >> (64 - target.bits))
        };
        macro_rules! step {
            ($f:expr) => {{
                let f = $f;
                return Ok(match (from.is_wide(), wide) {
                    (false, false) => unary(d, a, move |a: u32| f(u64::from(a)) as u32),
                    (false, true) => unary(d, a, move |a: u32| f(u64::from(a))),
                    (true, false) => unary(d, a, move |a: u64| f(a) as u32),
                    (true, true) => unary(d, a, f),
                });
            }};
        }
        let is_plain = round.is_none() && !saturated && !flush && !relu && to_nearest;
        if let Some(step) = frequent(to, from, is_plain, target, a) {
            return Ok(step);
        }
        match (to.is_floating(), from.is_floating()) {
            // The two most frequent ones of integers.
            (false, false) if to.bits == 64 && from.is(Kind::Unsigned, 32) => Ok(unary(d, a, |a: u32| u64::from(a))),
            (false, false) if to.bits == 32 && from.bits == 64 && !wide && !saturated => {
                Ok(unary(d, a, |a: u64| a as u32))
            }
            (false, false) if !saturated => step!(move |a: u64| stored(from.extend(a))),
            (true, true) => {
                let (Some(read), Some(write)) = (reader(from), writer(to)) else { return statement.unsupported() };
                let narrows = to.bits < from.bits || to.kind == Kind::Tf32;
                if narrows && !to_nearest {
                    // Bits that do not fit are cut off.
                    if to.is(Kind::Bfloat, 16) && from.is(Kind::Float, 32) && !relu && !saturated {
                        step!(move |a: u64| if f32::from_bits(a as u32).is_nan() { NAN16 } else { a >> 16 });
                    }
                    return statement.unsupported();
                }
                let flush_in = flush && from.is(Kind::Float, 32);
                let flush_out = flush && to.is(Kind::Float, 32);
                step!(move |a: u64| {
                    let value = read(a);
                    let value = if flush_in { f64::from(flushed(value as f32, true)) } else { value };
                    let bits = write(limit(whole(value)));
                    if flush_out { u64::from(flushed(f32::from_bits(bits as u32), true).to_bits()) } else { bits }
                })
            }
            (true, false) if to_nearest => {
                let Some(write) = writer(to) else { return statement.unsupported() };
                // A double does not have all integers of 64 bits: an `f32` is made of them directly.
                match (from.bits == 64 && to.is(Kind::Float, 32), from.is_signed()) {
                    (true, true) => step!(|a: u64| u64::from((a as i64 as f32).to_bits())),
                    (true, false) => step!(|a: u64| u64::from((a as f32).to_bits())),
                    (false, true) => step!(move |a: u64| write(limit(from.extend(a) as i64 as f64))),
                    (false, false) => step!(move |a: u64| write(limit(from.extend(a) as f64))),
                }
            }
            (false, true) if round.is_some() => {
                let Some(read) = reader(from) else { return statement.unsupported() };
                let flush = flush && from.is(Kind::Float, 32);
                let read = move |a: u64| if flush { f64::from(flushed(read(a) as f32, true)) } else { read(a) };
                // A value that does not fit becomes the nearest one that does, and NaN becomes 0.
                let (least, most) = match (to.is_signed(), to.bits) {
                    (true, bits) => (-(2f64.powi(bits as i32 - 1)), 2f64.powi(bits as i32 - 1) - 1.0),
                    (false, bits) => (0.0, 2f64.powi(bits as i32) - 1.0),
                };
                if to.is_signed() {
                    step!(move |a: u64| stored((whole(read(a)).clamp(least, most)) as i64 as u64));
                }
                step!(move |a: u64| stored((whole(read(a)).clamp(least, most)) as u64))
            }
            (false, false) => {
                // The value, limited to the range of the type.
                let (least, most) = match (to.is_signed(), to.bits) {
                    (true, bits) => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
                    (false, bits) => (0, (1i128 << bits) - 1),
                };
                step!(move |a: u64| {
                    let value = from.extend(a);
                    let value = if from.is_signed() { i128::from(value as i64) } else { i128::from(value) };
                    stored(value.clamp(least, most) as u64)
                })
            }
            _ => statement.unsupported(),
        }
    }

    /// Two `f32` become a pair: the first operand is the upper half.
    fn convert_pair(&mut self, statement: &Statement, to: Type, from: Type) -> Result<Step> {
        let half = Type { kind: if to.kind == Kind::FloatPair { Kind::Float } else { Kind::Bfloat }, bits: 16 };
        let (true, true, Some(write)) = (from.is(Kind::Float, 32), statement.has("rn"), writer(half)) else {
            return statement.unsupported();
        };
        let [d, a, b] = statement.operands()?;
        let d = self.register(d)?.row;
        let [a, b] = self.rows([a, b], from)?;
        let relu = statement.has("relu");
        if to.kind == Kind::BfloatPair && !relu {
            return Ok(binary(d, a, b, |a: u32, b: u32| to_bfloat(a) << 16 | to_bfloat(b)));
        }
        let half = move |bits: u32| {
            let value = f64::from(f32::from_bits(bits));
            write(if relu && !value.is_nan() { value.max(0.0) } else { value }) as u32
        };
        Ok(binary(d, a, b, move |a: u32, b: u32| half(a) << 16 | half(b)))
    }
}
