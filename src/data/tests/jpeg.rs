//! Truncated and damaged JPEGs of every encoding (`tests/golden/make_jpegs.py`), and EXIF orientation.

use std::io::Cursor;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::images::decode::{self, DepthConversion};
use crate::images::{exif, jpeg};
use crate::tests::support::golden;
use ablate_core::base::files;

const NAMES: [&str; 8] =
    ["baseline", "cmyk", "full_chroma", "grey", "half_chroma", "progressive", "progressive_restart", "restart"];
const END: [u8; 2] = [0xff, 0xd9];

fn jpeg(name: &str) -> Vec<u8> {
    files::read_bytes(&golden(&format!("jpeg/{name}.jpg"))).unwrap()
}

/// The size or the error of `decode`.
fn size_or_error(bytes: &[u8]) -> String {
    match decode::decode(bytes, DepthConversion::Nearest) {
        Ok(image) => format!("{} x {}", image.width(), image.height()),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn truncated_jpeg_is_refused() {
    for name in NAMES {
        let whole = jpeg(name);
        assert_eq!(size_or_error(&whole), "43 x 29", "{name}");
        // Data after the end marker are ignored.
        assert_eq!(size_or_error(&[&whole, b"more".as_slice()].concat()), "43 x 29", "{name}");
        for length in 2..whole.len() {
            assert!(jpeg::check_complete(&whole[..length]).is_err(), "{name}: {length} bytes of {}", whole.len());
        }
    }
}

#[test]
fn errors_name_the_line_where_data_end() {
    let cut = |name: &str, percent: usize| {
        let whole = jpeg(name);
        size_or_error(&whole[..whole.len() * percent / 100])
    };
    let whole = jpeg("baseline");
    let cases = [
        cut("baseline", 10),
        cut("baseline", 50),
        cut("baseline", 95),
        cut("progressive", 50),
        cut("progressive_restart", 95),
        cut("restart", 70),
        size_or_error(&whole[..whole.len() - 2]),
        size_or_error(&[&whole[..whole.len() * 3 / 4], &END].concat()),
        size_or_error(&[&whole[..whole.len() * 3 / 4], &[0; 500]].concat()),
    ];
    expect_test::expect![[r#"
        cannot be decoded: the JPEG is truncated: it ends in its header
        cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cannot be decoded: the JPEG is truncated: its data end at line 14 of 29
        cannot be decoded: the JPEG is truncated: its data end at line 21 of 29
        cannot be decoded: the JPEG is truncated: its data end at line 14 of 29
        cannot be decoded: the JPEG is truncated: its data end at line 0 of 29
        cannot be decoded: the JPEG is truncated: its end marker is missing
        cannot be decoded: the JPEG is truncated: its data end at line 14 of 29
        cannot be decoded: the JPEG is truncated: its end marker is missing"#]]
    .assert_eq(&cases.join("\n"));
}

#[test]
fn truncated_jpeg_with_end_marker_is_refused() {
    for name in NAMES {
        let whole = jpeg(name);
        for length in 2..whole.len() - 2 {
            let ended = [&whole[..length], &END].concat();
            // A progressive image may end between two scans: it is coarse, but complete by the standard.
            let coarse = name.contains("progressive") || name == "half_chroma";
            let boundary = coarse && (whole[length - 1] == 0xff || whole[length] == 0xff);
            assert!(boundary || jpeg::check_complete(&ended).is_err(), "{name}: {length} bytes of {}", whole.len());
        }
    }
}

#[test]
fn flipped_bits_do_not_panic() {
    for name in NAMES {
        let whole = jpeg(name);
        for at in 2..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            let _ = jpeg::check_complete(&flipped);
            if at % 16 == 0 {
                let _ = size_or_error(&flipped);
            }
        }
    }
    // One restart interval is missing.
    let whole = jpeg("restart");
    let restarts: Vec<usize> =
        (0..whole.len() - 1).filter(|&at| whole[at] == 0xff && whole[at + 1] & 0xf8 == 0xd0).collect();
    let shorter = [&whole[..restarts[0]], &whole[restarts[1]..]].concat();
    assert_eq!(size_or_error(&shorter), "cannot be decoded: the JPEG is damaged: data are missing at line 0 of 29");
}

#[test]
fn too_large_images_are_refused_by_header() {
    let sized = |width: u16, height: u16| {
        let mut bytes = jpeg("progressive");
        let at = bytes.windows(2).position(|two| two == [0xff, 0xc2]).unwrap() + 5;
        bytes[at..at + 2].copy_from_slice(&height.to_be_bytes());
        bytes[at + 2..at + 4].copy_from_slice(&width.to_be_bytes());
        (size_or_error(&bytes), decode::dimensions(&bytes).map_err(|error| error.to_string()))
    };
    let limits = "at most 16384 per side and 67 million in total are allowed: scale it down";
    for (width, height) in [(16_385, 16), (16, 16_385), (9000, 9000), (65_535, 65_535)] {
        let error = format!("has {width} x {height} pixels; {limits}");
        assert_eq!(sized(width, height), (error.clone(), Err(error)));
    }
    assert_eq!(sized(8192, 8192).1, Ok((8192, 8192)));
}

/// EXIF data with only an orientation.
fn orientation(number: u8) -> Vec<u8> {
    let entry = [0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, number, 0, 0];
    [b"MM\0*\0\0\0\x08\0\x01".as_slice(), &entry, &[0; 4]].concat()
}

#[test]
fn exif_orientation_is_applied() {
    // Two columns and three rows. The expected values are from Pillow's `ImageOps.exif_transpose`.
    let pixels: Vec<u8> = (1..=6).flat_map(|level| [level, 0, 0]).collect();
    let expected = [
        ((2, 3), [1, 2, 3, 4, 5, 6]),
        ((2, 3), [2, 1, 4, 3, 6, 5]),
        ((2, 3), [6, 5, 4, 3, 2, 1]),
        ((2, 3), [5, 6, 3, 4, 1, 2]),
        ((3, 2), [1, 3, 5, 2, 4, 6]),
        ((3, 2), [5, 3, 1, 6, 4, 2]),
        ((3, 2), [6, 4, 2, 5, 3, 1]),
        ((3, 2), [2, 4, 6, 1, 3, 5]),
    ];
    let red = |bytes: &[u8]| -> Vec<u8> {
        decode::decode(bytes, DepthConversion::Nearest).unwrap().pixels().map(|pixel| pixel.0[0]).collect()
    };
    for (number, (size, levels)) in (1..).zip(expected) {
        let mut bytes = Cursor::new(Vec::new());
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_exif_metadata(orientation(number)).unwrap();
        encoder.write_image(&pixels, 2, 3, ExtendedColorType::Rgb8).unwrap();
        let bytes = bytes.into_inner();
        assert_eq!((decode::dimensions(&bytes).unwrap(), red(&bytes)), (size, levels.to_vec()), "{number}");
        let stored = exif::strip(&bytes);
        assert_eq!((decode::dimensions(&stored).unwrap(), red(&stored)), ((2, 3), vec![1, 2, 3, 4, 5, 6]), "{number}");
    }
}

#[test]
fn stripping_exif_restores_the_stored_image() {
    let (plain, turned) = (jpeg("baseline"), jpeg("turned"));
    assert_eq!((size_or_error(&plain), size_or_error(&turned)), ("43 x 29".to_string(), "29 x 43".to_string()));
    assert_eq!(decode::dimensions(&turned).unwrap(), (29, 43));
    assert_eq!(*exif::strip(&turned), plain);
    assert_eq!(*exif::strip(&plain), plain);
    for length in 0..turned.len() {
        let _ = exif::strip(&turned[..length]);
    }
}
