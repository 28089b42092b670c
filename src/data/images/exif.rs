//! Removes EXIF data from an encoded image, so that no decoder rotates it.

use std::borrow::Cow;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = b"\xff\xd8";

/// The PNG or JPEG without its EXIF data. Other files, and files whose segments cannot be parsed, are unchanged.
pub(crate) fn strip(bytes: &[u8]) -> Cow<'_, [u8]> {
    let found = if bytes.starts_with(PNG) { exif_chunks(bytes) } else { exif_segments(bytes) };
    if found.is_empty() {
        return Cow::Borrowed(bytes);
    }
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for (start, end) in found {
        kept.extend_from_slice(&bytes[at..start]);
        at = end;
    }
    kept.extend_from_slice(&bytes[at..]);
    Cow::Owned(kept)
}

/// Ranges of the EXIF chunks of a PNG.
fn exif_chunks(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), PNG.len());
    while let Some(&[l3, l2, l1, l0, ref name @ ..]) = bytes.get(at..).and_then(|ahead| ahead.first_chunk::<8>()) {
        // A chunk is length, name, data and checksum.
        let end = at + 12 + u32::from_be_bytes([l3, l2, l1, l0]) as usize;
        if name == b"eXIf" && end <= bytes.len() {
            found.push((at, end));
        }
        at = end;
    }
    found
}

/// Ranges of the EXIF segments before the first scan of a JPEG.
fn exif_segments(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut found, mut at) = (Vec::new(), JPEG.len());
    if !bytes.starts_with(JPEG) {
        return found;
    }
    while let Some(&[0xff, code, high, low]) = bytes.get(at..).and_then(|ahead| ahead.first_chunk::<4>()) {
        if code == 0xff {
            at += 1;
            continue;
        }
        let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
        if code == 0xda || end > bytes.len() {
            break;
        }
        if code == 0xe1 && bytes[at + 4..end].starts_with(b"Exif\0") {
            found.push((at, end));
        }
        at = end;
    }
    found
}
