//! `setp`, `set`, `selp` and `slct`.

use half::{bf16, f16};

use crate::float::flushed;
use crate::machine::Step;
use crate::rows::{binary, get32, set32, ternary};
use crate::statement::{Result, Statement};
use crate::translate::Translator;
use crate::types::{Kind, Type};

const COMPARISONS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

impl Translator<'_> {
    pub(crate) fn compare(&mut self, statement: &Statement) -> Result<Step> {
        let mut allowed = COMPARISONS.to_vec();
        allowed.extend(["and", "or", "xor", "ftz"]);
        statement.allow(&allowed)?;
        let ty = statement.ty()?;
        let comparison = statement.one_of(COMPARISONS).ok_or("a comparison without a kind")?;
        let combine = statement.one_of(&["and", "or", "xor"]);
        let operands = statement.operands.clone();
        if operands.len() != 3 + usize::from(combine.is_some()) {
            return Err("the number of operands does not fit".to_string());
        }
        let [a, b] = self.rows([&operands[1], &operands[2]], ty)?;
        let is_set = statement.name() == "set";
        if !is_set && combine.is_none() && !operands[0].contains('|') {
            let d = self.register(&operands[0])?.row;
            return comparison_step(comparison, ty, statement.has("ftz"), d, a, b);
        }
        // The comparison goes to a row of its own, and is combined with the rest in a second step.
        let raw = self.narrow_row();
        let first = comparison_step(comparison, ty, statement.has("ftz"), raw, a, b)?;
        let other = if combine.is_some() { Some(self.predicate(&operands[3])?) } else { None };
        let combined = move |value: bool, other: bool| match combine {
            Some("and") => value && other,
            Some("or") => value || other,
            Some(_) => value != other,
            None => value,
        };
        let (d, complement) = operands[0].split_once('|').map_or((operands[0].as_str(), None), |(d, q)| (d, Some(q)));
        let d = self.destination(d, 32)?.row;
        let complement = complement.map(|q| self.destination(q, 32)).transpose()?.map(|register| register.row);
        // `set` writes a number instead of a predicate.
        let yes = match statement.types()[..] {
            [to, _] if is_set && to.is(Kind::Float, 32) => 1f32.to_bits(),
            [to, _] if is_set && to.is(Kind::Float, 16) => u32::from(f16::ONE.to_bits()),
            [to, _] if is_set && to.is(Kind::Bfloat, 16) => u32::from(bf16::ONE.to_bits()),
            [to, _] if is_set && to.bits == 32 && !to.is_floating() => u32::MAX,
            _ if is_set => return statement.unsupported(),
            _ => 1,
        };
        Ok(Box::new(move |m, lanes| {
            first(m, lanes);
            lanes.each(|lane| {
                let value = get32(m, lane, raw) != 0;
                let other = other.is_some_and(|(row, negated)| (get32(m, lane, row) != 0) != negated);
                if let Some(complement) = complement {
                    set32(m, lane, complement, u32::from(combined(!value, other)));
                }
                set32(m, lane, d, if combined(value, other) { yes } else { 0 });
            });
        }))
    }

    pub(crate) fn select(&mut self, statement: &Statement) -> Result<Step> {
        statement.allow(&["ftz"])?;
        let [d, a, b, c] = statement.operands()?;
        if statement.name() == "slct" {
            let (&[ty, sign], true) = (&statement.types()[..], statement.operands.len() == 4) else {
                return statement.unsupported();
            };
            let [d, a, b] = self.rows([d, a, b], ty)?;
            let c = self.row(c, sign)?;
            let is_positive: fn(u32) -> bool = match (sign.kind, sign.bits) {
                (Kind::Signed, 32) => |c| c as i32 >= 0,
                (Kind::Float, 32) => |c| f32::from_bits(c) >= 0.0,
                _ => return statement.unsupported(),
            };
            return Ok(if ty.is_wide() {
                ternary(d, a, b, c, move |a: u64, b: u64, c: u32| if is_positive(c) { a } else { b })
            } else {
                ternary(d, a, b, c, move |a: u32, b: u32, c: u32| if is_positive(c) { a } else { b })
            });
        }
        let ty = statement.ty()?;
        let (flag, negated) = self.predicate(c)?;
        let [d, a, b] = self.rows([d, a, b], ty)?;
        let (a, b) = if negated { (b, a) } else { (a, b) };
        Ok(if ty.is_wide() {
            ternary(d, a, b, flag, |a: u64, b: u64, flag: u32| if flag != 0 { a } else { b })
        } else {
            ternary(d, a, b, flag, |a: u32, b: u32, flag: u32| if flag != 0 { a } else { b })
        })
    }
}

fn comparison_step(comparison: &str, ty: Type, flush: bool, d: u32, a: u32, b: u32) -> Result<Step> {
    macro_rules! compared {
        ($word:ty, |$x:ident| $read:expr, |$a:ident, $b:ident| $value:expr) => {{
            let read = move |$x: $word| $read;
            Ok(binary(d, a, b, move |a: $word, b: $word| {
                let ($a, $b) = (read(a), read(b));
                u32::from($value)
            }))
        }};
    }
    macro_rules! by_type {
        (|$a:ident, $b:ident| $value:expr) => {
            match (ty.kind, ty.bits) {
                (Kind::Float, 32) if flush => compared!(u32, |x| flushed(f32::from_bits(x), true), |$a, $b| $value),
                (Kind::Float, 32) => compared!(u32, |x| f32::from_bits(x), |$a, $b| $value),
                (Kind::Float, 64) => compared!(u64, |x| f64::from_bits(x), |$a, $b| $value),
                (Kind::Float, 16) => compared!(u32, |x| f16::from_bits(x as u16).to_f32(), |$a, $b| $value),
                (Kind::Bfloat, 16) => compared!(u32, |x| bf16::from_bits(x as u16).to_f32(), |$a, $b| $value),
                (Kind::Signed, 16) => compared!(u32, |x| x as i16, |$a, $b| $value),
                (Kind::Signed, 32) => compared!(u32, |x| x as i32, |$a, $b| $value),
                (Kind::Signed, 64) => compared!(u64, |x| x as i64, |$a, $b| $value),
                (Kind::Unsigned | Kind::Bits, 16) => compared!(u32, |x| x as u16, |$a, $b| $value),
                (Kind::Unsigned | Kind::Bits, 32) => compared!(u32, |x| x, |$a, $b| $value),
                (Kind::Unsigned | Kind::Bits, 64) => compared!(u64, |x| x, |$a, $b| $value),
                _ => Err("a comparison of this type is not supported".to_string()),
            }
        };
    }
    // With a `u` at the end, the comparison is also true if one of the two is NaN.
    #[expect(
        clippy::neg_cmp_op_on_partial_ord,
        clippy::nonminimal_bool,
        clippy::double_comparisons,
        reason = "NaN compares so"
    )]
    #[expect(clippy::eq_op, clippy::float_cmp, reason = "the comparisons are PTX's")]
    match comparison {
        "eq" => by_type!(|a, b| a == b),
        "ne" if ty.kind != Kind::Float && ty.kind != Kind::Bfloat => by_type!(|a, b| a != b),
        "ne" => by_type!(|a, b| a < b || a > b),
        "lt" | "lo" => by_type!(|a, b| a < b),
        "le" | "ls" => by_type!(|a, b| a <= b),
        "gt" | "hi" => by_type!(|a, b| a > b),
        "ge" | "hs" => by_type!(|a, b| a >= b),
        "equ" => by_type!(|a, b| !(a < b || a > b)),
        "neu" => by_type!(|a, b| a != b),
        "ltu" => by_type!(|a, b| !(a >= b)),
        "leu" => by_type!(|a, b| !(a > b)),
        "gtu" => by_type!(|a, b| !(a <= b)),
        "geu" => by_type!(|a, b| !(a < b)),
        "num" => by_type!(|a, b| a == a && b == b),
        "nan" => by_type!(|a, b| a != a || b != b),
        other => Err(format!("a comparison by `{other}` is not supported")),
    }
}
