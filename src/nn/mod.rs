//! Models: sizes, weights, operations, devices. Knows no stage, no TOML, no tokenizer and no loss.
//!
//! Everything about dfdx stays in here and in `train` and `infer`; no tensor leaves these three. In reading order:
//! what a model is ([`config`], `parameters`, [`checkpoint`]), what it eats ([`batch`]), what it computes (`model`),
//! with which operations (`ops`: `stock` for every device, `fused` for the CPU on top of `kernels`).
//!
//! Letters in shapes: `n` tokens of a batch in all, `b` rows, `t` tokens of a row, `d` width, `v` vocabulary, `h` query
//! heads, `k` key heads, `g = h / k`, `w` width of a head.

pub mod architecture;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod parameters;
pub mod picture;

pub(crate) mod arrays;
pub(crate) mod engine;
pub(crate) mod flops;
pub(crate) mod fused;
pub(crate) mod kernels;
pub(crate) mod model;
pub(crate) mod ops;
pub(crate) mod raw;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod stock;
pub(crate) mod tiles;

pub use architecture::Architecture;
pub use batch::{Batch, Sequence};
pub use checkpoint::Checkpoint;
pub use config::{DecoderConfig, ModelConfig, ProjectorConfig, VisionConfig};
pub use device::{Device, DeviceChoice};
pub use parameters::Part;
pub use picture::{Frame, Picture, PixelSource};

use crate::base::Progress;

/// What a run may use. None of it changes a result on the CPU.
#[derive(Clone, Copy)]
pub struct Resources<'a> {
    pub device: Device,
    /// At least 1.
    pub threads: usize,
    pub progress: &'a dyn Progress,
}
