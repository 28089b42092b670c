//! Images, sizes and folders for the tests of several modules.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use crate::{
    DecoderConfig, Device, ImageShape, ModelConfig, PixelSource, PixelValues, Precision, ProjectorConfig, Resources,
    VisionConfig,
};
use ablate_core::base::progress::NoProgress;

pub(crate) const RESOURCES: Resources =
    Resources { device: Device::Cpu, precision: Precision::F32, threads: 1, progress: &NoProgress };

/// A folder or file below `tests/golden`.
pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name)
}

/// A folder below `ABLATE_PARITY`, or in the repository.
pub(crate) fn parity(name: &str) -> PathBuf {
    std::env::var_os("ABLATE_PARITY").map_or_else(|| golden(name), |root| PathBuf::from(root).join(name))
}

pub(crate) fn small_config() -> ModelConfig {
    let decoder =
        DecoderConfig { dim: 32, layers: 2, heads: 4, kv_heads: 2, ff: 48, max_positions: 64, ..Default::default() };
    ModelConfig {
        image_size: 8,
        patch_size: 4,
        vision: VisionConfig { dim: 16, layers: 1, heads: 2, ff: 24 },
        projector: ProjectorConfig { hidden: 16 },
        decoder,
    }
}

/// Images of 8 x 8 pixels: a ramp that starts at the number in the key.
pub(crate) struct Ramps;

impl PixelSource for Ramps {
    fn shape(&self, _: &str) -> Result<ImageShape> {
        Ok(ImageShape::single(8, 8, 8))
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        let start: usize = key.parse()?;
        let values: Arc<[f32]> = (0..8 * 8 * 3).map(|i| ((i + 37 * start) % 64) as f32 / 32.0 - 1.0).collect();
        Ok(PixelValues { shape: self.shape(key)?, values })
    }
}
