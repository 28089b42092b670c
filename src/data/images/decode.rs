//! Encoded pictures as RGB of 8 bits. Knows no pack and no processor.
//!
//! Transparent parts become white, as in Hugging Face's `convert_to_rgb` (transformers 5.24), to the bit. JPEG decoders
//! differ among themselves by a level or two. A picture is turned upright as its EXIF data say
//! (`ImageOps.exif_transpose`).

use std::io::{Cursor, Read};
use std::ops::Deref;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

use super::jpeg;
use ablate_core::base::files;

/// Larger images are refused before they are decoded.
pub(super) const MAX_SIDE: u32 = 16_384;
pub(super) const MAX_PIXELS: u64 = 1 << 26;
/// Images of more pixels are decoded one at a time: one may take 9 bytes for each pixel.
const LARGE: u64 = 1 << 23;
/// Memory for what a file holds beside its pixels, such as a compressed colour profile.
const MAX_BESIDE: u64 = 1 << 25;
/// Encoded files beyond this are not read.
pub const MAX_FILE: u64 = 1 << 28;

/// The turn of a thread that holds a large image.
static TURN: Mutex<()> = Mutex::new(());

/// A decoded image. While it is large and lives, no other large one is decoded.
#[derive(Debug)]
pub struct Decoded {
    image: RgbImage,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Deref for Decoded {
    type Target = RgbImage;

    fn deref(&self) -> &RgbImage {
        &self.image
    }
}

/// How samples of 16 bits become 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deep {
    /// To the nearest level.
    Nearest,
    /// As Pillow's `convert`: the high byte of colours, but grey is cut off at 255.
    Pillow,
}

/// Reads an encoded file that is not too large.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reading = |error| anyhow!("cannot read `{}`: {error}", path.display());
    files::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(reading)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("is larger than {} MiB", MAX_FILE >> 20);
    }
    Ok(bytes)
}

/// Decodes a PNG or JPEG, upright. A picture that is cut off, damaged or too large is an error.
pub fn decode(bytes: &[u8], deep: Deep) -> Result<Decoded> {
    let (mut decoder, format) = open(bytes)?;
    let (width, height) = decoder.dimensions();
    let large = u64::from(width) * u64::from(height) > LARGE;
    let turn = large.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    if format == ImageFormat::Jpeg {
        jpeg::check_complete(bytes).map_err(|what| anyhow!("cannot be decoded: {what}"))?;
    }
    let undecodable = |error| anyhow!("cannot be decoded: {error}");
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    let image = if deep == Deep::Pillow { shallow(image) } else { image };
    Ok(Decoded { image: opaque(image), _turn: turn })
}

/// Width and height of a PNG or JPEG as [`decode`] gives them, from its header.
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

/// A decoder that has read the header of an image within the limits.
fn open(bytes: &[u8]) -> Result<(impl ImageDecoder + '_, ImageFormat)> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().context("cannot be read")?;
    let Some(format @ (ImageFormat::Png | ImageFormat::Jpeg)) = reader.format() else {
        bail!("is neither PNG nor JPEG");
    };
    // The sides are checked uniform_below, with a message that names the limit.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_BESIDE);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| {
        let cut = if format == ImageFormat::Jpeg { jpeg::check_complete(bytes).err() } else { None };
        anyhow!("cannot be decoded: {}", cut.unwrap_or_else(|| error.to_string().trim_end().to_string()))
    })?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        bail!(
            "has {width} x {height} pixels; at most {MAX_SIDE} along a side and {} million in all are read: scale it down",
            MAX_PIXELS / 1_000_000
        );
    }
    Ok((decoder, format))
}

/// Colours of 8 bits on white.
fn opaque(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0.map(u32::from);
        Rgb([red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// 16 bits to 8 as Pillow does it; other pictures stay as they are.
fn shallow(mut image: DynamicImage) -> DynamicImage {
    match &mut image {
        DynamicImage::ImageLuma16(grey) => grey.iter_mut().for_each(|value| *value = (*value).min(255) * 257),
        DynamicImage::ImageLumaA16(pixels) => pixels.iter_mut().for_each(high_byte),
        DynamicImage::ImageRgb16(pixels) => pixels.iter_mut().for_each(high_byte),
        DynamicImage::ImageRgba16(pixels) => pixels.iter_mut().for_each(high_byte),
        _ => {}
    }
    image
}

/// The 16-bit value that the nearest level of 8 bits is exact for.
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
    fn transparent_parts_are_white() {
        let image = image::RgbaImage::from_pixel(1, 1, image::Rgba([200, 0, 0, 51]));
        let bytes = encoded(&DynamicImage::ImageRgba8(image));
        // A fifth of 200 and four fifths of 255.
        assert_eq!(decode(&bytes, Deep::Nearest).unwrap().get_pixel(0, 0).0, [244, 204, 204]);
    }

    #[test]
    fn deep_samples_are_rounded_or_taken_as_pillow_takes_them() {
        let colour: ImageBuffer<Rgb<u16>, _> = ImageBuffer::from_pixel(1, 1, Rgb([0x12ff, 0x80, 0xffff]));
        let grey: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_pixel(1, 1, Luma([300]));
        let (colour, grey) = (encoded(&DynamicImage::ImageRgb16(colour)), encoded(&DynamicImage::ImageLuma16(grey)));
        let pixel = |bytes: &[u8], deep| decode(bytes, deep).unwrap().get_pixel(0, 0).0;
        assert_eq!((pixel(&colour, Deep::Nearest), pixel(&grey, Deep::Nearest)), ([0x13, 0, 255], [1; 3]));
        assert_eq!((pixel(&colour, Deep::Pillow), pixel(&grey, Deep::Pillow)), ([0x12, 0, 255], [255; 3]));
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        let picture = RgbImage::from_fn(16, 16, |x, y| Rgb([x as u8, y as u8, 7]));
        let whole = encoded(&DynamicImage::ImageRgb8(picture));
        let told = |bytes: &[u8]| format!("{:#}", decode(bytes, Deep::Nearest).unwrap_err());
        assert_eq!(dimensions(&whole).unwrap(), (16, 16));
        assert_eq!(told(b"hello"), "is neither PNG nor JPEG");
        assert!(told(&whole[..whole.len() / 2]).starts_with("cannot be decoded: "));
        assert!(told(&whole[..20]).starts_with("cannot be decoded: "));
        let mut huge = whole.clone();
        huge[16..20].copy_from_slice(&100_000u32.to_be_bytes());
        assert!(told(&huge).starts_with("cannot be decoded: "));
        assert!(dimensions(&huge).is_err());
    }
}
