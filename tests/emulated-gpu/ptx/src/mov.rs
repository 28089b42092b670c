//! `mov`, also of a register into its parts and back.

use crate::machine::{Step, Word};
use crate::rows::{Register, binary, unary};
use crate::statement::{Result, Statement, elements};
use crate::translate::Translator;
use crate::types::{Kind, Type};

impl Translator<'_> {
    pub(crate) fn mov(&mut self, statement: &Statement) -> Result<Step> {
        statement.allow(&[])?;
        let ty = statement.ty()?;
        let [d, a] = statement.operands()?;
        match (d.starts_with('{'), a.starts_with('{')) {
            (false, false) => {
                let [d, a] = self.rows([d, a], ty)?;
                Ok(if ty.is_wide() { unary(d, a, |a: u64| a) } else { unary(d, a, |a: u32| a) })
            }
            (false, true) => self.pack(d, &elements(a), ty.bits),
            (true, false) => self.unpack(&elements(d), a, ty.bits),
            (true, true) => statement.unsupported(),
        }
    }

    fn pack(&mut self, d: &str, parts: &[String], bits: u32) -> Result<Step> {
        let d = self.register(d)?;
        let width = part_width(parts, bits)?;
        let ty = Type { kind: Kind::Bits, bits: width };
        let parts = parts.iter().map(|part| self.narrow(part, ty)).collect::<Result<Vec<_>>>()?;
        match (bits, &parts[..]) {
            (32, &[low, high]) => {
                return Ok(binary(d.row, low, high, |low: u32, high: u32| (low & 0xffff) | high << 16));
            }
            (64, &[low, high]) => {
                return Ok(binary(d.row, low, high, |low: u32, high: u32| u64::from(low) | u64::from(high) << 32));
            }
            _ => {}
        }
        let mask = u64::MAX >> (64 - width);
        Ok(Box::new(move |m, lanes| {
            lanes.each(|lane| {
                let part = |row: &u32| u64::from(crate::rows::get32(m, lane, *row)) & mask;
                let value = parts.iter().rev().fold(0, |value, row| value << width | part(row));
                d.set(m, lane, value);
            });
        }))
    }

    fn unpack(&mut self, parts: &[String], a: &str, bits: u32) -> Result<Step> {
        let width = part_width(parts, bits)?;
        let ty = Type { kind: Kind::Bits, bits };
        let a = Register { bits, row: self.row(a, ty)? };
        let parts = parts.iter().map(|part| self.destination(part, width)).collect::<Result<Vec<_>>>()?;
        if let (32, &[low, high]) = (bits, &parts[..]) {
            // A part may be in the register that is taken apart: both are read first.
            return Ok(Box::new(move |m, lanes| {
                let [a, low, high] = [a, low, high].map(|register| u32::row(m, register.row));
                lanes.each(|lane| {
                    // SAFETY: a row has a value per thread.
                    unsafe {
                        let value = *a.add(lane);
                        *low.add(lane) = value & 0xffff;
                        *high.add(lane) = value >> 16;
                    }
                });
            }));
        }
        let mask = u64::MAX >> (64 - width);
        Ok(Box::new(move |m, lanes| {
            lanes.each(|lane| {
                let value = a.get(m, lane);
                for (part, shift) in parts.iter().zip((0..).step_by(width as usize)) {
                    part.set(m, lane, value >> shift & mask);
                }
            });
        }))
    }
}

fn part_width(parts: &[String], bits: u32) -> Result<u32> {
    match (bits, parts.len()) {
        (64 | 32, 2) | (64, 4) => Ok(bits / parts.len() as u32),
        // The bytes of 32 bits stand in registers of 16 bits.
        (32, 4) => Ok(8),
        _ => Err(format!("{bits} bits of {} parts are not supported", parts.len())),
    }
}
