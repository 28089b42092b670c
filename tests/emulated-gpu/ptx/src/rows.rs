//! Rows of registers: one value per thread, and the closures that compute one row of others.

use crate::machine::{Lanes, Machine, Step, Word};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Register {
    /// 1, 16, 32 or 64.
    pub(crate) bits: u32,
    pub(crate) row: u32,
}

impl Register {
    #[inline(always)]
    pub(crate) fn get(self, m: &Machine<'_>, lane: usize) -> u64 {
        get(m, lane, self.bits, self.row)
    }

    #[inline(always)]
    pub(crate) fn set(self, m: &Machine<'_>, lane: usize, value: u64) {
        // SAFETY: a row has a value per thread.
        unsafe {
            if self.bits == 64 {
                *u64::row(m, self.row).add(lane) = value;
            } else {
                *u32::row(m, self.row).add(lane) = value as u32;
            }
        }
    }
}

#[inline(always)]
pub(crate) fn get(m: &Machine<'_>, lane: usize, bits: u32, row: u32) -> u64 {
    // SAFETY: a row has a value per thread.
    unsafe { if bits == 64 { *u64::row(m, row).add(lane) } else { u64::from(*u32::row(m, row).add(lane)) } }
}

#[inline(always)]
pub(crate) fn get32(m: &Machine<'_>, lane: usize, row: u32) -> u32 {
    // SAFETY: a row has a value per thread.
    unsafe { *u32::row(m, row).add(lane) }
}

#[inline(always)]
pub(crate) fn set32(m: &Machine<'_>, lane: usize, row: u32, value: u32) {
    // SAFETY: a row has a value per thread.
    unsafe { *u32::row(m, row).add(lane) = value }
}

pub(crate) fn unary<A: Word, D: Word>(d: u32, a: u32, f: impl Fn(A) -> D + Send + Sync + 'static) -> Step {
    Box::new(move |m, lanes| {
        let (d, a) = (D::row(m, d), A::row(m, a));
        // SAFETY: a row has a value per thread.
        lanes.each(|lane| unsafe { *d.add(lane) = f(*a.add(lane)) });
    })
}

pub(crate) fn binary<A: Word, B: Word, D: Word>(
    d: u32,
    a: u32,
    b: u32,
    f: impl Fn(A, B) -> D + Send + Sync + 'static,
) -> Step {
    Box::new(move |m, lanes| {
        let (d, a, b) = (D::row(m, d), A::row(m, a), B::row(m, b));
        // SAFETY: a row has a value per thread.
        lanes.each(|lane| unsafe { *d.add(lane) = f(*a.add(lane), *b.add(lane)) });
    })
}

pub(crate) fn ternary<A: Word, B: Word, C: Word, D: Word>(
    d: u32,
    a: u32,
    b: u32,
    c: u32,
    f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
) -> Step {
    Box::new(move |m, lanes| {
        let (d, a, b, c) = (D::row(m, d), A::row(m, a), B::row(m, b), C::row(m, c));
        // SAFETY: a row has a value per thread.
        lanes.each(|lane| unsafe { *d.add(lane) = f(*a.add(lane), *b.add(lane), *c.add(lane)) });
    })
}

/// `d = a * b + c` of `f32` in one rounding. Uses the CPU's instruction where there is one: the function of the C
/// library takes several times as long.
pub(crate) fn fused_multiply_add(d: u32, a: u32, b: u32, c: u32) -> Step {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
        return Box::new(move |m, lanes| {
            let [d, a, b, c] = [d, a, b, c].map(|row| u32::row(m, row).cast::<f32>());
            // SAFETY: the CPU has these instructions, and a row has a value per thread.
            unsafe {
                match lanes {
                    Lanes::All(n) => fma_all(n, d, a, b, c),
                    Lanes::These(lanes) => fma_these(lanes, d, a, b, c),
                }
            }
        });
    }
    ternary(d, a, b, c, |a: u32, b: u32, c: u32| {
        f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(c)).to_bits()
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn fma_all(n: usize, d: *mut f32, a: *const f32, b: *const f32, c: *const f32) {
    for lane in 0..n {
        // SAFETY: the rows have `n` values.
        unsafe { *d.add(lane) = (*a.add(lane)).mul_add(*b.add(lane), *c.add(lane)) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn fma_these(lanes: &[u32], d: *mut f32, a: *const f32, b: *const f32, c: *const f32) {
    for &lane in lanes {
        let lane = lane as usize;
        // SAFETY: the rows have a value for every lane.
        unsafe { *d.add(lane) = (*a.add(lane)).mul_add(*b.add(lane), *c.add(lane)) };
    }
}
