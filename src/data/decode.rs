//! Encoded pictures as RGB of 8 bits. Knows no pack and no processor.
//!
//! Transparent parts become white, as in Hugging Face's `convert_to_rgb` (transformers 5.24), to the bit. JPEG decoders
//! differ among themselves by a level or two. An orientation in a photo's EXIF data is not followed.

use std::io::Cursor;

use anyhow::{Context, Result, anyhow, bail};
use image::{DynamicImage, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

/// Larger images are refused before they are decoded.
pub(super) const MAX_SIDE: u32 = 16_384;

/// How samples of 16 bits become 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deep {
    /// To the nearest level.
    Nearest,
    /// As Pillow's `convert`: the high byte of colours, but grey is cut off at 255.
    Pillow,
}

/// Decodes a PNG or JPEG. A picture that is cut off or too large is an error.
pub fn decode(bytes: &[u8], deep: Deep) -> Result<RgbImage> {
    let image = reader(bytes)?.decode().map_err(|error| anyhow!("cannot be decoded: {error}"))?;
    let image = if deep == Deep::Pillow { shallow(image) } else { image };
    if !image.color().has_alpha() {
        return Ok(image.into_rgb8());
    }
    let image = image.into_rgba8();
    Ok(RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0.map(u32::from);
        Rgb([red, green, blue].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    }))
}

/// Width and height of a PNG or JPEG, from its header.
pub fn dimensions(bytes: &[u8]) -> Result<(u32, u32)> {
    let (width, height) = reader(bytes)?.into_dimensions().map_err(|error| anyhow!("cannot be decoded: {error}"))?;
    if width.max(height) > MAX_SIDE {
        bail!("has {width} x {height} pixels; more than {MAX_SIDE} along a side are not read");
    }
    Ok((width, height))
}

fn reader(bytes: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().context("cannot be read")?;
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::Jpeg) => {}
        _ => bail!("is neither PNG nor JPEG"),
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    Ok(reader)
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
