//! Models: sizes, weights, operations, devices, training and generation.
//!
//! In reading order:
//! - what a model consists of: [`architecture`] (sizes; a user writes them as [`config`]), `parameters` (names and shapes),
//!   [`checkpoint`], [`adapter`] (LoRA);
//! - what it reads: [`pixel_values`], `anyres`, `mrope`, `key_ranges`, `patch_order`, `position_grid`, [`batch`];
//! - what it computes: `layers`, `vision_tower` (of `vit` or `dynamic_vit`, and `projector`, `patch_merger`), `deepstack`,
//!   `decoder_attention`, `model`, all over the trait `ops`;
//! - how it computes: `cpu` and `cuda::ops` (our kernels), and `dfdx` (dfdx's kernels, the reference of both in tests), in the
//!   number types of a [`precision`];
//! - who calls it: [`optimizer`] and `session` (training and scoring), [`train`], [`infer`].
//!
//! [`profile`] measures what the operations cost on the CPU; [`cost`] computes what a pass costs on a GPU, without one. `cuda` also
//! finds the GPUs and opens their libraries. No tensor type of dfdx is public.
//!
//! Letters in shapes: `n` tokens of a batch in all, `b` rows, `t` tokens of a row, `d` width, `v` vocabulary, `h` query
//! heads, `k` key heads, `g = h / k`, `w` width of a head.

pub mod adapter;
pub mod architecture;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod cost;
pub mod device;
pub mod hub;
pub mod optimizer;
pub mod parameters;
pub mod patterns;
pub mod pixel_values;
pub mod precision;
pub mod profile;

pub mod infer;
pub mod train;

pub(crate) mod anyres;
pub(crate) mod arrays;
pub(crate) mod auto_batch;
pub(crate) mod buffer;
pub(crate) mod cpu;
mod cuda;
mod decoder_attention;
mod deepstack;
pub(crate) mod device_error;
#[cfg(test)]
pub(crate) mod dfdx;
pub(crate) mod dropout;
mod dynamic_vit;
pub(crate) mod flops;
mod gpu_survey;
pub(crate) mod gradients;
pub(crate) mod kernels;
mod key_ranges;
pub(crate) mod layers;
mod loader;
pub(crate) mod model;
mod mrope;
pub(crate) mod ops;
mod patch_merger;
mod patch_order;
mod position_grid;
mod projector;
pub(crate) mod session;
pub(crate) mod trainable_model;
pub(crate) mod vision_tower;
mod vit;

#[cfg(test)]
mod tests;

pub use ablate_data::images::ImageShape;
pub use adapter::{Adapter, LoraConfig};
pub use architecture::Architecture;
pub use batch::{Batch, Sequence};
pub use checkpoint::Checkpoint;
pub use config::{DecoderConfig, ModelConfig, ProjectorConfig, VisionConfig};
pub use device::{Device, DeviceChoice};
pub use parameters::ParamGroup;
pub use patterns::Pattern;
pub use pixel_values::{PixelSource, PixelValues};
pub use precision::Precision;

use anyhow::{Result, bail};

use ablate_core::base::Progress;

/// What a run may use. On the CPU none of it changes a result.
#[derive(Clone, Copy)]
pub struct Resources<'a> {
    pub device: Device,
    /// The CPU computes in [`Precision::F32`] only.
    pub precision: Precision,
    /// At least 1.
    pub threads: usize,
    pub progress: &'a dyn Progress,
}

impl Resources<'_> {
    /// An error if the device does not compute in this precision.
    pub fn check(&self) -> Result<()> {
        if self.device == Device::Cpu && self.precision != Precision::F32 {
            bail!("precision `{}` needs a GPU: the CPU computes in `f32`", self.precision);
        }
        Ok(())
    }
}
