//! Instructions of a warp: `shfl`, `vote`, `activemask`, `redux`.
//!
//! The lanes of the mask wait for each other before the instruction, so that all of them execute it together.

use crate::machine::{Machine, Step, each_lane};
use crate::rows::{get32, set32};
use crate::statement::{Result, Statement};
use crate::translate::Translator;
use crate::types::U32;

/// Stops if a lane is not in its own mask, or if a lane has another mask.
fn check_mask(m: &mut Machine<'_>, first: usize, active: u32, mask: u32) {
    let mut problem = None;
    each_lane(active, |lane| {
        let own = get32(m, first + lane, mask);
        if own >> lane & 1 == 0 {
            problem =
                Some(format!("lane {lane} executes an instruction of a warp with the mask {own:#x}, which lacks it"));
        }
    });
    if let Some(problem) = problem {
        m.stop(|m| format!("{}: {problem}", m.place()));
    }
}

impl Translator<'_> {
    /// The row with the mask of the lanes that execute an instruction of a warp.
    pub(crate) fn warp_mask(&mut self, statement: &Statement) -> Result<u32> {
        let has_mask = match statement.name() {
            "mma" | "ldmatrix" => false,
            _ => !statement.operands.is_empty(),
        };
        match statement.operands.last() {
            Some(mask) if has_mask => self.narrow(mask, U32),
            _ => Ok(self.constant(u32::MAX)),
        }
    }

    pub(crate) fn shuffle(&mut self, statement: &Statement) -> Result<Step> {
        let modes = ["up", "down", "bfly", "idx"];
        statement.allow(&["sync", "up", "down", "bfly", "idx"])?;
        let mode = statement.one_of(&modes).ok_or("a shuffle without a mode")?;
        let [d, a, b, c, mask] = statement.operands()?;
        let (d, predicate) = d.split_once('|').map_or((d, None), |(d, predicate)| (d, Some(predicate)));
        let d = self.destination(d, 32)?.row;
        let predicate = predicate.map(|name| self.destination(name, 1)).transpose()?.map(|register| register.row);
        let [a, b, c, mask] = self.rows([a, b, c, mask], U32)?;
        Ok(Box::new(move |m, lanes| {
            lanes.each_warp(|first, active| {
                check_mask(m, first, active, mask);
                // A lane that does not execute the instruction has no value: NaN.
                let mut values = [u32::MAX; 32];
                each_lane(active, |lane| values[lane] = get32(m, first + lane, a));
                each_lane(active, |lane| {
                    let (b, c) = (get32(m, first + lane, b) & 31, get32(m, first + lane, c));
                    let (clamp, segment) = (c & 31, c >> 8 & 31);
                    let own = lane as u32;
                    let lowest = own & segment;
                    let last = lowest | (clamp & !segment);
                    let (source, inside) = match mode {
                        "up" => (own.wrapping_sub(b), own as i32 - b as i32 >= last as i32),
                        "down" => (own + b, own + b <= last),
                        "bfly" => (own ^ b, own ^ b <= last),
                        _ => (lowest | (b & !segment), lowest | (b & !segment) <= last),
                    };
                    let source = if inside { source } else { own };
                    set32(m, first + lane, d, values[source as usize]);
                    if let Some(predicate) = predicate {
                        set32(m, first + lane, predicate, u32::from(inside));
                    }
                });
            });
        }))
    }

    pub(crate) fn vote(&mut self, statement: &Statement) -> Result<Step> {
        statement.allow(&["sync", "ballot", "any", "all", "uni"])?;
        if statement.name() == "activemask" {
            let [d] = statement.operands()?;
            let d = self.register(d)?.row;
            return Ok(Box::new(move |m, lanes| {
                lanes.each_warp(|first, active| each_lane(active, |lane| set32(m, first + lane, d, active)));
            }));
        }
        let kind = statement.one_of(&["ballot", "any", "all", "uni"]).ok_or("a vote without a kind")?;
        let [d, predicate, mask] = statement.operands()?;
        let d = self.register(d)?.row;
        let (predicate, negated) = self.predicate(predicate)?;
        let mask = self.narrow(mask, U32)?;
        Ok(Box::new(move |m, lanes| {
            lanes.each_warp(|first, active| {
                check_mask(m, first, active, mask);
                let mut ballot = 0u32;
                each_lane(active, |lane| {
                    ballot |= u32::from((get32(m, first + lane, predicate) != 0) != negated) << lane;
                });
                each_lane(active, |lane| {
                    let voters = active & get32(m, first + lane, mask);
                    let ballot = ballot & voters;
                    let value = match kind {
                        "ballot" => ballot,
                        "any" => u32::from(ballot != 0),
                        "all" => u32::from(ballot == voters),
                        _ => u32::from(ballot == 0 || ballot == voters),
                    };
                    set32(m, first + lane, d, value);
                });
            });
        }))
    }

    pub(crate) fn warp_reduce(&mut self, statement: &Statement) -> Result<Step> {
        let kinds = ["add", "min", "max", "and", "or", "xor"];
        statement.allow(&["sync", "add", "min", "max", "and", "or", "xor"])?;
        let ty = statement.ty()?;
        let kind = statement.one_of(&kinds).ok_or("a reduction without a kind")?;
        let combine: fn(u32, u32) -> u32 = match (kind, ty.is_signed()) {
            ("add", _) => u32::wrapping_add,
            ("min", true) => |a, b| (a as i32).min(b as i32) as u32,
            ("max", true) => |a, b| (a as i32).max(b as i32) as u32,
            ("min", false) => u32::min,
            ("max", false) => u32::max,
            ("and", _) => |a, b| a & b,
            ("or", _) => |a, b| a | b,
            _ => |a, b| a ^ b,
        };
        if ty.is_floating() || ty.bits != 32 {
            return statement.unsupported();
        }
        let [d, a, mask] = self.rows(statement.operands()?, ty)?;
        Ok(Box::new(move |m, lanes| {
            lanes.each_warp(|first, active| {
                check_mask(m, first, active, mask);
                let values: Vec<u32> =
                    (0..32).map(|lane| if active >> lane & 1 != 0 { get32(m, first + lane, a) } else { 0 }).collect();
                each_lane(active, |lane| {
                    let members = active & get32(m, first + lane, mask);
                    let values = (0..32).filter(|&other| members >> other & 1 != 0).map(|other| values[other]);
                    set32(m, first + lane, d, values.reduce(combine).unwrap_or(0));
                });
            });
        }))
    }
}
