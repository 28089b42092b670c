//! Arithmetic of integers, and operations on bits.

use crate::machine::Step;
use crate::rows::{binary, get32, set32, ternary, unary};
use crate::statement::{Result, Statement};
use crate::translate::Translator;
use crate::types::{Kind, Type, U32};

const MODIFIERS: &[&str] =
    &["lo", "hi", "wide", "cc", "l", "r", "wrap", "clamp", "sat", "b4e", "f4e", "rc8", "ecl", "ecr", "rc16"];

impl Translator<'_> {
    pub(crate) fn integer(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        statement.allow(MODIFIERS)?;
        let name = statement.name();
        if statement.has("sat") {
            return statement.unsupported();
        }
        match name {
            "addc" | "subc" | "madc" => return self.carry(statement, ty),
            _ if statement.has("cc") => return self.carry(statement, ty),
            "mul" | "mad" if statement.has("wide") => return self.multiply_wide(statement, ty),
            "mul24" | "mad24" => return self.multiply24(statement, ty),
            "shl" | "shr" => return self.shift(statement, ty),
            "shf" => return self.funnel_shift(statement),
            "prmt" => return self.permute(statement),
            "lop3" => return self.logic3(statement),
            "bfe" | "bfi" => return self.bit_field(statement, ty),
            "popc" | "clz" | "bfind" | "brev" | "not" | "neg" | "abs" | "cnot" => {
                return self.integer_unary(statement, ty);
            }
            "mad" => return self.multiply_add(statement, ty),
            "sad" => {
                let [d, a, b, c] = self.rows(statement.operands()?, ty)?;
                return match (ty.kind, ty.bits) {
                    (Kind::Unsigned, 32) => {
                        Ok(ternary(d, a, b, c, |a: u32, b: u32, c: u32| c.wrapping_add(a.abs_diff(b))))
                    }
                    (Kind::Signed, 32) => {
                        Ok(ternary(d, a, b, c, |a: u32, b: u32, c: u32| c.wrapping_add((a as i32).abs_diff(b as i32))))
                    }
                    _ => statement.unsupported(),
                };
            }
            _ => {}
        }
        if statement.operands.len() != 3 {
            return statement.unsupported();
        }
        let [d, a, b] = self.rows(statement.operands()?, ty)?;
        // The upper bits of a register of 16 bits are zero.
        let mask: u32 = if ty.bits == 16 { 0xffff } else { u32::MAX };
        macro_rules! both {
            (|$a:ident, $b:ident| $value:expr) => {
                Ok(if ty.is_wide() {
                    binary(d, a, b, |$a: u64, $b: u64| $value)
                } else {
                    binary(d, a, b, move |$a: u32, $b: u32| $value & mask)
                })
            };
        }
        macro_rules! by_sign {
            (|$a:ident, $b:ident| $value:expr) => {
                Ok(match (ty.is_signed(), ty.bits) {
                    (true, 64) => binary(d, a, b, |a: u64, b: u64| {
                        let ($a, $b) = (a as i64, b as i64);
                        ($value) as u64
                    }),
                    (true, 32) => binary(d, a, b, |a: u32, b: u32| {
                        let ($a, $b) = (a as i32, b as i32);
                        ($value) as u32
                    }),
                    (true, _) => binary(d, a, b, |a: u32, b: u32| {
                        let ($a, $b) = (a as i16, b as i16);
                        u32::from(($value) as u16)
                    }),
                    (false, 64) => binary(d, a, b, |$a: u64, $b: u64| $value),
                    (false, _) => binary(d, a, b, |$a: u32, $b: u32| $value),
                })
            };
        }
        match name {
            "add" => both!(|a, b| a.wrapping_add(b)),
            "sub" => both!(|a, b| a.wrapping_sub(b)),
            "and" => both!(|a, b| a & b),
            "or" => both!(|a, b| a | b),
            "xor" => both!(|a, b| a ^ b),
            "min" => by_sign!(|a, b| a.min(b)),
            "max" => by_sign!(|a, b| a.max(b)),
            // A GPU does not stop at a division by zero: NVIDIA's give all ones.
            "div" => by_sign!(|a, b| if b == 0 { !b } else { a.wrapping_div(b) }),
            "rem" => by_sign!(|a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
            "mul" if statement.has("lo") => both!(|a, b| a.wrapping_mul(b)),
            "mul" if statement.has("hi") => match (ty.is_signed(), ty.bits) {
                (true, 64) => {
                    Ok(binary(d, a, b, |a: u64, b: u64| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64))
                }
                (false, 64) => Ok(binary(d, a, b, |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64)),
                (true, 32) => {
                    Ok(binary(d, a, b, |a: u32, b: u32| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32))
                }
                (false, 32) => Ok(binary(d, a, b, |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32)),
                (true, _) => Ok(binary(d, a, b, |a: u32, b: u32| {
                    ((i32::from(a as i16) * i32::from(b as i16)) >> 16) as u32 & 0xffff
                })),
                (false, _) => Ok(binary(d, a, b, |a: u32, b: u32| (a * b) >> 16)),
            },
            _ => statement.unsupported(),
        }
    }

    fn integer_unary(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        let [d, a] = statement.operands()?;
        let a = self.row(a, ty)?;
        let mask: u32 = if ty.bits == 16 { 0xffff } else { u32::MAX };
        let name = statement.name();
        // These give 32 bits for operands of 64, too.
        if let "popc" | "clz" | "bfind" = name {
            let d = self.narrow(d, U32)?;
            let sign = ty.is_signed();
            return Ok(match (name, ty.is_wide()) {
                ("popc", false) => unary(d, a, u32::count_ones),
                ("popc", true) => unary(d, a, u64::count_ones),
                ("clz", false) => unary(d, a, u32::leading_zeros),
                ("clz", true) => unary(d, a, u64::leading_zeros),
                (_, false) => unary(d, a, move |a: u32| {
                    let a = if sign && (a as i32) < 0 { !a } else { a };
                    31u32.wrapping_sub(a.leading_zeros())
                }),
                (_, true) => unary(d, a, move |a: u64| {
                    let a = if sign && (a as i64) < 0 { !a } else { a };
                    63u32.wrapping_sub(a.leading_zeros())
                }),
            });
        }
        let d = self.row(d, ty)?;
        macro_rules! both {
            (|$a:ident| $value:expr) => {
                Ok(if ty.is_wide() { unary(d, a, |$a: u64| $value) } else { unary(d, a, move |$a: u32| $value & mask) })
            };
        }
        match name {
            "not" if ty.kind == Kind::Predicate => Ok(unary(d, a, |a: u32| u32::from(a == 0))),
            "not" => both!(|a| !a),
            "neg" => both!(|a| a.wrapping_neg()),
            "cnot" if !ty.is_wide() => Ok(unary(d, a, |a: u32| u32::from(a == 0))),
            "brev" if ty.bits == 32 || ty.is_wide() => both!(|a| a.reverse_bits()),
            "abs" => Ok(match ty.bits {
                64 => unary(d, a, |a: u64| (a as i64).wrapping_abs() as u64),
                32 => unary(d, a, |a: u32| (a as i32).wrapping_abs() as u32),
                _ => unary(d, a, |a: u32| u32::from((a as i16).wrapping_abs() as u16)),
            }),
            _ => statement.unsupported(),
        }
    }

    /// A shift by more bits than the type has gives what is shifted in.
    fn shift(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        let [d, a, b] = statement.operands()?;
        let ([d, a], b) = (self.rows([d, a], ty)?, self.narrow(b, U32)?);
        Ok(match (statement.name(), ty.bits, ty.is_signed()) {
            ("shl", 64, _) => binary(d, a, b, |a: u64, b: u32| a.checked_shl(b).unwrap_or(0)),
            ("shl", 32, _) => binary(d, a, b, |a: u32, b: u32| a.checked_shl(b).unwrap_or(0)),
            ("shl", ..) => binary(d, a, b, |a: u32, b: u32| a.checked_shl(b).unwrap_or(0) & 0xffff),
            (_, 64, false) => binary(d, a, b, |a: u64, b: u32| a.checked_shr(b).unwrap_or(0)),
            (_, _, false) => binary(d, a, b, |a: u32, b: u32| a.checked_shr(b).unwrap_or(0)),
            (_, 64, true) => binary(d, a, b, |a: u64, b: u32| (a as i64 >> b.min(63)) as u64),
            (_, 32, true) => binary(d, a, b, |a: u32, b: u32| (a as i32 >> b.min(31)) as u32),
            _ => binary(d, a, b, |a: u32, b: u32| u32::from((a as i16 >> b.min(15)) as u16)),
        })
    }

    /// 32 bits of the 64 bits `b:a`, shifted.
    fn funnel_shift(&mut self, statement: &Statement) -> Result<Step> {
        let [d, a, b, c] = self.rows(statement.operands()?, U32)?;
        let clamps = statement.has("clamp");
        let distance = move |c: u32| if clamps { c.min(32) } else { c & 31 };
        let whole = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
        match (statement.has("l"), statement.has("r"), statement.has("wrap") || clamps) {
            (true, false, true) => {
                Ok(ternary(d, a, b, c, move |a: u32, b: u32, c: u32| (whole(a, b) << distance(c) >> 32) as u32))
            }
            (false, true, true) => {
                Ok(ternary(d, a, b, c, move |a: u32, b: u32, c: u32| (whole(a, b) >> distance(c)) as u32))
            }
            _ => statement.unsupported(),
        }
    }

    /// Four bytes, each chosen among the eight bytes of two registers.
    fn permute(&mut self, statement: &Statement) -> Result<Step> {
        if statement.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]).is_some() {
            return statement.unsupported();
        }
        let [d, a, b, c] = self.rows(statement.operands()?, U32)?;
        Ok(ternary(d, a, b, c, |a: u32, b: u32, c: u32| {
            let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
            u32::from_le_bytes([0, 4, 8, 12].map(|shift| {
                let byte = bytes[(c >> shift & 7) as usize];
                // The highest bit of a selector asks for the sign of the byte in all its bits.
                if c >> shift & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
            }))
        }))
    }

    /// Any function of three bits. Its table is an immediate operand.
    fn logic3(&mut self, statement: &Statement) -> Result<Step> {
        let [d, a, b, c, table] = statement.operands()?;
        let table = crate::parse::parse_number(table).ok_or("the table is not a constant")?;
        let [d, a, b, c] = self.rows([d, a, b, c], U32)?;
        Ok(ternary(d, a, b, c, move |a: u32, b: u32, c: u32| {
            let mut value = 0;
            for index in 0..8 {
                if table >> index & 1 != 0 {
                    let pick = |x: u32, bit: u32| if index >> bit & 1 != 0 { x } else { !x };
                    value |= pick(a, 2) & pick(b, 1) & pick(c, 0);
                }
            }
            value
        }))
    }

    fn bit_field(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        let bits = ty.bits;
        let ones = |len: u32| if len >= 64 { u64::MAX } else { (1u64 << len) - 1 };
        if statement.name() == "bfi" {
            let [d, a, b, start, len] = statement.operands()?;
            let d = self.destination(d, bits)?;
            let [a, b] = self.rows([a, b], ty)?;
            let [start, len] = self.rows([start, len], U32)?;
            return Ok(Box::new(move |m, lanes| {
                lanes.each(|lane| {
                    let [start, len] = [start, len].map(|row| get32(m, lane, row) & 0xff);
                    let [a, b] = [a, b].map(|row| crate::rows::get(m, lane, bits, row));
                    let mask = if start >= bits { 0 } else { ones(len.min(bits - start)) << start };
                    d.set(m, lane, b & !mask | a.checked_shl(start).unwrap_or(0) & mask);
                });
            }));
        }
        let [d, a, start, len] = statement.operands()?;
        let d = self.destination(d, bits)?;
        let a = self.row(a, ty)?;
        let [start, len] = self.rows([start, len], U32)?;
        let signed = ty.is_signed();
        Ok(Box::new(move |m, lanes| {
            lanes.each(|lane| {
                let [start, len] = [start, len].map(|row| get32(m, lane, row) & 0xff);
                let a = crate::rows::get(m, lane, bits, a);
                // The highest bit of the field, or of the operand.
                let sign = (start + len).saturating_sub(1).min(bits - 1);
                let fill = signed && len > 0 && a >> sign & 1 != 0;
                let available = if start >= bits { 0 } else { len.min(bits - start) };
                let value = a.checked_shr(start).unwrap_or(0) & ones(available);
                let value = if fill { value | !ones(available) } else { value };
                d.set(m, lane, value);
            });
        }))
    }

    fn multiply_wide(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        let signed = ty.is_signed();
        let operands: Vec<&str> = statement.operands.iter().map(String::as_str).collect();
        let &[d, a, b, ref c @ ..] = &operands[..] else { return statement.unsupported() };
        let [a, b] = self.rows([a, b], ty)?;
        let double = Type { bits: ty.bits * 2, ..ty };
        let d = self.row(d, double)?;
        let c = c.first().map(|c| self.row(c, double)).transpose()?;
        let product = move |a: u32, b: u32| {
            if signed { (i64::from(a as i32) * i64::from(b as i32)) as u64 } else { u64::from(a) * u64::from(b) }
        };
        let short = move |a: u32, b: u32| {
            if signed { (i32::from(a as i16) * i32::from(b as i16)) as u32 } else { a * b }
        };
        Ok(match (ty.bits, c) {
            (32, None) => binary(d, a, b, product),
            (32, Some(c)) => ternary(d, a, b, c, move |a, b, c: u64| product(a, b).wrapping_add(c)),
            (16, None) => binary(d, a, b, short),
            (16, Some(c)) => ternary(d, a, b, c, move |a, b, c: u32| short(a, b).wrapping_add(c)),
            _ => return statement.unsupported(),
        })
    }

    fn multiply24(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        let high = statement.has("hi");
        let signed = ty.is_signed();
        let product = move |a: u32, b: u32| {
            let part = |x: u32| if signed { i64::from((x << 8) as i32 >> 8) } else { i64::from(x & 0xff_ffff) };
            ((part(a) * part(b)) >> if high { 16 } else { 0 }) as u32
        };
        if statement.name() == "mul24" {
            let [d, a, b] = self.rows(statement.operands()?, ty)?;
            return Ok(binary(d, a, b, product));
        }
        let [d, a, b, c] = self.rows(statement.operands()?, ty)?;
        Ok(ternary(d, a, b, c, move |a: u32, b: u32, c: u32| product(a, b).wrapping_add(c)))
    }

    fn multiply_add(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        let [d, a, b, c] = self.rows(statement.operands()?, ty)?;
        let mask: u32 = if ty.bits == 16 { 0xffff } else { u32::MAX };
        Ok(match (statement.has("lo"), statement.has("hi"), ty.bits, ty.is_signed()) {
            (true, false, 64, _) => ternary(d, a, b, c, |a: u64, b: u64, c: u64| a.wrapping_mul(b).wrapping_add(c)),
            (true, false, ..) => {
                ternary(d, a, b, c, move |a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c) & mask)
            }
            (false, true, 32, false) => ternary(d, a, b, c, |a: u32, b: u32, c: u32| {
                (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
            }),
            (false, true, 32, true) => ternary(d, a, b, c, |a: u32, b: u32, c: u32| {
                (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c)
            }),
            (false, true, 64, false) => ternary(d, a, b, c, |a: u64, b: u64, c: u64| {
                (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)
            }),
            (false, true, 64, true) => ternary(d, a, b, c, |a: u64, b: u64, c: u64| {
                (((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64).wrapping_add(c)
            }),
            _ => return statement.unsupported(),
        })
    }

    /// Sums with a carry, as long integers need them.
    fn carry(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        let carry = self.carry_row();
        let (takes, gives) = (statement.name().ends_with('c'), statement.has("cc"));
        let bits = ty.bits;
        let high = statement.has("hi");
        let name = statement.name().trim_end_matches('c').to_string();
        let is_subtraction = name == "sub";
        let rows = match name.as_str() {
            "add" | "sub" => {
                let [d, a, b] = self.rows(statement.operands()?, ty)?;
                [d, a, b, b]
            }
            // `madc` without its `c`, and `mad.cc`.
            "mad" => self.rows(statement.operands()?, ty)?,
            _ => return statement.unsupported(),
        };
        if bits < 32 || (name == "mad" && high && ty.is_signed()) {
            return statement.unsupported();
        }
        let [d, a, b, c] = rows;
        let d = crate::rows::Register { bits, row: d };
        let is_product = name == "mad";
        Ok(Box::new(move |m, lanes| {
            lanes.each(|lane| {
                let [a, b, c] = [a, b, c].map(|row| u128::from(crate::rows::get(m, lane, bits, row)));
                let carried = if takes { u128::from(get32(m, lane, carry)) } else { 0 };
                let (a, b) = if is_product {
                    let product = a * b;
                    (if high { product >> bits } else { product & ((1 << bits) - 1) }, c)
                } else {
                    (a, b)
                };
                let sum = if is_subtraction { a.wrapping_sub(b).wrapping_sub(carried) } else { a + b + carried };
                d.set(m, lane, sum as u64);
                if gives {
                    set32(m, lane, carry, (sum >> bits) as u32 & 1);
                }
            });
        }))
    }
}
