//! Whether an image has several frames.

/// Whether a GIF or WebP has more than one frame. Only the structure is read, and no frame is decoded.
pub fn is_animated(bytes: &[u8]) -> bool {
    match bytes {
        [b'G', b'I', b'F', b'8', ..] => gif_frames(bytes).take(2).count() > 1,
        // The flag of the chunk `VP8X`.
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', b'V', b'P', b'8', b'X', _, _, _, _, flags, ..] => {
            flags & 0x02 != 0
        }
        _ => false,
    }
}

/// The offset of each frame of a GIF; it ends where the file cannot be parsed.
fn gif_frames(bytes: &[u8]) -> impl Iterator<Item = usize> {
    // A header of 13 bytes, and the global colour table.
    let mut at = bytes.get(10).map_or(bytes.len(), |packed| 13 + table(*packed));
    std::iter::from_fn(move || {
        loop {
            match bytes.get(at)? {
                // An extension: a label and blocks.
                0x21 => at = after_blocks(bytes, at + 2)?,
                // A frame: a descriptor of 10 bytes, the colour table, the size of a code, and blocks.
                0x2c => {
                    let frame = at;
                    at = after_blocks(bytes, at + 10 + table(*bytes.get(at + 9)?) + 1)?;
                    return Some(frame);
                }
                _ => return None,
            }
        }
    })
}

/// The size in bytes of a colour table.
fn table(packed: u8) -> usize {
    if packed & 0x80 == 0 { 0 } else { 3 << ((packed & 7) + 1) }
}

/// The offset after blocks, of which each begins with its length and the last one is empty.
fn after_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}
