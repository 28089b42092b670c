//! Arithmetic of `f16` and bfloat16, also of pairs in 32 bits. Computed as `f64` and rounded once.

use half::{bf16, f16};

use crate::float::NAN16;
use crate::machine::Step;
use crate::rows::{get32, set32};
use crate::statement::{Result, Statement};
use crate::translate::Translator;
use crate::types::{Kind, Type};

type Operation = fn([f64; 3]) -> f64;

impl Translator<'_> {
    pub(crate) fn half_float(&mut self, statement: &Statement, ty: Type) -> Result<Step> {
        statement.allow(&["rn", "ftz", "approx", "NaN", "relu"])?;
        let (operation, count): (Operation, usize) = match statement.name() {
            "add" => (|[a, b, _]| a + b, 2),
            "sub" => (|[a, b, _]| a - b, 2),
            "mul" => (|[a, b, _]| a * b, 2),
            "fma" => (|[a, b, c]| a.mul_add(b, c), 3),
            "min" if statement.has("NaN") => {
                (|[a, b, _]| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }, 2)
            }
            "max" if statement.has("NaN") => {
                (|[a, b, _]| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }, 2)
            }
            "min" => (|[a, b, _]| a.min(b), 2),
            "max" => (|[a, b, _]| a.max(b), 2),
            "neg" => (|[a, ..]| -a, 1),
            "abs" => (|[a, ..]| a.abs(), 1),
            "ex2" => (|[a, ..]| a.exp2(), 1),
            "tanh" => (|[a, ..]| a.tanh(), 1),
            _ => return statement.unsupported(),
        };
        if statement.operands.len() != count + 1 {
            return Err(format!("{} operands are needed", count + 1));
        }
        let relu = statement.has("relu");
        let is_bfloat = matches!(ty.kind, Kind::Bfloat | Kind::BfloatPair);
        let read = move |bits: u32| {
            if is_bfloat { bf16::from_bits(bits as u16).to_f64() } else { f16::from_bits(bits as u16).to_f64() }
        };
        let write = move |value: f64| {
            let value = if relu && !value.is_nan() { value.max(0.0) } else { value };
            if value.is_nan() {
                NAN16 as u32
            } else if is_bfloat {
                u32::from(bf16::from_f64(value).to_bits())
            } else {
                u32::from(f16::from_f64(value).to_bits())
            }
        };
        let d = self.destination(statement.operand(0)?, ty.bits)?.row;
        let mut sources = Vec::new();
        for operand in &statement.operands[1..] {
            sources.push(self.narrow(operand, ty)?);
        }
        let is_pair = ty.bits == 32;
        Ok(Box::new(move |m, lanes| {
            lanes.each(|lane| {
                let mut bits = [0; 3];
                for (bits, row) in bits.iter_mut().zip(&sources) {
                    *bits = get32(m, lane, *row);
                }
                let low = write(operation(bits.map(read)));
                let high = if is_pair { write(operation(bits.map(|bits| read(bits >> 16)))) } else { 0 };
                set32(m, lane, d, high << 16 | low);
            });
        }))
    }
}
