//! The images of items as thumbnails, each once.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{encode, evenly_spaced};
use crate::input::Images;
use crate::scores::Scores;
use crate::thumbnails::thumbnail;

/// Longest side of a thumbnail in pixels.
const SIDE: u32 = 224;

/// Bytes of the images of a chunk.
const CHUNK: usize = 256 << 10;

/// Packed thumbnails.
#[derive(Default)]
pub(super) struct Pictures {
    pub(super) chunks: Vec<String>,
    /// The chunk of each key; [`u32::MAX`] if the image is not on the page.
    pub(super) chunk_of: Vec<u32>,
    /// Number of images on the page.
    pub(super) count: usize,
}

/// The distinct image keys of some items, in order of appearance.
pub(super) fn keys<'a>(scores: &'a Scores, items: &[u32]) -> Vec<&'a str> {
    let mut known = BTreeSet::new();
    let all = items.iter().flat_map(|&item| scores.items[item as usize].images.keys());
    all.map(String::as_str).filter(|key| known.insert(*key)).collect()
}

/// Packs thumbnails of the images into `budget` bytes. If not all fit, those that do are evenly spaced.
pub(super) fn pack(keys: &[&str], images: &Images, budget: usize) -> Pictures {
    let mut wanted: Vec<usize> = (0..keys.len()).collect();
    let mut pictures = Pictures { chunk_of: vec![u32::MAX; keys.len()], ..Pictures::default() };
    // Base64 of gzipped base64 of JPEG data is about as long as base64 of the data.
    let size = |bytes: &[u8]| bytes.len() * 4 / 3 + 40;
    let pilot: Vec<usize> = evenly_spaced(&wanted, 24);
    let measured: usize = pilot.iter().filter_map(|&key| picture(keys[key], images)).map(|bytes| size(&bytes)).sum();
    if measured > 0 && !pilot.is_empty() {
        wanted = evenly_spaced(&wanted, budget.saturating_mul(pilot.len()) / measured);
    }
    let (mut chunk, mut in_chunk, mut left) = (Vec::new(), 0, budget);
    for key in wanted {
        let Some(bytes) = picture(keys[key], images).filter(|bytes| size(bytes) <= left) else { continue };
        left -= size(&bytes);
        in_chunk += bytes.len();
        chunk.push((key, url(&bytes)));
        pictures.chunk_of[key] = pictures.chunks.len() as u32;
        pictures.count += 1;
        if in_chunk > CHUNK {
            pictures.chunks.push(encode(&std::mem::take(&mut chunk)));
            in_chunk = 0;
        }
    }
    if !chunk.is_empty() {
        pictures.chunks.push(encode(&chunk));
    }
    pictures
}

fn picture(key: &str, images: &Images) -> Option<Vec<u8>> {
    thumbnail(&images(key)?, SIDE)
}

fn url(bytes: &[u8]) -> String {
    let kind = if bytes.starts_with(&[0xff]) { "jpeg" } else { "png" };
    format!("data:image/{kind};base64,{}", STANDARD.encode(bytes))
}
