//! Arithmetic of `f32` and `f64`.

use crate::directed_rounding::Rounding;
use crate::machine::Step;
use crate::rows::{binary, fused_multiply_add, ternary, unary};
use crate::statement::{Result, Statement};
use crate::translate::Translator;
use crate::types::Type;

/// The NaN that conversions to 16 bits give.
pub(crate) const NAN16: u64 = 0x7fff;

/// With `flush`, subnormal numbers become zero.
#[inline(always)]
pub(crate) fn flushed(value: f32, flush: bool) -> f32 {
    if flush && value.is_subnormal() { 0f32.copysign(value) } else { value }
}

/// Rounds to 10 bits of mantissa, halves away from zero.
pub(crate) fn to_tf32(value: f32) -> f32 {
    if value.is_finite() { f32::from_bits(value.to_bits().wrapping_add(0x1000) & !0x1fff) } else { value }
}

/// `min` and `max` of PTX: of a number and NaN, the number. `-0` is below `+0`.
fn minimum(a: f64, b: f64) -> f64 {
    if a == 0.0 && b == 0.0 { if a.is_sign_negative() { a } else { b } } else { a.min(b) }
}

fn maximum(a: f64, b: f64) -> f64 {
    if a == 0.0 && b == 0.0 { if a.is_sign_negative() { b } else { a } } else { a.max(b) }
}

const MODIFIERS: &[&str] = &["rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "NaN"];

impl Translator<'_> {
    pub(crate) fn float(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        statement.allow(MODIFIERS)?;
        let directed =
            ["rz", "rm", "rp"].iter().find(|mode| statement.has(mode)).and_then(|mode| Rounding::parse(mode));
        let flush = statement.has("ftz");
        let saturated = statement.has("sat");
        let name = statement.name();
        match (name, directed) {
            ("add" | "sub" | "mul" | "fma" | "mad", _)
                if !ty.is_wide() && (directed.is_some() || flush || saturated) =>
            {
                self.modified(statement, ty, directed)
            }
            (_, Some(_)) => statement.unsupported(),
            ("fma" | "mad", None) => {
                let [d, a, b, c] = self.rows(statement.operands()?, ty)?;
                if !ty.is_wide() {
                    return Ok(fused_multiply_add(d, a, b, c));
                }
                Ok(ternary(d, a, b, c, |a: u64, b: u64, c: u64| {
                    f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
                }))
            }
            _ if saturated => statement.unsupported(),
            _ => match statement.operands.len() {
                2 => self.float_unary(statement, ty, flush),
                3 => self.float_binary(statement, ty, flush),
                _ => statement.unsupported(),
            },
        }
    }

    /// Sums and products with `.ftz`, `.sat`, or a rounding that is not to the nearest.
    fn modified(&mut self, statement: &Statement, ty: Type, directed: Option<Rounding>) -> Result<Step> {
        let flush = statement.has("ftz");
        let saturated = statement.has("sat");
        let finish = move |value: f32| {
            let value = flushed(value, flush);
            if !saturated {
                value
            } else if value.is_nan() {
                0.0
            } else {
                value.clamp(0.0, 1.0)
            }
        };
        let read = move |bits: u32| flushed(f32::from_bits(bits), flush);
        let fma = move |a: f32, b: f32, c: f32| match directed {
            Some(rounding) => rounding.fma(a, b, c),
            None => a.mul_add(b, c),
        };
        let name = statement.name();
        if let "fma" | "mad" = name {
            let [d, a, b, c] = self.rows(statement.operands()?, ty)?;
            return Ok(ternary(d, a, b, c, move |a: u32, b: u32, c: u32| {
                finish(fma(read(a), read(b), read(c))).to_bits()
            }));
        }
        let [d, a, b] = self.rows(statement.operands()?, ty)?;
        Ok(match (name, directed) {
            ("mul", None) => binary(d, a, b, move |a: u32, b: u32| finish(read(a) * read(b)).to_bits()),
            ("add", None) => binary(d, a, b, move |a: u32, b: u32| finish(read(a) + read(b)).to_bits()),
            ("sub", None) => binary(d, a, b, move |a: u32, b: u32| finish(read(a) - read(b)).to_bits()),
            // `-0` as the third operand keeps the sign of a product that is zero.
            ("mul", _) => binary(d, a, b, move |a: u32, b: u32| finish(fma(read(a), read(b), -0.0)).to_bits()),
            ("add", _) => binary(d, a, b, move |a: u32, b: u32| finish(fma(read(a), 1.0, read(b))).to_bits()),
            _ => binary(d, a, b, move |a: u32, b: u32| finish(fma(read(a), 1.0, -read(b))).to_bits()),
        })
    }

    fn float_unary(&mut self, statement: &Statement, ty: Type, flush: bool) -> Result<Step> {
        let [d, a] = self.rows(statement.operands()?, ty)?;
        macro_rules! both {
            (|$a:ident| $value:expr) => {
                Ok(if ty.is_wide() {
                    unary(d, a, |a: u64| {
                        let $a = f64::from_bits(a);
                        ($value).to_bits()
                    })
                } else {
                    unary(d, a, move |a: u32| {
                        let $a = flushed(f32::from_bits(a), flush);
                        flushed($value, flush).to_bits()
                    })
                })
            };
        }
        // Functions that a GPU approximates are exact here: computed as `f64` and rounded once.
        macro_rules! approximate {
            (|$a:ident| $value:expr) => {
                if ty.is_wide() {
                    statement.unsupported()
                } else {
                    Ok(unary(d, a, move |a: u32| {
                        let $a = f64::from(flushed(f32::from_bits(a), flush));
                        flushed(($value) as f32, flush).to_bits()
                    }))
                }
            };
        }
        match statement.name() {
            "neg" => both!(|a| -a),
            "abs" => both!(|a| a.abs()),
            "sqrt" => both!(|a| a.sqrt()),
            "rcp" if ty.is_wide() || statement.has("rn") => both!(|a| 1.0 / a),
            "rcp" => approximate!(|a| 1.0 / a),
            "rsqrt" if ty.is_wide() => Ok(unary(d, a, |a: u64| (1.0 / f64::from_bits(a).sqrt()).to_bits())),
            "rsqrt" => approximate!(|a| 1.0 / a.sqrt()),
            "ex2" => approximate!(|a| a.exp2()),
            "lg2" => approximate!(|a| a.log2()),
            "sin" => approximate!(|a| a.sin()),
            "cos" => approximate!(|a| a.cos()),
            "tanh" => approximate!(|a| a.tanh()),
            _ => statement.unsupported(),
        }
    }

    fn float_binary(&mut self, statement: &Statement, ty: Type, flush: bool) -> Result<Step> {
        let name = statement.name();
        if name == "testp" {
            return statement.unsupported();
        }
        let [d, a, b] = self.rows(statement.operands()?, ty)?;
        macro_rules! both {
            (|$a:ident, $b:ident| $value:expr) => {
                Ok(if ty.is_wide() {
                    binary(d, a, b, |a: u64, b: u64| {
                        let ($a, $b) = (f64::from_bits(a), f64::from_bits(b));
                        ($value).to_bits()
                    })
                } else if flush {
                    binary(d, a, b, |a: u32, b: u32| {
                        let ($a, $b) = (flushed(f32::from_bits(a), true), flushed(f32::from_bits(b), true));
                        flushed($value, true).to_bits()
                    })
                } else {
                    binary(d, a, b, |a: u32, b: u32| {
                        let ($a, $b) = (f32::from_bits(a), f32::from_bits(b));
                        ($value).to_bits()
                    })
                })
            };
        }
        // An `f64` has all values of an `f32`.
        macro_rules! through_f64 {
            ($f:expr) => {{
                let f: fn(f64, f64) -> f64 = $f;
                let propagate = statement.has("NaN");
                let f = move |a: f64, b: f64| if propagate && (a.is_nan() || b.is_nan()) { f64::NAN } else { f(a, b) };
                Ok(if ty.is_wide() {
                    binary(d, a, b, move |a: u64, b: u64| f(f64::from_bits(a), f64::from_bits(b)).to_bits())
                } else {
                    binary(d, a, b, move |a: u32, b: u32| {
                        let [a, b] = [a, b].map(|bits| f64::from(flushed(f32::from_bits(bits), flush)));
                        (f(a, b) as f32).to_bits()
                    })
                })
            }};
        }
        match name {
            "add" => both!(|a, b| a + b),
            "sub" => both!(|a, b| a - b),
            "mul" => both!(|a, b| a * b),
            "div" => both!(|a, b| a / b),
            "min" => through_f64!(minimum),
            "max" => through_f64!(maximum),
            // The first operand of PTX has the sign.
            "copysign" => both!(|a, b| b.copysign(a)),
            _ => statement.unsupported(),
        }
    }
}
