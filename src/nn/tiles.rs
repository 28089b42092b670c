//! placeholder
use super::architecture::Vision;
use super::picture::Frame;
use anyhow::Result;
pub(crate) enum Slot {
    Feature(usize),
    Newline,
}
pub(crate) fn slots(vision: &Vision, _: Frame) -> Result<Vec<Slot>> {
    Ok((0..vision.tile_tokens()).map(Slot::Feature).collect())
}
