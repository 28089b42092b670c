//! WebP, GIF and BMP files against Pillow's pixels (`tests/golden/make_formats.py`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::support::golden;
use crate::images::decode::{self, DepthConversion};
use crate::images::{exif, is_animated};
use ablate_core::base::files;

#[derive(Deserialize)]
struct Expected {
    size: (u32, u32),
    animated: bool,
    /// The RGB bytes in hex.
    rgb: String,
}

#[test]
fn pixels_equal_those_of_pillow() {
    let expected: BTreeMap<String, Expected> = files::read_json(&golden("formats").join("expected.json")).unwrap();
    assert_eq!(expected.len(), 12);
    for (name, Expected { size, animated, rgb }) in expected {
        let bytes = files::read_bytes(&golden("formats").join(&name)).unwrap();
        let image =
            decode::decode(&bytes, DepthConversion::Nearest).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert_eq!((image.dimensions(), decode::dimensions(&bytes).unwrap()), (size, size), "{name}");
        assert_eq!(is_animated(&bytes), animated, "{name}");
        let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let rgb = rgb.as_bytes().chunks(2).map(hex);
        let most = image.as_raw().iter().zip(rgb).map(|(one, other)| one.abs_diff(other)).max().unwrap();
        // Decoders of lossy WebP may interpolate colours differently; transparent pixels are rounded differently.
        let allowed = match name.as_str() {
            "lossy.webp" => 4,
            "alpha.webp" => 1,
            _ => 0,
        };
        assert!(most <= allowed, "{name}: {most}");
    }
}

#[test]
fn a_webp_without_its_exif_data_is_not_rotated() {
    let bytes = files::read_bytes(&golden("formats/turned.webp")).unwrap();
    let stripped = exif::strip(&bytes);
    assert_eq!((decode::dimensions(&bytes).unwrap(), decode::dimensions(&stripped).unwrap()), ((7, 9), (9, 7)));
    let plain = files::read_bytes(&golden("formats/lossless.webp")).unwrap();
    assert_eq!(*exif::strip(&plain), plain);
    for end in 0..bytes.len() {
        exif::strip(&bytes[..end]);
    }
}

#[test]
fn truncated_animations_are_parsed() {
    for name in ["animated.gif", "animated.webp"] {
        let bytes = files::read_bytes(&golden("formats").join(name)).unwrap();
        assert!(!(0..16).any(|end| is_animated(&bytes[..end])), "{name}");
        (16..bytes.len()).for_each(|end| {
            is_animated(&bytes[..end]);
        });
    }
}

#[test]
fn truncated_files_are_errors() {
    for name in ["plain.bmp", "plain.gif", "lossless.webp", "lossy.webp"] {
        let bytes = files::read_bytes(&golden("formats").join(name)).unwrap();
        for end in [20, bytes.len() / 2, bytes.len() - 8] {
            assert!(decode::decode(&bytes[..end], DepthConversion::Nearest).is_err(), "{name} of {end} bytes");
        }
    }
}
