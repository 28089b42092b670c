//! Removes EXIF data from an encoded image, so that no decoder rotates it.

use std::borrow::Cow;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG: &[u8] = b"\xff\xd8";

/// The PNG, JPEG or WebP without its EXIF data. Other files, and files whose segments cannot be parsed, are unchanged.
pub(crate) fn strip(bytes: &[u8]) -> Cow<'_, [u8]> {
    if let Some(webp) = strip_webp(bytes) {
        return Cow::Owned(webp);
    }
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

/// A WebP without its EXIF chunk; `None` if there is none.
fn strip_webp(bytes: &[u8]) -> Option<Vec<u8>> {
    if !bytes.starts_with(b"RIFF") || bytes.get(8..12)? != b"WEBP" {
        return None;
    }
    let (mut kept, mut at) = (bytes.get(..12)?.to_vec(), 12);
    while let Some(&[ref name @ .., l0, l1, l2, l3]) = bytes.get(at..).and_then(|ahead| ahead.first_chunk::<8>()) {
        // A chunk is name, length and data, padded to an even length.
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let end = at.checked_add(8 + length)?.checked_add(length % 2)?.min(bytes.len());
        let chunk = bytes.get(at..end)?;
        if name != b"EXIF" {
            kept.extend_from_slice(chunk);
        }
        at = end;
    }
    if kept.len() == bytes.len() {
        return None;
    }
    // The flag of the first chunk, `VP8X`, that there are EXIF data.
    if kept.get(12..16)? == b"VP8X" {
        *kept.get_mut(20)? &= !0x08;
    }
    let size = u32::try_from(kept.len() - 8).ok()?;
    kept[4..8].copy_from_slice(&size.to_le_bytes());
    Some(kept)
}
