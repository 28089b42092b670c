//! Images: packs of encoded files, decoding, and the pixel values that a vision tower takes.
//!
//! An *image* is an encoded file or a decoded raster. *Pixel values* are the floats that [`ImageProcessor`]
//! computes from it.

mod animation;
mod anyres;
pub mod decode;
pub(crate) mod exif;
pub(crate) mod jpeg;
mod loader;
mod pack;
mod processor;
mod processor_config;
mod resize;

pub use animation::is_animated;
pub use loader::ImageLoader;
pub use pack::{ImagePacks, PackWriter, image_key};
pub use processor::ImageProcessor;
