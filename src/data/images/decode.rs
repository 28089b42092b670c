//! Decodes PNG, JPEG, WebP, GIF and BMP to 8-bit RGB. Of an animation, the first frame is decoded.
//!
//! Transparent pixels are composited on white, bit for bit as in Hugging Face's `convert_to_rgb` (transformers 5.24).
//! JPEG decoders differ from each other by one or two levels. Images are rotated according to their EXIF orientation
//! (`ImageOps.exif_transpose`).

use std::io::{Cursor, Read};
use std::ops::Deref;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

use super::jpeg::{self, MAX_PIXELS};
use ablate_core::base::files;

/// Maximum width and height of an image; a larger one is refused before decoding.
pub(super) const MAX_SIDE: u32 = 16_384;
/// Images with more pixels are decoded one at a time, because decoding takes up to 9 bytes per pixel.
const LARGE_PIXELS: u64 = 1 << 23;
/// Memory limit for data other than pixels, such as a compressed colour profile.
const MAX_METADATA: u64 = 1 << 25;
/// Maximum size of an encoded file.
pub const MAX_FILE: u64 = 1 << 28;

/// Held while a large image is decoded and used.
static LARGE_IMAGE: Mutex<()> = Mutex::new(());

/// A decoded image. While a large one exists, no other large one is decoded.
#[derive(Debug)]
pub struct DecodedImage {
    image: RgbImage,
    _guard: Option<MutexGuard<'static, ()>>,
}

impl Deref for DecodedImage {
    type Target = RgbImage;

    fn deref(&self) -> &RgbImage {
        &self.image
    }
}

/// How 16-bit samples are converted to 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DepthConversion {
    /// Rounded to the nearest level.
    Nearest,
    /// As Pillow's `convert`: the high byte of colour samples; grey samples are clamped to 255.
    Pillow,
}

/// Reads an encoded file within the size limit.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let failed = |error| anyhow!("cannot read `{}`: {error}", path.display());
    files::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("is larger than {} MiB", MAX_FILE >> 20);
    }
    Ok(bytes)
}

/// Reads the first bytes of an encoded file.
pub(crate) fn read_head(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let failed = |error| anyhow!("cannot read `{}`: {error}", path.display());
    files::open(path)?.take(64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Decodes an image and applies its EXIF orientation. A truncated, damaged or too large image is an error.
pub fn decode(bytes: &[u8], conversion: DepthConversion) -> Result<DecodedImage> {
    let (mut decoder, format) = open(bytes)?;
    let (width, height) = decoder.dimensions();
    let large = u64::from(width) * u64::from(height) > LARGE_PIXELS;
    let guard = large.then(|| LARGE_IMAGE.lock().unwrap_or_else(PoisonError::into_inner));
    if format == ImageFormat::Jpeg {
        jpeg::check_complete(bytes).map_err(|what| anyhow!("cannot be decoded: {what}"))?;
    }
    let undecodable = |error| anyhow!("cannot be decoded: {error}");
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    let image = if conversion == DepthConversion::Pillow { pillow_depth(image) } else { image };
    Ok(DecodedImage { image: composite_on_white(image), _guard: guard })
}

/// Width and height of an image after EXIF orientation, from its header.
pub fn dimensions(bytes: &[u8]) -> Result<(u32, u32)> {
    let (mut decoder, _) = open(bytes)?;
    let (width, height) = decoder.dimensions();
    let orientation = decoder.orientation().map_err(|error| anyhow!("cannot be decoded: {error}"))?;
    Ok(match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            (height, width)
        }
        _ => (width, height),
    })
}

/// Opens a decoder, reads the header and checks the limits.
fn open(bytes: &[u8]) -> Result<(impl ImageDecoder + '_, ImageFormat)> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().context("cannot be read")?;
    let Some(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Gif | ImageFormat::Bmp)) =
        reader.format()
    else {
        bail!("is not a PNG, JPEG, WebP, GIF or BMP");
    };
    // The size is checked below, with a message that names the limit.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_METADATA);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| {
        let cut = if format == ImageFormat::Jpeg { jpeg::check_complete(bytes).err() } else { None };
        anyhow!("cannot be decoded: {}", cut.unwrap_or_else(|| error.to_string().trim_end().to_string()))
    })?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        bail!(
            "has {width} x {height} pixels; at most {MAX_SIDE} per side and {} million in total are allowed: scale it down",
            MAX_PIXELS / 1_000_000
        );
    }
    Ok((decoder, format))
}

/// Composites an image on white, with 8 bits per sample.
fn composite_on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0.map(u32::from);
        Rgb([red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// Converts 16-bit samples as Pillow does; other images are unchanged.
fn pillow_depth(mut image: DynamicImage) -> DynamicImage {
    match &mut image {
        DynamicImage::ImageLuma16(grey) => grey.iter_mut().for_each(|value| *value = (*value).min(255) * 257),
        DynamicImage::ImageLumaA16(pixels) => pixels.iter_mut().for_each(high_byte),
        DynamicImage::ImageRgb16(pixels) => pixels.iter_mut().for_each(high_byte),
        DynamicImage::ImageRgba16(pixels) => pixels.iter_mut().for_each(high_byte),
        _ => {}
    }
    image
}

/// The 16-bit value whose nearest 8-bit level is the high byte.
fn high_byte(value: &mut u16) {
    *value = (*value >> 8) * 257;
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, Luma};

    use super::*;

    fn encoded(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn transparency_is_composited_on_white() {
        let image = image::RgbaImage::from_pixel(1, 1, image::Rgba([200, 0, 0, 51]));
        let bytes = encoded(&DynamicImage::ImageRgba8(image));
        // A fifth of 200 and four fifths of 255.
        assert_eq!(decode(&bytes, DepthConversion::Nearest).unwrap().get_pixel(0, 0).0, [244, 204, 204]);
    }

    #[test]
    fn sixteen_bit_samples_are_converted() {
        let colour: ImageBuffer<Rgb<u16>, _> = ImageBuffer::from_pixel(1, 1, Rgb([0x12ff, 0x80, 0xffff]));
        let grey: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_pixel(1, 1, Luma([300]));
        let (colour, grey) = (encoded(&DynamicImage::ImageRgb16(colour)), encoded(&DynamicImage::ImageLuma16(grey)));
        for (conversion, expected) in [
            (DepthConversion::Nearest, [[0x13, 0, 255], [1; 3]]),
            (DepthConversion::Pillow, [[0x12, 0, 255], [255; 3]]),
        ] {
            let pixel = |bytes: &Vec<u8>| decode(bytes, conversion).unwrap().get_pixel(0, 0).0;
            assert_eq!([&colour, &grey].map(pixel), expected, "{conversion:?}");
        }
    }

    #[test]
    fn invalid_images_are_errors() {
        let image = RgbImage::from_fn(16, 16, |x, y| Rgb([x as u8, y as u8, 7]));
        let whole = encoded(&DynamicImage::ImageRgb8(image));
        let error = |bytes: &[u8]| format!("{:#}", decode(bytes, DepthConversion::Nearest).unwrap_err());
        assert_eq!(dimensions(&whole).unwrap(), (16, 16));
        assert_eq!(error(b"hello"), "is not a PNG, JPEG, WebP, GIF or BMP");
        assert!(error(&whole[..whole.len() / 2]).starts_with("cannot be decoded: "));
        assert!(error(&whole[..20]).starts_with("cannot be decoded: "));
        let mut huge = whole.clone();
        huge[16..20].copy_from_slice(&100_000u32.to_be_bytes());
        assert!(error(&huge).starts_with("cannot be decoded: "));
        assert!(dimensions(&huge).is_err());
    }
}
