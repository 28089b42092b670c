//! Thumbnails of images: a page with thousands of images must stay small.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, ImageEncoder};

use ablate_data::images::decode::{DepthConversion, decode};

/// A PNG or JPEG of at most this size is shown as it is.
const SMALL: usize = 6 << 10;

/// JPEG quality of thumbnails.
const QUALITY: u8 = 80;

/// The image as a PNG or JPEG whose sides have at most `side` pixels. None if it cannot be decoded.
///
/// A small file is not decoded.
pub(super) fn thumbnail(bytes: &[u8], side: u32) -> Option<Vec<u8>> {
    let shown = matches!(bytes, [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..]);
    if shown && bytes.len() <= SMALL {
        return Some(bytes.to_vec());
    }
    let image = decode(bytes, DepthConversion::Nearest).ok()?;
    let (width, height) = image.dimensions();
    let longest = width.max(height).max(1);
    if shown && longest <= side && bytes.len() <= 4 * SMALL {
        return Some(bytes.to_vec());
    }
    let scaled = |length: u32| (u64::from(length) * u64::from(side) / u64::from(longest)).max(1) as u32;
    let small = if longest > side {
        resize(&*image, scaled(width), scaled(height), FilterType::Triangle)
    } else {
        (*image).clone()
    };
    let mut encoded = Vec::new();
    let encoder = JpegEncoder::new_with_quality(Cursor::new(&mut encoded), QUALITY);
    encoder.write_image(small.as_raw(), small.width(), small.height(), ExtendedColorType::Rgb8).ok()?;
    Some(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgb, RgbImage};

    /// A PNG of noise, which does not compress.
    fn png(width: u32, height: u32) -> Vec<u8> {
        let noise = |x: u32, y: u32| (x.wrapping_mul(2_654_435_761).wrapping_add(y.wrapping_mul(40_503)) >> 7) as u8;
        let image = RgbImage::from_fn(width, height, |x, y| Rgb([noise(x, y), noise(y, x), noise(x + y, x)]));
        let mut bytes = Vec::new();
        image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
        bytes
    }

    #[test]
    fn large_images_become_thumbnails() {
        let bytes = thumbnail(&png(800, 200), 160).unwrap();
        let image = decode(&bytes, DepthConversion::Nearest).unwrap();
        assert_eq!(image.dimensions(), (160, 40));
        let narrow = thumbnail(&png(3, 4000), 160).unwrap();
        assert_eq!(decode(&narrow, DepthConversion::Nearest).unwrap().dimensions(), (1, 160));
    }

    #[test]
    fn small_images_are_kept_and_others_refused() {
        let small = png(8, 8);
        assert_eq!(thumbnail(&small, 160), Some(small));
        assert_eq!(thumbnail(b"<svg onload=alert(1)>", 160), None);
        assert_eq!(thumbnail(&[0xff, 0xd8, 0xff].repeat(SMALL), 160), None);
    }
}
