//! Models: sizes, weights, operations, devices. Knows no stage, no TOML, no tokenizer and no loss.
//!
//! Everything about dfdx stays in here; no tensor leaves. In reading order: what a model is ([`architecture`], written
//! by a user as [`config`]; `parameters`, [`checkpoint`], [`adapter`]), its inputs ([`pixel_values`], `anyres`, [`batch`]),
//! what it computes (`layers`, `eyes`, `model`), with which operations (`ops`: `fused` for training on the CPU on top of
//! `kernels`, `packed` for generation, `stock` for every device and `steps` to generate with it), and who asks for it (`learner`, `engine`). [`profile`] tells what
//! the operations cost; `cuda` finds the GPUs and opens their libraries.
//!
//! Letters in shapes: `n` tokens of a batch in all, `b` rows, `t` tokens of a row, `d` width, `v` vocabulary, `h` query
//! heads, `k` key heads, `g = h / k`, `w` width of a head.

pub mod adapter;
pub mod architecture;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod hub;
pub mod parameters;
pub mod patterns;
pub mod pixel_values;
pub mod profile;

pub mod infer;
pub mod train;

pub(crate) mod anyres;
pub(crate) mod arrays;
pub(crate) mod at_once;
pub(crate) mod buffer;
pub(crate) mod cache;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod engine;
pub(crate) mod eyes;
pub(crate) mod flops;
pub(crate) mod fused;
pub(crate) mod gradients;
pub(crate) mod kernels;
pub(crate) mod layers;
pub(crate) mod learner;
mod loader;
pub(crate) mod model;
pub(crate) mod ops;
pub(crate) mod packed;
pub(crate) mod shared;
pub(crate) mod steps;
pub(crate) mod stock;

#[cfg(test)]
mod tests;

pub use adapter::{Adapter, LoraConfig};
pub use architecture::Architecture;
pub use batch::{Batch, Sequence};
pub use checkpoint::Checkpoint;
pub use config::{DecoderConfig, ModelConfig, ProjectorConfig, VisionConfig};
pub use device::{Device, DeviceChoice};
pub use parameters::Part;
pub use patterns::Pattern;
pub use pixel_values::{ImageShape, PixelSource, PixelValues};

use ablate_core::base::Progress;

/// What a run may use. None of it changes a result on the CPU.
#[derive(Clone, Copy)]
pub struct Resources<'a> {
    pub device: Device,
    /// At least 1.
    pub threads: usize,
    pub progress: &'a dyn Progress,
}
