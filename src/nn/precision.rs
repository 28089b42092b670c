//! The number types of a computation.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The number types of products and activations. Weights that learn, their gradients and moments, sums, norms and losses are
/// always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32 throughout.
    #[default]
    F32,
    /// As `f32`, but the factors of matrix products are rounded to TF32's 10 bits of mantissa.
    Tf32,
    /// Factors and results of matrix products are bf16 (8 bits of mantissa), summed in f32. The residual stream is f32.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        })
    }
}
