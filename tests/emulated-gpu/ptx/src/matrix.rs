//! `mma` and `ldmatrix`: matrices whose elements are spread over the lanes of a warp.
//!
//! The layouts are those of the PTX manual, "Matrix Fragments for mma.m16n8k16" and its siblings. A lane is in group
//! `lane / 4` and has position `lane % 4` within it.

use half::{bf16, f16};

use crate::machine::Step;
use crate::memory::READ;
use crate::rows::{Register, get32, set32};
use crate::space::{Space, address_of};
use crate::statement::{Result, Statement, elements};
use crate::translate::Translator;
use crate::types::{Kind, Type};

/// The type of the factors, as it lies in registers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Bfloat,
    Half,
    Tf32,
}

impl Format {
    /// Elements in a register.
    fn per_register(self) -> usize {
        if self == Format::Tf32 { 1 } else { 2 }
    }

    fn read(self, register: u32, index: usize) -> f32 {
        let bits = (register >> (16 * index)) as u16;
        match self {
            Format::Bfloat => bf16::from_bits(bits).to_f32(),
            Format::Half => f16::from_bits(bits).to_f32(),
            // The lowest 13 bits are ignored.
            Format::Tf32 => f32::from_bits(register & !0x1fff),
        }
    }
}

impl Translator<'_> {
    pub(crate) fn matrix_multiply(&mut self, statement: &Statement) -> Result<Step> {
        statement.allow(&["sync", "aligned", "m16n8k16", "m16n8k8", "row", "col"])?;
        let shape = statement.one_of(&["m16n8k16", "m16n8k8"]).ok_or("the shape is not supported")?;
        let float = Type { kind: Kind::Float, bits: 32 };
        let format = match statement.types()[..] {
            [d, a, b, c] if d == float && c == float && a == b => match (a.kind, a.bits) {
                (Kind::Bfloat, 16) => Format::Bfloat,
                (Kind::Float, 16) => Format::Half,
                (Kind::Tf32, 32) => Format::Tf32,
                _ => return statement.unsupported(),
            },
            _ => return statement.unsupported(),
        };
        if !statement.code.contains(".row.col.") || (format == Format::Tf32 && shape == "m16n8k16") {
            return statement.unsupported();
        }
        let k = if shape == "m16n8k16" { 16 } else { 8 };
        let per = format.per_register();
        // The matrices as lists of rows of registers.
        let [d, a, b, c] = statement.operands()?;
        let mut fragment = |operand: &str, count: usize| -> Result<Vec<u32>> {
            let names = elements(operand);
            if names.len() != count {
                return Err(format!("a matrix of {count} registers is needed"));
            }
            names.iter().map(|name| self.narrow(name, float)).collect()
        };
        let a = fragment(a, 16 * k / 32 / per)?;
        let b = fragment(b, 8 * k / 32 / per)?;
        let (c, d) = (fragment(c, 4)?, fragment(d, 4)?);
        Ok(Box::new(move |m, lanes| {
            lanes.each_warp(|first, active| {
                if active != u32::MAX {
                    m.stop(|m| format!("{}: `mma` is not executed by all lanes of a warp", m.place()));
                    return;
                }
                let (mut left, mut right) = ([[0f64; 16]; 16], [[0f64; 8]; 16]);
                for lane in 0..32 {
                    let (group, position) = (lane / 4, lane % 4);
                    for (index, row) in a.iter().enumerate() {
                        let bits = get32(m, first + lane, *row);
                        for part in 0..per {
                            let column = index / 2 * 4 * per + position * per + part;
                            left[group + index % 2 * 8][column] = f64::from(format.read(bits, part));
                        }
                    }
                    for (index, row) in b.iter().enumerate() {
                        let bits = get32(m, first + lane, *row);
                        for part in 0..per {
                            right[index * 4 * per + position * per + part][group] = f64::from(format.read(bits, part));
                        }
                    }
                }
                for lane in 0..32 {
                    let (group, position) = (lane / 4, lane % 4);
                    let sums: [u32; 4] = std::array::from_fn(|index| {
                        let (i, j) = (group + index / 2 * 8, position * 2 + index % 2);
                        let sum = (0..k).map(|k| left[i][k] * right[k][j]).sum::<f64>();
                        let start = f64::from(f32::from_bits(get32(m, first + lane, c[index])));
                        ((start + sum) as f32).to_bits()
                    });
                    for (row, sum) in d.iter().zip(sums) {
                        set32(m, first + lane, *row, sum);
                    }
                }
            });
        }))
    }

    /// Lane `8 * i + j` has the address of row `j` of matrix `i`; every lane receives two elements of each matrix.
    pub(crate) fn load_matrix(&mut self, statement: &Statement) -> Result<Step> {
        statement.allow(&["sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta"])?;
        let [targets, address] = statement.operands()?;
        let count = match statement.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some("x4") => 4,
            _ => return statement.unsupported(),
        };
        if !statement.has("m8n8") || !statement.ty()?.is(Kind::Bits, 16) {
            return statement.unsupported();
        }
        let space = Space::of(statement)?;
        let targets = elements(targets).iter().map(|name| self.register(name)).collect::<Result<Vec<Register>>>()?;
        if targets.len() != count {
            return Err(format!("{count} registers are needed"));
        }
        let address = self.address(address)?;
        let transposed = statement.has("trans");
        Ok(Box::new(move |m, lanes| {
            lanes.each_warp(|first, active| {
                if active != u32::MAX {
                    m.stop(|m| format!("{}: `ldmatrix` is not executed by all lanes of a warp", m.place()));
                    return;
                }
                let mut known = (0, 0);
                for (matrix, target) in targets.iter().enumerate() {
                    let mut rows = [[0u16; 8]; 8];
                    for (row, values) in rows.iter_mut().enumerate() {
                        let lane = first + matrix * 8 + row;
                        let address = address_of(m, address, lane);
                        let Some(pointer) = space.pointer(m, address, 16, READ, lane, &mut known) else { return };
                        // SAFETY: `pointer` has 16 bytes and is aligned to them.
                        *values = unsafe { pointer.cast::<[u16; 8]>().read() };
                    }
                    for lane in 0..32 {
                        let (group, position) = (lane / 4, lane % 4 * 2);
                        let [low, high] = [position, position + 1]
                            .map(|at| u32::from(if transposed { rows[at][group] } else { rows[group][at] }));
                        set32(m, first + lane, target.row, high << 16 | low);
                    }
                }
            });
        }))
    }
}
