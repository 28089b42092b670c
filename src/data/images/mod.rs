//! Images: packs of encoded files, decoding, and the pixel values that a vision tower takes.
//!
//! An *image* is an encoded file or a decoded raster. *Pixel values* are the floats that [`ImageProcessor`]
//! computes from it.

mod animation;
mod anyres;
pub mod decode;
pub(crate) mod exif;
mod families;
pub(crate) mod jpeg;
mod loader;
mod pack;
mod processor;
mod processor_config;
mod processor_fields;
mod resize;
mod shape;

pub use animation::is_animated;
pub(crate) use families::gemma3::placeholder as gemma3_placeholder;
pub use families::qwen2_vl::PatchSizes;
pub use loader::ImageLoader;
pub use pack::{ImagePacks, PackWriter, image_key};
pub use processor::ImageProcessor;
pub use shape::ImageShape;
