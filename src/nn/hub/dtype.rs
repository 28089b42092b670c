//! The number types of weights in files.

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// The number type of a stored array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    F32,
    F16,
    BF16,
}

impl Dtype {
    /// Bytes per number.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
        }
    }

    /// Appends the numbers of `bytes` exactly. An incomplete number at the end is ignored.
    pub(super) fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Dtype::F32 => values.extend(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
            Dtype::F16 => values.extend(bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32())),
            Dtype::BF16 => values.extend(bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32())),
        }
    }

    /// Appends the bytes of numbers, rounded to the nearest, ties to even.
    pub(super) fn encode(self, values: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Dtype::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Dtype::F16 => bytes.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
            Dtype::BF16 => bytes.extend(values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes())),
        }
    }

    /// The value after rounding to this type.
    pub(super) fn round(self, value: f32) -> f32 {
        match self {
            Dtype::F32 => value,
            Dtype::F16 => f16::from_f32(value).to_f32(),
            Dtype::BF16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Whether this type stores every value exactly.
    pub fn fits(self, values: &[f32]) -> bool {
        values.iter().all(|value| self.round(*value).to_bits() == value.to_bits())
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
        })
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the results are exact")]
mod tests {
    use super::*;

    /// A 16-bit number by its definition: sign, exponent of `wide` bits, fraction.
    fn by_definition(bits: u16, wide: u32) -> f64 {
        let fraction_bits = 15 - wide;
        let exponent = i32::from((bits & 0x7fff) >> fraction_bits);
        let fraction = f64::from(bits & ((1 << fraction_bits) - 1)) / f64::from(1 << fraction_bits);
        let bias = (1 << (wide - 1)) - 1;
        let size = match exponent {
            0 => fraction * 2f64.powi(1 - bias),
            _ if exponent == 2 * bias + 1 => match fraction {
                0.0 => f64::INFINITY,
                _ => f64::NAN,
            },
            _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
        };
        if bits >> 15 == 1 { -size } else { size }
    }

    #[test]
    fn all_16_bit_numbers_round_trip() {
        for (dtype, wide) in [(Dtype::F16, 5), (Dtype::BF16, 8)] {
            for bits in 0..=u16::MAX {
                let mut values = Vec::new();
                dtype.decode(&bits.to_le_bytes(), &mut values);
                let expected = by_definition(bits, wide);
                if expected.is_nan() {
                    assert!(values[0].is_nan());
                    continue;
                }
                assert_eq!(f64::from(values[0]).to_bits(), expected.to_bits(), "{dtype} {bits:#06x}");
                assert!(dtype.fits(&values));
                let mut bytes = Vec::new();
                dtype.encode(&values, &mut bytes);
                assert_eq!(bytes, bits.to_le_bytes());
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        for (dtype, wide) in [(Dtype::F16, 5), (Dtype::BF16, 8)] {
            let infinity = ((1u16 << wide) - 1) << (15 - wide);
            for bits in 0..infinity - 1 {
                let (low, high) = (by_definition(bits, wide), by_definition(bits + 1, wide));
                let middle = low.midpoint(high) as f32;
                // The middle has one more bit, which f32 holds unless it is subnormal in both types.
                if f64::from(middle) == low.midpoint(high) {
                    let even = if bits % 2 == 0 { low } else { high };
                    assert_eq!(f64::from(dtype.round(middle)), even, "{dtype} {bits:#06x}");
                    assert_eq!(f64::from(dtype.round(middle.next_down())), low);
                    assert_eq!(f64::from(dtype.round(middle.next_up())), high);
                    assert!(!dtype.fits(&[middle]));
                }
            }
        }
        assert_eq!(Dtype::F16.round(65_519.0), 65_504.0);
        assert_eq!(Dtype::F16.round(65_520.0), f32::INFINITY);
        assert_eq!(Dtype::BF16.round(f32::MAX), f32::INFINITY);
    }
}
