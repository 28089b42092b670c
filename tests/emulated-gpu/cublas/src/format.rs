//! The formats of matrices.

use half::{bf16, f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    Bf16,
}

impl Format {
    /// Of a `cudaDataType`.
    pub(crate) fn of(code: u32) -> Option<Format> {
        match code {
            0 => Some(Format::F32),
            2 => Some(Format::F16),
            14 => Some(Format::Bf16),
            _ => None,
        }
    }

    pub(crate) fn bytes(self) -> u64 {
        if self == Format::F32 { 4 } else { 2 }
    }

    /// # Safety
    /// The address has an element at the index.
    pub(crate) unsafe fn read(self, start: u64, index: usize) -> f32 {
        // SAFETY: the caller says so.
        unsafe {
            match self {
                Format::F32 => (start as *const f32).add(index).read_unaligned(),
                Format::F16 => (start as *const f16).add(index).read_unaligned().to_f32(),
                Format::Bf16 => (start as *const bf16).add(index).read_unaligned().to_f32(),
            }
        }
    }

    /// # Safety
    /// The address has an element at the index.
    pub(crate) unsafe fn write(self, start: u64, index: usize, value: f32) {
        // SAFETY: the caller says so.
        unsafe {
            match self {
                Format::F32 => (start as *mut f32).add(index).write_unaligned(value),
                Format::F16 => (start as *mut f16).add(index).write_unaligned(f16::from_f32(value)),
                Format::Bf16 => (start as *mut bf16).add(index).write_unaligned(bf16::from_f32(value)),
            }
        }
    }
}

/// Rounds to the 10 bits of mantissa of TF32, to the nearest.
pub(crate) fn to_tf32(value: f32) -> f32 {
    if !value.is_finite() {
        return value;
    }
    let bits = value.to_bits();
    // Half of the last place that stays, and a tie goes to the even number.
    f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "results are exact")]
    fn tf32_has_10_bits_of_mantissa() {
        assert_eq!(to_tf32(1.0 + 1.0 / 1024.0), 1.0 + 1.0 / 1024.0);
        assert_eq!(to_tf32(1.0 + 1.0 / 2048.0), 1.0);
        assert_eq!(to_tf32(1.0 + 3.0 / 2048.0), 1.0 + 2.0 / 1024.0);
        assert!(to_tf32(f32::NAN).is_nan());
    }
}
